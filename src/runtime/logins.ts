/**
 * Logins of pages: a token is shown once, and a cookie that no script can read stands for it from then on, at any node
 * and across restarts (SRV-21). A login ends after 12 h, with a logout, and as soon as its token is not good any more:
 * with each use the token is asked about anew.
 *
 * For that the store has the token, encrypted under a secret that the cookie alone has: who reads a backup can open
 * nothing with it.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { Store } from "../store/store.ts";
import type { Identity } from "./auth.ts";
import { inTime } from "./in-time.ts";

const TTL_MS = 12 * 3_600_000;
/** Of one principal; with one more its oldest is over. */
const MAX_LOGINS = 50;

const SECRET = /^[\w-]{43}$/;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface Login {
  /** The token's, ending when the login does. */
  readonly identity: Identity & { readonly expiresAt: number };
  /** What the page sends with each request that changes something. */
  readonly csrfToken: string;
}

export interface LoginsParts {
  store: Store;
  clock: Clock;
  logger: Logger;
  /** How long the store may take. */
  timeoutMs: number;
  authenticate(token: string): Promise<Identity | undefined>;
}

export class Logins {
  readonly #parts: LoginsParts;

  constructor(parts: LoginsParts) {
    this.#parts = parts;
  }

  /**
   * @returns the login, and the secret for the cookie; nothing where the token is not good
   * @throws ArcpError INTERNAL_ERROR with `details.code: "STORE_UNAVAILABLE"`
   */
  async open(token: string): Promise<{ login: Login; secret: string } | undefined> {
    const { store, clock, authenticate } = this.#parts;
    const identity = await authenticate(token);
    if (identity === undefined) return undefined;
    const secret = randomBytes(32).toString("base64url");
    const now = clock.wall();
    const expiresAt = now + TTL_MS;
    const { principal } = identity;
    const content = seal(JSON.stringify({ token, expiresAt }), secret);
    const pass = { kind: "login", hash: hashOf(secret), principal, content, ttlMs: TTL_MS, most: MAX_LOGINS } as const;
    await inTime(() => store.passes.add({ ...pass, now }), this.#parts);
    return { login: loginOf(identity, expiresAt, secret), secret };
  }

  /**
   * The login behind a cookie; `undefined` for one that is unknown or over.
   *
   * @throws ArcpError as {@link open}
   */
  async find(secret: string): Promise<Login | undefined> {
    if (!SECRET.test(secret)) return undefined;
    const { store, clock, authenticate } = this.#parts;
    const query = { kind: "login", hash: hashOf(secret), now: clock.wall() } as const;
    const content = await inTime(() => store.passes.find(query), this.#parts);
    if (content === undefined) return undefined;
    const { token, expiresAt } = JSON.parse(unseal(content, secret)) as { token: string; expiresAt: number };
    const identity = await authenticate(token);
    return identity === undefined ? undefined : loginOf(identity, expiresAt, secret);
  }

  /** @throws ArcpError as {@link open} */
  async close(secret: string): Promise<void> {
    const { store, clock } = this.#parts;
    await inTime(() => store.passes.take({ kind: "login", hash: hashOf(secret), now: clock.wall() }), this.#parts);
  }
}

const loginOf = (identity: Identity, expiresAt: number, secret: string): Login => ({
  identity: { ...identity, expiresAt: Math.min(identity.expiresAt ?? Number.POSITIVE_INFINITY, expiresAt) },
  csrfToken: derived(secret, "csrf token").toString("base64url"),
});

const hashOf = (secret: string): string => createHash("sha256").update(secret).digest("base64");

/** What nobody finds who does not have the secret, for one purpose. */
const derived = (secret: string, purpose: string): Buffer =>
  createHmac("sha256", secret).update(`holdfast login: ${purpose}`).digest();

function seal(text: string, secret: string): string {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", derived(secret, "token"), nonce);
  const sealed = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString("base64");
}

function unseal(content: string, secret: string): string {
  const bytes = Buffer.from(content, "base64");
  const decipher = createDecipheriv("aes-256-gcm", derived(secret, "token"), bytes.subarray(0, NONCE_BYTES));
  decipher.setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
  return decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES), undefined, "utf8") + decipher.final("utf8");
}

/**
 * Logins of pages: a token is shown once, and a cookie that no script can read stands for it from then on, at any node
 * and across restarts (SRV-21). A login ends after 12 h, with a logout, and as soon as its token is not good any more:
 * with each use the token is asked about anew.
 *
 * For that the cookie has the token, sealed, and the store has the key. Neither tells anything without the other: who
 * reads a backup finds no token (law 8), and who has the cookie can use it until the logout, and learns no token either.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError } from "../protocol/index.ts";
import type { Store } from "../store/store.ts";
import type { Identity } from "./auth.ts";
import { inTime } from "./in-time.ts";

const TTL_MS = 12 * 3_600_000;
/** Of one principal; with one more its oldest is over. */
const MAX_LOGINS = 50;
/** What fits into a cookie, sealed: browsers take 4,096 bytes. */
const MAX_TOKEN_BYTES = 2_800;

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** The login's id, and what is sealed. */
const COOKIE = /^([\w-]{43})\.([\w-]{38,4000})$/;

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
   * @returns the login, and the cookie's value; nothing where the token is not good
   * @throws ArcpError INVALID_REQUEST for a token that fits into no cookie; INTERNAL_ERROR with `details.code:
   *   "STORE_UNAVAILABLE"`
   */
  async open(token: string): Promise<{ login: Login; cookie: string } | undefined> {
    const { store, clock, authenticate } = this.#parts;
    const identity = await authenticate(token);
    if (identity === undefined) return undefined;
    const bytes = Buffer.byteLength(token);
    if (bytes > MAX_TOKEN_BYTES) {
      throw new ArcpError("INVALID_REQUEST", `token: has ${bytes} bytes, and a login takes ${MAX_TOKEN_BYTES}.`);
    }
    const id = randomBytes(KEY_BYTES).toString("base64url");
    const key = randomBytes(KEY_BYTES);
    const now = clock.wall();
    const expiresAt = now + TTL_MS;
    const pass = {
      kind: "login",
      hash: hashOf(id),
      principal: identity.principal,
      content: key.toString("base64"),
      ttlMs: TTL_MS,
      most: MAX_LOGINS,
      now,
    } as const;
    await inTime(() => store.passes.add(pass), this.#parts);
    const cookie = `${id}.${seal(JSON.stringify({ token, expiresAt }), key)}`;
    return { login: loginOf(identity, expiresAt, id), cookie };
  }

  /**
   * The login behind a cookie; `undefined` for one that is unknown, over, or not as it was given.
   *
   * @throws ArcpError INTERNAL_ERROR with `details.code: "STORE_UNAVAILABLE"`
   */
  async find(cookie: string): Promise<Login | undefined> {
    const [, id, sealed] = COOKIE.exec(cookie) ?? [];
    if (id === undefined || sealed === undefined) return undefined;
    const { store, clock, authenticate } = this.#parts;
    const query = { kind: "login", hash: hashOf(id), now: clock.wall() } as const;
    const key = await inTime(() => store.passes.find(query), this.#parts);
    const text = key === undefined ? undefined : unsealed(sealed, Buffer.from(key, "base64"));
    if (text === undefined) return undefined;
    const { token, expiresAt } = JSON.parse(text) as { token: string; expiresAt: number };
    const identity = await authenticate(token);
    return identity === undefined ? undefined : loginOf(identity, expiresAt, id);
  }

  /** Ends the login behind a cookie, if there is one. @throws ArcpError as {@link find} */
  async close(cookie: string): Promise<void> {
    const [, id] = COOKIE.exec(cookie) ?? [];
    if (id === undefined) return;
    const { store, clock } = this.#parts;
    const query = { kind: "login", hash: hashOf(id), now: clock.wall() } as const;
    await inTime(() => store.passes.take(query), this.#parts);
  }
}

const loginOf = (identity: Identity, expiresAt: number, id: string): Login => ({
  identity: { ...identity, expiresAt: Math.min(identity.expiresAt ?? Number.POSITIVE_INFINITY, expiresAt) },
  csrfToken: createHmac("sha256", id).update("holdfast csrf token").digest("base64url"),
});

const hashOf = (id: string): string => createHash("sha256").update(id).digest("base64");

function seal(text: string, key: Uint8Array): string {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  const sealed = [cipher.update(text, "utf8"), cipher.final()];
  return Buffer.concat([nonce, cipher.getAuthTag(), ...sealed]).toString("base64url");
}

/** @returns nothing for what was not sealed with that key */
function unsealed(sealed: string, key: Uint8Array): string | undefined {
  const bytes = Buffer.from(sealed, "base64url");
  const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES });
  decipher.setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
  const text = decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES), undefined, "utf8");
  try {
    return text + decipher.final("utf8");
  } catch {
    return undefined;
  }
}

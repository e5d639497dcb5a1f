/**
 * Logins of pages: a token is shown once, and a cookie that no script can read stands for it from then on (SRV-21).
 * They live in this process's memory, as hashes, and end with it, after 12 h, with the token's own end, and with a
 * logout. A token that is revoked before its end does not end a login: give tokens an end.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type { Clock } from "../../clock.ts";
import type { Identity } from "../../runtime/index.ts";

export const LOGIN_COOKIE = "holdfast_session";
/** Where a request that changes something shows that a page of ours sends it. */
export const CSRF_HEADER = "x-csrf-token";

const TTL_MS = 12 * 3_600_000;
/** Beyond these the oldest ends. */
const MAX_PER_PRINCIPAL = 50;
const MAX_LOGINS = 10_000;

export interface Login {
  /** The token's, ending when the login does. */
  readonly identity: Identity & { readonly expiresAt: number };
  /** What the page sends with each request that changes something. */
  readonly csrfToken: string;
}

const hashOf = (secret: string): string => createHash("sha256").update(secret).digest("base64");

export class Logins {
  readonly #clock: Clock;
  /** By the secret's hash, oldest first. */
  readonly #logins = new Map<string, Login>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @returns the login, and the secret that goes into the cookie and is kept nowhere */
  open(identity: Identity): { login: Login; secret: string } {
    const expiresAt = Math.min(identity.expiresAt ?? Number.POSITIVE_INFINITY, this.#clock.wall() + TTL_MS);
    this.#makeRoom(identity.principal);
    const secret = randomBytes(32).toString("base64url");
    const login = { identity: { ...identity, expiresAt }, csrfToken: randomBytes(24).toString("base64url") };
    this.#logins.set(hashOf(secret), login);
    return { login, secret };
  }

  /** The login behind a cookie; `undefined` for one that is unknown or over. */
  find(secret: string): Login | undefined {
    const hash = hashOf(secret);
    const login = this.#logins.get(hash);
    if (login === undefined || login.identity.expiresAt > this.#clock.wall()) return login;
    this.#logins.delete(hash);
    return undefined;
  }

  close(secret: string): void {
    this.#logins.delete(hashOf(secret));
  }

  #makeRoom(principal: string): void {
    const now = this.#clock.wall();
    const own: string[] = [];
    for (const [hash, { identity }] of this.#logins) {
      if (identity.expiresAt <= now) this.#logins.delete(hash);
      else if (identity.principal === principal) own.push(hash);
    }
    const [oldestOwn] = own;
    if (own.length >= MAX_PER_PRINCIPAL && oldestOwn !== undefined) this.#logins.delete(oldestOwn);
    const [oldest] = this.#logins.keys();
    if (this.#logins.size >= MAX_LOGINS && oldest !== undefined) this.#logins.delete(oldest);
  }
}

/** Compares without an early exit. */
export function isCsrfTokenOf(login: Login, given: string | undefined): boolean {
  const [expected, presented] = [login.csrfToken, given ?? ""].map((text) =>
    createHash("sha256").update(text).digest(),
  );
  return expected !== undefined && presented !== undefined && timingSafeEqual(expected, presented);
}

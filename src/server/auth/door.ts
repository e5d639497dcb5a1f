/**
 * Who is behind a request under `/v1`: a bearer token, or the cookie of a login, which for whatever changes
 * something is worth nothing without its CSRF token (SRV-13, SRV-21). The door also counts (SRV-24): requests by
 * principal, and by address the logins that failed.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { Context } from "hono";
import { getCookie } from "hono/cookie";
import type { Clock } from "../../clock.ts";
import { ArcpError } from "../../protocol/index.ts";
import { type Identity, type Login, type Runtime, roleOf } from "../../runtime/index.ts";
import type { Env } from "../v1/request.ts";
import { neighbourhoodOf, type Rate, RateLimit } from "./rate-limit.ts";

export const LOGIN_COOKIE = "holdfast_session";
/** Where a request that changes something shows that a page of ours sends it. */
const CSRF_HEADER = "x-csrf-token";

export const DEFAULT_RATE: Rate = { perSecond: 100, burst: 400 };
/** Logins that may fail from one address: ten at once, then one in six seconds. */
const FAILED_LOGINS: Rate = { perSecond: 1 / 6, burst: 10 };

const SAFE: ReadonlySet<string> = new Set(["GET", "HEAD"]);

export class Door {
  readonly #runtime: Runtime;
  readonly #requests: RateLimit;
  readonly #failures: RateLimit;

  constructor(runtime: Runtime, options: { clock: Clock; rate: Rate }) {
    const { clock, rate } = options;
    this.#runtime = runtime;
    this.#requests = new RateLimit(clock, rate);
    this.#failures = new RateLimit(clock, FAILED_LOGINS);
  }

  /**
   * Lets a request in, and notes in its context who asks.
   *
   * @param needs.mayChange whether it is for those only that may change something
   * @throws ArcpError UNAUTHENTICATED, PERMISSION_DENIED, LIMIT_EXCEEDED; STORE_UNAVAILABLE with a cookie
   */
  async admit(context: Context<Env>, needs: { mayChange: boolean }): Promise<void> {
    const login = context.req.header("authorization") === undefined ? await this.#loginOf(context) : undefined;
    const identity = login?.identity ?? (await this.#bearer(context));
    if (identity === undefined) {
      throw new ArcpError("UNAUTHENTICATED", "Send a good token as `Authorization: Bearer TOKEN`.");
    }
    const { principal } = identity;
    const waitMs = this.#requests.waitMs(principal);
    this.#requests.count(principal);
    if (waitMs > 0) throw tooMany("Too many requests of this principal; slow down.", waitMs);
    const role = roleOf(identity);
    context.set("identity", identity);
    context.set("principal", principal);
    context.set("role", role);
    context.set("operator", role === "operator");
    if (login !== undefined) context.set("login", login);
    const changes = !SAFE.has(context.req.method);
    if (login !== undefined && changes && !isCsrfTokenOf(login, context.req.header(CSRF_HEADER))) {
      throw new ArcpError(
        "PERMISSION_DENIED",
        "x-csrf-token: with a login's cookie, send the csrf_token that the login gave, or GET /v1/whoami gives.",
      );
    }
    if (role === "observer" && changes && needs.mayChange) {
      throw new ArcpError("PERMISSION_DENIED", "An observer's token lets you look, and change nothing.");
    }
  }

  /**
   * Opens a login for whoever shows a good token.
   *
   * @throws ArcpError UNAUTHENTICATED; INVALID_REQUEST for a token too long; LIMIT_EXCEEDED for an address from which
   *   too many have failed; STORE_UNAVAILABLE
   */
  async login(token: string, address: string): Promise<{ login: Login; cookie: string }> {
    const who = neighbourhoodOf(address);
    const waitMs = this.#failures.waitMs(who);
    if (waitMs > 0) throw tooMany("Too many logins from here have failed; wait.", waitMs);
    // Counted before the answer is known: many at once are as many.
    this.#failures.count(who);
    const opened = await this.#runtime.logins.open(token).catch((error: unknown) => {
      // A store that is away says nothing about the token.
      this.#failures.forgive(who);
      throw error;
    });
    if (opened === undefined) throw new ArcpError("UNAUTHENTICATED", "body.token: is not a good token.");
    this.#failures.forgive(who);
    return opened;
  }

  async #bearer(context: Context<Env>): Promise<Identity | undefined> {
    const token = /^Bearer +(\S+)$/i.exec(context.req.header("authorization") ?? "")?.[1];
    return token === undefined ? undefined : await this.#runtime.authenticate(token);
  }

  async #loginOf(context: Context<Env>): Promise<Login | undefined> {
    const cookie = getCookie(context, LOGIN_COOKIE);
    return cookie === undefined ? undefined : await this.#runtime.logins.find(cookie);
  }
}

/** Compares without an early exit. */
function isCsrfTokenOf(login: Login, given: string | undefined): boolean {
  const [expected, presented] = [login.csrfToken, given ?? ""].map((text) =>
    createHash("sha256").update(text).digest(),
  );
  return expected !== undefined && presented !== undefined && timingSafeEqual(expected, presented);
}

const tooMany = (message: string, waitMs: number): ArcpError =>
  ArcpError.detail("LIMIT_EXCEEDED", message, { retry_after_ms: Math.ceil(waitMs) });

/**
 * Tickets: what a page says hello with, since it must not hold a token and a cookie is no part of a hello. A ticket is
 * good once, for 30 s, and only in a `session.hello`, at any node. The store has it as a hash, so that who reads a
 * backup can open nothing with it.
 */
import { createHash, randomBytes } from "node:crypto";
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { Store } from "../store/store.ts";
import type { Identity } from "./auth.ts";
import { inTime } from "./in-time.ts";

export const TICKET_TTL_MS = 30_000;
/** That one principal may have unused; with one more its oldest is over. */
const MAX_TICKETS = 100;

const PREFIX = "hft_";
const FORM = /^hft_[\w-]{32}$/;

export interface TicketsParts {
  store: Store;
  clock: Clock;
  logger: Logger;
  /** How long the store may take. */
  timeoutMs: number;
}

export class Tickets {
  readonly #parts: TicketsParts;

  constructor(parts: TicketsParts) {
    this.#parts = parts;
  }

  /**
   * Gives a ticket for a connection of that identity, which ends when the identity does.
   *
   * @throws ArcpError INTERNAL_ERROR with `details.code: "STORE_UNAVAILABLE"`
   */
  async issue(identity: Identity): Promise<string> {
    const { store, clock } = this.#parts;
    const ticket = `${PREFIX}${randomBytes(24).toString("base64url")}`;
    const pass = {
      kind: "ticket",
      hash: hashOf(ticket),
      principal: identity.principal,
      content: JSON.stringify(identity),
      ttlMs: TICKET_TTL_MS,
      most: MAX_TICKETS,
      now: clock.wall(),
    } as const;
    await inTime(() => store.passes.add(pass), this.#parts);
    return ticket;
  }

  /**
   * Whom a ticket lets in; it is used up with this.
   *
   * @returns nothing for what is no ticket, used, or over, and where the identity itself is over
   * @throws ArcpError as {@link issue}
   */
  async redeem(ticket: string): Promise<Identity | undefined> {
    if (!FORM.test(ticket)) return undefined;
    const { store, clock } = this.#parts;
    const now = clock.wall();
    const content = await inTime(() => store.passes.take({ kind: "ticket", hash: hashOf(ticket), now }), this.#parts);
    if (content === undefined) return undefined;
    const identity = JSON.parse(content) as Identity;
    return identity.expiresAt !== undefined && identity.expiresAt <= now ? undefined : identity;
  }
}

const hashOf = (ticket: string): string => createHash("sha256").update(ticket).digest("base64");

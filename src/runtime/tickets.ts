/**
 * Tickets: what a page says hello with, since it must not hold a token and a cookie is no part of a hello. A
 * ticket is good once, for 30 s, and only in a `session.hello` of the process that gave it. Costs one small row in
 * memory until it is used or over; kept as a hash, so that a dump of the memory opens nothing.
 */
import { createHash, randomBytes } from "node:crypto";
import type { Clock } from "../clock.ts";
import { ArcpError } from "../protocol/index.ts";
import type { Identity } from "./auth.ts";

export const TICKET_TTL_MS = 30_000;
/** What one principal may hold, and all together. */
const MAX_TICKETS_PER_PRINCIPAL = 100;
const MAX_TICKETS = 10_000;

const PREFIX = "hft_";

interface Row {
  identity: Identity;
  /** On the monotonic clock. */
  endsAt: number;
}

export class Tickets {
  readonly #clock: Clock;
  /** By the ticket's hash, oldest first: all live equally long. */
  readonly #rows = new Map<string, Row>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Gives a ticket for a connection of that identity, which ends when the identity does.
   *
   * @throws ArcpError LIMIT_EXCEEDED for a principal that holds too many unused ones
   */
  issue(identity: Identity): string {
    this.#forgetOld();
    let held = 0;
    for (const row of this.#rows.values()) if (row.identity.principal === identity.principal) held += 1;
    if (held >= MAX_TICKETS_PER_PRINCIPAL || this.#rows.size >= MAX_TICKETS) {
      throw ArcpError.detail(
        "LIMIT_EXCEEDED",
        `Too many tickets wait to be used; each is over after ${TICKET_TTL_MS / 1_000} s. Try again then.`,
        { retry_after_ms: TICKET_TTL_MS, limit: held >= MAX_TICKETS_PER_PRINCIPAL ? held : MAX_TICKETS },
      );
    }
    const ticket = `${PREFIX}${randomBytes(24).toString("base64url")}`;
    this.#rows.set(hashOf(ticket), { identity, endsAt: this.#clock.monotonic() + TICKET_TTL_MS });
    return ticket;
  }

  /** Whom a ticket lets in; it is used up with this. `undefined` for what is no ticket, used, or over. */
  redeem(ticket: string): Identity | undefined {
    if (!ticket.startsWith(PREFIX)) return undefined;
    this.#forgetOld();
    const hash = hashOf(ticket);
    const row = this.#rows.get(hash);
    this.#rows.delete(hash);
    return row?.identity;
  }

  #forgetOld(): void {
    const now = this.#clock.monotonic();
    for (const [hash, row] of this.#rows) {
      if (row.endsAt > now) return;
      this.#rows.delete(hash);
    }
  }
}

const hashOf = (ticket: string): string => createHash("sha256").update(ticket).digest("base64");

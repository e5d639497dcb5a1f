/**
 * A channel: a way out to people, as deliveries see it. An adapter implements it over Slack, a web chat, or whatever
 * else takes messages; deliveries decide what is sent, when, where to and how often, and a channel only carries it.
 */
import type { FinalStatus } from "../../protocol/index.ts";
import type { Route } from "../route.ts";

/** How a channel names a message that it has taken: what `update` needs to find it again. Plain JSON, kept in the store. */
export type Receipt = Readonly<Record<string, string | number | boolean>>;

export interface ChannelLimits {
  /** Of one message; a longer answer goes in several parts. */
  readonly maxTextChars: number;
  /** The shortest time between two updates of one message. */
  readonly minUpdateIntervalMs: number;
  /** How long one call may take; what takes longer counts as unclear. */
  readonly timeoutMs: number;
}

export interface OutgoingFile {
  readonly name: string;
  readonly contentType: string;
  readonly data: Uint8Array;
}

/** One message of an answer, or of what leads to it. */
export interface OutgoingMessage {
  /** Where to: pinned when the turn was taken. */
  readonly route: Route;
  /** The same for all parts of an answer and all tries at it. */
  readonly deliveryId: string;
  /** From 1. */
  readonly part: number;
  readonly text: string;
  /** `working` while the turn runs; then how it ended. */
  readonly status: "working" | FinalStatus;
  readonly jobId: string;
  readonly conversationId: string;
  /** With the last part of an answer, which may be an update of what was shown while the turn ran. */
  readonly files: readonly OutgoingFile[];
}

export interface CallOptions {
  /** Aborts at the channel's own limit, and when the sender stops. */
  readonly signal: AbortSignal;
}

export interface Channel {
  /** As routes name it: `slack`, `web`. */
  readonly name: string;
  readonly limits: ChannelLimits;
  /** @throws ChannelError */
  send(message: OutgoingMessage, options: CallOptions): Promise<Receipt>;
  /**
   * Puts another text in the place of one that was sent; the same one again changes nothing. `refused` where the
   * message is gone: it is sent anew then.
   *
   * @throws ChannelError
   */
  update(receipt: Receipt, message: OutgoingMessage, options: CallOptions): Promise<void>;
  /** The parts of a delivery that have arrived, asked after an unclear send. Absent: the channel cannot tell. */
  readonly find?:
    | ((
        where: { route: Route; deliveryId: string },
        options: CallOptions,
      ) => Promise<readonly { part: number; receipt: Receipt }[]>)
    | undefined;
  /** Shows that an answer is on its way. */
  readonly typing?: ((route: Route, options: CallOptions) => Promise<void>) | undefined;
  /** Whether this process can reach that place now. Absent: any process can reach any place. */
  readonly reaches?: ((route: Route) => boolean) | undefined;
}

/**
 * Why a call came to nothing:
 * - `unclear`: it may have arrived (no answer, a broken connection, a fault of the channel's server);
 * - `rate_limited`: it did not, and may be tried again after `retryAfterMs`;
 * - `retry`: it did not, and may be tried again;
 * - `refused`: it did not, and never will (no such place, archived, not allowed).
 */
export type ChannelErrorKind = "unclear" | "rate_limited" | "retry" | "refused";

export class ChannelError extends Error {
  override readonly name = "ChannelError";
  readonly kind: ChannelErrorKind;
  readonly retryAfterMs: number | undefined;

  /** @param message says, in the channel's own words, what was wrong; it is kept and shown */
  constructor(kind: ChannelErrorKind, message: string, options: { retryAfterMs?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.kind = kind;
    this.retryAfterMs = options.retryAfterMs;
  }
}

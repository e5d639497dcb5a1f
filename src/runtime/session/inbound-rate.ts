import type { Clock } from "../../clock.ts";

/** What becomes of a message: taken, refused, or one too many even for refusals. */
export type Verdict = "taken" | "refused" | "flood";

/**
 * How much one connection may send (SES-16): a bucket that fills by `perSecond` tokens a second and holds a
 * second's worth. A refused message takes a token too, so who goes on regardless gets into debt and, a
 * second's worth below nothing, is a flood. Costs a subtraction per message.
 */
export class InboundRate {
  readonly #clock: Clock;
  readonly #perSecond: number;
  #level: number;
  #at: number;

  constructor(clock: Clock, perSecond: number) {
    this.#clock = clock;
    this.#perSecond = perSecond;
    this.#level = perSecond;
    this.#at = clock.monotonic();
  }

  take(): Verdict {
    const now = this.#clock.monotonic();
    this.#level = Math.min(this.#perSecond, this.#level + ((now - this.#at) * this.#perSecond) / 1000) - 1;
    this.#at = now;
    if (this.#level >= 0) return "taken";
    return this.#level >= -this.#perSecond ? "refused" : "flood";
  }

  /** When one more message will be taken, if none comes before. */
  get retryAfterMs(): number {
    return Math.max(1, Math.ceil(((1 - this.#level) * 1000) / this.#perSecond));
  }
}

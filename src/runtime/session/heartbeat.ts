import type { Clock, Timer } from "../../clock.ts";

/**
 * Watches whether the peer is alive (SES-7). Anything inbound counts; what we send does not. One timer
 * for each connection, set to the next moment at which something could be due.
 */
export class Heartbeat {
  readonly #clock: Clock;
  readonly #intervalMs: number;
  readonly #due: (what: "ping" | "lost") => void;
  #lastInbound: number;
  #timer: Timer | undefined;

  /** @param due called when a ping is to be sent; and once, when the peer is lost */
  constructor(clock: Clock, intervalMs: number, due: (what: "ping" | "lost") => void) {
    this.#clock = clock;
    this.#intervalMs = intervalMs;
    this.#due = due;
    this.#lastInbound = clock.monotonic();
    this.#schedule(this.#intervalMs);
  }

  /** Something came in. */
  touch(): void {
    this.#lastInbound = this.#clock.monotonic();
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #schedule(delayMs: number): void {
    this.#timer = this.#clock.after(delayMs, () => this.#tick());
  }

  #tick(): void {
    const idleMs = this.#clock.monotonic() - this.#lastInbound;
    if (idleMs > 2 * this.#intervalMs) {
      this.#timer = undefined;
      this.#due("lost");
      return;
    }
    if (idleMs < this.#intervalMs) {
      this.#schedule(this.#intervalMs - idleMs);
      return;
    }
    this.#due("ping");
    this.#schedule(this.#intervalMs / 2);
  }
}

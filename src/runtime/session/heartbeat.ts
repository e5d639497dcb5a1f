import type { Clock, Timer } from "../../clock.ts";

/**
 * Watches whether the peer is alive (SES-7). Anything inbound counts; what we send does not. One timer
 * for each connection, set to the next moment at which something could be due.
 */
export class Heartbeat {
  readonly #clock: Clock;
  readonly #intervalMs: number;
  readonly #ping: () => void;
  readonly #lost: () => void;
  #lastInbound: number;
  #timer: Timer | undefined;

  constructor(options: { clock: Clock; intervalMs: number; ping: () => void; lost: () => void }) {
    this.#clock = options.clock;
    this.#intervalMs = options.intervalMs;
    this.#ping = options.ping;
    this.#lost = options.lost;
    this.#lastInbound = options.clock.monotonic();
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
      this.#lost();
      return;
    }
    if (idleMs < this.#intervalMs) {
      this.#schedule(this.#intervalMs - idleMs);
      return;
    }
    this.#ping();
    this.#schedule(this.#intervalMs / 2);
  }
}

/**
 * Finds out that a connection is dead although nobody closed it: idle for one interval, a ping goes
 * out; silent for more than two, the connection is given up. Costs one timer and a clock reading per
 * frame.
 */
import type { Clock, Timer } from "../clock.ts";

export interface HeartbeatParts {
  clock: Clock;
  intervalMs: number;
  ping(): void;
  /** Nothing came for more than two intervals. The heartbeat has stopped. */
  lost(): void;
}

export class Heartbeat {
  readonly #parts: HeartbeatParts;
  #heardAt: number;
  #timer: Timer;

  constructor(parts: HeartbeatParts) {
    this.#parts = parts;
    this.#heardAt = parts.clock.monotonic();
    this.#timer = parts.clock.after(parts.intervalMs, this.#look);
  }

  /** Something came in. */
  heard(): void {
    this.#heardAt = this.#parts.clock.monotonic();
  }

  stop(): void {
    this.#timer.cancel();
  }

  readonly #look = (): void => {
    const { clock, intervalMs, ping, lost } = this.#parts;
    const silentMs = clock.monotonic() - this.#heardAt;
    if (silentMs > 2 * intervalMs) {
      lost();
      return;
    }
    let nextMs = intervalMs - silentMs;
    if (silentMs >= intervalMs) {
      ping();
      // One more millisecond: silence of exactly two intervals is still allowed.
      nextMs = 2 * intervalMs - silentMs + 1;
    }
    this.#timer = clock.after(nextMs, this.#look);
  };
}

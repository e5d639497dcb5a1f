/**
 * Tells the runtime how far events have been consumed (CLT-5): coalesced, after every so many events
 * or at the end of a short delay, whichever is first. What is acked is the highest number such that it
 * and everything below it was consumed, so an iterator that lags holds it back for all. Costs a counter
 * per event; the mark is looked up when an ack is due.
 */
import type { Clock, Timer } from "../clock.ts";

/** Something that may hold events that were received and not yet consumed. */
export interface Unconsumed {
  /** The number of the first of them. */
  firstUnconsumed(): number | undefined;
}

export interface AckParts {
  clock: Clock;
  every: number;
  everyMs: number;
  /** The newest number that was received. */
  received(): number;
  /** Sends an ack; false when it cannot be sent now. */
  send(seq: number): boolean;
}

export class Acks {
  readonly #parts: AckParts;
  readonly #readers = new Set<Unconsumed>();
  #uncounted = 0;
  #acked = 0;
  #timer: Timer | undefined;
  #running = false;

  constructor(parts: AckParts) {
    this.#parts = parts;
  }

  /** Nothing is acked before: the session may not have negotiated it. */
  start(): void {
    this.#running = true;
  }

  /** Counts what that reader has yet to consume, from now on. */
  add(reader: Unconsumed): void {
    this.#readers.add(reader);
  }

  remove(reader: Unconsumed): void {
    this.#readers.delete(reader);
  }

  /** The highest number such that it and all below it was consumed. */
  get mark(): number {
    let mark = this.#parts.received();
    for (const reader of this.#readers) {
      const first = reader.firstUnconsumed();
      if (first !== undefined && first <= mark) mark = first - 1;
    }
    return mark;
  }

  /** One more event was consumed. */
  consumed(): void {
    if (!this.#running) return;
    this.#uncounted += 1;
    if (this.#uncounted >= this.#parts.every) this.flush();
    else if (this.#timer === undefined) {
      this.#timer = this.#parts.clock.after(this.#parts.everyMs, () => {
        this.#timer = undefined;
        this.flush();
      });
    }
  }

  /** Sends what is due; nothing when nothing is new. */
  flush(): void {
    if (!this.#running) return;
    this.#uncounted = 0;
    const mark = this.mark;
    if (mark > this.#acked && this.#parts.send(mark)) this.#acked = mark;
  }

  stop(): void {
    this.#running = false;
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}

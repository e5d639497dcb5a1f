/**
 * The events of one job between the wire and whoever iterates them. Events may arrive in the very tick
 * in which the job was accepted, before anybody can iterate, so the first ones are held; a job that
 * nobody ever iterates must not fill the memory, so beyond a bound they are dropped and counted, and a
 * late iteration says so (CLT-10). One iteration at a time; each step costs a promise and no timer.
 */

/** One event of a job. */
export interface JobEvent {
  /** Its number in the session. */
  seq: number;
  /** `log`, `progress`, `x-vendor.…` and so on (protocol: Event kinds). */
  kind: string;
  body: unknown;
  /** When the agent emitted it, ISO 8601 in UTC. */
  ts: string;
}

/** How much is held for a job that nobody iterates. */
export const HELD_EVENTS = 256;
export const HELD_BYTES = 256 * 1024;

/** Consumed entries in front of a queue are given back at the latest when there are so many. */
const COMPACT_AT = 1024;

/** An iteration under way. */
interface Iteration {
  mode: "iterated";
  queue: JobEvent[];
  /** The next to hand out. */
  head: number;
  /** Entries below it were held before the iteration began, and counted as consumed then. */
  heldBelow: number;
  /** Who waits for an event; only while the queue is empty. */
  waiters: PromiseWithResolvers<IteratorResult<JobEvent, undefined>>[];
}

type State =
  /** Nobody iterates; what came since the last iteration is here. */
  | { mode: "holding"; events: JobEvent[]; bytes: number }
  /** Nobody iterates, and so many are gone. */
  | { mode: "dropped"; count: number }
  | Iteration;

/** Told what becomes of events, for acks. */
export interface BufferListener {
  /** One event was handed out, or came while nobody iterates. */
  consumed(): void;
  iterating(active: boolean): void;
}

const done: IteratorReturnResult<undefined> = { done: true, value: undefined };

export class EventBuffer {
  readonly #listener: BufferListener;
  readonly #jobId: string;
  #state: State = { mode: "holding", events: [], bytes: 0 };
  /** Set once no more events will come. */
  #end: { error: Error | undefined } | undefined;

  constructor(jobId: string, listener: BufferListener) {
    this.#jobId = jobId;
    this.#listener = listener;
  }

  /** @param bytes roughly what the event takes in memory */
  push(event: JobEvent, bytes: number): void {
    const state = this.#state;
    switch (state.mode) {
      case "iterated": {
        const waiter = state.waiters.shift();
        if (waiter === undefined) {
          state.queue.push(event);
          return;
        }
        waiter.resolve({ done: false, value: event });
        break;
      }
      case "holding":
        if (state.events.length < HELD_EVENTS && state.bytes + bytes <= HELD_BYTES) {
          state.events.push(event);
          state.bytes += bytes;
        } else {
          this.#state = { mode: "dropped", count: state.events.length + 1 };
        }
        break;
      case "dropped":
        state.count += 1;
        break;
    }
    this.#listener.consumed();
  }

  /** No more events: the iteration ends after those that wait, with the error if there is one. */
  end(error?: Error): void {
    if (this.#end !== undefined) return;
    this.#end = { error };
    if (this.#state.mode !== "iterated") return;
    const waiter = this.#state.waiters.shift();
    if (waiter === undefined) return;
    this.#release(this.#state);
    if (error === undefined) waiter.resolve(done);
    else waiter.reject(error);
  }

  firstUnconsumed(): number | undefined {
    const state = this.#state;
    if (state.mode !== "iterated") return undefined;
    return state.queue[Math.max(state.head, state.heldBelow)]?.seq;
  }

  /**
   * Starts an iteration.
   *
   * @throws Error when another one is under way, or events were dropped since nobody iterated
   */
  iterate(): AsyncIterableIterator<JobEvent, undefined, undefined> {
    const state = this.#state;
    if (state.mode === "iterated") {
      throw new Error(`The events of ${this.#jobId} are being iterated already; a handle has one reader.`);
    }
    if (state.mode === "dropped") {
      throw new Error(
        `${state.count} events of ${this.#jobId} were dropped, as nobody iterated them. Iterate a handle right ` +
          `after submit or subscribe, or read the job from its start: session.subscribe(jobId, { history: true }).`,
      );
    }
    const mine: Iteration = {
      mode: "iterated",
      queue: state.events,
      head: 0,
      heldBelow: state.events.length,
      waiters: [],
    };
    this.#state = mine;
    this.#listener.iterating(true);
    const iterator: AsyncIterableIterator<JobEvent, undefined, undefined> = {
      next: () => (this.#state === mine ? this.#next(mine) : Promise.resolve(done)),
      return: () => {
        if (this.#state === mine) this.#release(mine);
        return Promise.resolve(done);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  #next(state: Iteration): Promise<IteratorResult<JobEvent, undefined>> {
    const value = state.queue[state.head];
    if (value !== undefined) {
      state.head += 1;
      if (state.head > state.heldBelow) this.#listener.consumed();
      if (state.head === state.queue.length) {
        state.queue = [];
        state.head = 0;
        state.heldBelow = 0;
      } else if (state.head >= COMPACT_AT && state.head * 2 >= state.queue.length) {
        state.queue = state.queue.slice(state.head);
        state.heldBelow = Math.max(0, state.heldBelow - state.head);
        state.head = 0;
      }
      return Promise.resolve({ done: false, value });
    }
    if (this.#end !== undefined) {
      this.#release(state);
      return this.#end.error === undefined ? Promise.resolve(done) : Promise.reject(this.#end.error);
    }
    const waiter = Promise.withResolvers<IteratorResult<JobEvent, undefined>>();
    state.waiters.push(waiter);
    return waiter.promise;
  }

  /** The reader has left: what waits is held for the next one, as far as the bound allows. */
  #release(state: Iteration): void {
    const left = state.queue.slice(state.head);
    const unconsumed = left.length - Math.max(0, state.heldBelow - state.head);
    // Sizes are not kept while somebody reads; the rest is weighed as if its events were of even size.
    const bytes = left.length * (HELD_BYTES / HELD_EVENTS);
    this.#state =
      left.length <= HELD_EVENTS ? { mode: "holding", events: left, bytes } : { mode: "dropped", count: left.length };
    this.#listener.iterating(false);
    for (const waiter of state.waiters) waiter.resolve(done);
    for (let count = unconsumed; count > 0; count -= 1) this.#listener.consumed();
  }
}

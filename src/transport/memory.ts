/**
 * Two transports of one process, tied together: for tests, and for a client and a runtime that share
 * a process. In manual mode (the default) a frame waits in its direction until it is flushed, so that
 * every interleaving of two peers and a failing wire can be written down; in auto mode it is delivered
 * on the next microtask. Costs one array entry per waiting frame; no timer, no socket.
 */
import type { Transport, TransportEvents } from "./transport.ts";

/** `"toA"`: what `b` sent and `a` will get. */
export type Direction = "toA" | "toB";

export interface MemoryPairOptions {
  /** Deliver on the next microtask instead of waiting for a flush. @default false */
  auto?: boolean;
}

export interface CutOptions {
  /** How many of the waiting frames still arrive, per direction; the rest is lost. @default 0 */
  deliver?: Partial<Record<Direction, number>>;
}

/** Two connected transports and the hand on the wire between them. */
export interface MemoryPair {
  readonly a: Transport;
  readonly b: Transport;
  /** Delivers until nothing waits in either direction, what is sent meanwhile included. */
  flush(): void;
  /** Delivers the oldest waiting frame (or goodbye); false when there is none, or the reader stalls. */
  flushOne(direction: Direction): boolean;
  /** Frames that wait in that direction; a goodbye counts as one. */
  pending(direction: Direction): number;
  /** The wire breaks now: both ends close with 1006, waiting frames are lost. */
  cut(options?: CutOptions): void;
  /** The reader of that direction stops reading: frames pile up in the sender's `bufferedBytes`. */
  stall(direction: Direction): void;
  /** The reader goes on. */
  unstall(direction: Direction): void;
}

interface DrainWaiter {
  limitBytes: number;
  resolve(): void;
}

const encoder = new TextEncoder();

class MemoryEnd implements Transport {
  #peer: MemoryEnd | undefined;
  readonly #auto: boolean;
  #events: TransportEvents | undefined;
  #open = true;
  /** Frames on their way to this end; those below `#head` are delivered. */
  #inbox: string[] = [];
  #head = 0;
  /** The peer closed: delivered behind the frames it had sent. */
  #goodbye: { code: number; reason: string } | undefined;
  #closed: { code: number; reason: string } | undefined;
  #stalled = false;
  #stalledBytes = 0;
  #waiters: DrainWaiter[] = [];
  #scheduled = false;

  constructor(auto: boolean) {
    this.#auto = auto;
  }

  tie(peer: MemoryEnd): void {
    this.#peer = peer;
  }

  get open(): boolean {
    return this.#open;
  }

  get bufferedBytes(): number {
    return this.#peer?.unreadBytes ?? 0;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    if (this.#closed !== undefined) events.onClose(this.#closed.code, this.#closed.reason);
    else this.#schedule();
  }

  send(frames: readonly string[]): void {
    if (this.#open) this.#peer?.take(frames);
  }

  drained(limitBytes: number): Promise<void> {
    if (!this.#open || this.bufferedBytes <= limitBytes) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ limitBytes, resolve }));
  }

  close(code = 1000, reason = ""): void {
    if (!this.#open) return;
    this.#open = false;
    this.#peer?.part(code, reason);
    queueMicrotask(() => this.finish(code, reason));
  }

  /** No more frames will come. */
  finish(code: number, reason: string): void {
    if (this.#closed !== undefined) return;
    this.#open = false;
    this.#closed = { code, reason };
    this.#inbox = [];
    this.#head = 0;
    this.#goodbye = undefined;
    this.wake();
    this.#events?.onClose(code, reason);
  }

  get pending(): number {
    return this.#open ? this.#inbox.length - this.#head + (this.#goodbye === undefined ? 0 : 1) : 0;
  }

  /** What was sent to this end since it stopped reading. */
  get unreadBytes(): number {
    return this.#stalledBytes;
  }

  deliverOne(): boolean {
    if (this.#events === undefined || this.#stalled || !this.#open) return false;
    const frame = this.#inbox[this.#head];
    if (frame !== undefined) {
      this.#head += 1;
      if (this.#head === this.#inbox.length) {
        this.#inbox = [];
        this.#head = 0;
      }
      this.#events.onFrame(frame);
      return true;
    }
    if (this.#goodbye === undefined) return false;
    this.finish(this.#goodbye.code, this.#goodbye.reason);
    return true;
  }

  setStalled(stalled: boolean): void {
    this.#stalled = stalled;
    if (stalled) return;
    this.#stalledBytes = 0;
    this.#peer?.wake();
    this.#schedule();
  }

  take(frames: readonly string[]): void {
    if (!this.#open) return;
    for (const frame of frames) {
      this.#inbox.push(frame);
      if (this.#stalled) this.#stalledBytes += encoder.encode(frame).byteLength;
    }
    this.#schedule();
  }

  part(code: number, reason: string): void {
    if (!this.#open) return;
    this.#goodbye = { code, reason };
    this.#schedule();
  }

  #schedule(): void {
    if (!this.#auto || this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      while (this.deliverOne());
    });
  }

  wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (!this.#open || this.bufferedBytes <= waiter.limitBytes) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}

/** Two connected transports. */
export function memoryPair(options: MemoryPairOptions = {}): MemoryPair {
  const auto = options.auto ?? false;
  const a = new MemoryEnd(auto);
  const b = new MemoryEnd(auto);
  a.tie(b);
  b.tie(a);
  const end = (direction: Direction): MemoryEnd => (direction === "toA" ? a : b);
  return {
    a,
    b,
    flush() {
      for (let moved = true; moved; ) {
        const toA = a.deliverOne();
        const toB = b.deliverOne();
        moved = toA || toB;
      }
    },
    flushOne: (direction) => end(direction).deliverOne(),
    pending: (direction) => end(direction).pending,
    cut({ deliver = {} } = {}) {
      for (const direction of ["toA", "toB"] as const) {
        for (let left = deliver[direction] ?? 0; left > 0 && end(direction).deliverOne(); left -= 1);
      }
      a.finish(1006, "The connection was cut.");
      b.finish(1006, "The connection was cut.");
    },
    stall: (direction) => end(direction).setStalled(true),
    unstall: (direction) => end(direction).setStalled(false),
  };
}

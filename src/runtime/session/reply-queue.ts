/** One answer that is being worked on; it keeps its place in the order of the requests (JOB-2). */
export interface ReplySlot {
  frame: string | undefined;
  /** What the slot keeps in memory: its request's frame, then its own. */
  chars: number;
  settled: boolean;
  /** Called right after the frame was handed to the transport. */
  onSent: (() => void) | undefined;
}

/**
 * The answers of one connection, in the order of their requests. They go ahead of the tail, which
 * asks {@link barrier} before it sends: an event numbered after a reply was stored must not overtake
 * it, for its arrival would prove that the reply arrived too (RES-10).
 */
export class ReplyQueue {
  readonly #send: (frame: string) => void;
  readonly #slots: ReplySlot[] = [];
  /** Each waits for the slot that was the newest when it came. */
  readonly #barriers: { after: ReplySlot; resolve: () => void }[] = [];
  #closed = false;
  #heldChars = 0;

  constructor(send: (frame: string) => void) {
    this.#send = send;
  }

  /** Answers that are being worked on. */
  get pending(): number {
    return this.#slots.length;
  }

  /** The frames that wait here: requests that are being worked on, and answers whose turn has not come. */
  get heldChars(): number {
    return this.#heldChars;
  }

  /** @param chars the length of the request's frame */
  reserve(chars = 0): ReplySlot {
    const slot: ReplySlot = { frame: undefined, chars, settled: false, onSent: undefined };
    this.#slots.push(slot);
    this.#heldChars += chars;
    return slot;
  }

  /** Gives a slot its frame (or none) and sends all that is now at the head. What comes after that is dropped. */
  settle(slot: ReplySlot, frame: string | undefined, onSent?: () => void): void {
    if (slot.settled) return;
    slot.frame = frame;
    slot.onSent = onSent;
    slot.settled = true;
    this.#heldChars -= slot.chars;
    slot.chars = frame?.length ?? 0;
    this.#heldChars += slot.chars;
    for (let head = this.#slots[0]; head?.settled === true; head = this.#slots[0]) {
      this.#slots.shift();
      this.#heldChars -= head.chars;
      if (head.frame !== undefined) this.#send(head.frame);
      head.onSent?.();
      while (this.#barriers[0]?.after === head) this.#barriers.shift()?.resolve();
    }
  }

  /** A frame that answers nothing in particular, in its turn. */
  push(frame: string): void {
    this.settle(this.reserve(), frame);
  }

  /** Resolves when every answer that is being worked on now has been sent; `undefined` if there is none. */
  barrier(): Promise<void> | undefined {
    const after = this.#slots.at(-1);
    if (after === undefined || this.#closed) return undefined;
    return new Promise((resolve) => this.#barriers.push({ after, resolve }));
  }

  /** Lets go of whoever waits; the connection is gone. */
  close(): void {
    this.#closed = true;
    for (const { resolve } of this.#barriers.splice(0)) resolve();
  }
}

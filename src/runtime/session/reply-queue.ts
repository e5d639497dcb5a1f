/** One answer that is being worked on; it keeps its place in the order of the requests (JOB-2). */
export interface ReplySlot {
  frame: string | undefined;
  /** What the slot keeps in memory: its request's frame, then its own. */
  chars: number;
  settled: boolean;
  /** Its frame waits for what is put in at sending (CRD-8). */
  incomplete: boolean;
  /** Called right after the frame was handed to the transport. */
  onSent: (() => void) | undefined;
  /** Wait for this slot to be sent. */
  barriers: (() => void)[] | undefined;
}

/**
 * The answers of one connection, in the order of their requests. They go ahead of the tail, which
 * asks {@link barrier} before it sends: an event numbered after a reply was stored must not overtake
 * it, for its arrival would prove that the reply arrived too (RES-10).
 */
export class ReplyQueue {
  readonly #send: (frame: string) => void;
  readonly #complete: (frame: string) => string | Promise<string>;
  readonly #slots: ReplySlot[] = [];
  #closed = false;
  #heldChars = 0;

  /** @param complete puts in what no stored frame holds; most frames come back as they are, and at once */
  constructor(send: (frame: string) => void, complete: (frame: string) => string | Promise<string>) {
    this.#send = send;
    this.#complete = complete;
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
    const slot: ReplySlot = {
      frame: undefined,
      chars,
      settled: false,
      incomplete: false,
      onSent: undefined,
      barriers: undefined,
    };
    this.#slots.push(slot);
    this.#heldChars += chars;
    return slot;
  }

  /** Gives a slot its frame (or none) and sends all that is now at the head. What comes after that is dropped. */
  settle(slot: ReplySlot, frame: string | undefined, onSent?: () => void): void {
    if (slot.settled) return;
    slot.onSent = onSent;
    slot.settled = true;
    const complete = frame === undefined ? undefined : this.#complete(frame);
    if (!(complete instanceof Promise)) {
      this.#fill(slot, complete);
      return;
    }
    slot.incomplete = true;
    void complete.then((whole) => {
      slot.incomplete = false;
      this.#fill(slot, whole);
    });
  }

  #fill(slot: ReplySlot, frame: string | undefined): void {
    slot.frame = frame;
    this.#heldChars -= slot.chars;
    slot.chars = frame?.length ?? 0;
    this.#heldChars += slot.chars;
    for (let head = this.#slots[0]; head?.settled === true && !head.incomplete; head = this.#slots[0]) {
      this.#slots.shift();
      this.#heldChars -= head.chars;
      if (head.frame !== undefined) this.#send(head.frame);
      head.onSent?.();
      for (const resolve of head.barriers ?? []) resolve();
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
    after.barriers ??= [];
    const { barriers } = after;
    return new Promise((resolve) => barriers.push(resolve));
  }

  /** Lets go of whoever waits; the connection is gone. */
  close(): void {
    this.#closed = true;
    for (const { barriers } of this.#slots) for (const resolve of barriers ?? []) resolve();
  }
}

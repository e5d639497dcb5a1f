/**
 * A job's result in pieces, between the wire and the one who reads it. What was read is let go, so a result
 * of any size passes through; what waits has a cap, since nobody can make the runtime wait. Costs a promise
 * for each piece and no timer.
 */
import type { Unconsumed } from "./acks.ts";
import type { BufferListener } from "./event-buffer.ts";
import type { ResultPiece } from "./result-chunks.ts";

/**
 * A result as it comes: iterate it, or read its `readable`; one reader, once. It goes on through lost
 * connections, ends when the job has succeeded, and is an error when the job failed, the session closed, or
 * a chunk is missing or broken. Leaving it early lets go of the rest.
 */
export interface ResultReader extends AsyncIterable<ResultPiece> {
  /** What the agent said that its result is; known from the first piece on. */
  readonly contentType: string | undefined;
  readonly readable: ReadableStream<ResultPiece>;
}

export interface ReaderParts {
  jobId: string;
  /** What may wait to be read: characters and bytes. */
  maxWaiting: number;
  contentType(): string | undefined;
  listener(reader: Unconsumed): BufferListener;
}

/** A piece that nobody has read yet. */
export interface Waiting {
  piece: ResultPiece;
  /** The number of its event; `undefined` for one that has none. */
  seq: number | undefined;
}

type Step = IteratorResult<ResultPiece, undefined>;
const done: IteratorReturnResult<undefined> = { done: true, value: undefined };

/** - `open`: pieces come. - `ended`: no more come; those that wait are still read. - `left`: the reader has gone. */
type State = { phase: "open" } | { phase: "ended"; error: unknown } | { phase: "left" };

export class PieceQueue implements ResultReader, Unconsumed {
  readonly #parts: ReaderParts;
  readonly #listener: BufferListener;
  #state: State = { phase: "open" };
  #waiting: Waiting[] = [];
  /** The next of them to hand out. */
  #head = 0;
  #size = 0;
  /** Who waits for a piece; only while none waits. */
  #readers: PromiseWithResolvers<Step>[] = [];
  #taken = false;
  #readable: ReadableStream<ResultPiece> | undefined;

  constructor(parts: ReaderParts) {
    this.#parts = parts;
    this.#listener = parts.listener(this);
    this.#listener.iterating(true);
  }

  get contentType(): string | undefined {
    return this.#parts.contentType();
  }

  get readable(): ReadableStream<ResultPiece> {
    this.#readable ??= this.#asStream(this[Symbol.asyncIterator]());
    return this.#readable;
  }

  #asStream(iterator: AsyncIterator<ResultPiece, undefined>): ReadableStream<ResultPiece> {
    return new ReadableStream<ResultPiece>(
      {
        pull: async (controller) => {
          const { done: over, value } = await iterator.next();
          if (over) controller.close();
          else controller.enqueue(value);
        },
        cancel: () => this.#leave(),
      },
      { highWaterMark: 0 },
    );
  }

  /** @throws Error the second time */
  [Symbol.asyncIterator](): AsyncIterableIterator<ResultPiece, undefined, undefined> {
    if (this.#taken) throw new Error(`The result of ${this.#parts.jobId} is being read already; it is read once.`);
    this.#taken = true;
    const iterator: AsyncIterableIterator<ResultPiece, undefined, undefined> = {
      next: () => this.#next(),
      return: () => {
        this.#leave();
        return Promise.resolve(done);
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  firstUnconsumed(): number | undefined {
    return this.#waiting[this.#head]?.seq;
  }

  push(piece: ResultPiece, seq?: number): void {
    if (this.#state.phase !== "open" || piece.length === 0) return;
    const reader = this.#readers.shift();
    if (reader !== undefined) {
      reader.resolve({ done: false, value: piece });
      this.#listener.consumed();
      return;
    }
    const { jobId, maxWaiting } = this.#parts;
    if (this.#size + piece.length > maxWaiting) {
      this.#drop();
      this.end(
        new Error(
          `More than ${maxWaiting} bytes of the result of ${jobId} waited to be read and were dropped; read faster, ` +
            "or raise maxResultBytes. Subscribe with { history: true } to get all of it.",
        ),
      );
      return;
    }
    this.#waiting.push({ piece, seq });
    this.#size += piece.length;
  }

  /** No more pieces: the reading ends after those that wait, with the error if there is one. */
  end(error?: unknown): void {
    if (this.#state.phase !== "open") return;
    this.#state = { phase: "ended", error };
    if (this.#waiting.length === 0) this.#listener.iterating(false);
    const [first, ...others] = this.#readers.splice(0);
    if (first === undefined) return;
    if (error === undefined) first.resolve(done);
    else first.reject(error);
    for (const reader of others) reader.resolve(done);
  }

  #next(): Promise<Step> {
    const next = this.#waiting[this.#head];
    if (next !== undefined) {
      this.#head += 1;
      this.#size -= next.piece.length;
      if (this.#head === this.#waiting.length) {
        this.#drop();
        if (this.#state.phase === "ended") this.#listener.iterating(false);
      } else if (this.#head >= 64 && this.#head * 2 >= this.#waiting.length) {
        this.#waiting = this.#waiting.slice(this.#head);
        this.#head = 0;
      }
      this.#listener.consumed();
      return Promise.resolve({ done: false, value: next.piece });
    }
    switch (this.#state.phase) {
      case "open": {
        const reader = Promise.withResolvers<Step>();
        this.#readers.push(reader);
        return reader.promise;
      }
      case "ended": {
        const { error } = this.#state;
        this.#state = { phase: "left" };
        return error === undefined ? Promise.resolve(done) : Promise.reject(error);
      }
      case "left":
        return Promise.resolve(done);
    }
  }

  #leave(): void {
    if (this.#state.phase === "left") return;
    this.#state = { phase: "left" };
    this.#drop();
    this.#listener.iterating(false);
    this.#listener.consumed();
    for (const reader of this.#readers.splice(0)) reader.resolve(done);
  }

  #drop(): void {
    this.#waiting = [];
    this.#head = 0;
    this.#size = 0;
  }
}

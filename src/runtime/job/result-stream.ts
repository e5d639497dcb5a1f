/**
 * A job's result in pieces, as the agent makes them: text or bytes go in, `result_chunk` events come out,
 * under the same rules as chunks that an agent emits by hand (chunked-result.ts follows both). Holds what
 * the events need and at most three bytes or half a character over from the last write; a piece is on its
 * way when its write resolves. Text that a write cuts in the middle of a character is joined again, and no
 * chunk ends within one; half a surrogate pair without its other half becomes U+FFFD, as in every UTF-8.
 */
import { ArcpError, type EventBody } from "../../protocol/index.ts";

export interface StreamOptions {
  /** What the whole is, e.g. `text/markdown`; the first chunk tells it. */
  contentType?: string;
  /**
   * How the result travels: `"utf8"` for text, whether it is written as such or as bytes of UTF-8; `"base64"`
   * for bytes of any kind.
   *
   * @default what the first write is: text, or bytes
   */
  encoding?: "utf8" | "base64";
  /** What one chunk carries at the most, before base64. From 4 to 131_072. @default 65_536 (64 KiB) */
  chunkBytes?: number;
}

/** Where a job writes its result in pieces; its `job.result` then names it instead of carrying it. */
export interface ResultStream {
  /**
   * Appends a piece; resolves when there is room for the next: await it. Rejects with INTERNAL_ERROR over
   * the runtime's `maxResultBytes`, with INVALID_REQUEST for bytes that are no UTF-8 in a stream of text,
   * and with the signal's reason once the job is to stop. After that the job cannot succeed any more.
   */
  write(piece: string | Uint8Array): Promise<void>;
  /**
   * The result is complete; nothing can be written any more. The agent's return does it as well.
   *
   * @param summary one line about it, told with the job's end
   */
  end(summary?: string): Promise<void>;
  /** The same as a WHATWG stream, for `readable.pipeTo(out.writable)`; closing it ends the result. */
  readonly writable: WritableStream<string | Uint8Array>;
}

export interface StreamParts {
  resultId: string;
  signal: AbortSignal;
  emit(body: EventBody<"result_chunk">): Promise<void>;
}

const DEFAULT_CHUNK_BYTES = 64 * 1024;
/** The longest character of UTF-8 has to fit. */
const MIN_CHUNK_BYTES = 4;
/** Where each character takes six of JSON, a chunk still is far below the 1 MiB of the protocol. */
const MAX_CHUNK_BYTES = 128 * 1024;
/** What may wait behind a write that is under way; more, and the agent does not await (JOB-16). */
const MAX_WAITING_WRITES = 1_024;
const MAX_WAITING_UNITS = 4 * 1024 * 1024;

/** `open` until its end is asked for, or something goes wrong for good. */
type State = { phase: "open" } | { phase: "ending"; ended: Promise<void> } | { phase: "failed"; cause: unknown };

export class JobResultStream implements ResultStream {
  readonly #parts: StreamParts;
  readonly #chunkBytes: number;
  readonly #contentType: string | undefined;
  #encoding: "utf8" | "base64" | undefined;
  #state: State = { phase: "open" };
  #summary: string | undefined;
  /** Settles when the newest write has; never rejects. */
  #turn: Promise<void> = Promise.resolve();
  #waitingWrites = 0;
  #waitingUnits = 0;
  #nextSeq = 0;
  /** The first half of a surrogate pair whose second half is still to be written. */
  #half = "";
  /** While bytes of text are written: holds the bytes of a character that is not complete. */
  #decoder: TextDecoder | undefined;
  #writable: WritableStream<string | Uint8Array> | undefined;

  /** @throws RangeError for `chunkBytes` out of its range */
  constructor(parts: StreamParts, options: StreamOptions = {}) {
    const { chunkBytes = DEFAULT_CHUNK_BYTES } = options;
    if (!(Number.isInteger(chunkBytes) && chunkBytes >= MIN_CHUNK_BYTES && chunkBytes <= MAX_CHUNK_BYTES)) {
      throw new RangeError(
        `chunkBytes: ${chunkBytes} is not a whole number from ${MIN_CHUNK_BYTES} to ${MAX_CHUNK_BYTES}.`,
      );
    }
    this.#parts = parts;
    this.#chunkBytes = chunkBytes;
    this.#contentType = options.contentType;
    this.#encoding = options.encoding;
  }

  get summary(): string | undefined {
    return this.#summary;
  }

  get writable(): WritableStream<string | Uint8Array> {
    const { signal } = this.#parts;
    this.#writable ??= new WritableStream({
      // A source that gives nothing for a while must not keep a job that is to stop.
      start: (controller) => {
        if (signal.aborted) controller.error(signal.reason);
        signal.addEventListener("abort", () => controller.error(signal.reason), { once: true });
      },
      write: (piece) => this.write(piece),
      close: () => this.end(),
      abort: (reason: unknown) => {
        const cause = new ArcpError("INTERNAL_ERROR", "The source of the result broke off.", { cause: reason });
        this.#fail(reason instanceof ArcpError ? reason : cause);
      },
    });
    return this.#writable;
  }

  write(piece: string | Uint8Array): Promise<void> {
    if (typeof piece !== "string" && !(piece instanceof Uint8Array)) {
      return this.#reject(new ArcpError("INVALID_REQUEST", `write: takes text or bytes, not ${typeof piece}.`));
    }
    if (this.#state.phase === "ending") {
      return this.#reject(new ArcpError("INTERNAL_ERROR", "write: the result has its end already."));
    }
    if (
      this.#waitingWrites >= MAX_WAITING_WRITES ||
      (this.#waitingWrites > 0 && this.#waitingUnits + piece.length > MAX_WAITING_UNITS)
    ) {
      return this.#reject(
        new ArcpError(
          "INTERNAL_ERROR",
          `${this.#waitingWrites} writes of the result wait to be stored; await each write.`,
        ),
      );
    }
    this.#encoding ??= typeof piece === "string" ? "utf8" : "base64";
    const encoding = this.#encoding;
    this.#waitingWrites += 1;
    this.#waitingUnits += piece.length;
    return this.#inTurn(async () => {
      this.#waitingWrites -= 1;
      this.#waitingUnits -= piece.length;
      if (encoding === "utf8") await this.#sendText(this.#textOf(piece));
      else await this.#sendBytes(this.#bytesOf(piece));
    });
  }

  end(summary?: string): Promise<void> {
    if (this.#state.phase === "ending") return this.#state.ended;
    const ended = this.#inTurn(() => this.#sendEnd());
    if (this.#state.phase === "open") {
      this.#summary = summary;
      this.#state = { phase: "ending", ended };
    }
    return ended;
  }

  async #sendEnd(): Promise<void> {
    const rest = this.#half.toWellFormed() + this.#flushed();
    this.#half = "";
    const encoding = this.#encoding ?? "utf8";
    await this.#send(encoding === "utf8" ? rest : Buffer.from(rest).toString("base64"), false);
  }

  /** One write after the other; after one that fails every other does. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(async () => {
      if (this.#state.phase === "failed") throw this.#state.cause;
      this.#parts.signal.throwIfAborted();
      await work();
    });
    // The next in turn learns of a failure by the state, and an agent that awaits nothing by its job's end.
    this.#turn = done.catch((error: unknown) => this.#fail(error));
    return done;
  }

  #reject(error: ArcpError): Promise<never> {
    this.#fail(error);
    const rejected = Promise.reject(error);
    rejected.catch(() => undefined);
    return rejected;
  }

  #fail(cause: unknown): void {
    if (this.#state.phase !== "failed") this.#state = { phase: "failed", cause };
  }

  /** The piece as text that ends with a whole character; the rest is kept. */
  #textOf(piece: string | Uint8Array): string {
    const text = this.#half + (typeof piece === "string" ? this.#flushed() + piece : this.#decoded(piece));
    const cut = isLeading(text.charCodeAt(text.length - 1)) ? text.length - 1 : text.length;
    this.#half = text.slice(cut);
    return text.slice(0, cut).toWellFormed();
  }

  #bytesOf(piece: string | Uint8Array): Uint8Array {
    if (typeof piece === "string") return Buffer.from(this.#textOf(piece));
    if (this.#half === "") return piece;
    const half = Buffer.from(this.#half);
    this.#half = "";
    return Buffer.concat([half, piece]);
  }

  #decoded(bytes: Uint8Array): string {
    this.#decoder ??= new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    try {
      return this.#decoder.decode(bytes, { stream: true });
    } catch (error) {
      throw new ArcpError(
        "INVALID_REQUEST",
        'write: the bytes are no UTF-8; open the stream with { encoding: "base64" } for bytes of another kind.',
        { cause: error },
      );
    }
  }

  /** Nothing, or an error: bytes end here, so they must end with a character. */
  #flushed(): string {
    try {
      return this.#decoder?.decode() ?? "";
    } catch (error) {
      throw new ArcpError("INVALID_REQUEST", "write: the bytes of the text end within a character.", { cause: error });
    }
  }

  async #sendText(text: string): Promise<void> {
    // No character takes more than three bytes for each of its units.
    if (text.length * 3 <= this.#chunkBytes) {
      if (text !== "") await this.#send(text, true);
      return;
    }
    const encoder = new TextEncoder();
    const room = new Uint8Array(this.#chunkBytes);
    for (let at = 0; at < text.length; ) {
      // A pair on the edge of the window is not cut: what is left of the room then is too little for a half.
      const window = text.slice(at, at + this.#chunkBytes);
      const { read } = encoder.encodeInto(window, room);
      await this.#send(window.slice(0, read), true);
      at += read;
    }
  }

  async #sendBytes(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += this.#chunkBytes) {
      const part = bytes.subarray(at, at + this.#chunkBytes);
      await this.#send(Buffer.from(part.buffer, part.byteOffset, part.byteLength).toString("base64"), true);
    }
  }

  async #send(data: string, more: boolean): Promise<void> {
    const { resultId, signal, emit } = this.#parts;
    signal.throwIfAborted();
    const seq = this.#nextSeq;
    this.#nextSeq += 1;
    await emit({
      result_id: resultId,
      chunk_seq: seq,
      data,
      encoding: this.#encoding ?? "utf8",
      more,
      ...(seq === 0 && this.#contentType !== undefined ? { content_type: this.#contentType } : {}),
    });
  }
}

const isLeading = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdbff;

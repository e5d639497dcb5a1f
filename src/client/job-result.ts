/**
 * What a job comes to: put together for who awaits it, or handed on piece by piece to who reads it. Chunks
 * are held until somebody says that he reads them, up to a cap: a result that nobody asks for must not fill
 * the memory. A fault in the chunks is the result's, not the job's: how the job ended is told all the same.
 */
import type { ErrorPayload, FinalStatus } from "../protocol/index.ts";
import { errorFromPayload } from "./errors.ts";
import { fromBase64, joinPieces, ResultChunks, type ResultPiece } from "./result-chunks.ts";
import { PieceQueue, type ReaderParts, type ResultReader, type Waiting } from "./result-reader.ts";

/** How a job ended, as it came. `code` and `message` are there unless it succeeded. */
export interface Terminal extends Partial<ErrorPayload> {
  final_status: FinalStatus;
  result?: unknown;
  /** `"base64"`: `result` is bytes, sent so where chunks were not negotiated. */
  result_encoding?: string;
  result_id?: string;
  result_size?: number;
  summary?: string;
}

type State =
  /** Nobody reads yet; what came is here. */
  | { phase: "held"; waiting: Waiting[]; size: number }
  | { phase: "read"; reader: PieceQueue }
  /** There is no such result; what had come of it, a reader may still have. */
  | { phase: "failed"; error: unknown; waiting: Waiting[] }
  | { phase: "over" };

export class JobResult {
  readonly #parts: Omit<ReaderParts, "contentType">;
  readonly #chunks = new ResultChunks();
  readonly #value = Promise.withResolvers<unknown>();
  #state: State = { phase: "held", waiting: [], size: 0 };
  #claimed = false;

  constructor(parts: Omit<ReaderParts, "contentType">) {
    this.#parts = parts;
    // Whoever awaits it gets the error all the same; a result that nobody asks for is no unhandled rejection.
    this.#value.promise.catch(() => undefined);
  }

  get value(): Promise<unknown> {
    return this.#value.promise;
  }

  /** @throws Error the second time */
  read(): ResultReader {
    if (this.#claimed) throw new Error(`The result of ${this.#parts.jobId} is being read already; it is read once.`);
    this.#claimed = true;
    const reader = new PieceQueue({ ...this.#parts, contentType: () => this.#chunks.contentType });
    switch (this.#state.phase) {
      case "held": {
        const { waiting } = this.#state;
        this.#state = { phase: "read", reader };
        for (const { piece, seq } of waiting) reader.push(piece, seq);
        break;
      }
      case "failed":
        // A job may fail in the very tick in which it was accepted, before anybody can read.
        for (const { piece, seq } of this.#state.waiting.splice(0)) reader.push(piece, seq);
        reader.end(this.#state.error);
        break;
      case "over":
        this.#value.promise.then(
          (value) => {
            reader.push(asPiece(value));
            reader.end();
          },
          (error: unknown) => reader.end(error),
        );
        break;
      case "read":
        break;
    }
    return reader;
  }

  /** @param body of a `result_chunk` event */
  add(body: unknown, seq: number): void {
    if (this.#state.phase === "failed") return;
    let piece: ResultPiece;
    try {
      piece = this.#chunks.take(body);
    } catch (error) {
      this.#fail(error);
      return;
    }
    if (this.#state.phase === "read") {
      this.#state.reader.push(piece, seq);
    } else if (this.#state.phase === "held") {
      const { jobId, maxWaiting } = this.#parts;
      this.#state.size += piece.length;
      if (this.#state.size > maxWaiting) {
        this.#state.waiting = [];
        this.#fail(
          new Error(
            `The result of ${jobId} is over maxResultBytes (${maxWaiting}) and was dropped; read it as it comes with ` +
              "job.stream(), or raise the cap.",
          ),
        );
      } else {
        this.#state.waiting.push({ piece, seq });
      }
    }
  }

  /** The job's terminal message came. */
  finish(terminal: Terminal): void {
    if (terminal.final_status !== "success") {
      this.abandon(errorFromPayload(terminal as unknown as Record<string, unknown>));
    } else if (terminal.result_id === undefined) {
      this.#finishInline(terminal);
    } else {
      this.#finishChunks(terminal.result_id);
    }
  }

  /** Nothing more will come. */
  abandon(error: unknown): void {
    if (this.#state.phase === "over") return;
    this.#fail(error);
    // The first fault may have been in a chunk; that the job failed says more.
    if (this.#state.phase === "failed") this.#state.error = error;
    this.#value.reject(error);
  }

  #finishInline({ result, result_encoding: encoding }: Terminal): void {
    let value = result;
    try {
      if (encoding === "base64" && typeof result === "string") value = fromBase64(result);
    } catch (error) {
      this.abandon(new Error(`The result is not the base64 that it says it is: ${(error as Error).message}`));
      return;
    }
    this.#value.resolve(value);
    if (this.#state.phase === "read") {
      if (!this.#chunks.begun) this.#state.reader.push(asPiece(value));
      this.#state.reader.end();
    }
    this.#state = { phase: "over" };
  }

  #finishChunks(resultId: string): void {
    if (this.#state.phase !== "failed") {
      try {
        this.#chunks.end(resultId);
      } catch (error) {
        this.#fail(error);
      }
    }
    switch (this.#state.phase) {
      case "held":
        this.#value.resolve(joinPieces(this.#state.waiting.map(({ piece }) => piece)));
        this.#state = { phase: "over" };
        return;
      case "read":
        this.#state.reader.end();
        this.#fail(new Error(`The result of ${this.#parts.jobId} was read as a stream; it is not kept besides.`));
        this.#finishFailed();
        return;
      case "failed":
        this.#finishFailed();
        return;
      case "over":
        return;
    }
  }

  #finishFailed(): void {
    if (this.#state.phase === "failed") this.#value.reject(this.#state.error);
  }

  /** The value is not rejected before the job's end: the job may still say something better of itself. */
  #fail(error: unknown): void {
    if (this.#state.phase === "failed") return;
    if (this.#state.phase === "read") this.#state.reader.end(error);
    this.#state = { phase: "failed", error, waiting: this.#state.phase === "held" ? this.#state.waiting : [] };
  }
}

/** A value as a piece: text and bytes as they are, anything else as its JSON; nothing is an empty one. */
function asPiece(value: unknown): ResultPiece {
  if (value === undefined || value === null) return "";
  return typeof value === "string" || value instanceof Uint8Array ? (value as ResultPiece) : JSON.stringify(value);
}

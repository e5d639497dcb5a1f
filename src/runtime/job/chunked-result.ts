import { ArcpError, type EventBody, type ResultPayload } from "../../protocol/index.ts";

const MAX_CHUNK_CHARS = 1024 * 1024;

/** Follows the `result_chunk` events of one job: they come in order, and their sum has a cap. */
export class ChunkedResult {
  readonly #maxBytes: number;
  #resultId: string | undefined;
  #next = 0;
  #bytes = 0;
  #complete = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** @throws ArcpError INTERNAL_ERROR when the chunk is out of order, too large, or one too many */
  take(chunk: EventBody<"result_chunk">): void {
    if (this.#complete) throw new ArcpError("INTERNAL_ERROR", "A result_chunk came after the last one (more: false).");
    if (this.#resultId !== undefined && chunk.result_id !== this.#resultId) {
      throw new ArcpError(
        "INTERNAL_ERROR",
        `body.result_id: ${JSON.stringify(chunk.result_id)} is not this job's result.`,
      );
    }
    if (chunk.chunk_seq !== this.#next) {
      throw new ArcpError(
        "INTERNAL_ERROR",
        `body.chunk_seq: ${chunk.chunk_seq} is out of order, expected ${this.#next}.`,
      );
    }
    if (chunk.data.length > MAX_CHUNK_CHARS) {
      throw new ArcpError("INTERNAL_ERROR", `body.data: a chunk of ${chunk.data.length} is over ${MAX_CHUNK_CHARS}.`);
    }
    this.#resultId = chunk.result_id;
    this.#next += 1;
    this.#bytes +=
      chunk.encoding === "base64" ? Math.floor((chunk.data.length * 3) / 4) : Buffer.byteLength(chunk.data, "utf8");
    if (this.#bytes > this.#maxBytes) {
      throw new ArcpError("INTERNAL_ERROR", `The result is over ${this.#maxBytes} bytes.`);
    }
    this.#complete = !chunk.more;
  }

  /**
   * The terminal payload where the job sent its result in chunks, else `undefined`.
   *
   * @throws ArcpError INTERNAL_ERROR when the last chunk is missing
   */
  payload(): ResultPayload | undefined {
    if (this.#resultId === undefined) return undefined;
    if (!this.#complete) throw new ArcpError("INTERNAL_ERROR", "The agent ended before its last result_chunk.");
    return { final_status: "success", result_id: this.#resultId, result_size: this.#bytes };
  }
}

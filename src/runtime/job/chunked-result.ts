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
    this.#bytes += bytesOf(chunk);
    if (this.#bytes > this.#maxBytes) {
      throw new ArcpError("INTERNAL_ERROR", `The result is over ${this.#maxBytes} bytes.`, {
        details: { limit: this.#maxBytes },
      });
    }
    this.#complete = !chunk.more;
  }

  /**
   * The terminal payload where the job sent its result in chunks, else `undefined`.
   *
   * @param returned by the agent
   * @param summary what the agent says of it in a line
   * @throws ArcpError INTERNAL_ERROR when the last chunk is missing, or there is another result besides
   */
  payload(returned: unknown, summary: string | undefined): ResultPayload | undefined {
    if (this.#resultId === undefined) return undefined;
    if (!this.#complete) throw new ArcpError("INTERNAL_ERROR", "The agent ended before its last result_chunk.");
    if (returned !== undefined && returned !== null) {
      throw new ArcpError(
        "INTERNAL_ERROR",
        "The agent sent its result in chunks and returned another; a job has one result.",
      );
    }
    return {
      final_status: "success",
      result_id: this.#resultId,
      result_size: this.#bytes,
      ...(summary === undefined ? {} : { summary }),
    };
  }
}

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

/** @throws ArcpError INTERNAL_ERROR for data that is not of its encoding */
function bytesOf({ data, encoding, chunk_seq: seq }: EventBody<"result_chunk">): number {
  if (encoding === "utf8") return Buffer.byteLength(data);
  if (data.length % 4 !== 0 || !BASE64.test(data)) {
    throw new ArcpError("INTERNAL_ERROR", `body.data: chunk ${seq} is not base64 with its padding.`);
  }
  return (data.length / 4) * 3 - (data.endsWith("==") ? 2 : data.endsWith("=") ? 1 : 0);
}

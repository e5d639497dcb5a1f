/**
 * The chunks of one job's result as they come: checks that they are of one result, in order and readable,
 * and gives what they carry. Holds nothing of it.
 */

/** Text, or bytes where a chunk came as base64. */
export type ResultPiece = string | Uint8Array<ArrayBuffer>;

export class ResultChunks {
  #resultId: string | undefined;
  #next = 0;
  #complete = false;
  #contentType: string | undefined;

  /** Whether a chunk came. */
  get begun(): boolean {
    return this.#next > 0;
  }

  /** As the agent said it with the first chunk. */
  get contentType(): string | undefined {
    return this.#contentType;
  }

  /**
   * @param body of a `result_chunk` event
   * @throws Error for a chunk that is not the next of the result, or cannot be read
   */
  take(body: unknown): ResultPiece {
    const { result_id: id, chunk_seq: seq, data, encoding, more, ...rest } = (body ?? {}) as Record<string, unknown>;
    this.#resultId ??= typeof id === "string" ? id : undefined;
    if (id !== this.#resultId) throw this.#fault(`a chunk of another result (${String(id)}) came`);
    if (this.#complete) throw this.#fault(`chunk ${String(seq)} came after the last one`);
    if (seq !== this.#next) throw this.#fault(`chunk ${String(seq)} came where ${this.#next} was due`);
    if (typeof data !== "string") throw this.#fault(`chunk ${String(seq)} has no data`);
    const { content_type: contentType } = rest;
    if (seq === 0 && typeof contentType === "string") this.#contentType = contentType;
    this.#next += 1;
    this.#complete = more !== true;
    if (encoding !== "base64") return data;
    try {
      return fromBase64(data);
    } catch (error) {
      throw this.#fault(`chunk ${String(seq)} is not base64: ${(error as Error).message}`);
    }
  }

  /**
   * The job's end names its result.
   *
   * @throws Error when that is another one, or chunks are missing, e.g. after subscribing in the middle of them
   */
  end(resultId: string): void {
    const named = JSON.stringify(resultId);
    if (!this.begun) throw this.#fault(`no chunk of ${named} came`);
    if (resultId !== this.#resultId) throw this.#fault(`the job's end names ${named}`);
    if (!this.#complete) throw this.#fault("its last chunk did not come");
  }

  #fault(why: string): Error {
    const what = this.#resultId === undefined ? "The result" : `The result ${this.#resultId}`;
    return new Error(`${what} is not complete: ${why}. Subscribe with { history: true } to get all of it.`);
  }
}

/** Text joined as it is, or bytes when one piece is bytes. */
export function joinPieces(pieces: readonly ResultPiece[]): ResultPiece {
  if (pieces.every((piece) => typeof piece === "string")) return pieces.join("");
  const encoder = new TextEncoder();
  const parts = pieces.map((piece) => (typeof piece === "string" ? encoder.encode(piece) : piece));
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.byteLength;
  }
  return whole;
}

/** @throws DOMException for what is not base64 */
export function fromBase64(data: string): Uint8Array<ArrayBuffer> {
  const binary = atob(data);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index += 1) bytes[index] = binary.charCodeAt(index);
  return bytes;
}

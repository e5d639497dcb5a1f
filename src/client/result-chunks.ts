/**
 * Puts a chunked result together: `result_chunk` events as they come, until the terminal message names
 * the result. Holds the chunks of results that are under way; the runtime caps their size.
 */

interface ChunkedResult {
  /** Chunks in order; strings until the first base64 chunk says that the result is bytes. */
  parts: (string | Uint8Array<ArrayBuffer>)[];
  complete: boolean;
  /** What was wrong with it, if anything was. */
  fault: string | undefined;
}

function fromBase64(data: string): Uint8Array<ArrayBuffer> {
  const binary = atob(data);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index += 1) bytes[index] = binary.charCodeAt(index);
  return bytes;
}

export class ResultChunks {
  readonly #results = new Map<string, ChunkedResult>();

  /** @param body of a `result_chunk` event */
  add(body: unknown): void {
    const { result_id: id, chunk_seq: seq, data, encoding, more } = (body ?? {}) as Record<string, unknown>;
    if (typeof id !== "string") return;
    let result = this.#results.get(id);
    if (result === undefined) {
      result = { parts: [], complete: false, fault: undefined };
      this.#results.set(id, result);
    }
    if (result.fault !== undefined) return;
    if (seq !== result.parts.length || result.complete || typeof data !== "string") {
      result.fault = `chunk ${String(seq)} came where ${result.parts.length} was due`;
      result.parts = [];
      return;
    }
    try {
      result.parts.push(encoding === "base64" ? fromBase64(data) : data);
    } catch (error) {
      result.fault = `chunk ${String(seq)} is not base64: ${(error as Error).message}`;
    }
    if (more !== true) result.complete = true;
  }

  /**
   * The whole result: text, or bytes when a chunk was base64.
   *
   * @throws Error when chunks are missing, e.g. after subscribing in the middle of them
   */
  take(id: string): string | Uint8Array {
    const result = this.#results.get(id);
    const fault =
      result?.fault ??
      (result === undefined ? "no chunk of it came" : result.complete ? undefined : "its last chunk did not come");
    if (result === undefined || fault !== undefined) {
      throw new Error(`The result ${id} is not complete: ${fault}. Subscribe with { history: true } to get all of it.`);
    }
    this.#results.delete(id);
    if (result.parts.every((part) => typeof part === "string")) return result.parts.join("");
    const encoder = new TextEncoder();
    const parts = result.parts.map((part) => (typeof part === "string" ? encoder.encode(part) : part));
    const whole = new Uint8Array(parts.reduce((size, part) => size + part.byteLength, 0));
    let offset = 0;
    for (const part of parts) {
      whole.set(part, offset);
      offset += part.byteLength;
    }
    return whole;
  }

  clear(): void {
    this.#results.clear();
  }
}

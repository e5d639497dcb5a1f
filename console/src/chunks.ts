/** Pieces of a result that an agent sends while it makes it: text, or bytes in base64. */

/** The piece in the body of a `result_chunk`; what is no good base64 is shown as it came. */
export function pieceOf(body: Record<string, unknown>): string | Uint8Array {
  const data = typeof body["data"] === "string" ? body["data"] : "";
  if (body["encoding"] !== "base64") return data;
  try {
    return Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  } catch {
    return data;
  }
}

/** One text; bytes among the pieces are read as UTF-8, and stay bytes when they are none. */
export function joinPieces(pieces: readonly (string | Uint8Array)[]): string | Uint8Array {
  if (pieces.every((piece) => typeof piece === "string")) return pieces.join("");
  const encoder = new TextEncoder();
  const parts = pieces.map((piece) => (typeof piece === "string" ? encoder.encode(piece) : piece));
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.byteLength, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.byteLength;
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(whole);
  } catch {
    return whole;
  }
}

/**
 * What fits into a WebSocket close frame: both sides of the WebSocket transport refuse to throw for a
 * code or a reason that the protocol does not allow there.
 */

/** A close frame holds 125 bytes, two of them the code. */
const MAX_REASON_BYTES = 123;

/** The reason, cut at a character so that it fits. */
export function fitReason(reason: string): string {
  const target = new Uint8Array(MAX_REASON_BYTES);
  const { read } = new TextEncoder().encodeInto(reason, target);
  return reason.slice(0, read);
}

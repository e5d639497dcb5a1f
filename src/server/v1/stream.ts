/**
 * Sends a stream that never ends by itself to a reader that may not read. The next piece is asked for when less than
 * 256 KiB wait in the socket, so a slow reader holds one piece and that much, and nobody waits for it (SRV-23). One
 * that takes nothing for a minute is cut; it comes back with the number of what it had.
 */
import type { ServerResponse } from "node:http";
import type { Clock } from "../../clock.ts";

const MAX_BUFFERED_BYTES = 256 * 1024;
const STALLED_MS = 60_000;

export async function streamTo(
  response: ServerResponse,
  body: ReadableStream<Uint8Array>,
  { signal, clock }: { signal: AbortSignal; clock: Clock },
): Promise<void> {
  response.flushHeaders();
  const reader = body.getReader();
  const cancel = () => void reader.cancel().catch(() => undefined);
  signal.addEventListener("abort", cancel, { once: true });
  if (signal.aborted) cancel();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (!response.write(value) && response.writableLength > MAX_BUFFERED_BYTES) {
        await drained(response, signal, clock);
      }
    }
  } finally {
    signal.removeEventListener("abort", cancel);
    await reader.cancel();
  }
  response.end();
}

/** Waits until the socket has taken what is queued. */
async function drained(response: ServerResponse, signal: AbortSignal, clock: Clock): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const stalled = clock.after(STALLED_MS, () => response.destroy());
  const done = () => resolve();
  response.once("drain", done);
  signal.addEventListener("abort", done, { once: true });
  if (signal.aborted) resolve();
  await promise;
  stalled.cancel();
  response.off("drain", done);
  signal.removeEventListener("abort", done);
}

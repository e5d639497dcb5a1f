/** The store asked for somebody who waits: one that is down or silent is told as one (STO-12). */
import { type Clock, sleep } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError } from "../protocol/index.ts";
import { StoreUnavailable } from "../store/store.ts";

/** @throws ArcpError INTERNAL_ERROR with `details.code: "STORE_UNAVAILABLE"`, also when `timeoutMs` pass */
export async function inTime<T>(
  work: () => Promise<T>,
  { clock, logger, timeoutMs }: { clock: Clock; logger: Logger; timeoutMs: number },
): Promise<T> {
  const answered = new AbortController();
  const silence = sleep(clock, timeoutMs, answered.signal).then(() => {
    throw new StoreUnavailable(`the store has not answered for ${timeoutMs} ms`);
  });
  try {
    return await Promise.race([work(), silence]);
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    logger.error({ err: error }, "store unavailable");
    throw ArcpError.detail("STORE_UNAVAILABLE", "The store did not answer; nothing was done. Try again.", {}, error);
  } finally {
    answered.abort();
  }
}

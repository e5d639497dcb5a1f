/** One call of a channel: it ends, at the latest with its time, and what it rejects with is always a ChannelError. */
import type { Clock } from "../../clock.ts";
import { type CallOptions, ChannelError } from "./channel.ts";

/**
 * A call that is stopped, or not answered in its time, is unclear, whatever the channel makes of its signal; so is one
 * that fails for a reason that nobody has named.
 *
 * @throws ChannelError
 */
export async function callChannel<T>(
  { clock, timeoutMs, stop }: { clock: Clock; timeoutMs: number; stop: AbortSignal },
  work: (options: CallOptions) => Promise<T>,
): Promise<T> {
  if (stop.aborted) throw new ChannelError("retry", "the call was not made: the sender stops", { cause: stop.reason });
  const abort = new AbortController();
  const { promise: givenUp, reject } = Promise.withResolvers<never>();
  const giveUp = (cause: Error) => {
    reject(new ChannelError("unclear", cause.message, { cause }));
    abort.abort(cause);
  };
  const timer = clock.after(timeoutMs, () => giveUp(new Error(`no answer within ${timeoutMs} ms`)));
  const onStop = () => giveUp(new Error("the sender stopped before the answer came"));
  stop.addEventListener("abort", onStop, { once: true });
  try {
    return await Promise.race([givenUp, work({ signal: abort.signal })]);
  } catch (error) {
    if (error instanceof ChannelError) throw error;
    throw new ChannelError("unclear", wordsOf(error), { cause: error });
  } finally {
    timer.cancel();
    stop.removeEventListener("abort", onStop);
  }
}

const MAX_WORDS = 500;

/** A failure as it is kept and shown: on one line, and short. */
export const wordsOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replace(/\s+/g, " ").slice(0, MAX_WORDS).toWellFormed();

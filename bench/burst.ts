import { WebSocket } from "ws";
import { connect, type Session } from "../src/client/index.ts";
import { systemClock } from "../src/clock.ts";

export const openSession = (url: string): Promise<Session> =>
  connect(url, { token: "bench-0", WebSocket: WebSocket as never });

/**
 * Runs one burst to its end in a session of its own, and answers the events per second that the client
 * received and iterated.
 *
 * @param onEvent called with the count, after each event
 */
export async function burst(
  url: string,
  input: { n: number; bytes: number },
  onEvent?: (events: number) => Promise<void> | undefined,
): Promise<number> {
  await using session = await openSession(url);
  const started = systemClock.monotonic();
  const job = await session.submit("burst", input);
  let events = 0;
  for await (const event of job) {
    // What the runtime adds of its own (`back_pressure`) is not counted.
    if (event.kind !== "log") continue;
    events += 1;
    const wait = onEvent?.(events);
    if (wait !== undefined) await wait;
  }
  await job.result;
  const seconds = (systemClock.monotonic() - started) / 1000;
  if (events !== input.n) throw new Error(`Received ${events} of ${input.n} events.`);
  return events / seconds;
}

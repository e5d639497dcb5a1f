import { WebSocket } from "ws";
import { connect } from "../src/client/index.ts";
import { systemClock } from "../src/clock.ts";

/** Runs one burst to its end and answers the events per second that the client received and iterated. */
export async function burst(url: string, input: { n: number; bytes: number }): Promise<number> {
  await using session = await connect(url, { token: "bench", WebSocket: WebSocket as never });
  const started = systemClock.monotonic();
  const job = await session.submit("burst", input);
  let events = 0;
  for await (const _ of job) events += 1;
  await job.result;
  const seconds = (systemClock.monotonic() - started) / 1000;
  if (events !== input.n) throw new Error(`Received ${events} of ${input.n} events.`);
  return events / seconds;
}

/** The smallest job there is, submitted and awaited: 32 at a time, then one after the other. */
import type { Session } from "../../src/client/index.ts";
import { systemClock } from "../../src/clock.ts";
import { openSession } from "../burst.ts";
import { median, type Row, ratioLine } from "./row.ts";

const IN_FLIGHT = 32;
const JOBS = 12_000;
const SEQUENTIAL = 2_000;

async function echo(session: Session): Promise<void> {
  const job = await session.submit("echo", { hello: "world" });
  await job.result;
}

async function rate(session: Session, jobs: number): Promise<number> {
  let submitted = 0;
  const worker = async (): Promise<void> => {
    while (submitted < jobs) {
      submitted += 1;
      await echo(session);
    }
  };
  const started = systemClock.monotonic();
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  return jobs / ((systemClock.monotonic() - started) / 1000);
}

async function sequentialP50(session: Session, jobs: number): Promise<number> {
  const took: number[] = [];
  for (let index = 0; index < jobs; index += 1) {
    const started = systemClock.monotonic();
    await echo(session);
    took.push(systemClock.monotonic() - started);
  }
  return median(took);
}

export const echoRow: Row = {
  name: "echo",
  async measure(server, scale) {
    await using session = await openSession(server.url);
    await rate(session, 3_000 * scale);
    await server.prepared();
    return { rate: await rate(session, JOBS * scale), p50: await sequentialP50(session, SEQUENTIAL * scale) };
  },
  lines: (holdfast, baseline) => [
    ratioLine("echo, 32 in flight", "jobs/s", [holdfast["rate"], baseline["rate"]], { atLeast: 0.6 }),
    ratioLine("echo, one after the other, p50", "ms", [holdfast["p50"], baseline["p50"]], { atMost: 2.5 }),
  ],
};

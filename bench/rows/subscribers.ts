/** One job, read by fifty sessions; the same fast client reads the baseline's single stream. */
import { systemClock } from "../../src/clock.ts";
import { RawSession } from "../raw-session.ts";
import type { ServerProcess } from "../server-process.ts";
import { type Row, ratioLine, whole } from "./row.ts";

const SUBSCRIBERS = 50;
const EVENTS = 20_000;
/** Long enough for all to subscribe; who comes late misses events, which fails the run. */
const DELAY_MS = 500;

/** One job's events to `readers` sessions: events received by all of them, per second. */
async function delivered(server: ServerProcess, readers: number, n: number): Promise<number> {
  const sessions = await Promise.all(Array.from({ length: readers }, () => RawSession.open(server.url)));
  const [submitter, ...others] = sessions;
  if (submitter === undefined) throw new Error("A stream needs a reader.");
  const accepted = submitter.next("job.accepted");
  const ends = sessions.map((session) => session.next("job.result"));
  submitter.send("job.submit", { agent: "burst", input: { n, bytes: 200, delay_ms: DELAY_MS } });
  const jobId = (await accepted).payload["job_id"];
  await Promise.all(
    others.map((session) => {
      const subscribed = session.next("job.subscribed");
      session.send("job.subscribe", { job_id: jobId });
      return subscribed;
    }),
  );
  await submitter.firstEvent;
  const started = systemClock.monotonic();
  await Promise.all(ends);
  const seconds = (systemClock.monotonic() - started) / 1000;
  for (const session of sessions) {
    if (session.events !== n) throw new Error(`A subscriber received ${session.events} of ${n} events.`);
    session.cut();
  }
  return (n * readers) / seconds;
}

export const subscribersRow: Row = {
  name: "subscribers",
  async measure(server, scale) {
    await delivered(server, 1, 20_000 * scale);
    const single = await delivered(server, 1, 200_000 * scale);
    await server.prepared();
    return { single, broadcast: await delivered(server, SUBSCRIBERS, EVENTS * scale) };
  },
  lines: (holdfast, baseline) => [
    ratioLine(
      "one job, 50 subscribers (B: its single stream)",
      "events/s",
      [holdfast["broadcast"], baseline["single"]],
      {
        atLeast: 1.5,
      },
    ),
    {
      what: "  the same, B broadcasting its strings",
      baseline: `${whole(baseline["broadcast"])} events/s`,
      holdfast: `${whole(holdfast["broadcast"])} events/s`,
      result: `${((holdfast["broadcast"] ?? 0) / (baseline["broadcast"] ?? 0)).toFixed(2)} × B`,
      target: "",
    },
  ],
};

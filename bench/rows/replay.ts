/** A client that has lost everything comes back, and is sent its whole stream again. */
import { systemClock } from "../../src/clock.ts";
import { RawSession } from "../raw-session.ts";
import { decimal, MIB, type Row, ratioLine } from "./row.ts";

const EVENTS = 100_000;
/** All of it at once would take three times that. */
const FLAT_MIB = 32;

export const replayRow: Row = {
  name: "replay",
  async measure(server, scale) {
    const n = EVENTS * scale;
    const first = await RawSession.open(server.url);
    const ended = first.next("job.result");
    first.send("job.submit", { agent: "burst", input: { n, bytes: 200 } });
    await ended;
    first.cut();
    const resume = { session_id: first.sessionId, resume_token: first.resumeToken, last_event_seq: 0 };
    await server.prepared();
    const before = await server.memory();
    const started = systemClock.monotonic();
    const again = await RawSession.open(server.url, { resume });
    await again.next("job.result");
    const seconds = (systemClock.monotonic() - started) / 1000;
    const { peakRss } = await server.memory();
    if (again.events !== n) throw new Error(`Replayed ${again.events} of ${n} events.`);
    again.cut();
    return { rate: n / seconds, growth: (peakRss - before.rss) / MIB };
  },
  lines: (holdfast, baseline) => [
    ratioLine("replay of 100,000 events on resume", "events/s", [holdfast["rate"], baseline["rate"]], { atLeast: 0.8 }),
    {
      what: "  server RSS at its peak above the start of the replay",
      baseline: `${decimal(baseline["growth"], 1)} MiB`,
      holdfast: `${decimal(holdfast["growth"], 1)} MiB`,
      result: `${decimal(holdfast["growth"], 1)} MiB`,
      target: `flat: ≤ ${FLAT_MIB} MiB`,
      met: (holdfast["growth"] ?? Number.NaN) <= FLAT_MIB,
    },
  ],
};

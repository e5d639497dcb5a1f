/** Sessions that are open and do nothing: how fast they come, and what each one weighs. */
import { systemClock } from "../../src/clock.ts";
import { openIdle } from "../raw-session.ts";
import { type Row, ratioLine, whole } from "./row.ts";

const SESSIONS = 2_000;
const EXTRA_BYTES = 4 * 1024;

export const idleRow: Row = {
  name: "idle",
  async measure(server, scale) {
    const count = SESSIONS * scale;
    const warmUp = await openIdle(server.url, 200);
    await server.prepared();
    const before = await server.memory();
    const started = systemClock.monotonic();
    const sessions = await openIdle(server.url, count);
    const seconds = (systemClock.monotonic() - started) / 1000;
    const after = await server.memory();
    for (const session of [...warmUp, ...sessions]) session.cut();
    return { rate: count / seconds, heap: (after.heap - before.heap) / count, rss: (after.rss - before.rss) / count };
  },
  lines: (holdfast, baseline) => {
    const extra = (key: string): number => (holdfast[key] ?? Number.NaN) - (baseline[key] ?? Number.NaN);
    return [
      {
        what: "2,000 idle sessions: server memory each (objects and buffers, collected)",
        baseline: `${whole(baseline["heap"])} B`,
        holdfast: `${whole(holdfast["heap"])} B`,
        result: `B + ${whole(extra("heap"))} B`,
        target: "≤ B + 4,096 B",
        met: extra("heap") <= EXTRA_BYTES,
      },
      {
        what: "  resident set each (moves in steps of the allocator)",
        baseline: `${whole(baseline["rss"])} B`,
        holdfast: `${whole(holdfast["rss"])} B`,
        result: `B + ${whole(extra("rss"))} B`,
        target: "",
      },
      ratioLine("  opened", "sessions/s", [holdfast["rate"], baseline["rate"]], { atLeast: 0.6 }),
    ];
  },
};

/** What another session notices of a burst: its ping, again and again while the burst runs. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import { RawSession } from "../raw-session.ts";
import { decimal, type Row } from "./row.ts";

const EVENTS = 300_000;
const TARGET_MS = 20;

export const pingRow: Row = {
  name: "ping",
  async measure(server, scale) {
    const session = await RawSession.open(server.url);
    const sink = spawn(process.execPath, [
      join(import.meta.dirname, "../sink.ts"),
      server.url,
      String(EVENTS * scale),
      "200",
    ]);
    let running = true;
    const ended = once(sink, "exit").then(([status]) => {
      running = false;
      if (status !== 0) throw new Error(`sink.ts ended with ${status}.`);
    });
    const took: number[] = [];
    while (running) {
      const ponged = session.next("session.pong");
      const started = systemClock.monotonic();
      session.send("session.ping", { nonce: `${took.length}`, sent_at: new Date(systemClock.wall()).toISOString() });
      await ponged;
      took.push(systemClock.monotonic() - started);
    }
    await ended;
    session.cut();
    took.sort((a, b) => a - b);
    return { max: took.at(-1) ?? Number.NaN, p99: took[Math.floor(took.length * 0.99)] ?? Number.NaN };
  },
  lines: (holdfast, baseline) => [
    {
      what: "another session's ping during a burst, worst",
      baseline: `${decimal(baseline["max"])} ms`,
      holdfast: `${decimal(holdfast["max"])} ms`,
      result: `${decimal(holdfast["max"])} ms`,
      target: `≤ ${TARGET_MS} ms`,
      met: (holdfast["max"] ?? Number.NaN) <= TARGET_MS,
    },
    {
      what: "  p99",
      baseline: `${decimal(baseline["p99"])} ms`,
      holdfast: `${decimal(holdfast["p99"])} ms`,
      result: `${decimal(holdfast["p99"])} ms`,
      target: "",
    },
  ],
};

/** A long job whose events are acked: the server holds on to nothing, and the file is used again. */
import { type Clock, sleep, systemClock } from "../../src/clock.ts";
import { burst, openSession } from "../burst.ts";
import type { Memory } from "../probe.ts";
import type { ServerProcess } from "../server-process.ts";
import { decimal, MIB, type Row } from "./row.ts";

const EVENTS = 1_000_000;
/** Objects and buffers: what is held on to. */
const FLAT_HEAP_MIB = 16;
/** The resident set moves in steps of the allocator; the events themselves weigh three times this. */
const FLAT_RSS_MIB = 128;
/** Of the first file; another fifth of the events is written after the retention. */
const REUSED = 1.1;
const RETENTION_DEADLINE_MS = 60_000;

/** Resolves when the runtime lists no job any more. */
async function retained(server: ServerProcess, clock: Clock): Promise<void> {
  await using session = await openSession(server.url);
  const deadline = clock.monotonic() + RETENTION_DEADLINE_MS;
  while ((await session.listJobs()).jobs.length > 0) {
    if (clock.monotonic() > deadline) throw new Error(`Jobs are still kept after ${RETENTION_DEADLINE_MS} ms.`);
    await sleep(clock, 100);
  }
}

export const millionRow: Row = {
  name: "million",
  servers: ["holdfast"],
  rounds: 1,
  options: { jobRetentionMs: 1_000, janitorIntervalMs: 250 },
  async measure(server, scale) {
    const n = EVENTS * scale;
    let early: Memory | undefined;
    await burst(server.url, { n, bytes: 200 }, (events) =>
      events === n / 10
        ? server.memory().then((memory) => {
            early = memory;
          })
        : undefined,
    );
    const late = await server.memory();
    if (early === undefined) throw new Error("The first tenth of the events did not come.");
    const growth = { heap: (late.heap - early.heap) / MIB, rss: (late.peakRss - early.rss) / MIB };
    const file = server.fileBytes();
    await retained(server, systemClock);
    await burst(server.url, { n: n / 5, bytes: 200 });
    return {
      ...growth,
      file: file / MIB,
      reused: server.fileBytes() / file,
    };
  },
  lines: (holdfast) => [
    {
      what: "a million events, acked: server memory at the end above that after 100,000",
      holdfast: `${decimal(holdfast["heap"], 1)} MiB`,
      result: `${decimal(holdfast["heap"], 1)} MiB`,
      target: `flat: ≤ ${FLAT_HEAP_MIB} MiB`,
      met: (holdfast["heap"] ?? Number.NaN) <= FLAT_HEAP_MIB,
    },
    {
      what: "  resident set at its peak above that after 100,000",
      holdfast: `${decimal(holdfast["rss"], 1)} MiB`,
      result: `${decimal(holdfast["rss"], 1)} MiB`,
      target: `≤ ${FLAT_RSS_MIB} MiB`,
      met: (holdfast["rss"] ?? Number.NaN) <= FLAT_RSS_MIB,
    },
    {
      what: "  file after retention and 200,000 more, against before",
      holdfast: `${decimal(holdfast["file"], 0)} MiB before`,
      result: `× ${decimal(holdfast["reused"])}`,
      target: `shrinks or is used again: ≤ × ${REUSED}`,
      met: (holdfast["reused"] ?? Number.NaN) <= REUSED,
    },
  ],
};

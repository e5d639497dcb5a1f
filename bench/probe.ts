/**
 * What a server under measurement tells about itself, over the channel to the process that started it: its
 * memory, after a collection and at its worst since it was last asked, and a profile of its CPU time.
 * Imported first by each server; costs a look at the RSS every 50 ms.
 */
import { writeFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { systemClock } from "../src/clock.ts";

export type ProbeQuestion = { ask: "memory" } | { ask: "profile" } | { ask: "profiled"; file: string };

/** Bytes. */
export interface Memory {
  /** Resident set. */
  rss: number;
  /** The highest it was since the last question. */
  peakRss: number;
  /** JavaScript objects and the buffers they hold, after a collection. */
  heap: number;
}

const SAMPLE_MS = 50;
const SAMPLING_MICROSECONDS = 500;

let peakRss = 0;
const sample = (): void => {
  peakRss = Math.max(peakRss, process.memoryUsage.rss());
  systemClock.after(SAMPLE_MS, sample);
};

function memory(): Memory {
  globalThis.gc?.();
  const { rss, heapUsed, external } = process.memoryUsage();
  const worst = Math.max(peakRss, rss);
  peakRss = rss;
  return { rss, peakRss: worst, heap: heapUsed + external };
}

const inspector = new Session();

async function answer(question: ProbeQuestion): Promise<Memory | true> {
  switch (question.ask) {
    case "memory":
      return memory();
    case "profile":
      // One that is under way ends here, and is thrown away.
      inspector.disconnect();
      inspector.connect();
      await inspector.post("Profiler.enable");
      await inspector.post("Profiler.setSamplingInterval", { interval: SAMPLING_MICROSECONDS });
      await inspector.post("Profiler.start");
      return true;
    case "profiled": {
      const { profile } = await inspector.post("Profiler.stop");
      inspector.disconnect();
      writeFileSync(question.file, JSON.stringify(profile));
      return true;
    }
  }
}

process.on("message", (question: ProbeQuestion) => {
  void answer(question).then((said) => process.send?.(said));
});
// Nobody measures any more: a server must not outlive that.
process.on("disconnect", () => process.exit(1));
sample();

/** The agents of the scenarios: each says at once that it has started, and then counts. */
import { appendFileSync } from "node:fs";
import { ArcpError } from "../../src/protocol/index.ts";
import type { AgentHandler, JobContext } from "../../src/runtime/index.ts";
import { type JobInput, messageOf, type Start } from "./journal.ts";

/** How many messages of an agent that is run again lie between two checkpoints. */
export const PAGE = 5;

function noteStart(starts: string, label: string, job: JobContext): void {
  const start: Start = { label, jobId: job.id, attempt: job.attempt };
  appendFileSync(starts, `${JSON.stringify(start)}\n`);
}

/** Its node's loss ends it. @param starts the file for what has started */
export const counting =
  (starts: string): AgentHandler =>
  async (input, job) => {
    const { label, n, bytes, everyMs } = input as JobInput;
    noteStart(starts, label, job);
    for (let index = 0; index < n; index += 1) {
      if (everyMs > 0 && index > 0) await job.sleep(everyMs);
      job.signal.throwIfAborted();
      if (index % 10 === 9) await job.progress({ current: index, total: n });
      await job.log(messageOf(label, index, bytes));
    }
    return { label, n };
  };

interface Page {
  next: number;
  sum: number;
}

const AGAIN_MS = 100;

/** A store that is away for a while is asked again. */
export async function keep(job: JobContext, page: object): Promise<void> {
  for (;;) {
    try {
      return await job.checkpoint(page);
    } catch (error) {
      if (!(error instanceof ArcpError && error.details?.["code"] === "STORE_UNAVAILABLE")) throw error;
    }
    await job.sleep(AGAIN_MS);
  }
}

/** For an agent that is run again: goes on behind its last checkpoint, and sums up what all attempts have counted. */
export const paging =
  (starts: string): AgentHandler =>
  async (input, job) => {
    const { label, n, bytes, everyMs } = input as JobInput;
    noteStart(starts, label, job);
    let { next, sum } = (job.lastCheckpoint as Page | undefined) ?? { next: 0, sum: 0 };
    while (next < n) {
      if (everyMs > 0) await job.sleep(everyMs);
      job.signal.throwIfAborted();
      await job.log(messageOf(label, next, bytes, job.attempt));
      sum += next;
      next += 1;
      if (next % PAGE === 0) await keep(job, { next, sum });
    }
    return { label, n, sum };
  };

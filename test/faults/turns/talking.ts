/** The agent of turns: writes down when it begins, when it is told to stop and how it ends, and speaks meanwhile. */
import { openSync, writeSync } from "node:fs";
import { sleep, systemClock } from "../../../src/clock.ts";
import { ArcpError } from "../../../src/protocol/index.ts";
import type { AgentHandler } from "../../../src/runtime/index.ts";
import { keep, PAGE } from "../agents.ts";
import { messageOf } from "../journal.ts";
import type { RunEntry } from "./journal.ts";
import type { TurnInput } from "./plan.ts";

type What<E = RunEntry> = E extends RunEntry ? Omit<E, "jobId" | "at"> : never;

/**
 * @param file the journal of its process
 * @param again whether the agent is one that is run again: it then goes on behind its last checkpoint
 */
export function talking(file: string, { again = false } = {}): AgentHandler {
  const journal = openSync(file, "a");
  // A killed writer may have left half a line.
  writeSync(journal, "\n");
  const note = (jobId: string, what: What) =>
    writeSync(journal, `${JSON.stringify({ ...what, jobId, at: systemClock.wall() })}\n`);
  return async (given, job) => {
    const { label, n, everyMs, fails, deaf } = given as TurnInput;
    const { conversationId, lockEpoch } = job.turn ?? { conversationId: "", lockEpoch: 0 };
    note(job.id, { t: "begin", label, conversationId, lockEpoch });
    const told = () => {
      const { code, details } = job.signal.reason as ArcpError;
      note(job.id, { t: "told", code: String(details?.["code"] ?? details?.["reason"] ?? code) });
    };
    if (job.signal.aborted) told();
    else job.signal.addEventListener("abort", told, { once: true });
    try {
      const { next } = (job.lastCheckpoint as { next: number } | undefined) ?? { next: 0 };
      for (let index = next; index < n; index += 1) {
        await (deaf ? sleep(systemClock, everyMs) : job.sleep(everyMs));
        await job.log(messageOf(label, index, 20, job.attempt));
        if (again && (index + 1) % PAGE === 0) await keep(job, { next: index + 1 });
      }
    } catch (error) {
      note(job.id, { t: "end", how: "stopped" });
      throw error;
    }
    note(job.id, { t: "end", how: fails ? "failed" : "done" });
    if (fails) throw new ArcpError("INTERNAL_ERROR", "This turn was asked to fail.", { details: { reason: "asked" } });
    return { label, n };
  };
}

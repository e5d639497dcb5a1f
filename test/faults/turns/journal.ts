/**
 * What is written down outside the store. Workers note, a line at a time and at once, which turns their agents began
 * and how they left them, so that a SIGKILL loses nothing of it; whoever sends messages notes what became of them.
 */
import { existsSync, readFileSync } from "node:fs";

export type RunEntry = {
  jobId: string;
  /** Wall milliseconds; one machine, so one clock. */
  at: number;
} & (
  | { t: "begin"; label: string; conversationId: string; lockEpoch: number }
  /** Its signal has aborted. */
  | { t: "told"; code: string }
  | { t: "end"; how: "done" | "failed" | "stopped" }
);

/** How a message was answered. `unclear`: it may have been taken or not. */
export type Answer =
  | { said: "accepted"; jobId: string }
  | { said: "refused"; code: string }
  | { said: "unclear"; why: string };

/** What says for certain that nothing was stored. */
export const REFUSALS: readonly unknown[] = ["CONVERSATION_BUSY"];

/** What was sent and what came back, in the order in which the sender saw it. */
export type Correspondence = { label: string } & ({ t: "sent" } | { t: "answered"; answer: Answer });

/** Leaves out the line in whose middle its writer was killed. */
export function readRuns(file: string): RunEntry[] {
  if (!existsSync(file)) return [];
  const entries: RunEntry[] = [];
  for (const line of readFileSync(file, "utf8").split("\n")) {
    if (line.startsWith("{") && line.endsWith("}")) entries.push(JSON.parse(line) as RunEntry);
  }
  return entries;
}

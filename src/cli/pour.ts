/**
 * A job's result on standard output as it comes, and nothing else there, so that it can go into a file or
 * another program (CLI-14). How the job failed is told on standard error. Waits for a slow reader.
 */
import type { JobHandle } from "../client/index.ts";
import { oneLine, Problem } from "./problem.ts";
import type { Terminal } from "./terminal.ts";

/** How it went: 0 the job succeeded, 1 it did not, 130 somebody left before its end. */
export type PourStatus = 0 | 1 | 130;

/** Reads the result from now on. The first Ctrl-C cancels the job, the second one leaves it. */
export async function pour(job: JobHandle, terminal: Terminal): Promise<PourStatus> {
  const left = Promise.withResolvers<130>();
  let cancelling = false;
  const onSignal = () => {
    if (cancelling) {
      left.resolve(130);
      return;
    }
    cancelling = true;
    terminal.remark("Cancelling the job; Ctrl-C again leaves it alone.");
    job
      .cancel("interrupted")
      .catch((error: unknown) => terminal.remark(`The job was not cancelled: ${oneLine(error)}`));
  };
  process.on("SIGINT", onSignal);
  try {
    return await Promise.race([write(job, terminal), left.promise]);
  } finally {
    process.off("SIGINT", onSignal);
  }
}

async function write(job: JobHandle, terminal: Terminal): Promise<0 | 1> {
  let failure: unknown;
  try {
    for await (const piece of job.stream()) await terminal.raw(piece);
  } catch (error) {
    failure = error;
  }
  terminal.endRaw();
  if (failure instanceof Problem) throw failure;
  const end = await job.terminal;
  if (end.final_status !== "success") {
    terminal.remark(`${job.agent} ended ${end.final_status}: ${end.code}: ${end.message} (${job.id})`);
    return 1;
  }
  if (failure !== undefined) throw new Problem(oneLine(failure), 1, failure);
  return 0;
}

/** `holdfast watch JOB`: a job from its first event to its end, whoever of the principal submitted it. */
import { Command } from "commander";
import { ArcpError } from "../protocol/index.ts";
import { type ConnectionFlags, findTarget, openSession, withConnectionFlags } from "./connection.ts";
import { follow } from "./follow.ts";
import { whileListed } from "./presence.ts";
import { Problem } from "./problem.ts";
import type { Terminal } from "./terminal.ts";

export function watchCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("watch"))
    .description("Show a job from its first event to its end; Ctrl-C leaves it running.")
    .argument("<job>", "the job's id, as `submit` and `jobs` print it")
    .action(async (jobId: string, flags: ConnectionFlags) => {
      process.exitCode = await run(jobId, flags, terminal);
    });
}

async function run(jobId: string, flags: ConnectionFlags, terminal: Terminal): Promise<number> {
  await using session = await openSession(await findTarget(flags, process.env));
  let job: Awaited<ReturnType<typeof session.subscribe>>;
  try {
    job = await session.subscribe(jobId, { history: true });
  } catch (error) {
    if (error instanceof ArcpError && error.code === "JOB_NOT_FOUND") {
      throw new Problem(`No job ${jobId} of yours is there; \`holdfast jobs\` lists them.`, 1, error);
    }
    if (error instanceof ArcpError) throw new Problem(`${error.code}: ${error.message}`, 1, error);
    throw error;
  }
  if (flags.json) terminal.json({ type: "subscribed", ...job.accepted });
  const shown = { json: flags.json, onInterrupt: "leave" } as const;
  return await whileListed({ name: `watch ${jobId}`, jobId }, session, () => follow(job, terminal, shown));
}

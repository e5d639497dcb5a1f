/** `holdfast cancel JOB`: asks for a job's end, whichever session of the principal submitted it. */
import { Command } from "commander";
import { z } from "zod";
import { type ConnectionFlags, findTarget, withConnectionFlags } from "./connection.ts";
import type { Terminal } from "./terminal.ts";
import { askAboutJob } from "./v1.ts";

interface CancelFlags extends ConnectionFlags {
  reason?: string;
}

const Answer = z.discriminatedUnion("outcome", [
  z.looseObject({ outcome: z.literal("requested") }),
  z.looseObject({ outcome: z.literal("already_ended"), status: z.string() }),
]);

export function cancelCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("cancel"))
    .description("Cancel a job. It ends when its agent has stopped, or after a grace.")
    .argument("<job>", "the job's id, as `submit` and `jobs` print it")
    .option("--reason <text>", "told to the agent and to whoever watches")
    .action((jobId: string, flags: CancelFlags) => run(jobId, flags, terminal));
}

async function run(jobId: string, flags: CancelFlags, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const body = flags.reason === undefined ? {} : { reason: flags.reason };
  const answer = await askAboutJob(target, jobId, { method: "POST", path: "/cancel", body }, Answer);
  if (flags.json) terminal.json(answer);
  else if (answer.outcome === "requested") terminal.line(`The job is being cancelled: holdfast watch ${jobId}`);
  else terminal.line(`The job had ended already (${answer.status}).`);
}

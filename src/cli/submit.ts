/** `holdfast submit AGENT [JSON]`: one job, and with `--follow` its events to its end (CLI-3). */
import { Command } from "commander";
import { ArcpError } from "../protocol/index.ts";
import { type ConnectionFlags, findTarget, openSession, withConnectionFlags } from "./connection.ts";
import { follow } from "./follow.ts";
import { type JobFlags, jobOptionsOf, withJobFlags } from "./job-options.ts";
import { jsonArgument } from "./json-argument.ts";
import { pour } from "./pour.ts";
import { whileListed } from "./presence.ts";
import { Problem } from "./problem.ts";
import type { Terminal } from "./terminal.ts";

interface SubmitFlags extends ConnectionFlags, JobFlags {
  follow: boolean;
  stream: boolean;
  key?: string;
}

export function submitCommand(terminal: Terminal): Command {
  return withConnectionFlags(withJobFlags(new Command("submit")))
    .description("Submit a job. JSON is the agent's input; `-` reads it from standard input.")
    .argument("<agent>", "NAME or NAME@VERSION")
    .argument("[json]", "the agent's input", "{}")
    .option("--follow", "show events to the job's end; Ctrl-C cancels the job", false)
    .option("--stream", "write the result as it comes, and nothing else; Ctrl-C cancels the job", false)
    .option("--key <key>", "idempotency key: the same key never starts a second job")
    .action(async (agent: string, json: string, flags: SubmitFlags) => {
      process.exitCode = await run(agent, json, flags, terminal);
    });
}

async function run(agent: string, json: string, flags: SubmitFlags, terminal: Terminal): Promise<number> {
  const input = await jsonArgument(json, "input");
  if (flags.stream && (flags.follow || flags.json)) {
    throw new Problem("--stream writes the result alone; leave out --follow and --json.", 2);
  }
  const target = await findTarget(flags, process.env);
  await using session = await openSession(target);
  let job: Awaited<ReturnType<typeof session.submit>>;
  try {
    job = await session.submit(agent, input, { ...jobOptionsOf(flags), idempotencyKey: flags.key });
  } catch (error) {
    if (error instanceof ArcpError) throw new Problem(`${error.code}: ${error.message}`, 1, error);
    throw error;
  }
  const listed = { name: `submit ${agent}`, jobId: job.id };
  if (flags.stream) return await whileListed(listed, session, () => pour(job, terminal));
  if (flags.json) terminal.json({ type: "accepted", ...job.accepted });
  else if (flags.follow) terminal.line(`${job.agent} runs as ${job.id}`);
  else terminal.line(`${job.agent} runs as ${job.id}; see it with: holdfast watch ${job.id}`);
  if (!flags.follow) return 0;
  const shown = { json: flags.json, onInterrupt: "cancel" } as const;
  return await whileListed(listed, session, () => follow(job, terminal, shown));
}

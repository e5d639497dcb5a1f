/** `holdfast result JOB`: what a job came to, whoever of the principal submitted it. */
import { Command } from "commander";
import { z } from "zod";
import { sleep, systemClock } from "../clock.ts";
import { type ConnectionFlags, findTarget, type Target, withConnectionFlags } from "./connection.ts";
import { Problem } from "./problem.ts";
import type { Terminal } from "./terminal.ts";
import { askAboutJob } from "./v1.ts";

interface ResultFlags extends ConnectionFlags {
  wait: boolean;
  raw: boolean;
}

const Failure = z.looseObject({
  status: z.enum(["error", "cancelled", "timed_out"]),
  code: z.string(),
  message: z.string(),
});
const Outcome = z.union([
  z.looseObject({ status: z.enum(["pending", "running"]) }),
  z.looseObject({
    status: z.literal("success"),
    result: z.unknown().optional(),
    result_encoding: z.enum(["utf8", "base64"]).optional(),
    content_type: z.string().optional(),
  }),
  Failure,
]);
type Outcome = z.infer<typeof Outcome>;

/** Between two looks at a job that runs. */
const SHORTEST_WAIT_MS = 50;
const LONGEST_WAIT_MS = 1_000;

export function resultCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("result"))
    .description("Print the result of a job as JSON.")
    .argument("<job>", "the job's id, as `submit` and `jobs` print it")
    .option("--wait", "wait until the job has ended", false)
    .option("--raw", "write text and bytes as they are, for a file", false)
    .action(async (jobId: string, flags: ResultFlags) => {
      process.exitCode = await run(jobId, flags, terminal);
    });
}

async function outcomeOf(target: Target, jobId: string, wait: boolean): Promise<Outcome> {
  for (let delayMs = SHORTEST_WAIT_MS; ; delayMs = Math.min(LONGEST_WAIT_MS, delayMs * 2)) {
    const outcome = await askAboutJob(target, jobId, { method: "GET", path: "/result" }, Outcome);
    if (!wait || (outcome.status !== "pending" && outcome.status !== "running")) return outcome;
    await sleep(systemClock, delayMs);
  }
}

async function writeRaw(outcome: Extract<Outcome, { status: "success" }>, terminal: Terminal): Promise<0> {
  const { result = null, result_encoding: encoding } = outcome;
  if (typeof result !== "string") terminal.json(result);
  else await terminal.raw(encoding === "base64" ? Buffer.from(result, "base64") : result);
  terminal.endRaw();
  return 0;
}

/** A result that came in pieces, which the agent called JSON, and which is. */
function isJsonText<T extends { result?: unknown; content_type?: string | undefined }>(
  outcome: T,
): outcome is T & { result: string } {
  if (outcome.content_type !== "application/json" || typeof outcome.result !== "string") return false;
  try {
    JSON.parse(outcome.result);
    return true;
  } catch {
    return false;
  }
}

async function run(jobId: string, flags: ResultFlags, terminal: Terminal): Promise<number> {
  if (flags.raw && flags.json) throw new Problem("--raw writes the result alone; leave out --json.", 2);
  const outcome = await outcomeOf(await findTarget(flags, process.env), jobId, flags.wait);
  switch (outcome.status) {
    case "pending":
    case "running":
      if (flags.json) terminal.json(outcome);
      throw new Problem(
        `The job is ${outcome.status}; --wait waits for its end, \`holdfast watch ${jobId}\` shows it.`,
      );
    case "success":
      if (flags.raw) return await writeRaw(outcome, terminal);
      if (flags.json) terminal.json(outcome);
      else if (isJsonText(outcome)) terminal.jsonText(outcome.result);
      else terminal.json(outcome.result ?? null);
      return 0;
    case "error":
    case "cancelled":
    case "timed_out": {
      if (flags.json) terminal.json(outcome);
      const { code, message } = Failure.parse(outcome);
      throw new Problem(`The job ended ${outcome.status}: ${code}: ${message}`);
    }
  }
}

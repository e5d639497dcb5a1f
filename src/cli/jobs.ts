/** `holdfast jobs`: the principal's jobs, newest first. */
import Table from "cli-table3";
import { Command, Option } from "commander";
import type { ListedJob } from "../protocol/index.ts";
import { type ConnectionFlags, findTarget, openSession, withConnectionFlags } from "./connection.ts";
import { jobTree } from "./job-tree.ts";
import { limitOf } from "./limit.ts";
import { readableTime, shortened, type Terminal } from "./terminal.ts";

const STATUSES = ["pending", "running", "success", "error", "cancelled", "timed_out"] as const;

interface JobsFlags extends ConnectionFlags {
  status: (typeof STATUSES)[number][];
  agent?: string;
  limit: number;
}

export function jobsCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("jobs"))
    .description("List your jobs, newest first, delegated ones under their parents.")
    .addOption(new Option("--status <status...>", "only jobs in these states").choices(STATUSES).default([], "all"))
    .option("--agent <agent>", "only jobs of this agent, NAME or NAME@VERSION")
    .option("--limit <n>", "how many to list", limitOf, 20)
    .action((flags: JobsFlags) => run(flags, terminal));
}

async function run(flags: JobsFlags, terminal: Terminal): Promise<void> {
  await using session = await openSession(await findTarget(flags, process.env));
  const { jobs, nextCursor } = await session.listJobs({
    limit: flags.limit,
    status: flags.status.length === 0 ? undefined : flags.status,
    agent: flags.agent,
  });
  if (flags.json) {
    for (const job of jobs) terminal.json(job);
    return;
  }
  if (jobs.length === 0) {
    terminal.remark("No jobs.");
    return;
  }
  terminal.block(tableOf(jobs));
  if (nextCursor !== null) terminal.remark(`There are more; --limit shows up to 1000.`);
}

function tableOf(jobs: readonly ListedJob[]): string {
  const table = new Table({ head: ["job", "agent", "status", "submitted"], style: { head: [], border: [] } });
  for (const { job, depth } of jobTree(jobs)) {
    table.push([
      depth === 0 ? shortened(job.job_id, 64) : `${"  ".repeat(depth - 1)}└ ${shortened(job.job_id, 64)}`,
      shortened(job.agent, 40),
      shortened(job.status, 12),
      readableTime(job.created_at),
    ]);
  }
  return table.toString();
}

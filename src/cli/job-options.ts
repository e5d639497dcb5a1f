/** What may be said of a job when it is submitted, by `submit` and by `turn`. */
import type { Command } from "commander";
import type { SubmitOptions } from "../client/index.ts";
import type { Lease } from "../protocol/index.ts";
import { leaseOption } from "./lease-option.ts";
import { positiveSeconds } from "./seconds.ts";

export interface JobFlags {
  lease?: Lease;
  leaseExpires?: string;
  maxRuntime?: number;
}

export const withJobFlags = (command: Command): Command =>
  command
    .option(
      "--lease <capability=pattern>",
      "what the job may do (repeatable), such as cost.budget=USD:5",
      (text, before?: Lease) => leaseOption(text, before ?? {}),
    )
    .option("--lease-expires <time>", "when the lease ends, and the job with it: ISO 8601 in UTC")
    .option("--max-runtime <seconds>", "the job is ended when it runs longer", positiveSeconds);

export const jobOptionsOf = (flags: JobFlags): SubmitOptions => ({
  leaseRequest: flags.lease,
  leaseConstraints: flags.leaseExpires === undefined ? undefined : { expiresAt: flags.leaseExpires },
  maxRuntimeSec: flags.maxRuntime,
});

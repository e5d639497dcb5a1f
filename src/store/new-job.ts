/** A job as it is stored when it is submitted, delegated, or waits for its turn. */
import type { Lease } from "../protocol/index.ts";

export interface NewJob {
  jobId: string;
  /** `name` or `name@version`, as resolved. */
  agent: string;
  /** JSON text. */
  input: string;
  lease: Lease;
  /** Wall milliseconds; the lease's expiry. */
  leaseExpiresAt?: number | undefined;
  traceId: string;
  maxRuntimeMs?: number | undefined;
  /** How often it may be run again after its node was lost. @default 0 */
  restarts?: number | undefined;
}

/** A job that is now this node's to run. */
export interface ClaimedJob {
  job: NewJob;
  principal: string;
  runEpoch: number;
  /** From 1; grows each time that the job is given back. */
  attempt: number;
  /** The newest event of the attempts before. */
  lastN: number;
  /** JSON text of what the attempts before left; `undefined` where they left nothing. */
  checkpoint: string | undefined;
}

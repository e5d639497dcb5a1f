/** A job for whoever has no session: nobody follows it, and nobody owes an ack for it. */
import type { NewJob } from "./new-job.ts";

export interface JobStart {
  principal: string;
  /** The node that will run the job. */
  nodeId: string;
  job: NewJob;
  /** The principal's keys are one space, whether a session brings them or not. */
  idempotency?: { key: string; fingerprint: string; ttlMs: number } | undefined;
  /** JSON text of the `job.accepted` payload, for a session that repeats the key. */
  acceptedPayload: string;
  maxRunningJobsPerPrincipal: number;
  now: number;
}

export type JobStartOutcome =
  /** The job is stored as running, owned by `nodeId`, with `runEpoch` 1. */
  | { outcome: "created" }
  /** Same key, same fingerprint: the job of the first one. */
  | { outcome: "repeated"; jobId: string }
  | { outcome: "duplicate_key" }
  | { outcome: "limit_exceeded" };

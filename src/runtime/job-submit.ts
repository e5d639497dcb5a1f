/**
 * Takes a job from whoever has no session (SRV-25): the same checks, the same commit and the same keys as
 * `job.submit` on the wire, without a follow and without credentials, which only a session can be given.
 */
import type { Clock } from "../clock.ts";
import { parseExpiry, parseLease } from "../lease/index.ts";
import type { Logger } from "../logger.ts";
import { type AcceptedPayload, ArcpError, newJobId, newTraceId, type RequestPayload } from "../protocol/index.ts";
import type { JobStartOutcome, NewJob } from "../store/store.ts";
import type { AgentRegistry } from "./agents.ts";
import type { Masking } from "./credentials/masking.ts";
import { inTime } from "./in-time.ts";
import { budgetOf } from "./job/delegation.ts";
import type { RunningJobs } from "./job/running-jobs.ts";
import type { Settings } from "./options.ts";
import { grantedLease } from "./policy.ts";
import { digestOf } from "./session/canonical-json.ts";

/** As `job.submit` on the wire; the key is the idempotency key. */
export type JobSubmission = Omit<RequestPayload<"job.submit">, "idempotency_key" | "input"> & { input?: unknown };

export interface SubmittedJob {
  jobId: string;
  /** False: the key had made this job before. */
  created: boolean;
}

export interface SubmitParts {
  settings: Settings;
  agents: AgentRegistry;
  jobs: RunningJobs;
  masking: Masking;
  clock: Clock;
  logger: Logger;
  nodeId(): string;
  /** False while the runtime is stopping: no new jobs. */
  accepting(): boolean;
}

/**
 * @throws ArcpError AGENT_NOT_AVAILABLE, AGENT_VERSION_NOT_AVAILABLE, INVALID_REQUEST and PERMISSION_DENIED naming the
 *   field; DUPLICATE_KEY; INTERNAL_ERROR with `details.code` LIMIT_EXCEEDED or STORE_UNAVAILABLE
 */
export async function submitJob(
  parts: SubmitParts,
  principal: string,
  given: JobSubmission,
  key: string | undefined,
): Promise<SubmittedJob> {
  const { settings, agents, jobs, masking, clock, logger } = parts;
  if (!parts.accepting()) {
    throw ArcpError.detail("STORE_UNAVAILABLE", "The runtime is stopping; nothing was done. Try again.");
  }
  const agent = agents.resolve(given.agent, "body.agent");
  const asked = given.lease_request === undefined ? agent.lease : parseLease(given.lease_request, "body.lease_request");
  const expiresAt = given.lease_constraints?.expires_at;
  const input = given.input ?? null;
  const job: NewJob = {
    jobId: newJobId(),
    agent: agent.label,
    input: inputText(input, settings.maxInputBytes, masking),
    lease: grantedLease(asked, settings.policy(principal, agent.name), "body.lease_request"),
    leaseExpiresAt:
      expiresAt === undefined ? undefined : parseExpiry(expiresAt, clock.wall(), "body.lease_constraints.expires_at"),
    traceId: newTraceId(),
    maxRuntimeMs: given.max_runtime_sec === undefined ? undefined : given.max_runtime_sec * 1_000,
  };
  const accepted: AcceptedPayload = {
    job_id: job.jobId,
    agent: job.agent,
    lease: job.lease,
    ...(expiresAt === undefined ? {} : { lease_constraints: { expires_at: expiresAt } }),
    ...budgetOf(job.lease),
    accepted_at: new Date(clock.wall()).toISOString(),
    trace_id: job.traceId,
  };
  let told = false;
  const { maxRunningJobsPerPrincipal, idempotencyTtlMs: ttlMs, storeTimeoutMs } = settings;
  const start = async (): Promise<JobStartOutcome> => {
    const outcome = await settings.store.jobs.start({
      principal,
      nodeId: parts.nodeId(),
      job,
      idempotency: key === undefined ? undefined : { key, fingerprint: digestOf(given), ttlMs },
      acceptedPayload: JSON.stringify(accepted),
      maxRunningJobsPerPrincipal,
      now: clock.wall(),
    });
    // Whoever was told that nothing was done may send another one: without a key this one ends, and never runs.
    const refused = told && key === undefined;
    const handler = refused ? () => Promise.reject(tooLate()) : agent.handler;
    if (outcome.outcome === "created") jobs.start({ job, agent: { ...agent, handler }, input, principal });
    return outcome;
  };
  const started = start();
  jobs.admit(started.then(noted, noted));
  const outcome = await inTime(() => started, { clock, logger, timeoutMs: storeTimeoutMs }).finally(() => {
    told = true;
  });
  switch (outcome.outcome) {
    case "created":
      return { jobId: job.jobId, created: true };
    case "repeated":
      return { jobId: outcome.jobId, created: false };
    case "duplicate_key":
      throw new ArcpError("DUPLICATE_KEY", "Idempotency-Key: was used with another body; use a new one for a new job.");
    case "limit_exceeded":
      throw ArcpError.detail(
        "LIMIT_EXCEEDED",
        `At most ${maxRunningJobsPerPrincipal} jobs of one principal run or wait at a time; try again later.`,
        { retry_after_ms: RETRY_AFTER_MS, limit: maxRunningJobsPerPrincipal },
      );
  }
}

const RETRY_AFTER_MS = 1_000;

const noted = (): void => undefined;

const tooLate = (): ArcpError =>
  ArcpError.detail("STORE_UNAVAILABLE", "The store took the job too late; whoever sent it was told to send it again.");

/** @throws ArcpError INVALID_REQUEST when the store would have to keep too much (JOB-19) */
function inputText(input: unknown, maxInputBytes: number, masking: Masking): string {
  const text = JSON.stringify(input);
  const bytes = Buffer.byteLength(text);
  if (bytes > maxInputBytes) {
    throw new ArcpError("INVALID_REQUEST", `body.input: takes ${bytes} bytes; at most ${maxInputBytes} fit.`, {
      details: { limit: maxInputBytes },
    });
  }
  // The job gets its input as it was given; what is kept has no secret in it (law 8).
  return masking.json(text);
}

/** Jobs that wait for a node to run them: what of them a claim reads, and how they become its node's. */
import type { Lease } from "../../protocol/index.ts";
import type { ClaimedJob, JobFacet } from "../store.ts";
import type { Database } from "./database.ts";
import { requireLiveNode } from "./live-node.ts";

/** What a claim reads of a job, of its head `h` and of itself `j`. */
export interface ClaimRow {
  job_id: string;
  principal: string;
  agent: string;
  input: string;
  lease: string;
  lease_expires_at: number | null;
  trace_id: string;
  max_runtime_ms: number | null;
  run_epoch: number;
  restarts_left: number;
  attempt: number;
  last_n: number;
  checkpoint: string | null;
}

export const CLAIM_COLUMNS = `j.job_id, j.principal, j.agent, j.input, j.lease, j.lease_expires_at, j.trace_id,
  j.max_runtime_ms, h.run_epoch, h.restarts_left, h.attempt, h.last_n,
  (SELECT value FROM checkpoints k WHERE k.job_key = h.job_key) AS checkpoint`;

export const toClaimedJob = (row: ClaimRow): ClaimedJob => ({
  job: {
    jobId: row.job_id,
    agent: row.agent,
    input: row.input,
    lease: JSON.parse(row.lease) as Lease,
    leaseExpiresAt: row.lease_expires_at ?? undefined,
    traceId: row.trace_id,
    maxRuntimeMs: row.max_runtime_ms ?? undefined,
    restarts: row.restarts_left,
  },
  principal: row.principal,
  runEpoch: row.run_epoch,
  attempt: row.attempt,
  lastN: row.last_n,
  checkpoint: row.checkpoint ?? undefined,
});

/** Jobs that nobody runs and that one of the agents could; their head is `h`. */
export const claimableJobs = (agents: string, columns = "1"): string =>
  `SELECT ${columns} FROM job_heads h JOIN jobs j ON j.job_key = h.job_key
     WHERE h.orphaned = 1 AND j.agent IN (SELECT value FROM json_each(${agents}))`;

export function claimJobs(db: Database, claim: Parameters<JobFacet["claim"]>[0]): ClaimedJob[] {
  requireLiveNode(db, claim.nodeId);
  const rows = db.all<ClaimRow & { job_key: number }>(
    `${claimableJobs("?", `h.job_key, ${CLAIM_COLUMNS}`)} ORDER BY h.job_key LIMIT ?`,
    JSON.stringify(claim.agents),
    claim.limit,
  );
  return rows.map((row) => {
    startAgain(db, row.job_key, claim.nodeId);
    db.touch({ jobId: row.job_id });
    return toClaimedJob({ ...row, run_epoch: row.run_epoch + 1 });
  });
}

/** A job that waits is a node's from now on. */
export function startAgain(db: Database, jobKey: number, nodeId: string): void {
  db.run(
    "UPDATE job_heads SET state = 'running', node_id = ?, run_epoch = run_epoch + 1, orphaned = 0 WHERE job_key = ?",
    nodeId,
    jobKey,
  );
}

/** Jobs that wait for a node to run them: what of them a claim reads, and how they become its node's. */
import type { Lease } from "../../protocol/index.ts";
import type { ClaimedJob, JobFacet } from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { deadNode, requireLiveNode } from "./live-node.ts";

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
  (SELECT k.value FROM $.checkpoints k WHERE k.job_key = h.job_key) AS checkpoint`;

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

type Claim = Parameters<JobFacet["claim"]>[0];

/** Jobs that nobody runs and that one of the agents $1 could; their head is `h`. */
export const WAITING_JOBS = `FROM $.job_heads h JOIN $.jobs j ON j.job_key = h.job_key
  WHERE h.orphaned AND h.ended_at IS NULL AND j.agent = ANY($1)`;

/** A look costs no lock, and mostly there is nothing. */
export async function claimJobs(engine: Engine, claim: Claim): Promise<ClaimedJob[]> {
  const look = await engine.single((db) =>
    db.get<{ waiting: boolean; alive: boolean }>(
      `SELECT EXISTS (SELECT ${WAITING_JOBS}) AS waiting,
         EXISTS (SELECT FROM $.nodes WHERE node_id = $2 AND state = 'alive') AS alive`,
      claim.agents,
      claim.nodeId,
    ),
  );
  if (look?.alive !== true) throw deadNode(claim.nodeId);
  return look.waiting ? await engine.write((db) => take(db, claim)) : [];
}

/** What somebody else is at just now is left to him. What the attempts before have left is read once it is locked. */
async function take(db: Transaction, claim: Claim): Promise<ClaimedJob[]> {
  await requireLiveNode(db, claim.nodeId);
  const locked = await db.all<{ job_key: number }>(
    `SELECT h.job_key ${WAITING_JOBS} ORDER BY h.job_key LIMIT $2 FOR UPDATE OF h SKIP LOCKED`,
    claim.agents,
    claim.limit,
  );
  if (locked.length === 0) return [];
  const keys = locked.map((row) => row.job_key);
  await startAgain(db, keys, claim.nodeId);
  const rows = await db.all<ClaimRow>(
    `SELECT ${CLAIM_COLUMNS} FROM $.job_heads h JOIN $.jobs j ON j.job_key = h.job_key
     WHERE h.job_key = ANY($1) ORDER BY h.job_key`,
    keys,
  );
  for (const row of rows) db.touch({ jobId: row.job_id });
  return rows.map(toClaimedJob);
}

/** Jobs that wait are a node's from now on. */
export async function startAgain(db: Transaction, jobKeys: readonly number[], nodeId: string): Promise<void> {
  await db.run(
    `UPDATE $.job_heads SET state = 'running', node_id = $1, run_epoch = run_epoch + 1, orphaned = FALSE
     WHERE job_key = ANY($2)`,
    nodeId,
    jobKeys,
  );
}

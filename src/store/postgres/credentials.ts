/**
 * The ledger of provisioned credentials. Only rows that are not revoked yet are ever searched, and of those
 * there are hardly more than live jobs.
 */
import type { CredentialFacet, CredentialRef, DueRevocation, RevocationClaim, RevocationOutcome } from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";

const NODE_IS_ALIVE = "EXISTS (SELECT FROM $.nodes n WHERE n.node_id = c.node_id AND n.state = 'alive')";

/** What is to be revoked, whether or not its next attempt has come. */
const DUE = `(c.state = 'revoking' OR (c.state IN ('issuing', 'live') AND CASE
  (SELECT h.ended_at IS NOT NULL FROM $.jobs j JOIN $.job_heads h ON h.job_key = j.job_key WHERE j.job_id = c.job_id)
  WHEN TRUE THEN TRUE WHEN FALSE THEN FALSE ELSE NOT ${NODE_IS_ALIVE} END))`;

const DUE_NOW = `FROM $.credentials c WHERE c.state <> 'revoked' AND c.next_attempt_at <= $1 AND ${DUE}`;

export function credentialFacet(engine: Engine): CredentialFacet {
  return {
    note: (ref, now) =>
      engine.write(async (db) => {
        await db.run(
          `INSERT INTO $.credentials (credential_id, job_id, node_id, state, attempts, next_attempt_at, noted_at)
           VALUES ($1, $2, $3, 'issuing', 0, 0, $4)`,
          ref.credentialId,
          ref.jobId,
          ref.nodeId,
          now,
        );
      }),
    markLive: (ref, now) => engine.write((db) => markLive(db, ref, now)),
    giveUp: (credentialId, now) =>
      engine.write(async (db) => {
        await db.run(
          `UPDATE $.credentials SET state = 'revoking', next_attempt_at = $2
           WHERE credential_id = $1 AND state IN ('issuing', 'live')`,
          credentialId,
          now,
        );
      }),
    has: (jobId) =>
      engine.single(
        async (db) =>
          (await db.get("SELECT 1 FROM $.credentials WHERE job_id = $1 AND state = 'live'", jobId)) !== undefined,
      ),
    async claimDue(claim) {
      // A look costs no lock, and mostly there is nothing.
      const due = await engine.single((db) => db.get(`SELECT 1 ${DUE_NOW} LIMIT 1`, claim.now));
      return due === undefined ? [] : await engine.write((db) => claimDue(db, claim));
    },
    settle: (credentialId, outcome, now) => engine.write((db) => settle(db, credentialId, outcome, now)),
  };
}

async function markLive(
  db: Transaction,
  { credentialId, jobId, nodeId }: CredentialRef,
  now: number,
): Promise<boolean> {
  await lockCredentials(db, jobId);
  const marked = await db.run(
    "UPDATE $.credentials SET state = 'live', issued_at = $1 WHERE credential_id = $2 AND state = 'issuing'",
    now,
    credentialId,
  );
  if (marked === 0) {
    // A revocation may have come before the issue and found nothing, so it counts for nothing.
    await db.run(
      `INSERT INTO $.credentials (credential_id, job_id, node_id, state, attempts, next_attempt_at, noted_at, issued_at)
       VALUES ($1, $2, $3, 'revoking', 0, $4, $4, $4)
       ON CONFLICT (credential_id) DO UPDATE SET state = 'revoking', next_attempt_at = $4, revoked_at = NULL`,
      credentialId,
      jobId,
      nodeId,
      now,
    );
    return false;
  }
  await db.run(
    `UPDATE $.credentials c SET state = 'revoking', next_attempt_at = $4
     WHERE job_id = $2 AND credential_id <> $1 AND state IN ('issuing', 'live')
       AND (node_id = $3 OR NOT ${NODE_IS_ALIVE})`,
    credentialId,
    jobId,
    nodeId,
    now,
  );
  return true;
}

/** All of a job's, in one order: two that change several of them cannot wait for each other. */
const lockCredentials = (db: Transaction, jobId: string): Promise<unknown> =>
  db.all("SELECT 1 FROM $.credentials WHERE job_id = $1 ORDER BY credential_id FOR UPDATE", jobId);

async function claimDue(db: Transaction, { now, claimMs, limit }: RevocationClaim): Promise<DueRevocation[]> {
  const due = await db.all<{ credential_id: string }>(
    `SELECT c.credential_id ${DUE_NOW} ORDER BY c.next_attempt_at, c.credential_id LIMIT $2
     FOR UPDATE OF c SKIP LOCKED`,
    now,
    limit,
  );
  const ids = due.map((row) => row.credential_id);
  const claimed = await db.all<{ credential_id: string; job_id: string; attempts: number }>(
    `UPDATE $.credentials SET state = 'revoking', attempts = attempts + 1, next_attempt_at = $1
     WHERE credential_id = ANY($2) RETURNING credential_id, job_id, attempts`,
    now + claimMs,
    ids,
  );
  const byId = new Map(claimed.map((row) => [row.credential_id, row]));
  return ids.flatMap((id) => {
    const row = byId.get(id);
    return row === undefined ? [] : [{ credentialId: id, jobId: row.job_id, attempts: row.attempts }];
  });
}

async function settle(db: Transaction, credentialId: string, outcome: RevocationOutcome, now: number): Promise<void> {
  if (!outcome.revoked) {
    await db.run(
      "UPDATE $.credentials SET next_attempt_at = $1 WHERE credential_id = $2 AND state = 'revoking'",
      outcome.nextAttemptAt,
      credentialId,
    );
    return;
  }
  await db.run(
    "UPDATE $.credentials SET state = 'revoked', revoked_at = $1 WHERE credential_id = $2 AND state = 'revoking'",
    now,
    credentialId,
  );
  await db.run(
    `DELETE FROM $.credentials c WHERE credential_id = $1 AND state = 'revoked'
       AND NOT EXISTS (SELECT FROM $.jobs j WHERE j.job_id = c.job_id)`,
    credentialId,
  );
}

/** A job is about to be removed: with it go its revoked credentials, and the others are due at the latest now. */
export async function releaseCredentials(db: Transaction, jobKey: number): Promise<void> {
  const job = await db.get<{ job_id: string }>("SELECT job_id FROM $.jobs WHERE job_key = $1", jobKey);
  if (job === undefined) return;
  await lockCredentials(db, job.job_id);
  await db.run(
    "UPDATE $.credentials SET state = 'revoking' WHERE job_id = $1 AND state IN ('issuing', 'live')",
    job.job_id,
  );
  await db.run("DELETE FROM $.credentials WHERE job_id = $1 AND state = 'revoked'", job.job_id);
}

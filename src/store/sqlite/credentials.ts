/**
 * The ledger of provisioned credentials. Only rows that are not revoked yet are ever searched, and of those
 * there are hardly more than live jobs.
 */
import type { CredentialFacet, CredentialRef, DueRevocation, RevocationClaim, RevocationOutcome } from "../store.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";

const NODE_IS_ALIVE = "EXISTS (SELECT 1 FROM nodes n WHERE n.node_id = c.node_id AND n.state = 'alive')";

/** What is to be revoked, whether or not its next attempt has come. */
const DUE = `(c.state = 'revoking' OR (c.state IN ('issuing', 'live') AND CASE
  (SELECT h.ended_at IS NOT NULL FROM jobs j JOIN job_heads h ON h.job_key = j.job_key WHERE j.job_id = c.job_id)
  WHEN 1 THEN TRUE WHEN 0 THEN FALSE ELSE NOT ${NODE_IS_ALIVE} END))`;

const DUE_NOW = `FROM credentials c WHERE c.state <> 'revoked' AND c.next_attempt_at <= ? AND ${DUE}`;

export function credentialFacet(engine: Engine): CredentialFacet {
  return {
    note: (ref, now) =>
      engine.write((db) => {
        db.run(
          "INSERT INTO credentials VALUES (?, ?, ?, 'issuing', 0, 0, ?, NULL, NULL)",
          ref.credentialId,
          ref.jobId,
          ref.nodeId,
          now,
        );
      }),
    markLive: (ref, now) => engine.write((db) => markLive(db, ref, now)),
    giveUp: (credentialId, now) =>
      engine.write((db) => {
        db.run(
          `UPDATE credentials SET state = 'revoking', next_attempt_at = ?2
           WHERE credential_id = ?1 AND state IN ('issuing', 'live')`,
          credentialId,
          now,
        );
      }),
    has: (jobId) =>
      engine.read((db) => db.get("SELECT 1 FROM credentials WHERE job_id = ? AND state = 'live'", jobId) !== undefined),
    async claimDue(claim) {
      // A look costs no lock, and mostly there is nothing.
      const due = await engine.read((db) => db.get(`SELECT 1 ${DUE_NOW} LIMIT 1`, claim.now));
      return due === undefined ? [] : engine.write((db) => claimDue(db, claim));
    },
    settle: (credentialId, outcome, now) => engine.write((db) => settle(db, credentialId, outcome, now)),
  };
}

function markLive(db: Database, { credentialId, jobId, nodeId }: CredentialRef, now: number): boolean {
  const marked = db.run(
    "UPDATE credentials SET state = 'live', issued_at = ? WHERE credential_id = ? AND state = 'issuing'",
    now,
    credentialId,
  );
  if (marked === 0) {
    // A revocation may have come before the issue and found nothing, so it counts for nothing.
    db.run(
      `INSERT INTO credentials VALUES (?1, ?2, ?3, 'revoking', 0, ?4, ?4, ?4, NULL)
       ON CONFLICT (credential_id) DO UPDATE SET state = 'revoking', next_attempt_at = ?4, revoked_at = NULL`,
      credentialId,
      jobId,
      nodeId,
      now,
    );
    return false;
  }
  db.run(
    `UPDATE credentials AS c SET state = 'revoking', next_attempt_at = ?4
     WHERE job_id = ?2 AND credential_id <> ?1 AND state IN ('issuing', 'live')
       AND (node_id = ?3 OR NOT ${NODE_IS_ALIVE})`,
    credentialId,
    jobId,
    nodeId,
    now,
  );
  return true;
}

function claimDue(db: Database, { now, claimMs, limit }: RevocationClaim): DueRevocation[] {
  const due = db.all<{ credential_id: string; job_id: string; attempts: number }>(
    `SELECT c.credential_id, c.job_id, c.attempts ${DUE_NOW} ORDER BY c.next_attempt_at, c.credential_id LIMIT ?`,
    now,
    limit,
  );
  return due.map((row) => {
    const attempts = row.attempts + 1;
    db.run(
      "UPDATE credentials SET state = 'revoking', attempts = ?, next_attempt_at = ? WHERE credential_id = ?",
      attempts,
      now + claimMs,
      row.credential_id,
    );
    return { credentialId: row.credential_id, jobId: row.job_id, attempts };
  });
}

function settle(db: Database, credentialId: string, outcome: RevocationOutcome, now: number): void {
  if (!outcome.revoked) {
    db.run(
      "UPDATE credentials SET next_attempt_at = ? WHERE credential_id = ? AND state = 'revoking'",
      outcome.nextAttemptAt,
      credentialId,
    );
    return;
  }
  db.run(
    "UPDATE credentials SET state = 'revoked', revoked_at = ? WHERE credential_id = ? AND state = 'revoking'",
    now,
    credentialId,
  );
  db.run(
    `DELETE FROM credentials WHERE credential_id = ? AND state = 'revoked'
       AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.job_id = credentials.job_id)`,
    credentialId,
  );
}

/** A job is about to be removed: with it go its revoked credentials, and the others are due at the latest now. */
export function releaseCredentials(db: Database, jobKey: number): void {
  db.run(
    `UPDATE credentials SET state = 'revoking'
     WHERE job_id = (SELECT job_id FROM jobs WHERE job_key = ?) AND state IN ('issuing', 'live')`,
    jobKey,
  );
  db.run(
    "DELETE FROM credentials WHERE job_id = (SELECT job_id FROM jobs WHERE job_key = ?) AND state = 'revoked'",
    jobKey,
  );
}

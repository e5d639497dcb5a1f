/** Idempotency keys: one space for each principal, whoever brings them, a session or a request without one. */
import type { Transaction } from "./database.ts";

/** What a key that is still held stands for. Locks the key: before all rows. */
export async function heldKey(
  db: Transaction,
  principal: string,
  key: string,
  now: number,
): Promise<{ digest: string; jobId: string; acceptedPayload: string } | undefined> {
  // A key that is not there has no row to be locked, and of two that bring it one is the first.
  await db.run("SELECT pg_advisory_xact_lock(hashtextextended('holdfast key ' || $1 || ' ' || $2, 0))", principal, key);
  const row = await db.get<{ digest: string; accepted_payload: string; job_id: string }>(
    `SELECT i.digest, i.accepted_payload, j.job_id FROM $.idempotency i JOIN $.jobs j ON j.job_key = i.job_key
     WHERE i.principal = $1 AND i.key = $2 AND i.expires_at > $3`,
    principal,
    key,
    now,
  );
  return row && { digest: row.digest, jobId: row.job_id, acceptedPayload: row.accepted_payload };
}

/** Holds a key, in the commit that stores its job. */
export async function holdKey(
  db: Transaction,
  held: {
    principal: string;
    key: string;
    digest: string;
    ttlMs: number;
    jobKey: number;
    acceptedPayload: string;
    now: number;
  },
): Promise<void> {
  await db.run(
    `INSERT INTO $.idempotency (principal, key, digest, job_key, accepted_payload, expires_at)
     VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (principal, key) DO UPDATE SET digest = excluded.digest, job_key = excluded.job_key,
       accepted_payload = excluded.accepted_payload, expires_at = excluded.expires_at`,
    held.principal,
    held.key,
    held.digest,
    held.jobKey,
    held.acceptedPayload,
    held.now + held.ttlMs,
  );
}

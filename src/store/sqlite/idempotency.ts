/** Idempotency keys: one space for each principal, whoever brings them, a session or a request without one. */
import type { Database } from "./database.ts";

/** What a key that is still held stands for. */
export function heldKey(
  db: Database,
  principal: string,
  key: string,
  now: number,
): { digest: string; jobId: string; acceptedPayload: string } | undefined {
  const row = db.get<{ digest: string; accepted_payload: string; job_id: string }>(
    `SELECT i.digest, i.accepted_payload, j.job_id FROM idempotency i JOIN jobs j ON j.job_key = i.job_key
     WHERE i.principal = ? AND i.key = ? AND i.expires_at > ?`,
    principal,
    key,
    now,
  );
  return row && { digest: row.digest, jobId: row.job_id, acceptedPayload: row.accepted_payload };
}

/** Holds a key, in the commit that stores its job. */
export function holdKey(
  db: Database,
  held: {
    principal: string;
    key: string;
    digest: string;
    ttlMs: number;
    jobKey: number;
    acceptedPayload: string;
    now: number;
  },
): void {
  db.run(
    `INSERT OR REPLACE INTO idempotency (principal, key, digest, job_key, accepted_payload, expires_at)
     VALUES (?, ?, ?, ?, ?, ?)`,
    held.principal,
    held.key,
    held.digest,
    held.jobKey,
    held.acceptedPayload,
    held.now + held.ttlMs,
  );
}

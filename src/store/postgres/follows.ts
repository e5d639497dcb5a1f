/** Follows: which jobs a session is interested in, and how far it was given their events. */
import type { Follow } from "../store.ts";
import type { Transaction } from "./database.ts";

/** Opens a follow, or again one that had ended. The right to cancel, once had, stays. The session is locked. */
export async function openFollowAt(
  db: Transaction,
  sessionKey: number,
  jobKey: number,
  positionN: number,
  canCancel = false,
): Promise<void> {
  await db.run(
    `INSERT INTO $.follows AS f (session_key, job_key, ordinal, position_n, last_seq, can_cancel, open)
     VALUES ($1, $2, (SELECT coalesce(max(ordinal), 0) + 1 FROM $.follows WHERE session_key = $1 AND open),
       $3, 0, $4, TRUE)
     ON CONFLICT (session_key, job_key) DO UPDATE
       SET ordinal = excluded.ordinal, position_n = excluded.position_n, open = TRUE,
         can_cancel = f.can_cancel OR excluded.can_cancel`,
    sessionKey,
    jobKey,
    positionN,
    canCancel,
  );
}

/** A child is its parent's submitter's too: with the right to cancel it, from where a follow of it stands already. */
export async function followChild(db: Transaction, sessionKey: number, jobKey: number): Promise<void> {
  const granted = await db.run(
    "UPDATE $.follows SET can_cancel = TRUE WHERE session_key = $1 AND job_key = $2 AND open",
    sessionKey,
    jobKey,
  );
  if (granted === 0) await openFollowAt(db, sessionKey, jobKey, 0, true);
}

/** In the order of their beginning. */
export async function openFollows(db: Transaction, sessionKey: number): Promise<Follow[]> {
  const rows = await db.all<{ job_id: string; trace_id: string; position_n: number; can_cancel: boolean }>(
    `SELECT j.job_id, j.trace_id, f.position_n, f.can_cancel
     FROM $.follows f JOIN $.jobs j ON j.job_key = f.job_key
     WHERE f.session_key = $1 AND f.open ORDER BY f.ordinal`,
    sessionKey,
  );
  return rows.map((row) => ({
    jobId: row.job_id,
    traceId: row.trace_id,
    positionN: row.position_n,
    canCancel: row.can_cancel,
  }));
}

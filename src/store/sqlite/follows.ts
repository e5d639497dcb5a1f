/** Follows: which jobs a session is interested in, and how far it was given their events. */
import type { Follow } from "../store.ts";
import type { Database } from "./database.ts";

/** Opens a follow, or again one that had ended. The right to cancel, once had, stays. */
export function openFollowAt(
  db: Database,
  sessionKey: number,
  jobKey: number,
  positionN: number,
  canCancel = false,
): void {
  db.run(
    `INSERT INTO follows (session_key, job_key, ordinal, position_n, last_seq, can_cancel, open)
     VALUES (?1, ?2, (SELECT coalesce(max(ordinal), 0) + 1 FROM follows WHERE session_key = ?1 AND open = 1),
       ?3, 0, ?4, 1)
     ON CONFLICT (session_key, job_key) DO UPDATE
       SET ordinal = excluded.ordinal, position_n = excluded.position_n, open = 1`,
    sessionKey,
    jobKey,
    positionN,
    canCancel ? 1 : 0,
  );
}

/** A child is its parent's submitter's too: with the right to cancel it, from where a follow of it stands already. */
export function followChild(db: Database, sessionKey: number, jobKey: number): void {
  const granted = db.run(
    "UPDATE follows SET can_cancel = 1 WHERE session_key = ? AND job_key = ? AND open = 1",
    sessionKey,
    jobKey,
  );
  if (granted === 0) {
    openFollowAt(db, sessionKey, jobKey, 0, true);
    db.run("UPDATE follows SET can_cancel = 1 WHERE session_key = ? AND job_key = ?", sessionKey, jobKey);
  }
}

/** In the order of their beginning. */
export function openFollows(db: Database, sessionKey: number): Follow[] {
  return db
    .all<{ job_id: string; trace_id: string; position_n: number; can_cancel: number }>(
      `SELECT j.job_id, j.trace_id, f.position_n, f.can_cancel
       FROM follows f JOIN jobs j ON j.job_key = f.job_key
       WHERE f.session_key = ? AND f.open = 1 ORDER BY f.ordinal`,
      sessionKey,
    )
    .map((row) => ({
      jobId: row.job_id,
      traceId: row.trace_id,
      positionN: row.position_n,
      canCancel: row.can_cancel === 1,
    }));
}

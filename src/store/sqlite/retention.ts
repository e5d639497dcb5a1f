/**
 * What goes, and when (STO-13 to STO-15). One step is one small commit: deleting is never urgent, and whoever
 * appends meanwhile waits for no more than one step. Floors are raised in the commit that deletes, so a
 * reader finds either the events or the floor that says they are gone.
 */
import type { RetentionPolicy, RetentionStep } from "../store.ts";
import { removeConversation } from "./conversations.ts";
import { releaseCredentials } from "./credentials.ts";
import type { Database } from "./database.ts";
import { OWES_ANSWER, OWES_CONVERSATION } from "./delivery-rows.ts";
import { forgetPasses } from "./passes.ts";
import { forgetRoutes } from "./routes.ts";

/** Rows that one step deletes, about. */
const ROWS_PER_STEP = 500;
/** Hints that are kept for processes that are slow to read them. */
const KEPT_HINTS = 10_000;
/** How long the row of a node that is over is kept, to be looked at. */
const NODE_RETENTION_MS = 86_400_000;

const NOTHING: RetentionStep = { events: 0, jobs: 0, sessions: 0, more: false };

/** A session that is there owes an ack: it has yet to be given events of the job, or has not acked all it got. */
const OWED = `(EXISTS (SELECT 1 FROM follows f WHERE f.job_key = h.job_key AND f.open = 1)
  OR EXISTS (SELECT 1 FROM runs r JOIN sessions s ON s.session_key = r.session_key
             WHERE r.job_key = h.job_key AND r.first_seq + r.count - 1 > s.acked_seq
               AND EXISTS (SELECT 1 FROM json_each(s.features) WHERE value = 'ack')))`;

export function retain(db: Database, policy: RetentionPolicy): RetentionStep {
  trimHints(db);
  return (
    removeSession(db, policy) ??
    removeJob(db, policy) ??
    trimJob(db, policy) ??
    trimStore(db, policy) ??
    removeOldConversation(db, policy) ??
    forget(db, policy)
  );
}

// ----------------------------------------------------------------------------------------- sessions

/** Removes a session whose window is over: what hangs on it first, over as many steps as that takes. */
function removeSession(db: Database, { now }: RetentionPolicy): RetentionStep | undefined {
  const session = db.get<{ session_key: number }>(
    "SELECT session_key FROM sessions WHERE resumable_until < ? ORDER BY resumable_until LIMIT 1",
    now,
  );
  if (session === undefined) {
    return undefined;
  }
  for (const [table, column] of [
    ["runs", "first_seq"],
    ["requests", "message_id"],
    ["follows", "job_key"],
  ] as const) {
    const removed = db.run(
      `DELETE FROM ${table} WHERE session_key = ?1 AND ${column} IN
         (SELECT ${column} FROM ${table} WHERE session_key = ?1 LIMIT ?2)`,
      session.session_key,
      ROWS_PER_STEP,
    );
    if (removed === ROWS_PER_STEP) {
      return { ...NOTHING, more: true };
    }
  }
  db.run("DELETE FROM session_tokens WHERE session_key = ?", session.session_key);
  db.run("DELETE FROM sessions WHERE session_key = ?", session.session_key);
  return { ...NOTHING, sessions: 1, more: true };
}

// --------------------------------------------------------------------------------------------- jobs

interface Head {
  job_key: number;
  last_n: number;
  floor_n: number;
  result_n: number | null;
  ended_at: number | null;
  bytes: number;
}

const HEAD_COLUMNS = "h.job_key, h.last_n, h.floor_n, h.result_n, h.ended_at, h.bytes";

/** Removes a job whose retention has passed. While a key can repeat its submit, or its answer has not arrived, it stays. */
function removeJob(db: Database, policy: RetentionPolicy): RetentionStep | undefined {
  const job = db.get<Head>(
    `SELECT ${HEAD_COLUMNS} FROM job_heads h
     WHERE h.ended_at < ?1 AND NOT ${OWED} AND NOT ${OWES_ANSWER}
       AND NOT EXISTS (SELECT 1 FROM idempotency i WHERE i.job_key = h.job_key AND i.expires_at > ?2)
     ORDER BY h.ended_at LIMIT 1`,
    policy.now - policy.jobRetentionMs,
    policy.now,
  );
  if (job === undefined) {
    return undefined;
  }
  const events = trim(db, job, job.last_n);
  if (job.floor_n + events < job.last_n) {
    return { ...NOTHING, events, more: true };
  }
  // Notices have no events that would have taken their numbers along.
  const numbered = db.all<{ session_key: number; last_seq: number }>(
    "SELECT session_key, max(first_seq + count - 1) AS last_seq FROM runs WHERE job_key = ? GROUP BY session_key",
    job.job_key,
  );
  for (const { session_key, last_seq } of numbered) {
    raiseFloor(db, session_key, last_seq);
  }
  db.run("DELETE FROM follows WHERE job_key = ? AND open = 0", job.job_key);
  db.run("DELETE FROM idempotency WHERE job_key = ?", job.job_key);
  db.run("DELETE FROM turns WHERE job_key = ?", job.job_key);
  db.run("DELETE FROM deliveries WHERE job_key = ?", job.job_key);
  db.run("DELETE FROM questions WHERE job_key = ?", job.job_key);
  db.run("DELETE FROM checkpoints WHERE job_key = ?", job.job_key);
  releaseCredentials(db, job.job_key);
  db.run("DELETE FROM job_heads WHERE job_key = ?", job.job_key);
  db.run("DELETE FROM jobs WHERE job_key = ?", job.job_key);
  return { ...NOTHING, events, jobs: 1, more: true };
}

/** Trims a job that is over its cap. Ended jobs are looked at for as long as they are kept. */
function trimJob(db: Database, policy: RetentionPolicy): RetentionStep | undefined {
  const job = db.get<Head>(
    `SELECT ${HEAD_COLUMNS} FROM job_heads h
     WHERE (h.last_n - h.floor_n > ?1 OR h.bytes > ?2) AND ${KEPT_END} > h.floor_n LIMIT 1`,
    policy.maxEventsPerJob,
    policy.maxBytesPerJob,
  );
  if (job === undefined) {
    return undefined;
  }
  const surplus = job.bytes > policy.maxBytesPerJob ? job.last_n : job.last_n - policy.maxEventsPerJob;
  return { ...NOTHING, events: trim(db, job, Math.min(surplus, keptEnd(job))), more: true };
}

/** Trims the store: the oldest jobs first, those that nobody owes an ack for before the others. */
function trimStore(db: Database, policy: RetentionPolicy): RetentionStep | undefined {
  if (policy.maxBytesPerStore === undefined) {
    return undefined;
  }
  const { bytes } = db.get<{ bytes: number | null }>("SELECT sum(bytes) AS bytes FROM job_heads") ?? { bytes: 0 };
  if ((bytes ?? 0) <= policy.maxBytesPerStore) {
    return undefined;
  }
  const job = db.get<Head>(
    `SELECT ${HEAD_COLUMNS} FROM job_heads h WHERE ${KEPT_END} > h.floor_n
     ORDER BY ${OWED}, h.ended_at IS NULL, h.job_key LIMIT 1`,
  );
  return job && { ...NOTHING, events: trim(db, job, keptEnd(job)), more: true };
}

/** What a cap may take goes up to here: neither the terminal event nor the chunks of a result. */
const KEPT_END = "min(coalesce(h.result_n, h.last_n + 1) - 1, h.last_n - (h.ended_at IS NOT NULL))";
const keptEnd = (job: Head): number =>
  Math.min((job.result_n ?? job.last_n + 1) - 1, job.last_n - (job.ended_at === null ? 0 : 1));

interface RunRow {
  session_key: number;
  first_seq: number;
  count: number;
  first_n: number;
  last_n: number;
}

/**
 * Deletes a job's oldest events, up to `throughN` at the most, and raises its floor and those of the
 * sessions that had numbers for them.
 *
 * @returns how many
 */
function trim(db: Database, job: Head, throughN: number): number {
  const floor = Math.min(throughN, job.floor_n + ROWS_PER_STEP);
  const { bytes } = db.get<{ bytes: number | null }>(
    "SELECT sum(octet_length(payload)) AS bytes FROM events WHERE job_key = ? AND n <= ?",
    job.job_key,
    floor,
  ) ?? { bytes: 0 };
  const events = db.run("DELETE FROM events WHERE job_key = ? AND n <= ?", job.job_key, floor);
  db.run("UPDATE job_heads SET floor_n = ?, bytes = bytes - ? WHERE job_key = ?", floor, bytes ?? 0, job.job_key);
  const runs = db.all<RunRow>(
    "SELECT session_key, first_seq, count, first_n, last_n FROM runs WHERE job_key = ? AND first_n <= ?",
    job.job_key,
    floor,
  );
  for (const run of runs) {
    // A run that is cut in the middle, and that left events out, is given up whole.
    const complete = run.count === run.last_n - run.first_n + 1;
    const gone = complete ? Math.min(run.count, floor - run.first_n + 1) : run.count;
    raiseFloor(db, run.session_key, run.first_seq + gone - 1);
  }
  return events;
}

/** Numbers up to `seq` can no longer be replayed, so their runs are of no use. */
function raiseFloor(db: Database, sessionKey: number, seq: number): void {
  db.run("UPDATE sessions SET seq_floor = ?2 WHERE session_key = ?1 AND seq_floor < ?2", sessionKey, seq);
  db.run("DELETE FROM runs WHERE session_key = ? AND first_seq + count - 1 <= ?", sessionKey, seq);
}

// ------------------------------------------------------------------------------------ conversations

/** Removes a conversation that nobody has spoken in for long, and nobody works on. */
function removeOldConversation(db: Database, policy: RetentionPolicy): RetentionStep | undefined {
  if (policy.conversationRetentionMs === undefined) {
    return undefined;
  }
  const old = db.get<{ conversation_id: string }>(
    `SELECT conversation_id FROM conversations
     WHERE active_at < ? AND lock_holder IS NULL AND queued = 0 AND NOT ${OWES_CONVERSATION} ORDER BY active_at LIMIT 1`,
    policy.now - policy.conversationRetentionMs,
  );
  if (old === undefined) {
    return undefined;
  }
  removeConversation(db, old.conversation_id, policy.now);
  return { ...NOTHING, more: true };
}

// -------------------------------------------------------------------------------------------- rests

/** Routes, passes and keys that hold no longer, and nodes that nobody asks for. */
function forget(db: Database, { now, maxRoutes, maxPasses }: RetentionPolicy): RetentionStep {
  const routes = forgetRoutes(db, { now, most: maxRoutes, limit: ROWS_PER_STEP });
  const passes = forgetPasses(db, { now, most: maxPasses, limit: ROWS_PER_STEP });
  const keys = db.run(
    `DELETE FROM idempotency WHERE (principal, key) IN
       (SELECT principal, key FROM idempotency WHERE expires_at <= ? LIMIT ?)`,
    now,
    ROWS_PER_STEP,
  );
  db.run(
    `DELETE FROM nodes WHERE state <> 'alive' AND over_at < ?
       AND NOT EXISTS (SELECT 1 FROM job_heads h WHERE h.node_id = nodes.node_id AND h.ended_at IS NULL)`,
    now - NODE_RETENTION_MS,
  );
  return { ...NOTHING, more: keys === ROWS_PER_STEP || routes + passes >= ROWS_PER_STEP };
}

function trimHints(db: Database): void {
  db.run("DELETE FROM hints WHERE hint_key <= (SELECT max(hint_key) FROM hints) - ?", KEPT_HINTS);
}

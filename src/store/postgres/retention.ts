/**
 * What goes, and when (STO-13 to STO-15). One step is one small commit: deleting is never urgent, and whoever
 * appends meanwhile waits for no more than one step. Floors are raised in the commit that deletes, so a
 * reader finds either the events or the floor that says they are gone.
 *
 * One process at a time takes a step. What it finds it locks and looks at again before it deletes.
 */
import { type RetentionPolicy, type RetentionStep, StoreRefusal } from "../store.ts";
import { removeConversation } from "./conversations.ts";
import { releaseCredentials } from "./credentials.ts";
import type { Transaction } from "./database.ts";
import { OWES_ANSWER, OWES_CONVERSATION } from "./delivery-rows.ts";
import { forgetPasses } from "./passes.ts";
import { forgetRoutes } from "./routes.ts";

/** Rows that one step deletes, about. */
const ROWS_PER_STEP = 500;
/** How long the row of a node that is over is kept, to be looked at. */
const NODE_RETENTION_MS = 86_400_000;

const NOTHING: RetentionStep = { events: 0, jobs: 0, sessions: 0, more: false };

/** A session that is there owes an ack: it has yet to be given events of the job, or has not acked all it got. */
const OWED = `(EXISTS (SELECT FROM $.follows f WHERE f.job_key = h.job_key AND f.open)
  OR EXISTS (SELECT FROM $.runs r JOIN $.sessions s ON s.session_key = r.session_key
             WHERE r.job_key = h.job_key AND r.first_seq + r.count - 1 > s.acked_seq AND s.acks))`;

export async function retain(db: Transaction, policy: RetentionPolicy): Promise<RetentionStep> {
  const mine = await db.get<{ mine: boolean }>(
    "SELECT pg_try_advisory_xact_lock(hashtextextended('holdfast retention', 0)) AS mine",
  );
  if (mine?.mine !== true) {
    return NOTHING;
  }
  return (
    (await removeSession(db, policy)) ??
    (await removeJob(db, policy)) ??
    (await trimJob(db, policy)) ??
    (await trimStore(db, policy)) ??
    (await removeOldConversation(db, policy)) ??
    (await forget(db, policy))
  );
}

// ----------------------------------------------------------------------------------------- sessions

/** Removes a session whose window is over: what hangs on it first, over as many steps as that takes. */
async function removeSession(db: Transaction, { now }: RetentionPolicy): Promise<RetentionStep | undefined> {
  const session = await db.get<{ session_key: number }>(
    "SELECT session_key FROM $.sessions WHERE resumable_until < $1 ORDER BY resumable_until LIMIT 1",
    now,
  );
  if (session === undefined) {
    return undefined;
  }
  await db.run("SELECT 1 FROM $.follows WHERE session_key = $1 ORDER BY job_key FOR UPDATE", session.session_key);
  const over = await db.get(
    "SELECT 1 FROM $.sessions WHERE session_key = $1 AND resumable_until < $2 FOR UPDATE",
    session.session_key,
    now,
  );
  if (over === undefined) {
    return { ...NOTHING, more: true };
  }
  // Whatever another node's clock says, it is over from now on.
  await db.run("UPDATE $.sessions SET resumable_until = 0 WHERE session_key = $1", session.session_key);
  for (const [table, column] of [
    ["runs", "first_seq"],
    ["requests", "message_id"],
    ["follows", "job_key"],
  ] as const) {
    const removed = await db.run(
      `DELETE FROM $.${table} WHERE session_key = $1 AND ${column} IN
         (SELECT ${column} FROM $.${table} WHERE session_key = $1 LIMIT ${ROWS_PER_STEP})`,
      session.session_key,
    );
    if (removed === ROWS_PER_STEP) {
      return { ...NOTHING, more: true };
    }
  }
  await db.run(
    `WITH tokens AS (DELETE FROM $.session_tokens WHERE session_key = $1),
       client AS (DELETE FROM $.session_clients WHERE session_key = $1)
     DELETE FROM $.sessions WHERE session_key = $1`,
    session.session_key,
  );
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

const SELECT_HEAD = "SELECT h.job_key, h.last_n, h.floor_n, h.result_n, h.ended_at, h.bytes FROM $.job_heads h";

/** Locks a job's head, so that nobody begins to follow it or appends to it. */
const lockHead = (db: Transaction, found: Head): Promise<Head | undefined> =>
  db.get<Head>(`${SELECT_HEAD} WHERE h.job_key = $1 FOR UPDATE`, found.job_key);

/** Removes a job whose retention has passed. While a key can repeat its submit, or its answer has not arrived, it stays. */
async function removeJob(db: Transaction, policy: RetentionPolicy): Promise<RetentionStep | undefined> {
  const removable = `h.ended_at < $1 AND NOT ${OWED} AND NOT ${OWES_ANSWER}
    AND NOT EXISTS (SELECT FROM $.idempotency i WHERE i.job_key = h.job_key AND i.expires_at > $2)`;
  const endedBefore = policy.now - policy.jobRetentionMs;
  const found = await db.get<Head>(
    `${SELECT_HEAD} WHERE ${removable} ORDER BY h.ended_at LIMIT 1`,
    endedBefore,
    policy.now,
  );
  if (found === undefined) {
    return undefined;
  }
  await lockHead(db, found);
  const job = await db.get<Head>(
    `${SELECT_HEAD} WHERE ${removable} AND h.job_key = $3`,
    endedBefore,
    policy.now,
    found.job_key,
  );
  if (job === undefined) {
    return { ...NOTHING, more: true };
  }
  const events = await trim(db, job, job.last_n);
  if (job.floor_n + events < job.last_n) {
    return { ...NOTHING, events, more: true };
  }
  // Notices have no events that would have taken their numbers along.
  const numbered = await db.all<{ session_key: number; last_seq: number }>(
    "SELECT session_key, max(first_seq + count - 1) AS last_seq FROM $.runs WHERE job_key = $1 GROUP BY session_key",
    job.job_key,
  );
  await raiseFloors(db, new Map(numbered.map((row) => [row.session_key, row.last_seq])));
  await db.run("DELETE FROM $.follows WHERE job_key = $1 AND NOT open", job.job_key);
  await db.run("DELETE FROM $.idempotency WHERE job_key = $1", job.job_key);
  await db.run("DELETE FROM $.turns WHERE job_key = $1", job.job_key);
  await db.run("DELETE FROM $.deliveries WHERE job_key = $1", job.job_key);
  await db.run("DELETE FROM $.questions WHERE job_key = $1", job.job_key);
  await db.run("DELETE FROM $.checkpoints WHERE job_key = $1", job.job_key);
  await releaseCredentials(db, job.job_key);
  await db.run("DELETE FROM $.job_heads WHERE job_key = $1", job.job_key);
  await db.run("DELETE FROM $.jobs WHERE job_key = $1", job.job_key);
  return { ...NOTHING, events, jobs: 1, more: true };
}

/** Trims a job that is over its cap. Ended jobs are looked at for as long as they are kept. */
async function trimJob(db: Transaction, policy: RetentionPolicy): Promise<RetentionStep | undefined> {
  const found = await db.get<Head>(
    `${SELECT_HEAD} WHERE (h.last_n - h.floor_n > $1 OR h.bytes > $2) AND ${KEPT_END} > h.floor_n LIMIT 1`,
    policy.maxEventsPerJob,
    policy.maxBytesPerJob,
  );
  const job = found && (await lockHead(db, found));
  if (job === undefined) {
    return undefined;
  }
  const surplus = job.bytes > policy.maxBytesPerJob ? job.last_n : job.last_n - policy.maxEventsPerJob;
  return { ...NOTHING, events: await trim(db, job, Math.min(surplus, keptEnd(job))), more: true };
}

/** Trims the store: the oldest jobs first, those that nobody owes an ack for before the others. */
async function trimStore(db: Transaction, policy: RetentionPolicy): Promise<RetentionStep | undefined> {
  if (policy.maxBytesPerStore === undefined) {
    return undefined;
  }
  const { bytes } = (await db.get<{ bytes: number | null }>("SELECT sum(bytes)::bigint AS bytes FROM $.job_heads")) ?? {
    bytes: 0,
  };
  if ((bytes ?? 0) <= policy.maxBytesPerStore) {
    return undefined;
  }
  const found = await db.get<Head>(
    `${SELECT_HEAD} WHERE ${KEPT_END} > h.floor_n ORDER BY ${OWED}, h.ended_at IS NULL, h.job_key LIMIT 1`,
  );
  const job = found && (await lockHead(db, found));
  return job && { ...NOTHING, events: await trim(db, job, keptEnd(job)), more: true };
}

/** What a cap may take goes up to here: neither the terminal event nor the chunks of a result. */
const KEPT_END = "least(coalesce(h.result_n, h.last_n + 1) - 1, h.last_n - (h.ended_at IS NOT NULL)::int)";
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
 * Deletes a locked job's oldest events, up to `throughN` at the most, and raises its floor and those of the
 * sessions that had numbers for them.
 *
 * @returns how many
 */
async function trim(db: Transaction, job: Head, throughN: number): Promise<number> {
  const floor = Math.min(throughN, job.floor_n + ROWS_PER_STEP);
  // Whoever is giving numbers to these events has done so before, or sees the floor.
  await db.run("SELECT 1 FROM $.follows WHERE job_key = $1 AND open ORDER BY session_key FOR UPDATE", job.job_key);
  const gone = await db.get<{ events: number; bytes: number }>(
    `WITH gone AS (DELETE FROM $.events WHERE job_key = $1 AND n <= $2 RETURNING octet_length(payload) AS bytes)
     SELECT count(*) AS events, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone`,
    job.job_key,
    floor,
  );
  const { events, bytes } = gone ?? { events: 0, bytes: 0 };
  await db.run("UPDATE $.job_heads SET floor_n = $2, bytes = bytes - $3 WHERE job_key = $1", job.job_key, floor, bytes);
  const runs = await db.all<RunRow>(
    "SELECT session_key, first_seq, count, first_n, last_n FROM $.runs WHERE job_key = $1 AND first_n <= $2",
    job.job_key,
    floor,
  );
  const floors = new Map<number, number>();
  for (const run of runs) {
    // A run that is cut in the middle, and that left events out, is given up whole.
    const complete = run.count === run.last_n - run.first_n + 1;
    const numbers = complete ? Math.min(run.count, floor - run.first_n + 1) : run.count;
    floors.set(run.session_key, Math.max(floors.get(run.session_key) ?? 0, run.first_seq + numbers - 1));
  }
  await raiseFloors(db, floors);
  return events;
}

/** Numbers up to a session's floor can no longer be replayed, so their runs are of no use. */
async function raiseFloors(db: Transaction, floors: ReadonlyMap<number, number>): Promise<void> {
  if (floors.size === 0) return;
  const keys = [...floors.keys()];
  const seqs = [...floors.values()];
  await db.run("SELECT 1 FROM $.sessions WHERE session_key = ANY($1) ORDER BY session_key FOR UPDATE", keys);
  await db.run(
    `UPDATE $.sessions s SET seq_floor = given.seq FROM unnest($1::bigint[], $2::bigint[]) AS given(session_key, seq)
     WHERE s.session_key = given.session_key AND s.seq_floor < given.seq`,
    keys,
    seqs,
  );
  await db.run(
    `DELETE FROM $.runs r USING unnest($1::bigint[], $2::bigint[]) AS given(session_key, seq)
     WHERE r.session_key = given.session_key AND r.first_seq + r.count - 1 <= given.seq`,
    keys,
    seqs,
  );
}

// ------------------------------------------------------------------------------------ conversations

/** Removes a conversation that nobody has spoken in for long, and nobody works on. */
async function removeOldConversation(db: Transaction, policy: RetentionPolicy): Promise<RetentionStep | undefined> {
  if (policy.conversationRetentionMs === undefined) {
    return undefined;
  }
  const old = await db.get<{ conversation_id: string }>(
    `SELECT c.conversation_id FROM $.conversations c
     WHERE c.active_at < $1 AND c.lock_holder IS NULL AND c.queued = 0 AND NOT ${OWES_CONVERSATION}
     ORDER BY c.active_at LIMIT 1`,
    policy.now - policy.conversationRetentionMs,
  );
  if (old === undefined) {
    return undefined;
  }
  try {
    await removeConversation(db, old.conversation_id, policy.now);
  } catch (error) {
    // Somebody has taken it up, or removed it, just now; nothing was written.
    if (!(error instanceof StoreRefusal)) throw error;
  }
  return { ...NOTHING, more: true };
}

// -------------------------------------------------------------------------------------------- rests

/** Routes, passes and keys that hold no longer, and nodes that nobody asks for. */
async function forget(db: Transaction, { now, maxRoutes, maxPasses }: RetentionPolicy): Promise<RetentionStep> {
  const routes = await forgetRoutes(db, { most: maxRoutes, limit: ROWS_PER_STEP });
  const passes = await forgetPasses(db, { most: maxPasses, limit: ROWS_PER_STEP });
  const keys = await db.run(
    `DELETE FROM $.idempotency WHERE (principal, key) IN
       (SELECT principal, key FROM $.idempotency WHERE expires_at <= $1 LIMIT ${ROWS_PER_STEP} FOR UPDATE SKIP LOCKED)`,
    now,
  );
  await db.run(
    `DELETE FROM $.nodes WHERE state <> 'alive' AND over_at < $1
       AND NOT EXISTS (SELECT FROM $.job_heads h WHERE h.node_id = nodes.node_id AND h.ended_at IS NULL)`,
    now - NODE_RETENTION_MS,
  );
  return { ...NOTHING, more: keys === ROWS_PER_STEP || routes + passes >= ROWS_PER_STEP };
}

/**
 * The queue of a conversation, and the lock as its turns take it. Every change goes through the conversation's
 * row. Here is what happens within the commits that end a job: its turn ends, its lock is free, and the next turn
 * has it (law 6).
 *
 * All of these find the conversation and the job that ends locked. The job that is next need not be: what could hold
 * it and wait for something that is held here would have had to lock the conversation.
 */
import type { ClaimedTurn, TurnClaim } from "../store.ts";
import { CLAIM_COLUMNS, type ClaimRow, startAgain, toClaimedJob } from "./claims.ts";
import type { Transaction } from "./database.ts";
import { openDelivery } from "./delivery-rows.ts";
import { isAlive } from "./live-node.ts";

/** In `turns.ahead`: before those that interrupt, which have 1. */
export const STARTED_ONCE = 2;

/**
 * Locks the jobs of the turns that run in these conversations, which are locked, or that have begun and wait to be run
 * again: what ends one of them needs it.
 */
export async function lockStarted(db: Transaction, conversationKeys: readonly number[]): Promise<void> {
  await db.run(
    `SELECT 1 FROM $.job_heads WHERE job_key IN
       (SELECT lock_job_key FROM $.conversations WHERE conversation_key = ANY($1)
        UNION ALL SELECT job_key FROM $.turns
        WHERE conversation_key = ANY($1) AND state = 'queued' AND ahead = ${STARTED_ONCE})
     ORDER BY job_key FOR UPDATE`,
    conversationKeys,
  );
}

/**
 * Ends the turn of a job, if it is one: its lock is free, or its place in the queue, and its answer is due.
 *
 * @returns the conversation whose turn it was
 */
export async function endTurn(db: Transaction, jobKey: number, now: number): Promise<number | undefined> {
  const turn = await db.get<{ conversation_key: number; state: string }>(
    "SELECT conversation_key, state FROM $.turns WHERE job_key = $1 AND state <> 'ended'",
    jobKey,
  );
  if (turn === undefined) {
    return undefined;
  }
  await db.run("UPDATE $.turns SET state = 'ended' WHERE job_key = $1", jobKey);
  await openDelivery(db, jobKey, now);
  if (turn.state === "queued") {
    await db.run("UPDATE $.conversations SET queued = queued - 1 WHERE conversation_key = $1", turn.conversation_key);
  } else {
    await db.run(`${FREE_LOCK} WHERE conversation_key = $1 AND lock_job_key = $2`, turn.conversation_key, jobKey);
  }
  return turn.conversation_key;
}

/** A turn whose job was given back waits again, before everybody else. @returns false for a job that is no turn */
export async function queueAgain(db: Transaction, jobKey: number): Promise<boolean> {
  const turn = await db.get<{ conversation_key: number }>(
    `UPDATE $.turns SET state = 'queued', ahead = ${STARTED_ONCE}, lock_epoch = NULL
     WHERE job_key = $1 AND state = 'running' RETURNING conversation_key`,
    jobKey,
  );
  if (turn === undefined) {
    return false;
  }
  await db.run(
    `${FREE_LOCK}, queued = queued + 1 WHERE conversation_key = $1 AND lock_job_key = $2`,
    turn.conversation_key,
    jobKey,
  );
  return true;
}

export const FREE_LOCK = `UPDATE $.conversations SET lock_holder = NULL, lock_node = NULL, lock_acquired_at = NULL,
  lock_expires_at = NULL, lock_job_key = NULL`;

interface TurnRow extends ClaimRow {
  conversation_id: string;
  lock_epoch: number;
  job_key: number;
  user_id: string;
  ttl_ms: number;
}

const SELECT_TURN = `SELECT c.conversation_id, c.lock_epoch, t.job_key, t.user_id, t.ttl_ms, ${CLAIM_COLUMNS}
  FROM $.conversations c JOIN $.turns t ON t.conversation_key = c.conversation_key
    JOIN $.jobs j ON j.job_key = t.job_key JOIN $.job_heads h ON h.job_key = t.job_key`;

/**
 * Gives a conversation's free lock to the head of its queue, if the claimer offers that one's agent and is alive: a
 * node may still end a turn after it was declared dead, as long as its burial has not come to that one.
 */
export async function takeHead(
  db: Transaction,
  conversationKey: number,
  claim: TurnClaim,
): Promise<ClaimedTurn | undefined> {
  const head = await db.get<TurnRow>(
    `${SELECT_TURN} WHERE c.conversation_key = $1 AND c.queued > 0 AND c.lock_holder IS NULL AND t.state = 'queued'
     ORDER BY t.ahead DESC, t.turn_key LIMIT 1`,
    conversationKey,
  );
  if (head === undefined || !claim.agents.includes(head.agent) || !(await isAlive(db, claim.nodeId))) {
    return undefined;
  }
  const lockEpoch = head.lock_epoch + 1;
  await lockForTurn(
    db,
    conversationKey,
    { jobKey: head.job_key, jobId: head.job_id, ttlMs: head.ttl_ms, lockEpoch },
    claim,
  );
  await db.run("UPDATE $.conversations SET queued = queued - 1 WHERE conversation_key = $1", conversationKey);
  await db.run("UPDATE $.turns SET state = 'running', lock_epoch = $1 WHERE job_key = $2", lockEpoch, head.job_key);
  await startAgain(db, [head.job_key], claim.nodeId);
  db.touch({ jobId: head.job_id });
  return toClaimed({ ...head, lock_epoch: lockEpoch, run_epoch: head.run_epoch + 1 });
}

/**
 * The turn that was handed over when this job ended, for whoever asks again after an unclear commit: as long as it
 * is that node's, and has not said a word.
 */
export async function handedOver(db: Transaction, jobKey: number, nodeId: string): Promise<ClaimedTurn | undefined> {
  const turn = await db.get<TurnRow>(
    `${SELECT_TURN} JOIN $.turns e ON e.conversation_key = c.conversation_key AND e.job_key = $1
     WHERE c.lock_job_key = t.job_key AND c.lock_epoch = e.lock_epoch + 1 AND h.node_id = $2 AND h.last_n = 0`,
    jobKey,
    nodeId,
  );
  if (turn === undefined) return undefined;
  // Its holder counts from this question, not from the one whose answer was lost.
  await db.run(
    "UPDATE $.conversations SET lock_expires_at = $now + $1 WHERE conversation_id = $2",
    turn.ttl_ms,
    turn.conversation_id,
  );
  return toClaimed(turn);
}

const toClaimed = (row: TurnRow): ClaimedTurn => ({
  ...toClaimedJob(row),
  userId: row.user_id,
  conversationId: row.conversation_id,
  lockEpoch: row.lock_epoch,
  ttlMs: row.ttl_ms,
});

/** The running turn's lock is held by its job, from now on. */
export async function lockForTurn(
  db: Transaction,
  conversationKey: number,
  turn: { jobKey: number; jobId: string; ttlMs: number; lockEpoch: number },
  by: { nodeId: string },
): Promise<void> {
  await db.run(
    `UPDATE $.conversations SET lock_epoch = $1, lock_holder = $2, lock_node = $3, lock_acquired_at = $now,
       lock_expires_at = $now + $4, lock_job_key = $5 WHERE conversation_key = $6`,
    turn.lockEpoch,
    turn.jobId,
    by.nodeId,
    turn.ttlMs,
    turn.jobKey,
    conversationKey,
  );
}

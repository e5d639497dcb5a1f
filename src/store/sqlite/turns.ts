/**
 * The queue of a conversation, and the lock as its turns take it. Every change goes through the conversation's
 * row. Here is what happens within the commits that end a job: its turn ends, its lock is free, and the next turn
 * has it (law 6).
 */
import type { ClaimedTurn, TurnClaim } from "../store.ts";
import { CLAIM_COLUMNS, type ClaimRow, startAgain, toClaimedJob } from "./claims.ts";
import type { Database } from "./database.ts";
import { openDelivery } from "./delivery-rows.ts";

/** Ends the turn of a job, if it is one: its lock is free, or its place in the queue, and its answer is due. */
export function endTurn(db: Database, jobKey: number, now: number): number | undefined {
  const turn = db.get<{ conversation_key: number; state: string }>(
    "SELECT conversation_key, state FROM turns WHERE job_key = ? AND state <> 'ended'",
    jobKey,
  );
  if (turn === undefined) {
    return undefined;
  }
  db.run("UPDATE turns SET state = 'ended' WHERE job_key = ?", jobKey);
  openDelivery(db, jobKey, now);
  if (turn.state === "queued") {
    db.run("UPDATE conversations SET queued = queued - 1 WHERE conversation_key = ?", turn.conversation_key);
  } else {
    db.run(`${FREE_LOCK} WHERE conversation_key = ? AND lock_job_key = ?`, turn.conversation_key, jobKey);
  }
  return turn.conversation_key;
}

/** A turn whose job was given back waits again, before everybody else. @returns false for a job that is no turn */
export function queueAgain(db: Database, jobKey: number): boolean {
  const turn = db.get<{ conversation_key: number }>(
    "SELECT conversation_key FROM turns WHERE job_key = ? AND state = 'running'",
    jobKey,
  );
  if (turn === undefined) {
    return false;
  }
  db.run("UPDATE turns SET state = 'queued', ahead = ?, lock_epoch = NULL WHERE job_key = ?", STARTED_ONCE, jobKey);
  db.run(
    `${FREE_LOCK}, queued = queued + 1 WHERE conversation_key = ? AND lock_job_key = ?`,
    turn.conversation_key,
    jobKey,
  );
  return true;
}

/** In `turns.ahead`: before those that interrupt, which have 1. */
export const STARTED_ONCE = 2;

export const FREE_LOCK = `UPDATE conversations SET lock_holder = NULL, lock_node = NULL, lock_acquired_at = NULL,
  lock_expires_at = NULL, lock_job_key = NULL`;

interface TurnRow extends ClaimRow {
  conversation_id: string;
  lock_epoch: number;
  job_key: number;
  user_id: string;
  ttl_ms: number;
}

const SELECT_TURN = `SELECT c.conversation_id, c.lock_epoch, t.job_key, t.user_id, t.ttl_ms, ${CLAIM_COLUMNS}
  FROM conversations c JOIN turns t ON t.conversation_key = c.conversation_key
    JOIN jobs j ON j.job_key = t.job_key JOIN job_heads h ON h.job_key = t.job_key`;

/**
 * Gives a conversation's free lock to the head of its queue, if the claimer offers that one's agent and is alive: a
 * node may still end a turn after it was declared dead, as long as its burial has not come to that one.
 */
export function takeHead(db: Database, conversationKey: number, claim: TurnClaim): ClaimedTurn | undefined {
  const head = db.get<TurnRow>(
    `${SELECT_TURN} WHERE c.conversation_key = ? AND c.queued > 0 AND c.lock_holder IS NULL AND t.state = 'queued'
     ORDER BY t.ahead DESC, t.turn_key LIMIT 1`,
    conversationKey,
  );
  if (head === undefined || !claim.agents.includes(head.agent) || !isAlive(db, claim.nodeId)) {
    return undefined;
  }
  const lockEpoch = head.lock_epoch + 1;
  lockForTurn(db, conversationKey, { jobKey: head.job_key, jobId: head.job_id, ttlMs: head.ttl_ms, lockEpoch }, claim);
  db.run("UPDATE conversations SET queued = queued - 1 WHERE conversation_key = ?", conversationKey);
  db.run("UPDATE turns SET state = 'running', lock_epoch = ? WHERE job_key = ?", lockEpoch, head.job_key);
  startAgain(db, head.job_key, claim.nodeId);
  db.touch({ jobId: head.job_id });
  return toClaimed({ ...head, lock_epoch: lockEpoch, run_epoch: head.run_epoch + 1 });
}

const isAlive = (db: Database, nodeId: string): boolean =>
  db.get("SELECT 1 FROM nodes WHERE node_id = ? AND state = 'alive'", nodeId) !== undefined;

/**
 * The turn that was handed over when this job ended, for whoever asks again after an unclear commit: as long as it
 * is that node's, and has not said a word.
 */
export function handedOver(
  db: Database,
  jobKey: number,
  { nodeId, now }: { nodeId: string; now: number },
): ClaimedTurn | undefined {
  const turn = db.get<TurnRow>(
    `${SELECT_TURN} JOIN turns e ON e.conversation_key = c.conversation_key AND e.job_key = ?1
     WHERE c.lock_job_key = t.job_key AND c.lock_epoch = e.lock_epoch + 1 AND h.node_id = ?2 AND h.last_n = 0`,
    jobKey,
    nodeId,
  );
  if (turn === undefined) return undefined;
  // Its holder counts from this question, not from the one whose answer was lost.
  db.run("UPDATE conversations SET lock_expires_at = ? WHERE lock_job_key = ?", now + turn.ttl_ms, turn.job_key);
  return toClaimed(turn);
}

const toClaimed = (row: TurnRow): ClaimedTurn => ({
  ...toClaimedJob(row),
  userId: row.user_id,
  conversationId: row.conversation_id,
  lockEpoch: row.lock_epoch,
  ttlMs: row.ttl_ms,
});

/** The running turn's lock is held by its job. */
export function lockForTurn(
  db: Database,
  conversationKey: number,
  turn: { jobKey: number; jobId: string; ttlMs: number; lockEpoch: number },
  by: { nodeId: string; now: number },
): void {
  db.run(
    `UPDATE conversations SET lock_epoch = ?, lock_holder = ?, lock_node = ?, lock_acquired_at = ?,
       lock_expires_at = ?, lock_job_key = ? WHERE conversation_key = ?`,
    turn.lockEpoch,
    turn.jobId,
    by.nodeId,
    by.now,
    by.now + turn.ttlMs,
    turn.jobKey,
    conversationKey,
  );
}

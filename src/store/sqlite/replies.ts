/**
 * Replies that are kept until something proves that they arrived (RES-10), each under the identity of its
 * request, so that a repeat is given the same one (ENV-8). A delegated job's `job.accepted` answers no
 * request: it is kept the same way, under a name of the store's own.
 */
import type { OwedReplies } from "../store.ts";
import type { Database } from "./database.ts";

/** No client's id: those are ids of envelopes, this is of no envelope that a client has sent. */
const CHILD = "holdfast.child ";

/** @param messageId of the request */
export function storeReply(
  db: Database,
  sessionKey: number,
  reply: { messageId: string; eventSeq: number; frame: string | undefined },
): void {
  db.run(
    `INSERT INTO requests (session_key, message_id, ordinal, event_seq, frame, owed)
     VALUES (?1, ?2, (SELECT coalesce(max(ordinal), 0) + 1 FROM requests WHERE session_key = ?1 AND owed = 1),
       ?3, ?4, ?4 IS NOT NULL)`,
    sessionKey,
    reply.messageId,
    reply.eventSeq,
    reply.frame ?? null,
  );
}

/** Keeps what tells of a child whose parent's event has just got its number, `eventSeq` or one before it. */
export function storeChildReply(
  db: Database,
  sessionKey: number,
  child: { jobId: string; eventSeq: number; frame: string },
): void {
  storeReply(db, sessionKey, { messageId: CHILD + child.jobId, eventSeq: child.eventSeq, frame: child.frame });
}

/**
 * A client that knows of event `seq` has had every reply that was stored before it was given. What told of a child
 * is then of no more use, for no request can come again for it.
 */
export function settleReplies(db: Database, sessionKey: number, seq: number): void {
  db.run(
    "DELETE FROM requests WHERE session_key = ? AND owed = 1 AND event_seq < ? AND substr(message_id, 1, ?) = ?",
    sessionKey,
    seq,
    CHILD.length,
    CHILD,
  );
  db.run("UPDATE requests SET owed = 0 WHERE session_key = ? AND owed = 1 AND event_seq < ?", sessionKey, seq);
}

/** What a client that has the events up to `lastEventSeq` is owed. */
export function owedReplies(db: Database, sessionKey: number, lastEventSeq: number): OwedReplies {
  const rows = db.all<{ frame: string }>(
    `SELECT frame FROM requests
     WHERE session_key = ? AND owed = 1 AND NOT (event_seq > ? AND substr(message_id, 1, ?) = ?) ORDER BY ordinal`,
    sessionKey,
    lastEventSeq,
    CHILD.length,
    CHILD,
  );
  const [child] = owedChildren(db, sessionKey, lastEventSeq, Number.MAX_SAFE_INTEGER, 1);
  return { unprovenReplies: rows.map(({ frame }) => frame), owesChildren: child !== undefined };
}

/** What tells of children whose parents' events have these numbers, as far as it is owed. */
export function owedChildren(
  db: Database,
  sessionKey: number,
  afterSeq: number,
  throughSeq: number,
  limit = -1,
): string[] {
  return db
    .all<{ frame: string }>(
      `SELECT frame FROM requests WHERE session_key = ? AND owed = 1 AND event_seq > ? AND event_seq <= ?
         AND substr(message_id, 1, ?) = ? ORDER BY ordinal LIMIT ?`,
      sessionKey,
      afterSeq,
      throughSeq,
      CHILD.length,
      CHILD,
      limit,
    )
    .map(({ frame }) => frame);
}

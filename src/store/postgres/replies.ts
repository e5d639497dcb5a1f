/**
 * Replies that are kept until something proves that they arrived (RES-10), each under the identity of its
 * request, so that a repeat is given the same one (ENV-8). A delegated job's `job.accepted` answers no
 * request: it is kept the same way, under a name of the store's own. The session is locked by whoever writes here.
 */
import type { OwedReplies } from "../store.ts";
import type { Transaction } from "./database.ts";

/** No client's id: those are ids of envelopes, this is of no envelope that a client has sent. */
const CHILD = "holdfast.child ";
const IS_CHILD = `starts_with(message_id, '${CHILD}')`;

/** @param messageId of the request */
export async function storeReply(
  db: Transaction,
  sessionKey: number,
  reply: { messageId: string; eventSeq: number; frame: string | undefined },
): Promise<void> {
  await db.run(
    `INSERT INTO $.requests (session_key, message_id, ordinal, event_seq, frame, owed)
     VALUES ($1, $2, (SELECT coalesce(max(ordinal), 0) + 1 FROM $.requests WHERE session_key = $1 AND owed),
       $3, $4::text, $4::text IS NOT NULL)`,
    sessionKey,
    reply.messageId,
    reply.eventSeq,
    reply.frame ?? null,
  );
}

/** Keeps what tells of a child whose parent's event has just got its number, `eventSeq` or one before it. */
export async function storeChildReply(
  db: Transaction,
  sessionKey: number,
  child: { jobId: string; eventSeq: number; frame: string },
): Promise<void> {
  await storeReply(db, sessionKey, { messageId: CHILD + child.jobId, eventSeq: child.eventSeq, frame: child.frame });
}

/**
 * Two parts of a statement: the replies of session `$key` that an event `$seq` proves. A client that knows of it has
 * had every reply that was stored before it was given. What told of a child is then of no more use, for no request can
 * come again for it.
 */
export const settledReplies = (key: string, seq: string): string => `
  told AS (DELETE FROM $.requests WHERE session_key = ${key} AND owed AND event_seq < ${seq} AND ${IS_CHILD}),
  proven AS (UPDATE $.requests SET owed = FALSE
    WHERE session_key = ${key} AND owed AND event_seq < ${seq} AND NOT ${IS_CHILD})`;

/** What a client that has the events up to `lastEventSeq` is owed. */
export async function owedReplies(db: Transaction, sessionKey: number, lastEventSeq: number): Promise<OwedReplies> {
  const rows = await db.all<{ frame: string }>(
    `SELECT frame FROM $.requests
     WHERE session_key = $1 AND owed AND NOT (event_seq > $2 AND ${IS_CHILD}) ORDER BY ordinal`,
    sessionKey,
    lastEventSeq,
  );
  const [child] = await owedChildren(db, sessionKey, lastEventSeq, Number.MAX_SAFE_INTEGER, 1);
  return { unprovenReplies: rows.map(({ frame }) => frame), owesChildren: child !== undefined };
}

/** What tells of children whose parents' events have these numbers, as far as it is owed. */
export async function owedChildren(
  db: Transaction,
  sessionKey: number,
  afterSeq: number,
  throughSeq: number,
  limit: number | null = null,
): Promise<string[]> {
  const rows = await db.all<{ frame: string }>(
    `SELECT frame FROM $.requests WHERE session_key = $1 AND owed AND event_seq > $2 AND event_seq <= $3
       AND ${IS_CHILD} ORDER BY ordinal LIMIT $4`,
    sessionKey,
    afterSeq,
    throughSeq,
    limit,
  );
  return rows.map(({ frame }) => frame);
}

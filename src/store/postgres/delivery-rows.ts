/**
 * What other commits do to deliveries: those that store a turn, end its job, bury a node, or remove what is old. The
 * row of a delivery is the last that a transaction locks. Places in a conversation are given under the conversation's
 * lock, so a later one is never before an earlier one.
 */
import type { NewDelivery } from "../store.ts";
import type { Transaction } from "./database.ts";

/** The last place in the conversation of the row that is updated, `d`. */
export const NEXT_TURN_NO = `(SELECT coalesce(max(o.turn_no), 0) + 1 FROM $.deliveries o
  WHERE o.conversation_id = d.conversation_id AND o.state IN ('pending', 'sending'))`;

/** Stores a turn's delivery with the turn. */
export async function insertDelivery(
  db: Transaction,
  delivery: NewDelivery,
  of: { jobKey: number; conversationId: string; principal: string; now: number },
): Promise<void> {
  await db.run(
    `INSERT INTO $.deliveries (delivery_id, job_key, conversation_id, principal, channel, route_key, route, state, attempt,
       failures, unclear, parts, created_at, changed_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', 0, 0, FALSE, '[]', $8, $8)`,
    delivery.deliveryId,
    of.jobKey,
    of.conversationId,
    of.principal,
    delivery.channel,
    delivery.routeKey,
    delivery.route,
    of.now,
  );
}

/**
 * In the commit that ends a turn's job: its answer is due, as soon as no call of the streaming is under way. The
 * conversation is locked.
 */
export async function openDelivery(db: Transaction, jobKey: number, now: number): Promise<void> {
  await db.run(
    `UPDATE $.deliveries d SET state = 'pending', turn_no = ${NEXT_TURN_NO},
       due_at = greatest($now, coalesce(d.stream_until, 0)), changed_at = $1 WHERE d.job_key = $2 AND d.state = 'open'`,
    now,
    jobKey,
  );
}

/** The claims of a node that is over end now. */
export async function endClaims(db: Transaction, nodeId: string): Promise<void> {
  await db.run(
    `UPDATE $.deliveries SET due_at = least(due_at, $now) WHERE delivery_key IN (
       SELECT delivery_key FROM $.deliveries WHERE state = 'sending' AND claim_node = $1
       ORDER BY delivery_key FOR UPDATE)`,
    nodeId,
  );
}

/** Whether answers of a conversation are on their way. It is locked. */
export const isDelivering = async (db: Transaction, conversationId: string): Promise<boolean> =>
  (await db.get(
    `SELECT 1 FROM $.deliveries d WHERE d.conversation_id = $1 AND ${ON_ITS_WAY} LIMIT 1`,
    conversationId,
  )) !== undefined;

const ON_ITS_WAY = "d.state IN ('pending', 'sending')";

/** For `job_heads h`: its answer has yet to reach somebody, or be given up. */
export const OWES_ANSWER = `EXISTS (SELECT FROM $.deliveries d WHERE d.job_key = h.job_key
  AND d.state NOT IN ('delivered', 'discarded'))`;

/** For `conversations c`. */
export const OWES_CONVERSATION = `EXISTS (SELECT FROM $.deliveries d
  WHERE d.conversation_id = c.conversation_id AND ${ON_ITS_WAY})`;

/** What other commits do to deliveries: those that store a turn, end its job, bury a node, or remove what is old. */
import type { NewDelivery } from "../store.ts";
import type { Database } from "./database.ts";

/** The last place in the conversation of the row that is updated. */
export const NEXT_TURN_NO = `(SELECT coalesce(max(o.turn_no), 0) + 1 FROM deliveries o
  WHERE o.conversation_id = deliveries.conversation_id AND o.state IN ('pending', 'sending'))`;

/** Stores a turn's delivery with the turn. */
export function insertDelivery(
  db: Database,
  delivery: NewDelivery,
  of: { jobKey: number; conversationId: string; principal: string; now: number },
): void {
  db.run(
    `INSERT INTO deliveries (delivery_id, job_key, conversation_id, principal, channel, route_key, route, state, attempt,
       failures, unclear, parts, created_at, changed_at)
     VALUES (?, ?, ?, ?, ?, ?, ?, 'open', 0, 0, 0, '[]', ?, ?)`,
    delivery.deliveryId,
    of.jobKey,
    of.conversationId,
    of.principal,
    delivery.channel,
    delivery.routeKey,
    delivery.route,
    of.now,
    of.now,
  );
}

/** In the commit that ends a turn's job: its answer is due, as soon as no call of the streaming is under way. */
export function openDelivery(db: Database, jobKey: number, now: number): void {
  db.run(
    `UPDATE deliveries SET state = 'pending', turn_no = ${NEXT_TURN_NO}, due_at = max(?1, coalesce(stream_until, 0)),
       changed_at = ?1 WHERE job_key = ?2 AND state = 'open'`,
    now,
    jobKey,
  );
}

/** The claims of a node that is over end now. */
export function endClaims(db: Database, nodeId: string, now: number): void {
  db.run("UPDATE deliveries SET due_at = ?1 WHERE state = 'sending' AND claim_node = ?2 AND due_at > ?1", now, nodeId);
}

/** Whether answers of a conversation are on their way. */
export const isDelivering = (db: Database, conversationId: string): boolean =>
  db.get(`SELECT 1 FROM deliveries d WHERE d.conversation_id = ? AND ${ON_ITS_WAY} LIMIT 1`, conversationId) !==
  undefined;

const ON_ITS_WAY = "d.state IN ('pending', 'sending')";

/** For `job_heads h`: its answer has yet to reach somebody, or be given up. */
export const OWES_ANSWER = `EXISTS (SELECT 1 FROM deliveries d WHERE d.job_key = h.job_key
  AND d.state NOT IN ('delivered', 'discarded'))`;

/** For `conversations`. */
export const OWES_CONVERSATION = `EXISTS (SELECT 1 FROM deliveries d
  WHERE d.conversation_id = conversations.conversation_id AND ${ON_ITS_WAY})`;

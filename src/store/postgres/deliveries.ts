/**
 * Answers on their way out (store/deliveries.ts). When one is due, and whether a claim is over, is told by the server's
 * clock: of the times that a caller brings only what lies between them counts, and what is shown to people.
 */
import { isFinal, type JobStatus } from "../../protocol/index.ts";
import {
  type DeliveredPart,
  type DeliveryFacet,
  type DeliveryRecord,
  type DeliverySettlement,
  type DeliveryState,
  type DueDelivery,
  StoreRefusal,
} from "../store.ts";
import { lockConversation } from "./conversations.ts";
import type { SqlValue, Transaction } from "./database.ts";
import { NEXT_TURN_NO } from "./delivery-rows.ts";
import type { Engine } from "./engine.ts";
import { deadNode, keepAlive } from "./live-node.ts";

interface DeliveryRow {
  delivery_key: number;
  delivery_id: string;
  job_id: string;
  conversation_id: string;
  principal: string;
  channel: string;
  route_key: string;
  route: string;
  state: DeliveryState;
  due_at: number | null;
  attempt: number;
  failures: number;
  last_error: string | null;
  unclear: boolean;
  parts: string;
  created_at: number;
  changed_at: number;
}

const SELECT = "SELECT d.*, j.job_id FROM $.deliveries d JOIN $.jobs j ON j.job_key = d.job_key";

export function deliveryFacet(engine: Engine): DeliveryFacet {
  return {
    get: (by) =>
      engine.single(async (db) => {
        const row =
          "deliveryId" in by
            ? await find(db, by.deliveryId)
            : await db.get<DeliveryRow>(`${SELECT} WHERE j.job_id = $1`, by.jobId);
        return row && toRecord(row);
      }),
    list: (query) => engine.single((db) => list(db, query)),
    stream: (given) => engine.write((db) => stream(db, given)),
    due: (query) => engine.single((db) => due(db, query)),
    claim: (given) => engine.write((db) => claim(db, given)),
    note: (given) => engine.write((db) => note(db, given)),
    settle: (given) => engine.single((db) => settle(db, given)),
    retry: (deliveryId, now) => engine.write((db) => retry(db, deliveryId, now)),
    discard: (deliveryId, now) => engine.write((db) => discard(db, deliveryId, now)),
  };
}

const find = (db: Transaction, deliveryId: string): Promise<DeliveryRow | undefined> =>
  db.get<DeliveryRow>(`${SELECT} WHERE d.delivery_id = $1`, deliveryId);

async function existing(db: Transaction, deliveryId: string): Promise<DeliveryRow> {
  const row = await find(db, deliveryId);
  if (row === undefined) throw new StoreRefusal("unknown_delivery", `there is no delivery ${deliveryId}`);
  return row;
}

const lock = (db: Transaction, deliveryId: string): Promise<unknown> =>
  db.run("SELECT 1 FROM $.deliveries WHERE delivery_id = $1 FOR UPDATE", deliveryId);

const wrongState = (row: DeliveryRow, why: string): StoreRefusal =>
  new StoreRefusal("wrong_state", `${row.delivery_id} is ${row.state}; ${why}`);

function toRecord(row: DeliveryRow): DeliveryRecord {
  return {
    deliveryId: row.delivery_id,
    channel: row.channel,
    routeKey: row.route_key,
    route: row.route,
    state: row.state,
    conversationId: row.conversation_id,
    jobId: row.job_id,
    principal: row.principal,
    attempt: row.attempt,
    failures: row.failures,
    lastError: row.last_error ?? undefined,
    unclear: row.unclear,
    parts: partsOf(row),
    dueAt: row.due_at ?? undefined,
    createdAt: row.created_at,
    changedAt: row.changed_at,
  };
}

const partsOf = ({ parts }: { parts: string }): DeliveredPart[] => JSON.parse(parts) as DeliveredPart[];

async function list(
  db: Transaction,
  query: Parameters<DeliveryFacet["list"]>[0],
): Promise<{ deliveries: DeliveryRecord[]; nextCursor: string | undefined }> {
  // Only what is asked for stands in the statement, so that each gets a plan of its own.
  const wanted: string[] = [];
  const values: SqlValue[] = [];
  const want = (condition: string, value: SqlValue | undefined) => {
    if (value !== undefined) wanted.push(`${condition} $${values.push(value)}`);
  };
  want("d.principal =", query.principal);
  want("d.state =", query.state);
  want("d.channel =", query.channel);
  want("d.conversation_id =", query.conversationId);
  want("d.delivery_key <", query.cursor === undefined ? undefined : keyOf(query.cursor));
  const rows = await db.all<DeliveryRow>(
    `${SELECT} ${wanted.length === 0 ? "" : `WHERE ${wanted.join(" AND ")}`}
     ORDER BY d.delivery_key DESC LIMIT $${values.push(query.limit + 1)}`,
    ...values,
  );
  const page = rows.slice(0, query.limit);
  const last = page.at(-1);
  return {
    deliveries: page.map(toRecord),
    nextCursor: rows.length > query.limit && last !== undefined ? `d${last.delivery_key.toString(36)}` : undefined,
  };
}

function keyOf(cursor: string): number {
  const key = /^d[0-9a-z]{1,10}$/.test(cursor) ? Number.parseInt(cursor.slice(1), 36) : Number.NaN;
  if (!Number.isSafeInteger(key)) throw new StoreRefusal("bad_cursor", "the cursor is not one of this store's");
  return key;
}

// ---------------------------------------------------------------------------------- while the turn runs

/** Whoever ends the job has made the delivery pending, or waits for its row and sees then what is written here. */
async function stream(db: Transaction, given: Parameters<DeliveryFacet["stream"]>[0]): Promise<boolean> {
  const { deliveryId, runEpoch, until, receipt, unclear, now } = given;
  await lock(db, deliveryId);
  const row = await db.get<{
    delivery_key: number;
    state: DeliveryState;
    attempt: number;
    stream_epoch: number | null;
    run_epoch: number;
    job_state: JobStatus;
    parts: string;
  }>(
    `SELECT d.delivery_key, d.state, d.attempt, d.stream_epoch, d.parts, h.run_epoch, h.state AS job_state
     FROM $.deliveries d JOIN $.job_heads h ON h.job_key = d.job_key WHERE d.delivery_id = $1`,
    deliveryId,
  );
  if (row === undefined) return false;
  const runs = row.state === "open" && row.run_epoch === runEpoch && !isFinal(row.job_state);
  const waits = row.state === "pending" && row.attempt === 0 && row.stream_epoch === runEpoch;
  if (!runs && (until !== undefined || !waits)) return false;
  const parts = receipt === undefined ? partsOf(row) : [{ part: 1, receipt, final: false }];
  await db.run(
    `UPDATE $.deliveries SET stream_epoch = $2, stream_until = $now + $3, parts = $4, unclear = $5,
       due_at = CASE WHEN $6 THEN $now END, changed_at = $7 WHERE delivery_key = $1`,
    row.delivery_key,
    runEpoch,
    until === undefined ? null : until - now,
    JSON.stringify(parts),
    unclear,
    waits,
    now,
  );
  return true;
}

// ----------------------------------------------------------------------------------------- on its way

/** It is due, or its claim is over, and nobody of its conversation goes before it. */
export const MAY_BE_CLAIMED = `d.state IN ('pending', 'sending') AND d.due_at <= (SELECT $now)
  AND NOT EXISTS (SELECT FROM $.deliveries o WHERE o.conversation_id = d.conversation_id
    AND o.state IN ('pending', 'sending') AND o.turn_no < d.turn_no)`;

async function due(
  db: Transaction,
  { channels, after, limit }: Parameters<DeliveryFacet["due"]>[0],
): Promise<DueDelivery[]> {
  const rows = await db.all<{ delivery_id: string; channel: string; route: string; due_at: number }>(
    `SELECT d.delivery_id, d.channel, d.route, d.due_at FROM $.deliveries d
     WHERE ${MAY_BE_CLAIMED} AND d.channel = ANY($1) AND (d.due_at, d.delivery_id) > ($2, $3)
     ORDER BY d.due_at, d.delivery_id LIMIT $4`,
    channels,
    after?.dueAt ?? Number.MIN_SAFE_INTEGER,
    after?.deliveryId ?? "",
    limit,
  );
  return rows.map((row) => ({
    deliveryId: row.delivery_id,
    channel: row.channel,
    route: row.route,
    dueAt: row.due_at,
  }));
}

/**
 * What somebody else is at just now is left to him. Whether it is the first of its conversation is looked at once it is
 * locked: its place is fixed then, and nobody is given one before it.
 */
async function claim(
  db: Transaction,
  { deliveryIds, nodeId, leaseMs, now }: Parameters<DeliveryFacet["claim"]>[0],
): Promise<DeliveryRecord[]> {
  // A burial ends the claims of a node once, and has to find this one.
  if (!(await keepAlive(db, nodeId))) throw deadNode(nodeId);
  const locked = await db.all<{ delivery_key: number }>(
    `SELECT delivery_key FROM $.deliveries WHERE delivery_id = ANY($1) AND state IN ('pending', 'sending')
     ORDER BY delivery_key FOR UPDATE SKIP LOCKED`,
    deliveryIds,
  );
  if (locked.length === 0) return [];
  const rows = await db.all<DeliveryRow>(
    `UPDATE $.deliveries d SET state = 'sending', attempt = d.attempt + 1, claim_node = $2, due_at = $now + $3,
       failures = d.failures + (d.state = 'sending')::int, unclear = d.unclear OR d.state = 'sending',
       last_error = CASE WHEN d.state = 'sending' THEN $4 ELSE d.last_error END, changed_at = $5
     FROM $.jobs j WHERE j.job_key = d.job_key AND d.delivery_key = ANY($1) AND ${MAY_BE_CLAIMED}
     RETURNING d.*, j.job_id`,
    locked.map((row) => row.delivery_key),
    nodeId,
    leaseMs,
    LOST_CLAIM,
    now,
  );
  const records = new Map(rows.map((row) => [row.delivery_id, toRecord(row)]));
  return deliveryIds.flatMap((deliveryId) => records.get(deliveryId) ?? []);
}

const LOST_CLAIM = "the process that sent it stopped in the middle";

async function note(db: Transaction, given: Parameters<DeliveryFacet["note"]>[0]): Promise<boolean> {
  // The claim is still this one's, and nobody else's.
  const row = await db.get<{ delivery_key: number; parts: string }>(
    `SELECT delivery_key, parts FROM $.deliveries WHERE delivery_id = $1 AND attempt = $2 AND state = 'sending'
     FOR UPDATE`,
    given.deliveryId,
    given.attempt,
  );
  if (row === undefined) return false;
  const news = new Map(given.parts.map((part) => [part.part, part]));
  const kept = partsOf(row).filter(({ part }) => !news.has(part));
  const parts = [...kept, ...given.parts].sort((a, b) => a.part - b.part);
  await db.run(
    "UPDATE $.deliveries SET parts = $2, due_at = $now + $3, changed_at = $4 WHERE delivery_key = $1",
    row.delivery_key,
    JSON.stringify(parts),
    given.leaseMs,
    given.now,
  );
  return true;
}

async function settle(db: Transaction, given: Parameters<DeliveryFacet["settle"]>[0]): Promise<boolean> {
  const { deliveryId, attempt, settlement, now } = given;
  const { afterMs, error, unclear, failures } = settled(settlement, now);
  const changed = await db.run(
    `UPDATE $.deliveries SET state = $3, claim_node = NULL, turn_no = CASE WHEN $4 THEN turn_no END, due_at = $now + $5,
       failures = failures + $6, last_error = coalesce($7, last_error), unclear = $8, changed_at = $9
     WHERE delivery_id = $1 AND attempt = $2 AND state = 'sending'`,
    deliveryId,
    attempt,
    settlement.state,
    settlement.state === "pending",
    afterMs,
    failures,
    error,
    unclear,
    now,
  );
  return changed === 1;
}

function settled(settlement: DeliverySettlement, now: number) {
  switch (settlement.state) {
    case "delivered":
      return { afterMs: null, error: null, unclear: false, failures: 0 };
    case "failed":
      return { afterMs: null, error: settlement.error, unclear: settlement.unclear, failures: 1 };
    case "pending":
      return {
        afterMs: settlement.dueAt - now,
        error: settlement.error ?? null,
        unclear: settlement.unclear,
        failures: settlement.failed ? 1 : 0,
      };
  }
}

// ---------------------------------------------------------------------------------------- operators

async function retry(db: Transaction, deliveryId: string, now: number): Promise<DeliveryRecord> {
  // Its new place in the conversation is nobody else's, also where the conversation was deleted.
  await lockConversation(db, (await existing(db, deliveryId)).conversation_id);
  await lock(db, deliveryId);
  const row = await existing(db, deliveryId);
  if (row.state !== "failed") throw wrongState(row, "only a failed one is tried again");
  await db.run(
    `UPDATE $.deliveries d SET state = 'pending', turn_no = ${NEXT_TURN_NO}, due_at = $now, failures = 0, changed_at = $1
     WHERE d.delivery_key = $2`,
    now,
    row.delivery_key,
  );
  return toRecord(await existing(db, deliveryId));
}

async function discard(db: Transaction, deliveryId: string, now: number): Promise<DeliveryRecord> {
  await lock(db, deliveryId);
  const row = await existing(db, deliveryId);
  const discarded = await db.run(
    `UPDATE $.deliveries SET state = 'discarded', claim_node = NULL, turn_no = NULL, due_at = NULL, changed_at = $1
     WHERE delivery_key = $2 AND (state IN ('failed', 'pending') OR (state = 'sending' AND due_at <= $now))`,
    now,
    row.delivery_key,
  );
  if (discarded === 0) throw wrongState(row, "only one that failed or waits is discarded");
  return toRecord(await existing(db, deliveryId));
}

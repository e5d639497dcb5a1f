/** Answers on their way out (store/deliveries.ts). */
import { isFinal } from "../../protocol/index.ts";
import {
  type DeliveredPart,
  type DeliveryFacet,
  type DeliveryRecord,
  type DeliverySettlement,
  type DeliveryState,
  type DueDelivery,
  StoreRefusal,
} from "../store.ts";
import type { Database } from "./database.ts";
import { NEXT_TURN_NO } from "./delivery-rows.ts";
import type { Engine } from "./engine.ts";
import { requireLiveNode } from "./live-node.ts";

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
  turn_no: number | null;
  due_at: number | null;
  attempt: number;
  failures: number;
  last_error: string | null;
  unclear: number;
  parts: string;
  created_at: number;
  changed_at: number;
}

const SELECT = "SELECT d.*, j.job_id FROM deliveries d JOIN jobs j ON j.job_key = d.job_key";

export function deliveryFacet(engine: Engine): DeliveryFacet {
  return {
    get: (by) =>
      engine.read((db) => {
        const row =
          "deliveryId" in by ? find(db, by.deliveryId) : db.get<DeliveryRow>(`${SELECT} WHERE j.job_id = ?`, by.jobId);
        return row && toRecord(row);
      }),
    list: (query) => engine.read((db) => list(db, query)),
    stream: (given) => engine.write((db) => stream(db, given)),
    due: (query) => engine.read((db) => due(db, query)),
    claim: (given) =>
      engine.write(
        (db) => {
          requireLiveNode(db, given.nodeId);
          return given.deliveryIds.flatMap((deliveryId) => claim(db, deliveryId, given));
        },
        { rows: given.deliveryIds.length, bytes: 0 },
      ),
    note: (given) => engine.write((db) => note(db, given)),
    settle: (given) => engine.write((db) => settle(db, given)),
    retry: (deliveryId, now) =>
      engine.write((db) => {
        const row = existing(db, deliveryId);
        if (row.state !== "failed") throw wrongState(row, "only a failed one is tried again");
        db.run(
          `UPDATE deliveries SET state = 'pending', turn_no = ${NEXT_TURN_NO}, due_at = ?1, failures = 0, changed_at = ?1
           WHERE delivery_key = ?2`,
          now,
          row.delivery_key,
        );
        return toRecord(existing(db, deliveryId));
      }),
    discard: (deliveryId, now) =>
      engine.write((db) => {
        const row = existing(db, deliveryId);
        const idle =
          row.state === "failed" ||
          row.state === "pending" ||
          (row.state === "sending" && row.due_at !== null && row.due_at <= now);
        if (!idle) throw wrongState(row, "only one that failed or waits is discarded");
        db.run(
          `UPDATE deliveries SET state = 'discarded', claim_node = NULL, turn_no = NULL, due_at = NULL, changed_at = ?
           WHERE delivery_key = ?`,
          now,
          row.delivery_key,
        );
        return toRecord(existing(db, deliveryId));
      }),
  };
}

const find = (db: Database, deliveryId: string): DeliveryRow | undefined =>
  db.get<DeliveryRow>(`${SELECT} WHERE d.delivery_id = ?`, deliveryId);

function existing(db: Database, deliveryId: string): DeliveryRow {
  const row = find(db, deliveryId);
  if (row === undefined) throw new StoreRefusal("unknown_delivery", `there is no delivery ${deliveryId}`);
  return row;
}

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
    unclear: row.unclear === 1,
    parts: JSON.parse(row.parts) as DeliveredPart[],
    dueAt: row.due_at ?? undefined,
    createdAt: row.created_at,
    changedAt: row.changed_at,
  };
}

function list(
  db: Database,
  query: Parameters<DeliveryFacet["list"]>[0],
): { deliveries: DeliveryRecord[]; nextCursor: string | undefined } {
  const wanted: string[] = [];
  const values: (string | number)[] = [];
  const want = (condition: string, value: string | number | undefined) => {
    if (value === undefined) return;
    wanted.push(condition);
    values.push(value);
  };
  want("d.principal = ?", query.principal);
  want("d.state = ?", query.state);
  want("d.channel = ?", query.channel);
  want("d.conversation_id = ?", query.conversationId);
  want("d.delivery_key < ?", query.cursor === undefined ? undefined : keyOf(query.cursor));
  const rows = db.all<DeliveryRow>(
    `${SELECT} ${wanted.length === 0 ? "" : `WHERE ${wanted.join(" AND ")}`} ORDER BY d.delivery_key DESC LIMIT ?`,
    ...values,
    query.limit + 1,
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

function stream(db: Database, given: Parameters<DeliveryFacet["stream"]>[0]): boolean {
  const { deliveryId, runEpoch, until, receipt, unclear, now } = given;
  const row = db.get<{
    delivery_key: number;
    state: DeliveryState;
    attempt: number;
    stream_epoch: number | null;
    run_epoch: number;
    job_state: Parameters<typeof isFinal>[0];
    parts: string;
  }>(
    `SELECT d.delivery_key, d.state, d.attempt, d.stream_epoch, d.parts, h.run_epoch, h.state AS job_state
     FROM deliveries d JOIN job_heads h ON h.job_key = d.job_key WHERE d.delivery_id = ?`,
    deliveryId,
  );
  if (row === undefined) return false;
  const runs = row.state === "open" && row.run_epoch === runEpoch && !isFinal(row.job_state);
  const waits = row.state === "pending" && row.attempt === 0 && row.stream_epoch === runEpoch;
  if (!runs && (until !== undefined || !waits)) return false;
  const parts: DeliveredPart[] =
    receipt === undefined ? (JSON.parse(row.parts) as DeliveredPart[]) : [{ part: 1, receipt, final: false }];
  db.run(
    `UPDATE deliveries SET stream_epoch = ?, stream_until = ?, parts = ?, unclear = ?, due_at = ?, changed_at = ?
     WHERE delivery_key = ?`,
    runEpoch,
    until ?? null,
    JSON.stringify(parts),
    unclear ? 1 : 0,
    waits ? now : null,
    now,
    row.delivery_key,
  );
  return true;
}

// ----------------------------------------------------------------------------------------- on its way

/** Nobody of its conversation goes before it. */
const IS_FIRST = `NOT EXISTS (SELECT 1 FROM deliveries o WHERE o.conversation_id = d.conversation_id
  AND o.state IN ('pending', 'sending') AND o.turn_no < d.turn_no)`;
const MAY_BE_CLAIMED = `d.state IN ('pending', 'sending') AND d.due_at <= ?1 AND ${IS_FIRST}`;

export const claimableDeliveries = (now: string, channels: string): string =>
  `SELECT 1 FROM deliveries d WHERE ${MAY_BE_CLAIMED.replaceAll("?1", now)}
     AND d.channel IN (SELECT value FROM json_each(${channels}))`;

function due(db: Database, { channels, after, limit, now }: Parameters<DeliveryFacet["due"]>[0]): DueDelivery[] {
  return db
    .all<{ delivery_id: string; channel: string; route: string; due_at: number }>(
      `SELECT d.delivery_id, d.channel, d.route, d.due_at FROM deliveries d
       WHERE ${MAY_BE_CLAIMED} AND d.channel IN (SELECT value FROM json_each(?2)) AND (d.due_at, d.delivery_id) > (?3, ?4)
       ORDER BY d.due_at, d.delivery_id LIMIT ?5`,
      now,
      JSON.stringify(channels),
      after?.dueAt ?? Number.MIN_SAFE_INTEGER,
      after?.deliveryId ?? "",
      limit,
    )
    .map((row) => ({
      deliveryId: row.delivery_id,
      channel: row.channel,
      route: row.route,
      dueAt: row.due_at,
    }));
}

function claim(
  db: Database,
  deliveryId: string,
  { nodeId, leaseMs, now }: { nodeId: string; leaseMs: number; now: number },
): DeliveryRecord[] {
  const row = db.get<DeliveryRow>(`${SELECT} WHERE ${MAY_BE_CLAIMED} AND d.delivery_id = ?2`, now, deliveryId);
  if (row === undefined) return [];
  const given = row.state === "sending" ? LOST_CLAIM : undefined;
  db.run(
    `UPDATE deliveries SET state = 'sending', attempt = attempt + 1, claim_node = ?, due_at = ?, failures = ?, unclear = ?,
       last_error = ?, changed_at = ? WHERE delivery_key = ?`,
    nodeId,
    now + leaseMs,
    row.failures + (given === undefined ? 0 : 1),
    given === undefined ? row.unclear : 1,
    given ?? row.last_error,
    now,
    row.delivery_key,
  );
  const claimed = find(db, deliveryId);
  return claimed === undefined ? [] : [toRecord(claimed)];
}

const LOST_CLAIM = "the process that sent it stopped in the middle";

/** The row of a claim that is still somebody's, and that nobody else has. */
const claimed = (db: Database, { deliveryId, attempt }: { deliveryId: string; attempt: number }) =>
  db.get<{ delivery_key: number; parts: string }>(
    "SELECT delivery_key, parts FROM deliveries WHERE delivery_id = ? AND attempt = ? AND state = 'sending'",
    deliveryId,
    attempt,
  );

function note(db: Database, given: Parameters<DeliveryFacet["note"]>[0]): boolean {
  const row = claimed(db, given);
  if (row === undefined) return false;
  const news = new Map(given.parts.map((part) => [part.part, part]));
  const kept = (JSON.parse(row.parts) as DeliveredPart[]).filter(({ part }) => !news.has(part));
  const parts = [...kept, ...given.parts].sort((a, b) => a.part - b.part);
  db.run(
    "UPDATE deliveries SET parts = ?, due_at = ?, changed_at = ? WHERE delivery_key = ?",
    JSON.stringify(parts),
    given.now + given.leaseMs,
    given.now,
    row.delivery_key,
  );
  return true;
}

function settle(db: Database, given: Parameters<DeliveryFacet["settle"]>[0]): boolean {
  const row = claimed(db, given);
  if (row === undefined) return false;
  const { settlement, now } = given;
  const { dueAt, error, unclear, failures } = settled(settlement);
  db.run(
    `UPDATE deliveries SET state = ?1, claim_node = NULL, turn_no = CASE WHEN ?1 = 'pending' THEN turn_no END, due_at = ?2,
       failures = failures + ?3, last_error = coalesce(?4, last_error), unclear = ?5, changed_at = ?6
     WHERE delivery_key = ?7`,
    settlement.state,
    dueAt,
    failures,
    error,
    unclear,
    now,
    row.delivery_key,
  );
  return true;
}

function settled(settlement: DeliverySettlement) {
  switch (settlement.state) {
    case "delivered":
      return { dueAt: null, error: null, unclear: 0, failures: 0 };
    case "failed":
      return { dueAt: null, error: settlement.error, unclear: settlement.unclear ? 1 : 0, failures: 1 };
    case "pending":
      return {
        dueAt: settlement.dueAt,
        error: settlement.error ?? null,
        unclear: settlement.unclear ? 1 : 0,
        failures: settlement.failed ? 1 : 0,
      };
  }
}

/** Sessions: who may attach, under which epoch, and which numbers were given. */
import { timingSafeEqual } from "node:crypto";
import {
  type AttachedSession,
  type AttachRequest,
  type ConnectionRef,
  type NewNotice,
  type NewSession,
  type SessionFacet,
  type SessionListPage,
  type SessionListQuery,
  type StoredRun,
  StoreRefusal,
} from "../store.ts";
import type { SqlValue, Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { fence, fenceRead, SESSION_COLUMNS, type SessionRow, superseded } from "./fence.ts";
import { openFollows } from "./follows.ts";
import { deadNode, keepAlive } from "./live-node.ts";
import { owedChildren, owedReplies, settledReplies } from "./replies.ts";
import { lockStandings, runWriter } from "./runs.ts";

/** Tokens that stay valid after the one that was presented last (RES-6). */
const NEWEST_TOKENS = 7;
/** So near to a limit, those who count wait for each other. */
const NEAR_LIMIT = 64;

export function sessionFacet(engine: Engine): SessionFacet {
  return {
    create: (session) => engine.write((db) => create(db, session)),
    attach: (request) => engine.writeInOrder(request.sessionId, (db) => attach(db, request)),
    detach: (ref, now) => engine.inOrder(ref.sessionId, () => engine.singleTracked((db) => detach(db, ref, now))),
    list: (query) => engine.single((db) => list(db, query)),
    storeRuns: runWriter(engine),
    storeNotice: (ref, notice) => engine.writeInOrder(ref.sessionId, (db) => storeNotice(db, ref, notice)),
    readRuns: (ref, afterSeq, limit) => engine.single((db) => readRuns(db, ref, afterSeq, limit)),
    readChildren: (ref, afterSeq, throughSeq) =>
      engine.read(async (db) => owedChildren(db, await fenceRead(db, ref), afterSeq, throughSeq)),
    ack: (ref, seq) => engine.inOrder(ref.sessionId, () => engine.singleTracked((db) => ack(db, ref, seq))),
  };
}

async function create(db: Transaction, session: NewSession): Promise<AttachedSession> {
  if (!(await keepAlive(db, session.nodeId))) throw deadNode(session.nodeId);
  await requireRoom(db, session);
  const features = JSON.stringify(session.features);
  await db.run(
    `WITH session AS (
       INSERT INTO $.sessions (session_id, principal, connection_epoch, node_id, resumable_until, resume_window_ms,
         instance, attempt, acks, last_seq, acked_seq, seq_floor)
       VALUES ($1, $2, 1, $3, NULL, $4, $5, $6, $7, 0, 0, 0) RETURNING session_key
     ), client AS (
       INSERT INTO $.session_clients (session_key, client_name, client_version, features, created_at)
       SELECT session_key, $8, $9, $10, $11 FROM session
     )
     INSERT INTO $.session_tokens (session_key, ordinal, hash) SELECT session_key, 1, $12 FROM session`,
    session.sessionId,
    session.principal,
    session.nodeId,
    session.resumeWindowMs,
    session.instance?.instance ?? null,
    session.instance?.attempt ?? null,
    session.features.includes("ack"),
    session.clientName,
    session.clientVersion,
    features,
    session.now,
    session.tokenHash,
  );
  return {
    sessionId: session.sessionId,
    connectionEpoch: 1,
    principal: session.principal,
    clientName: session.clientName,
    features: shared(features),
    lastSeq: 0,
    ackedSeq: 0,
    follows: [],
    unprovenReplies: [],
    owesChildren: false,
  };
}

interface ListedRow extends SessionRow {
  client_name: string;
  client_version: string;
  created_at: number;
  node_id: string | null;
  follows: number;
  undelivered: number;
}

async function list(db: Transaction, query: SessionListQuery): Promise<SessionListPage> {
  // Only what is asked for stands in the statement, so that each gets a plan of its own.
  const values: SqlValue[] = [];
  const given = (value: SqlValue): string => `$${values.push(value)}`;
  const wanted = [`(s.resumable_until IS NULL OR s.resumable_until >= ${given(query.now)})`];
  if (query.principal !== undefined) wanted.push(`s.principal = ${given(query.principal)}`);
  if (query.cursor !== undefined) wanted.push(`s.session_key < ${given(keyOf(query.cursor))}`);
  const rows = await db.all<ListedRow>(
    `SELECT ${SESSION_COLUMNS}, s.node_id, c.client_name, c.client_version, c.created_at, open.follows, open.undelivered
     FROM $.sessions s JOIN $.session_clients c ON c.session_key = s.session_key
       CROSS JOIN LATERAL (
         SELECT count(*) AS follows, coalesce(sum(h.last_n - f.position_n), 0)::bigint AS undelivered
         FROM $.follows f JOIN $.job_heads h ON h.job_key = f.job_key
         WHERE f.session_key = s.session_key AND f.open) AS open
     WHERE ${wanted.join(" AND ")} ORDER BY s.session_key DESC LIMIT ${given(query.limit + 1)}`,
    ...values,
  );
  const page = rows.slice(0, query.limit);
  return {
    sessions: page.map((row) => ({
      sessionId: row.session_id,
      principal: row.principal,
      clientName: row.client_name,
      clientVersion: row.client_version,
      createdAt: row.created_at,
      connectionEpoch: row.connection_epoch,
      nodeId: row.node_id ?? undefined,
      resumableUntil: row.resumable_until ?? undefined,
      lastSeq: row.last_seq,
      ackedSeq: row.acked_seq,
      follows: row.follows,
      undelivered: row.undelivered,
    })),
    nextCursor: rows.length > query.limit ? `s${page.at(-1)?.session_key.toString(36)}` : undefined,
  };
}

/** Keys grow in the order of creation and are never given again. */
function keyOf(cursor: string): number {
  const key = /^s[0-9a-z]{1,10}$/.test(cursor) ? Number.parseInt(cursor.slice(1), 36) : Number.NaN;
  if (!Number.isSafeInteger(key)) throw new StoreRefusal("bad_cursor", "the cursor is not one of this store's");
  return key;
}

async function requireRoom(db: Transaction, session: NewSession): Promise<void> {
  const { principal, maxSessionsPerPrincipal: most } = session;
  const count = async (): Promise<number> => {
    const resumable = await db.get<{ count: number }>(
      `SELECT (SELECT count(*) FROM $.sessions WHERE principal = $1 AND resumable_until IS NULL)
            + (SELECT count(*) FROM $.sessions WHERE principal = $1 AND resumable_until >= $2) AS count`,
      principal,
      session.now,
    );
    return resumable?.count ?? 0;
  };
  if ((await count()) + NEAR_LIMIT < most) return;
  await db.run("SELECT pg_advisory_xact_lock(hashtextextended('holdfast sessions ' || $1, 0))", principal);
  const sessions = await count();
  if (sessions >= most) {
    throw new StoreRefusal("limit_exceeded", `${principal} has ${sessions} sessions; ${most} are allowed`);
  }
}

async function attach(db: Transaction, request: AttachRequest): Promise<AttachedSession> {
  const alive = await keepAlive(db, request.nodeId);
  const session = await db.get<SessionRow & { client_name: string; features: string }>(
    `SELECT ${SESSION_COLUMNS}, c.client_name, c.features
     FROM $.sessions s JOIN $.session_clients c ON c.session_key = s.session_key
     WHERE s.session_id = $1 FOR UPDATE OF s`,
    request.sessionId,
  );
  if (session === undefined) {
    throw new StoreRefusal("unknown_session", `there is no session ${request.sessionId}`);
  }
  const tokens = await db.all<{ ordinal: number; hash: Uint8Array }>(
    "SELECT ordinal, hash FROM $.session_tokens WHERE session_key = $1 ORDER BY ordinal",
    session.session_key,
  );
  const presented = ordinalOf(tokens, request.presentedTokenHash);
  if (presented === undefined) {
    throw new StoreRefusal(
      "unknown_token",
      `the token presented for ${request.sessionId} is not valid, or not any more`,
    );
  }
  // After the token, so that a stranger does not learn which sessions exist.
  if (session.principal !== request.principal) {
    throw new StoreRefusal("other_principal", `${request.sessionId} is not a session of ${request.principal}`);
  }
  if (session.resumable_until !== null && session.resumable_until < request.now) {
    throw new StoreRefusal("window_over", `${request.sessionId} was detached for longer than its resume window`);
  }
  const { instance } = request;
  if (instance !== undefined && instance.instance === session.instance && instance.attempt < (session.attempt ?? 0)) {
    throw new StoreRefusal(
      "stale_attempt",
      `attempt ${instance.attempt} of ${request.sessionId} came after attempt ${session.attempt}`,
    );
  }
  if (request.lastEventSeq > session.last_seq) {
    throw new StoreRefusal(
      "seq_above_newest",
      `event ${request.lastEventSeq} was never given in ${request.sessionId}; the newest is ${session.last_seq}`,
    );
  }
  if (request.lastEventSeq < session.seq_floor) {
    throw new StoreRefusal(
      "below_floor",
      `${request.sessionId} can be resumed from event ${session.seq_floor}, not from ${request.lastEventSeq}`,
    );
  }
  if (!alive) throw deadNode(request.nodeId);

  const key = session.session_key;
  const next = (tokens.at(-1)?.ordinal ?? 0) + 1;
  await db.run(
    `WITH issued AS (INSERT INTO $.session_tokens (session_key, ordinal, hash) VALUES ($1, $2, $3)),
       retired AS (DELETE FROM $.session_tokens
         WHERE session_key = $1 AND (ordinal < $4 OR (ordinal > $4 AND ordinal <= $5))),
       ${settledReplies("$1", "$6")}
     UPDATE $.sessions SET connection_epoch = connection_epoch + 1, node_id = $7, resumable_until = NULL,
       instance = coalesce($8, instance), attempt = coalesce($9, attempt) WHERE session_key = $1`,
    key,
    next,
    request.nextTokenHash,
    presented,
    next - NEWEST_TOKENS,
    Math.max(request.lastEventSeq, session.acked_seq),
    request.nodeId,
    instance?.instance ?? null,
    instance?.attempt ?? null,
  );
  db.touch({ sessionId: request.sessionId });
  return {
    sessionId: request.sessionId,
    connectionEpoch: session.connection_epoch + 1,
    principal: session.principal,
    clientName: session.client_name,
    features: shared(session.features),
    lastSeq: session.last_seq,
    ackedSeq: session.acked_seq,
    follows: await openFollows(db, key),
    ...(await owedReplies(db, key, request.lastEventSeq)),
  };
}

/** The few lists of features that clients come with, each held once for all their sessions. */
const featureLists = new Map<string, string[]>();
const MAX_FEATURE_LISTS = 100;

function shared(json: string): string[] {
  const known = featureLists.get(json);
  if (known !== undefined) return known;
  const features = JSON.parse(json) as string[];
  if (featureLists.size < MAX_FEATURE_LISTS) featureLists.set(json, features);
  return features;
}

/** Compares with every candidate, so that the time taken tells nothing about which one came close. */
function ordinalOf(tokens: { ordinal: number; hash: Uint8Array }[], presented: Uint8Array): number | undefined {
  let found: number | undefined;
  for (const { ordinal, hash } of tokens) {
    if (hash.length === presented.length && timingSafeEqual(hash, presented)) {
      found = ordinal;
    }
  }
  return found;
}

async function detach(db: Transaction, ref: ConnectionRef, now: number): Promise<void> {
  await db.run(
    `UPDATE $.sessions SET node_id = NULL, resumable_until = $1 + resume_window_ms
     WHERE session_id = $2 AND connection_epoch = $3 AND resumable_until IS NULL`,
    now,
    ref.sessionId,
    ref.connectionEpoch,
  );
}

async function storeNotice(db: Transaction, ref: ConnectionRef, notice: NewNotice): Promise<void> {
  const standing = (await lockStandings(db, ref.sessionId, [notice.jobId])).get(notice.jobId);
  const session = await fence(db, ref);
  if (standing?.open !== true || notice.seq !== session.last_seq + 1) {
    throw new StoreRefusal(
      "wrong_number",
      `notice ${notice.seq} of ${ref.sessionId}: the next is ${session.last_seq + 1}`,
    );
  }
  await db.run(
    `WITH run AS (INSERT INTO $.runs (session_key, first_seq, count, job_key, payload) VALUES ($1, $2, 1, $3, $4)),
       follow AS (UPDATE $.follows SET position_n = greatest(position_n, $5), last_seq = $2
         WHERE session_key = $1 AND job_key = $3)
     UPDATE $.sessions SET last_seq = $2 WHERE session_key = $1`,
    session.session_key,
    notice.seq,
    standing.jobKey,
    notice.payload,
    notice.skipToN ?? 0,
  );
}

interface StoredRunRow {
  connection_epoch: number;
  seq_floor: number;
  /** Null, with the rest, where there is no run. */
  first_seq: number | null;
  count: number;
  job_id: string;
  trace_id: string;
  first_n: number | null;
  last_n: number | null;
  payload: string | null;
}

/** Fence, floor and runs in one statement, which is one snapshot. */
async function readRuns(db: Transaction, ref: ConnectionRef, afterSeq: number, limit: number): Promise<StoredRun[]> {
  // The first run may begin at or below `afterSeq`; runs are never empty, so at most one does and matters.
  const rows = await db.all<StoredRunRow>(
    `SELECT s.connection_epoch, s.seq_floor, r.first_seq, r.count, j.job_id, j.trace_id, r.first_n, r.last_n, r.payload
     FROM $.sessions s
       LEFT JOIN LATERAL (
         SELECT * FROM $.runs
         WHERE session_key = s.session_key AND first_seq + count > $2::bigint + 1 AND first_seq >= coalesce(
           (SELECT max(first_seq) FROM $.runs WHERE session_key = s.session_key AND first_seq <= $2::bigint), 0)
         ORDER BY first_seq LIMIT $3) AS r ON TRUE
       LEFT JOIN $.jobs j ON j.job_key = r.job_key
     WHERE s.session_id = $1 ORDER BY r.first_seq`,
    ref.sessionId,
    afterSeq,
    limit,
  );
  const session = rows[0];
  if (session?.connection_epoch !== ref.connectionEpoch) {
    throw superseded(ref, session?.connection_epoch);
  }
  if (afterSeq < session.seq_floor) {
    throw new StoreRefusal(
      "below_floor",
      `numbers of ${ref.sessionId} up to ${session.seq_floor} can no longer be replayed`,
    );
  }
  const runs: StoredRun[] = [];
  for (const row of rows) {
    if (row.first_seq === null) continue;
    runs.push({
      firstSeq: row.first_seq,
      count: row.count,
      jobId: row.job_id,
      traceId: row.trace_id,
      firstN: row.first_n ?? 0,
      lastN: row.last_n ?? 0,
      notice: row.payload ?? undefined,
    });
  }
  return runs;
}

/** One statement. What is told is the session as it was when its lock was had. */
async function ack(db: Transaction, ref: ConnectionRef, seq: number): Promise<boolean> {
  const session = await db.get<Pick<SessionRow, "connection_epoch" | "acked_seq" | "last_seq">>(
    `WITH session AS MATERIALIZED (
       SELECT session_key, connection_epoch, acked_seq, last_seq FROM $.sessions WHERE session_id = $1 FOR UPDATE
     ), moved AS (
       UPDATE $.sessions s SET acked_seq = $3 FROM session
       WHERE s.session_key = session.session_key AND session.connection_epoch = $2
         AND $3 > session.acked_seq AND $3 <= session.last_seq
       RETURNING s.session_key
     ), ${settledReplies("(SELECT session_key FROM moved)", "$3")}
     SELECT connection_epoch, acked_seq, last_seq FROM session`,
    ref.sessionId,
    ref.connectionEpoch,
    seq,
  );
  if (session?.connection_epoch !== ref.connectionEpoch) {
    throw superseded(ref, session?.connection_epoch);
  }
  return seq >= session.acked_seq && seq <= session.last_seq;
}

/**
 * Sessions: who may attach, under which epoch, and which numbers were given. `fence` is the check that
 * every write of a connection starts with (law 3).
 */
import { timingSafeEqual } from "node:crypto";
import {
  type AttachedSession,
  type AttachRequest,
  type ConnectionRef,
  type DelegatedJob,
  type NewNotice,
  type NewRun,
  type NewSession,
  type OpenedChild,
  type SessionFacet,
  type SessionListPage,
  type SessionListQuery,
  type StoredRun,
  StoreRefusal,
} from "../store.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";
import { followChild, openFollows } from "./follows.ts";
import { requireLiveNode } from "./live-node.ts";
import { owedChildren, owedReplies, settleReplies, storeChildReply } from "./replies.ts";

/** Tokens that stay valid after the one that was presented last (RES-6). */
const NEWEST_TOKENS = 7;

interface SessionRow {
  session_key: number;
  session_id: string;
  principal: string;
  client_name: string;
  features: string;
  resume_window_ms: number;
  connection_epoch: number;
  node_id: string | null;
  resumable_until: number | null;
  instance: string | null;
  attempt: number | null;
  last_seq: number;
  acked_seq: number;
  seq_floor: number;
}

const SESSION_COLUMNS = `session_key, session_id, principal, client_name, features, resume_window_ms, connection_epoch,
  node_id, resumable_until, instance, attempt, last_seq, acked_seq, seq_floor`;

/** What a connection's requests need of its session. Each of them looks, and each column costs. */
export type FencedSession = Pick<
  SessionRow,
  "session_key" | "principal" | "connection_epoch" | "last_seq" | "acked_seq" | "seq_floor"
>;

/** The session of the newest connection. @throws StoreRefusal superseded, also for a session that is gone */
export function fence(db: Database, ref: ConnectionRef): FencedSession {
  const session = db.get<FencedSession>(
    "SELECT session_key, principal, connection_epoch, last_seq, acked_seq, seq_floor FROM sessions WHERE session_id = ?",
    ref.sessionId,
  );
  if (session === undefined || session.connection_epoch !== ref.connectionEpoch) {
    throw new StoreRefusal(
      "superseded",
      `connection ${ref.connectionEpoch} of ${ref.sessionId} is not the newest (${session?.connection_epoch ?? "gone"})`,
    );
  }
  return session;
}

export function sessionFacet(engine: Engine): SessionFacet {
  return {
    create: (session) => engine.write((db) => create(db, session)),
    attach: (request) => engine.write((db) => attach(db, request)),
    detach: (ref, now) => engine.write((db) => detach(db, ref, now)),
    storeRuns: (ref, runs, frameChild) =>
      engine.write((db) => storeRuns(db, ref, runs, frameChild), { rows: runs.length * 3 + 1, bytes: 0 }),
    storeNotice: (ref, notice) => engine.write((db) => storeNotice(db, ref, notice), { rows: 3, bytes: 0 }),
    readRuns: (ref, afterSeq, limit) => engine.read((db) => readRuns(db, ref, afterSeq, limit)),
    readChildren: (ref, afterSeq, throughSeq) =>
      engine.read((db) => owedChildren(db, fence(db, ref).session_key, afterSeq, throughSeq)),
    ack: (ref, seq) => engine.write((db) => ack(db, ref, seq)),
    list: (query) => engine.read((db) => list(db, query)),
  };
}

function create(db: Database, session: NewSession): AttachedSession {
  requireLiveNode(db, session.nodeId);
  const resumable = db.get<{ count: number }>(
    `SELECT (SELECT count(*) FROM sessions WHERE principal = ?1 AND resumable_until IS NULL)
          + (SELECT count(*) FROM sessions WHERE principal = ?1 AND resumable_until >= ?2) AS count`,
    session.principal,
    session.now,
  );
  if ((resumable?.count ?? 0) >= session.maxSessionsPerPrincipal) {
    throw new StoreRefusal(
      "limit_exceeded",
      `${session.principal} has ${resumable?.count} sessions; ${session.maxSessionsPerPrincipal} are allowed`,
    );
  }
  const row = db.get<{ session_key: number }>(
    `INSERT INTO sessions (session_id, principal, client_name, client_version, features, resume_window_ms, created_at,
       connection_epoch, node_id, resumable_until, instance, attempt, last_seq, acked_seq, seq_floor)
     VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, NULL, ?, ?, 0, 0, 0) RETURNING session_key`,
    session.sessionId,
    session.principal,
    session.clientName,
    session.clientVersion,
    JSON.stringify(session.features),
    session.resumeWindowMs,
    session.now,
    session.nodeId,
    session.instance?.instance ?? null,
    session.instance?.attempt ?? null,
  );
  db.run(
    "INSERT INTO session_tokens VALUES (?, 1, ?)",
    (row as { session_key: number }).session_key,
    session.tokenHash,
  );
  return {
    sessionId: session.sessionId,
    connectionEpoch: 1,
    principal: session.principal,
    clientName: session.clientName,
    features: shared(JSON.stringify(session.features)),
    lastSeq: 0,
    ackedSeq: 0,
    follows: [],
    unprovenReplies: [],
    owesChildren: false,
  };
}

function attach(db: Database, request: AttachRequest): AttachedSession {
  const session = db.get<SessionRow>(`SELECT ${SESSION_COLUMNS} FROM sessions WHERE session_id = ?`, request.sessionId);
  if (session === undefined) {
    throw new StoreRefusal("unknown_session", `there is no session ${request.sessionId}`);
  }
  const tokens = db.all<{ ordinal: number; hash: Uint8Array }>(
    "SELECT ordinal, hash FROM session_tokens WHERE session_key = ? ORDER BY ordinal",
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
  requireLiveNode(db, request.nodeId);

  const key = session.session_key;
  const next = (tokens.at(-1)?.ordinal ?? 0) + 1;
  db.run("INSERT INTO session_tokens VALUES (?, ?, ?)", key, next, request.nextTokenHash);
  db.run(
    "DELETE FROM session_tokens WHERE session_key = ?1 AND (ordinal < ?2 OR (ordinal > ?2 AND ordinal <= ?3))",
    key,
    presented,
    next - NEWEST_TOKENS,
  );
  db.run(
    `UPDATE sessions SET connection_epoch = connection_epoch + 1, node_id = ?, resumable_until = NULL,
       instance = coalesce(?, instance), attempt = coalesce(?, attempt) WHERE session_key = ?`,
    request.nodeId,
    instance?.instance ?? null,
    instance?.attempt ?? null,
    key,
  );
  db.touch({ sessionId: request.sessionId });
  settleReplies(db, key, Math.max(request.lastEventSeq, session.acked_seq));
  return {
    sessionId: request.sessionId,
    connectionEpoch: session.connection_epoch + 1,
    principal: session.principal,
    clientName: session.client_name,
    features: shared(session.features),
    lastSeq: session.last_seq,
    ackedSeq: session.acked_seq,
    follows: openFollows(db, key),
    ...owedReplies(db, key, request.lastEventSeq),
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

function detach(db: Database, ref: ConnectionRef, now: number): void {
  db.run(
    `UPDATE sessions SET node_id = NULL, resumable_until = ? + resume_window_ms
     WHERE session_id = ? AND connection_epoch = ? AND resumable_until IS NULL`,
    now,
    ref.sessionId,
    ref.connectionEpoch,
  );
}

interface ListedRow extends SessionRow {
  client_version: string;
  created_at: number;
  follows: number;
  undelivered: number | null;
}

function list(db: Database, query: SessionListQuery): SessionListPage {
  const rows = db.all<ListedRow>(
    `SELECT ${SESSION_COLUMNS}, client_version, created_at,
       (SELECT count(*) FROM follows f WHERE f.session_key = s.session_key AND f.open = 1) AS follows,
       (SELECT sum(h.last_n - f.position_n) FROM follows f JOIN job_heads h ON h.job_key = f.job_key
        WHERE f.session_key = s.session_key AND f.open = 1) AS undelivered
     FROM sessions s
     WHERE session_key < ?1 AND (?2 IS NULL OR principal = ?2) AND (resumable_until IS NULL OR resumable_until >= ?3)
     ORDER BY session_key DESC LIMIT ?4`,
    query.cursor === undefined ? Number.MAX_SAFE_INTEGER : keyOf(query.cursor),
    query.principal ?? null,
    query.now,
    query.limit + 1,
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
      undelivered: row.undelivered ?? 0,
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

interface FollowedJob {
  job_key: number;
  position_n: number | null;
  open: number | null;
  last_n: number;
  floor_n: number;
}

/** Where a follow stands while the runs before this one are being checked. */
interface Standing {
  jobKey: number;
  positionN: number;
  lastSeq: number | undefined;
  open: boolean;
  lastN: number;
  floorN: number;
}

function storeRuns(
  db: Database,
  ref: ConnectionRef,
  runs: readonly NewRun[],
  frameChild: (child: DelegatedJob) => string,
): OpenedChild[] {
  const session = fence(db, ref);
  const standings = new Map<string, Standing>();
  let lastSeq = session.last_seq;
  for (const run of runs) {
    const standing = standings.get(run.jobId) ?? standingOf(db, session.session_key, run.jobId);
    const wrong =
      standing === undefined || !standing.open
        ? "the session does not follow the job"
        : wrongNumber(run, lastSeq, standing);
    if (standing !== undefined && run.firstN <= standing.floorN) {
      throw new StoreRefusal("below_floor", `the events of ${run.jobId} up to n = ${standing.floorN} are gone`);
    }
    if (standing === undefined || wrong !== undefined) {
      throw new StoreRefusal("wrong_number", `run ${run.firstSeq}+${run.count} of ${run.jobId}: ${wrong}`);
    }
    lastSeq += run.count;
    standing.positionN = run.lastN;
    standing.lastSeq = run.count > 0 ? lastSeq : standing.lastSeq;
    standing.open = !run.endsFollow;
    standings.set(run.jobId, standing);
  }

  for (const run of runs) {
    // A stretch of which the session sees nothing takes no number, so there is nothing to read back.
    if (run.count > 0) {
      db.run(
        "INSERT INTO runs (session_key, first_seq, count, job_key, first_n, last_n) VALUES (?, ?, ?, ?, ?, ?)",
        session.session_key,
        run.firstSeq,
        run.count,
        (standings.get(run.jobId) as Standing).jobKey,
        run.firstN,
        run.lastN,
      );
    }
  }
  for (const standing of standings.values()) {
    db.run(
      `UPDATE follows SET position_n = ?, last_seq = coalesce(?, last_seq), open = ?
       WHERE session_key = ? AND job_key = ?`,
      standing.positionN,
      standing.lastSeq ?? null,
      standing.open ? 1 : 0,
      session.session_key,
      standing.jobKey,
    );
  }
  if (lastSeq !== session.last_seq) {
    db.run("UPDATE sessions SET last_seq = ? WHERE session_key = ?", lastSeq, session.session_key);
  }

  const opened: OpenedChild[] = [];
  for (const { jobId, delegateIds } of runs) {
    if (delegateIds === undefined) continue;
    for (const child of childrenOf(db, session.session_key, jobId, delegateIds)) {
      const frame = frameChild(child);
      followChild(db, session.session_key, child.jobKey);
      storeChildReply(db, session.session_key, { jobId: child.jobId, eventSeq: lastSeq, frame });
      opened.push({ jobId: child.jobId, traceId: child.traceId, frame });
    }
  }
  return opened;
}

/** Those children of a job that a session gets to know of now: it may cancel their parent, and has none of them yet. */
function childrenOf(
  db: Database,
  sessionKey: number,
  parentJobId: string,
  delegateIds: readonly string[],
): (DelegatedJob & { jobKey: number })[] {
  return db
    .all<{ job_key: number; job_id: string; trace_id: string; accepted_payload: string }>(
      `SELECT c.job_key, c.job_id, c.trace_id, c.accepted_payload
       FROM json_each(?3) wanted CROSS JOIN jobs c ON c.parent_job_id = ?2 AND c.delegate_id = wanted.value
       WHERE EXISTS (SELECT 1 FROM jobs p JOIN follows f ON f.job_key = p.job_key
                     WHERE p.job_id = ?2 AND f.session_key = ?1 AND f.can_cancel = 1)
         AND NOT EXISTS (SELECT 1 FROM follows f
                         WHERE f.session_key = ?1 AND f.job_key = c.job_key AND f.can_cancel = 1)
       GROUP BY c.job_key ORDER BY min(wanted.key)`,
      sessionKey,
      parentJobId,
      JSON.stringify(delegateIds),
    )
    .map((row) => ({
      jobKey: row.job_key,
      jobId: row.job_id,
      traceId: row.trace_id,
      acceptedPayload: row.accepted_payload,
    }));
}

function standingOf(db: Database, sessionKey: number, jobId: string): Standing | undefined {
  const row = db.get<FollowedJob>(
    `SELECT h.job_key, f.position_n, f.open, h.last_n, h.floor_n
     FROM jobs j JOIN job_heads h ON h.job_key = j.job_key
       LEFT JOIN follows f ON f.session_key = ? AND f.job_key = j.job_key
     WHERE j.job_id = ?`,
    sessionKey,
    jobId,
  );
  return row === undefined
    ? undefined
    : {
        jobKey: row.job_key,
        positionN: row.position_n ?? 0,
        lastSeq: undefined,
        open: row.open === 1,
        lastN: row.last_n,
        floorN: row.floor_n,
      };
}

/** What is wrong with a run's numbers; `undefined` when they fit. */
function wrongNumber(run: NewRun, lastSeq: number, standing: Standing): string | undefined {
  if (run.firstSeq !== lastSeq + 1) {
    return `the next number is ${lastSeq + 1}`;
  }
  if (run.firstN <= standing.positionN) {
    return `its events up to n = ${standing.positionN} have their numbers`;
  }
  if (run.lastN > standing.lastN) {
    return `its events above n = ${standing.lastN} are not stored`;
  }
  if (run.lastN < run.firstN || run.count < 0 || run.count > run.lastN - run.firstN + 1) {
    return `it cannot number ${run.count} of the events ${run.firstN} to ${run.lastN}`;
  }
  return undefined;
}

function storeNotice(db: Database, ref: ConnectionRef, notice: NewNotice): void {
  const session = fence(db, ref);
  const standing = standingOf(db, session.session_key, notice.jobId);
  if (standing?.open !== true || notice.seq !== session.last_seq + 1) {
    throw new StoreRefusal(
      "wrong_number",
      `notice ${notice.seq} of ${ref.sessionId}: the next is ${session.last_seq + 1}`,
    );
  }
  db.run(
    "INSERT INTO runs (session_key, first_seq, count, job_key, payload) VALUES (?, ?, 1, ?, ?)",
    session.session_key,
    notice.seq,
    standing.jobKey,
    notice.payload,
  );
  db.run(
    "UPDATE follows SET position_n = max(position_n, ?), last_seq = ? WHERE session_key = ? AND job_key = ?",
    notice.skipToN ?? 0,
    notice.seq,
    session.session_key,
    standing.jobKey,
  );
  db.run("UPDATE sessions SET last_seq = ? WHERE session_key = ?", notice.seq, session.session_key);
}

interface StoredRunRow {
  first_seq: number;
  count: number;
  job_id: string;
  trace_id: string;
  first_n: number | null;
  last_n: number | null;
  payload: string | null;
}

function readRuns(db: Database, ref: ConnectionRef, afterSeq: number, limit: number): StoredRun[] {
  const session = fence(db, ref);
  if (afterSeq < session.seq_floor) {
    throw new StoreRefusal(
      "below_floor",
      `numbers of ${ref.sessionId} up to ${session.seq_floor} can no longer be replayed`,
    );
  }
  // The first run may begin at or below `afterSeq`; runs are never empty, so at most one does and matters.
  return db
    .all<StoredRunRow>(
      `SELECT r.first_seq, r.count, j.job_id, j.trace_id, r.first_n, r.last_n, r.payload
       FROM runs r JOIN jobs j ON j.job_key = r.job_key
       WHERE r.session_key = ?1 AND r.first_seq + r.count > ?2 + 1 AND r.first_seq >= coalesce(
         (SELECT max(first_seq) FROM runs WHERE session_key = ?1 AND first_seq <= ?2), 0)
       ORDER BY r.first_seq LIMIT ?3`,
      session.session_key,
      afterSeq,
      limit,
    )
    .map((row) => ({
      firstSeq: row.first_seq,
      count: row.count,
      jobId: row.job_id,
      traceId: row.trace_id,
      firstN: row.first_n ?? 0,
      lastN: row.last_n ?? 0,
      notice: row.payload ?? undefined,
    }));
}

function ack(db: Database, ref: ConnectionRef, seq: number): boolean {
  const session = fence(db, ref);
  if (seq < session.acked_seq || seq > session.last_seq) {
    return false;
  }
  if (seq > session.acked_seq) {
    db.run("UPDATE sessions SET acked_seq = ? WHERE session_key = ?", seq, session.session_key);
    settleReplies(db, session.session_key, seq);
  }
  return true;
}

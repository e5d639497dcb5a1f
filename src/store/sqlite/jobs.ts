/**
 * Jobs and their logs. Appending is the hot path: one look at the narrow head of the job, one insert
 * per event into one b-tree, one update of the head.
 */
import { type FinalStatus, isFinal, type JobStatus, type Lease } from "../../protocol/index.ts";
import {
  type AppendBatch,
  type AppendResult,
  type CancelWish,
  type ClaimedTurn,
  type EventPage,
  type JobFacet,
  type JobRecord,
  type JobStart,
  type JobStartOutcome,
  type ListEntry,
  type ListPage,
  type ListQuery,
  type NewChild,
  type NewEvent,
  type NewJob,
  type StoredEvent,
  StoreRefusal,
} from "../store.ts";
import { claimJobs } from "./claims.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";
import { heldKey, holdKey } from "./idempotency.ts";
import { requireLiveNode } from "./live-node.ts";
import { endTurn, handedOver, queueAgain, takeHead } from "./turns.ts";

/** Bounds of a page (STO-7). */
const PAGE_EVENTS = 512;
const PAGE_BYTES = 1024 * 1024;
/** Rows that one step of a page reads, whatever they weigh. */
const ROWS_PER_READ = 64;
/** Rows that one statement inserts, where there are so many. */
const ROWS_PER_INSERT = 32;

export interface JobHead {
  job_key: number;
  state: JobStatus;
  run_epoch: number;
  node_id: string;
  last_n: number;
  floor_n: number;
  result_n: number | null;
  trace_id: string;
  session_key: number;
}

/** What every operation on a job starts from. */
export function headOf(db: Database, jobId: string): JobHead | undefined {
  return db.get<JobHead>(
    `SELECT h.job_key, h.state, h.run_epoch, h.node_id, h.last_n, h.floor_n, h.result_n, j.trace_id, j.session_key
     FROM jobs j JOIN job_heads h ON h.job_key = j.job_key WHERE j.job_id = ?`,
    jobId,
  );
}

export const unknownJob = (jobId: string) => new StoreRefusal("unknown_job", `there is no job ${jobId}`);

export function jobFacet(engine: Engine): JobFacet {
  return {
    append: (batches) => Promise.all(batches.map((batch) => appendBatch(engine, batch))),
    read: (jobId, afterN, throughN) => engine.read((db) => read(db, jobId, afterN, throughN)),
    get: (jobId) => engine.read((db) => get(db, jobId)),
    list: (query) => engine.read((db) => list(db, query)),
    spawn: (child) =>
      engine.write((db) => spawn(db, child), { rows: 3, bytes: child.job.input.length + child.acceptedPayload.length }),
    descendants: (jobId) => engine.read((db) => descendants(db, jobId)),
    checkpoint: ({ jobId, runEpoch, value }) =>
      engine.write(
        (db) => {
          const { job_key } = runningHead(db, jobId, runEpoch);
          db.run("INSERT OR REPLACE INTO checkpoints (job_key, value) VALUES (?, ?)", job_key, value);
        },
        { rows: 1, bytes: value.length },
      ),
    giveBack: ({ jobId, runEpoch, payload }) =>
      engine.write((db) => {
        giveBack(db, runningHead(db, jobId, runEpoch), payload);
        db.touch({ jobId });
      }),
    async claim(claim) {
      // A look costs no lock, and mostly there is nothing.
      const waiting = await engine.read((db) => db.get("SELECT 1 FROM job_heads WHERE orphaned = 1 LIMIT 1"));
      return waiting === undefined ? [] : await engine.write((db) => claimJobs(db, claim));
    },
    start: (given) =>
      engine.write((db) => start(db, given), { rows: 3, bytes: given.job.input.length + given.acceptedPayload.length }),
    requestCancel: (wish) => engine.write((db) => requestCancel(db, wish)),
  };
}

/** Whether the principal has as many live jobs as it may (JOB-17). */
export function runsTooMany(db: Database, principal: string, most: number): boolean {
  const live = db.get<{ count: number }>(
    "SELECT count(*) AS count FROM job_heads WHERE principal = ? AND ended_at IS NULL",
    principal,
  );
  return (live?.count ?? 0) >= most;
}

/** Whose a new job is, and what it comes from. */
interface JobOrigin {
  principal: string;
  sessionKey: number;
  nodeId: string;
  /** Where it waits for its turn. @default false */
  pending?: boolean;
  /** Where a job delegated it. */
  delegation?: { parentJobId: string; delegateId: string };
  /** Kept where somebody is to be told later: of a delegated job, and of a turn. */
  acceptedPayload?: string;
  now: number;
}

/** Of jobs that no session submitted: none has this key. */
export const NO_SESSION = 0;

/** @returns its key */
export function insertJob(db: Database, job: NewJob, origin: JobOrigin): number {
  const { job_key: jobKey } = db.get<{ job_key: number }>(
    `INSERT INTO jobs (job_id, principal, session_key, agent, input, lease, lease_expires_at, parent_job_id, trace_id,
       max_runtime_ms, created_at, delegate_id, accepted_payload)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING job_key`,
    job.jobId,
    origin.principal,
    origin.sessionKey,
    job.agent,
    job.input,
    JSON.stringify(job.lease),
    job.leaseExpiresAt ?? null,
    origin.delegation?.parentJobId ?? null,
    job.traceId,
    job.maxRuntimeMs ?? null,
    origin.now,
    origin.delegation?.delegateId ?? null,
    origin.acceptedPayload ?? null,
  ) as { job_key: number };
  db.run(
    `INSERT INTO job_heads (job_key, principal, node_id, state, run_epoch, last_n, floor_n, bytes, cancel_requested,
       cancel_reason, result_n, ended_at, restarts_left)
     VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0, NULL, NULL, NULL, ?)`,
    jobKey,
    origin.principal,
    origin.nodeId,
    origin.pending === true ? "pending" : "running",
    origin.pending === true ? 0 : 1,
    job.restarts ?? 0,
  );
  return jobKey;
}

/** A delegated job: its parent's principal, session and node, and nobody follows it yet. */
function spawn(db: Database, child: NewChild): void {
  const { parentJobId, delegateId, acceptedPayload, now } = child;
  const head = headOf(db, parentJobId);
  if (head === undefined) {
    throw unknownJob(parentJobId);
  }
  requireRunning(head, parentJobId, child.runEpoch);
  const parent = db.get<{ principal: string }>("SELECT principal FROM jobs WHERE job_key = ?", head.job_key);
  const principal = (parent as { principal: string }).principal;
  if (runsTooMany(db, principal, child.maxRunningJobsPerPrincipal)) {
    throw new StoreRefusal("limit_exceeded", `${principal} has ${child.maxRunningJobsPerPrincipal} running jobs`);
  }
  insertJob(db, child.job, {
    principal,
    sessionKey: head.session_key,
    nodeId: head.node_id,
    delegation: { parentJobId, delegateId },
    acceptedPayload,
    now,
  });
}

/** @throws StoreRefusal unknown_job, job_ended, stale_run */
function runningHead(db: Database, jobId: string, runEpoch: number): JobHead {
  const head = headOf(db, jobId);
  if (head === undefined) {
    throw unknownJob(jobId);
  }
  requireRunning(head, jobId, runEpoch);
  return head;
}

/** A job that no session submitted. */
function start(db: Database, given: JobStart): JobStartOutcome {
  const { principal, nodeId, job, idempotency, acceptedPayload, now } = given;
  requireLiveNode(db, nodeId);
  const held = idempotency && heldKey(db, principal, idempotency.key, now);
  if (held !== undefined) {
    return held.digest === idempotency?.fingerprint
      ? { outcome: "repeated", jobId: held.jobId }
      : { outcome: "duplicate_key" };
  }
  if (runsTooMany(db, principal, given.maxRunningJobsPerPrincipal)) return { outcome: "limit_exceeded" };
  const jobKey = insertJob(db, job, { principal, sessionKey: NO_SESSION, nodeId, now });
  if (idempotency !== undefined) {
    const { key, fingerprint: digest, ttlMs } = idempotency;
    holdKey(db, { principal, key, digest, ttlMs, jobKey, acceptedPayload, now });
  }
  return { outcome: "created" };
}

/** @throws StoreRefusal job_ended, stale_run (law 3) */
export function requireRunning(head: JobHead, jobId: string, runEpoch: number): void {
  if (isFinal(head.state)) {
    throw new StoreRefusal("job_ended", `${jobId} has ended (${head.state})`);
  }
  if (head.run_epoch !== runEpoch) {
    throw new StoreRefusal("stale_run", `run ${runEpoch} of ${jobId} is over; the newest is ${head.run_epoch}`);
  }
}

/** Each batch is a write of its own, so that it stands or falls alone; the group commit joins them. */
async function appendBatch(engine: Engine, batch: AppendBatch): Promise<AppendResult> {
  let bytes = 0;
  for (const event of batch.events) {
    bytes += Buffer.byteLength(event.payload);
  }
  try {
    const next = await engine.write((db) => append(db, batch, bytes), { rows: batch.events.length + 1, bytes });
    return next === undefined ? { ok: true } : { ok: true, next };
  } catch (error) {
    if (error instanceof StoreRefusal) {
      return { ok: false, refusal: error };
    }
    throw error;
  }
}

/** @returns the turn that was handed over, where the batch ended one */
function append(db: Database, batch: AppendBatch, bytes: number): ClaimedTurn | undefined {
  const { jobId, events, end } = batch;
  const head = headOf(db, jobId);
  if (head === undefined) {
    throw unknownJob(jobId);
  }
  const first = events[0];
  if (first === undefined) {
    if (end !== undefined) {
      throw new StoreRefusal("wrong_number", `${jobId} cannot end without its terminal event`);
    }
    return undefined;
  }
  if (events.some((event, i) => event.n !== first.n + i)) {
    throw new StoreRefusal("wrong_number", `the events of a batch for ${jobId} are not numbered consecutively`);
  }
  const known = countStored(db, head, batch, first.n);
  if (known === events.length) {
    const { handOver, now } = batch;
    return handOver === undefined ? undefined : handedOver(db, head.job_key, { nodeId: handOver.nodeId, now });
  }
  requireRunning(head, jobId, batch.runEpoch);
  if (first.n + known !== head.last_n + 1) {
    throw new StoreRefusal(
      "wrong_number",
      `event ${first.n} of ${jobId} is neither stored nor the next, ${head.last_n + 1}`,
    );
  }

  let newBytes = bytes;
  for (const event of events.slice(0, known)) {
    newBytes -= Buffer.byteLength(event.payload);
  }
  const fresh = events.slice(known);
  insertEvents(db, head.job_key, batch.runEpoch, fresh);
  const firstChunk = head.result_n === null ? fresh.find((event) => event.kind === "result_chunk") : undefined;
  if (firstChunk !== undefined) {
    db.run("UPDATE job_heads SET result_n = ? WHERE job_key = ?", firstChunk.n, head.job_key);
  }
  db.touch({ jobId });
  const lastN = first.n + events.length - 1;
  if (end === undefined) {
    moveHead(db, head.job_key, lastN, newBytes);
    return undefined;
  }
  const conversationKey = closeHead(db, head.job_key, lastN, newBytes, end, batch.now);
  if (conversationKey === undefined || batch.handOver === undefined) return undefined;
  return takeHead(db, conversationKey, { ...batch.handOver, now: batch.now });
}

/** How many of the batch's first events are stored under the same identity (STO-1). */
function countStored(db: Database, head: JobHead, batch: AppendBatch, firstN: number): number {
  if (firstN > head.last_n) {
    return 0;
  }
  const overlap = Math.min(batch.events.length, head.last_n - firstN + 1);
  const same = db.get<{ count: number }>(
    "SELECT count(*) AS count FROM events WHERE job_key = ? AND n BETWEEN ? AND ? AND run_epoch = ?",
    head.job_key,
    firstN,
    firstN + overlap - 1,
    batch.runEpoch,
  );
  return same?.count === overlap ? overlap : 0;
}

const insertSql = (rows: number): string =>
  `INSERT INTO events (job_key, n, run_epoch, kind, payload) VALUES ${Array(rows).fill("(?, ?, ?, ?, ?)").join(", ")}`;
const INSERT_ONE = insertSql(1);
const INSERT_MANY = insertSql(ROWS_PER_INSERT);

/** Calling a statement costs as much as a row does, so each call takes many rows. */
function insertEvents(db: Database, jobKey: number, runEpoch: number, events: readonly NewEvent[]): void {
  const many = events.length - (events.length % ROWS_PER_INSERT);
  for (let at = 0; at < many; at += ROWS_PER_INSERT) {
    const values: (number | string)[] = [];
    for (let index = at; index < at + ROWS_PER_INSERT; index += 1) {
      const { n, kind, payload } = events[index] as NewEvent;
      values.push(jobKey, n, runEpoch, kind, payload);
    }
    db.run(INSERT_MANY, ...values);
  }
  for (const { n, kind, payload } of events.slice(many)) {
    db.run(INSERT_ONE, jobKey, n, runEpoch, kind, payload);
  }
}

function moveHead(db: Database, jobKey: number, lastN: number, bytes: number): void {
  db.run("UPDATE job_heads SET last_n = ?, bytes = bytes + ? WHERE job_key = ?", lastN, bytes, jobKey);
}

/**
 * Moves the head to the terminal event: the end of a job, of its run's authority and of its turn are one (law 3).
 *
 * @returns the conversation whose turn it was
 */
function closeHead(
  db: Database,
  jobKey: number,
  lastN: number,
  bytes: number,
  status: FinalStatus,
  now: number,
): number | undefined {
  db.run(
    `UPDATE job_heads SET last_n = ?, bytes = bytes + ?, state = ?, ended_at = ?, run_epoch = run_epoch + 1, orphaned = 0
     WHERE job_key = ?`,
    lastN,
    bytes,
    status,
    now,
    jobKey,
  );
  return endTurn(db, jobKey, now);
}

/**
 * Ends a live job from outside. The terminal event is not its run's: under the next epoch it can never be
 * taken for one that the run tries to append under the same n (STO-1).
 */
export function endJob(
  db: Database,
  job: { job_key: number; last_n: number; run_epoch: number },
  end: { kind: string; payload: string; status: FinalStatus; now: number },
): void {
  const terminal = { n: job.last_n + 1, kind: end.kind, payload: end.payload };
  insertEvents(db, job.job_key, job.run_epoch + 1, [terminal]);
  closeHead(db, job.job_key, job.last_n + 1, Buffer.byteLength(end.payload), end.status, end.now);
}

/** Ends a live job's attempt from outside; the job waits for the next. As in {@link endJob}, the event is not its run's. */
export function giveBack(
  db: Database,
  job: { job_key: number; last_n: number; run_epoch: number },
  payload: string,
): void {
  const n = job.last_n + 1;
  insertEvents(db, job.job_key, job.run_epoch + 1, [{ n, kind: "status", payload }]);
  db.run(
    `UPDATE job_heads SET last_n = ?, bytes = bytes + ?, state = 'pending', node_id = '', run_epoch = run_epoch + 1,
       attempt = attempt + 1, orphaned = ? WHERE job_key = ?`,
    n,
    Buffer.byteLength(payload),
    queueAgain(db, job.job_key) ? 0 : 1,
    job.job_key,
  );
}

const descendants = (db: Database, jobId: string): string[] =>
  db
    .all<{ job_id: string }>(
      `WITH RECURSIVE tree(job_id) AS (
         SELECT job_id FROM jobs WHERE parent_job_id = ?
         UNION ALL SELECT j.job_id FROM jobs j JOIN tree ON j.parent_job_id = tree.job_id)
       SELECT job_id FROM tree`,
      jobId,
    )
    .map((row) => row.job_id);

/** A wish that a job ends. */
interface EndWish {
  jobId: string;
  reason: string | undefined;
  cancelledPayload: string;
  now: number;
}

function requestCancel(db: Database, wish: EndWish): CancelWish {
  const head = headOf(db, wish.jobId);
  if (head === undefined) {
    throw unknownJob(wish.jobId);
  }
  return wishEnd(db, head, wish);
}

/** Stores that a job is to be cancelled, for the node that runs it; one that waits for its turn just ends. */
export function wishEnd(db: Database, head: JobHead, wish: EndWish): CancelWish {
  const { jobId, reason } = wish;
  if (isFinal(head.state)) {
    return { outcome: "already_ended", status: head.state };
  }
  if (head.state === "pending") {
    const { cancelledPayload: payload, now } = wish;
    endJob(db, head, { kind: "job.error", payload, status: "cancelled", now });
    db.touch({ jobId });
    return { outcome: "ended" };
  }
  // Of several wishes the first one's reason counts.
  db.run(
    "UPDATE job_heads SET cancel_requested = 1, cancel_reason = ? WHERE job_key = ? AND cancel_requested = 0",
    reason ?? null,
    head.job_key,
  );
  db.touch({ jobId });
  return { outcome: "requested", nodeId: head.node_id };
}

/** n, runEpoch, kind, payload. */
type EventRow = [number, number, string, string];

function read(db: Database, jobId: string, afterN: number, throughN?: number): EventPage {
  const head = headOf(db, jobId);
  if (head === undefined) {
    throw unknownJob(jobId);
  }
  if (afterN < head.floor_n) {
    throw new StoreRefusal(
      "below_floor",
      `events of ${jobId} up to n = ${head.floor_n} are gone; ${afterN + 1} was asked for`,
    );
  }
  const events: StoredEvent[] = [];
  const lastN = Math.min(throughN ?? head.last_n, head.last_n);
  let bytes = 0;
  let rows: EventRow[];
  // All rows of a step at once: with a cursor each row costs half as much again.
  do {
    rows = db.columns<EventRow>(
      "SELECT n, run_epoch, kind, payload FROM events WHERE job_key = ? AND n > ? AND n <= ? ORDER BY n LIMIT ?",
      head.job_key,
      events.at(-1)?.n ?? afterN,
      lastN,
      ROWS_PER_READ,
    );
    for (const [n, runEpoch, kind, payload] of rows) {
      bytes += Buffer.byteLength(payload);
      if (bytes > PAGE_BYTES && events.length > 0) {
        return { events };
      }
      events.push({ n, runEpoch, kind, payload });
    }
  } while (rows.length === ROWS_PER_READ && events.length < PAGE_EVENTS);
  return { events };
}

interface JobRow {
  job_key: number;
  job_id: string;
  principal: string;
  /** Null once the session is removed. */
  session_id: string | null;
  agent: string;
  lease: string;
  lease_expires_at: number | null;
  parent_job_id: string | null;
  trace_id: string;
  created_at: number;
  state: JobStatus;
  run_epoch: number;
  node_id: string;
  ended_at: number | null;
  last_n: number;
  floor_n: number;
  cancel_requested: number;
}

const JOB_COLUMNS = `j.job_key, j.job_id, j.principal, s.session_id, j.agent, j.lease, j.lease_expires_at,
  j.parent_job_id, j.trace_id, j.created_at, h.state, h.run_epoch, h.node_id, h.ended_at, h.last_n, h.floor_n,
  h.cancel_requested`;

const JOB_TABLES = `jobs j JOIN job_heads h ON h.job_key = j.job_key
  LEFT JOIN sessions s ON s.session_key = j.session_key`;

function toRecord(row: JobRow): JobRecord {
  return {
    jobId: row.job_id,
    principal: row.principal,
    sessionId: row.session_id ?? undefined,
    agent: row.agent,
    lease: JSON.parse(row.lease) as Lease,
    leaseExpiresAt: row.lease_expires_at ?? undefined,
    parentJobId: row.parent_job_id ?? undefined,
    traceId: row.trace_id,
    status: row.state,
    runEpoch: row.run_epoch,
    nodeId: row.node_id,
    createdAt: row.created_at,
    endedAt: row.ended_at ?? undefined,
    lastN: row.last_n,
    floorN: row.floor_n,
    cancelRequested: row.cancel_requested === 1,
  };
}

function get(db: Database, jobId: string): JobRecord | undefined {
  const row = db.get<JobRow>(`SELECT ${JOB_COLUMNS} FROM ${JOB_TABLES} WHERE j.job_id = ?`, jobId);
  return row === undefined ? undefined : toRecord(row);
}

function list(db: Database, query: ListQuery): ListPage {
  const below = query.cursor === undefined ? Number.MAX_SAFE_INTEGER : keyOf(query.cursor);
  // Live jobs have an index of their own, for a principal with a long past asks for them most of all.
  const liveOnly = query.status !== undefined && !query.status.some(isFinal);
  const table = liveOnly ? "h" : "j";
  const owner = query.principal === undefined ? "?1 IS NULL" : `${table}.principal = ?1`;
  const rows = db.all<JobRow & { last_event_seq: number | null }>(
    `SELECT ${JOB_COLUMNS},
       (SELECT last_seq FROM follows f WHERE f.session_key = j.session_key AND f.job_key = j.job_key) AS last_event_seq
     FROM ${JOB_TABLES}
     WHERE ${owner} AND ${table}.job_key < ?2 ${liveOnly ? "AND h.ended_at IS NULL" : ""}
       AND (?3 IS NULL OR h.state IN (SELECT value FROM json_each(?3)))
       AND (?4 IS NULL OR j.agent = ?4 OR substr(j.agent, 1, length(?4) + 1) = ?4 || '@')
       AND (?5 IS NULL OR j.created_at > ?5)
       AND (?6 IS NULL OR j.created_at < ?6)
     ORDER BY ${table}.job_key DESC LIMIT ?7`,
    query.principal ?? null,
    below,
    query.status === undefined ? null : JSON.stringify(query.status),
    query.agent ?? null,
    query.createdAfter ?? null,
    query.createdBefore ?? null,
    query.limit + 1,
  );
  const jobs = rows
    .slice(0, query.limit)
    .map(
      (row): ListEntry => ({ ...toRecord(row), lastEventSeq: row.last_event_seq ?? 0, cursor: cursorOf(row.job_key) }),
    );
  return { jobs, nextCursor: rows.length > query.limit ? jobs.at(-1)?.cursor : undefined };
}

/** Keys grow in the order of submission and are never given again, so a cursor does not need its job. */
const cursorOf = (jobKey: number): string => `c${jobKey.toString(36)}`;

function keyOf(cursor: string): number {
  const key = /^c[0-9a-z]{1,10}$/.test(cursor) ? Number.parseInt(cursor.slice(1), 36) : Number.NaN;
  if (!Number.isSafeInteger(key)) throw new StoreRefusal("bad_cursor", "the cursor is not one of this store's");
  return key;
}

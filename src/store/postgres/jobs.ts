/**
 * Jobs and their logs. Appending is the hot path and has a file of its own (appender.ts); here is what decides about
 * an append that is not just the next one, and everything else.
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
import type { SqlValue, Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { heldKey, holdKey } from "./idempotency.ts";
import { requireLiveNode } from "./live-node.ts";
import { endTurn, handedOver, queueAgain, takeHead } from "./turns.ts";

/** Bounds of a page (STO-7). */
const PAGE_EVENTS = 512;
const PAGE_BYTES = 1024 * 1024;
/** So near to a limit, those who count wait for each other. More than all nodes together begin at once. */
const NEAR_LIMIT = 64;

export interface JobHead {
  job_key: number;
  job_id: string;
  state: JobStatus;
  run_epoch: number;
  node_id: string;
  last_n: number;
  floor_n: number;
  result_n: number | null;
  restarts_left: number;
  cancel_requested: boolean;
  trace_id: string;
  session_key: number;
}

const SELECT_HEADS = `SELECT h.job_key, j.job_id, h.state, h.run_epoch, h.node_id, h.last_n, h.floor_n, h.result_n,
    h.restarts_left, h.cancel_requested, j.trace_id, j.session_key
  FROM $.jobs j JOIN $.job_heads h ON h.job_key = j.job_key WHERE j.job_id = ANY($1)`;

/** As it is at this moment. */
export async function headOf(db: Transaction, jobId: string): Promise<JobHead | undefined> {
  return await db.get<JobHead>(SELECT_HEADS, [jobId]);
}

/**
 * Locked, as everything needs it that changes a job or builds on its state. Whoever may end a job uses
 * {@link lockToEnd} instead, unless it holds the lock of the job's conversation.
 */
export async function lockHead(db: Transaction, jobId: string): Promise<JobHead | undefined> {
  return (await lockHeads(db, [jobId])).get(jobId);
}

/** Locks the conversations whose turns these jobs are, then the jobs, in the engine's order. */
export async function lockToEnd(db: Transaction, jobIds: readonly string[]): Promise<Map<string, JobHead>> {
  await db.run(
    `SELECT 1 FROM $.conversations WHERE conversation_key IN (
       SELECT t.conversation_key FROM $.jobs j JOIN $.turns t ON t.job_key = j.job_key WHERE j.job_id = ANY($1))
     ORDER BY conversation_key FOR UPDATE`,
    jobIds,
  );
  return await lockHeads(db, jobIds);
}

async function lockHeads(db: Transaction, jobIds: readonly string[]): Promise<Map<string, JobHead>> {
  const heads = await db.all<JobHead>(`${SELECT_HEADS} ORDER BY h.job_key FOR UPDATE OF h`, jobIds);
  return new Map(heads.map((head) => [head.job_id, head]));
}

/** Keeps a job from being removed, while its log may grow. */
export async function keepJob(db: Transaction, jobId: string): Promise<JobHead | undefined> {
  return await db.get<JobHead>(`${SELECT_HEADS} FOR KEY SHARE OF h`, [jobId]);
}

export const unknownJob = (jobId: string) => new StoreRefusal("unknown_job", `there is no job ${jobId}`);

/** @param append the group commit of appends */
export function jobFacet(engine: Engine, append: (batch: AppendBatch) => Promise<AppendResult>): JobFacet {
  return {
    append: (batches) => Promise.all(batches.map(append)),
    read: (jobId, afterN, throughN) => engine.single((db) => read(db, jobId, afterN, throughN)),
    get: (jobId) => engine.single((db) => get(db, jobId)),
    list: (query) => engine.single((db) => list(db, query)),
    spawn: (child) => engine.write((db) => spawn(db, child)),
    start: (given) =>
      given.idempotency === undefined
        ? engine.write((db) => start(db, given))
        : engine.writeInOrder(`key ${given.principal} ${given.idempotency.key}`, (db) => start(db, given)),
    descendants: (jobId) => engine.single((db) => descendants(db, jobId)),
    checkpoint: ({ jobId, runEpoch, value }) =>
      engine.write(async (db) => {
        const { job_key } = running(await lockHead(db, jobId), jobId, runEpoch);
        await db.run(
          `INSERT INTO $.checkpoints (job_key, value) VALUES ($1, $2)
           ON CONFLICT (job_key) DO UPDATE SET value = excluded.value`,
          job_key,
          value,
        );
      }),
    giveBack: ({ jobId, runEpoch, payload }) =>
      engine.write(async (db) => {
        const head = running((await lockToEnd(db, [jobId])).get(jobId), jobId, runEpoch);
        await giveBack(db, head, { payload, restarts: head.restarts_left });
        db.touch({ jobId });
      }),
    claim: (claim) => claimJobs(engine, claim),
    requestCancel: (wish) => engine.write((db) => requestCancel(db, wish)),
  };
}

const COUNT_LIVE = "SELECT count(*) AS count FROM $.job_heads WHERE principal = $1 AND ended_at IS NULL";

/** Whether the principal has as many live jobs as it may (JOB-17). The last lock that a transaction takes. */
export async function runsTooMany(db: Transaction, principal: string, most: number): Promise<boolean> {
  const count = async () => (await db.get<{ count: number }>(COUNT_LIVE, principal))?.count ?? 0;
  if ((await count()) + NEAR_LIMIT < most) return false;
  await db.run("SELECT pg_advisory_xact_lock(hashtextextended('holdfast jobs ' || $1, 0))", principal);
  return (await count()) >= most;
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

/** @returns its key */
export async function insertJob(db: Transaction, job: NewJob, origin: JobOrigin): Promise<number> {
  const pending = origin.pending === true;
  const row = await db.get<{ job_key: number }>(
    `WITH job AS (
       INSERT INTO $.jobs (job_id, principal, session_key, agent, input, lease, lease_expires_at, parent_job_id,
         trace_id, max_runtime_ms, created_at, delegate_id, accepted_payload)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING job_key
     )
     INSERT INTO $.job_heads (job_key, principal, node_id, state, run_epoch, last_n, floor_n, bytes, cancel_requested,
       restarts_left)
     SELECT job_key, $2, $14, $15, $16, 0, 0, 0, FALSE, $17 FROM job RETURNING job_key`,
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
    origin.nodeId,
    pending ? "pending" : "running",
    pending ? 0 : 1,
    job.restarts ?? 0,
  );
  return (row as { job_key: number }).job_key;
}

/** Of jobs that no session submitted: none has this key. */
export const NO_SESSION = 0;

/** A job that no session submitted. */
async function start(db: Transaction, given: JobStart): Promise<JobStartOutcome> {
  const { principal, nodeId, job, idempotency, acceptedPayload, now } = given;
  await requireLiveNode(db, nodeId);
  const held = idempotency && (await heldKey(db, principal, idempotency.key, now));
  if (held !== undefined) {
    return held.digest === idempotency?.fingerprint
      ? { outcome: "repeated", jobId: held.jobId }
      : { outcome: "duplicate_key" };
  }
  if (await runsTooMany(db, principal, given.maxRunningJobsPerPrincipal)) return { outcome: "limit_exceeded" };
  const jobKey = await insertJob(db, job, { principal, sessionKey: NO_SESSION, nodeId, now });
  if (idempotency !== undefined) {
    const { key, fingerprint: digest, ttlMs } = idempotency;
    await holdKey(db, { principal, key, digest, ttlMs, jobKey, acceptedPayload, now });
  }
  return { outcome: "created" };
}

/** A delegated job: its parent's principal, session and node, and nobody follows it yet. */
async function spawn(db: Transaction, child: NewChild): Promise<void> {
  const { parentJobId, delegateId, acceptedPayload, now } = child;
  const head = running(await lockHead(db, parentJobId), parentJobId, child.runEpoch);
  const parent = await db.get<{ principal: string }>("SELECT principal FROM $.jobs WHERE job_key = $1", head.job_key);
  const principal = (parent as { principal: string }).principal;
  if (await runsTooMany(db, principal, child.maxRunningJobsPerPrincipal)) {
    throw new StoreRefusal("limit_exceeded", `${principal} has ${child.maxRunningJobsPerPrincipal} running jobs`);
  }
  await insertJob(db, child.job, {
    principal,
    sessionKey: head.session_key,
    nodeId: head.node_id,
    delegation: { parentJobId, delegateId },
    acceptedPayload,
    now,
  });
}

/** @throws StoreRefusal unknown_job, job_ended, stale_run */
function running(head: JobHead | undefined, jobId: string, runEpoch: number): JobHead {
  if (head === undefined) {
    throw unknownJob(jobId);
  }
  requireRunning(head, jobId, runEpoch);
  return head;
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

/** One batch, whatever it is. @returns the turn that was handed over, where the batch ended one */
export async function append(db: Transaction, batch: AppendBatch): Promise<ClaimedTurn | undefined> {
  const { jobId, events, end } = batch;
  const head = end === undefined ? await lockHead(db, jobId) : (await lockToEnd(db, [jobId])).get(jobId);
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
  if (!isConsecutive(events)) {
    throw new StoreRefusal("wrong_number", `the events of a batch for ${jobId} are not numbered consecutively`);
  }
  const known = await countStored(db, head, batch, first.n);
  if (known === events.length) {
    return end === undefined || batch.handOver === undefined
      ? undefined
      : await handedOver(db, head.job_key, batch.handOver.nodeId);
  }
  requireRunning(head, jobId, batch.runEpoch);
  if (first.n + known !== head.last_n + 1) {
    throw new StoreRefusal(
      "wrong_number",
      `event ${first.n} of ${jobId} is neither stored nor the next, ${head.last_n + 1}`,
    );
  }

  const fresh = events.slice(known);
  await insertEvents(db, head.job_key, batch.runEpoch, fresh);
  const moved = {
    lastN: first.n + events.length - 1,
    bytes: fresh.reduce((bytes, event) => bytes + Buffer.byteLength(event.payload), 0),
    resultN: firstChunk(fresh),
  };
  db.touch({ jobId });
  if (end === undefined) {
    await db.run(
      `UPDATE $.job_heads SET last_n = $2, bytes = bytes + $3, result_n = coalesce(result_n, $4) WHERE job_key = $1`,
      head.job_key,
      moved.lastN,
      moved.bytes,
      moved.resultN,
    );
    return undefined;
  }
  const conversationKey = await closeHead(db, head.job_key, moved, end, batch.now);
  if (conversationKey === undefined || batch.handOver === undefined) return undefined;
  return await takeHead(db, conversationKey, { ...batch.handOver, now: batch.now });
}

export const isConsecutive = (events: readonly NewEvent[]): boolean =>
  events.every((event, i) => event.n === (events[0] as NewEvent).n + i);

/** The n of the first chunk of a result among these. */
export const firstChunk = (events: readonly NewEvent[]): number | null =>
  events.find((event) => event.kind === "result_chunk")?.n ?? null;

/** How many of the batch's first events are stored under the same identity (STO-1). */
async function countStored(db: Transaction, head: JobHead, batch: AppendBatch, firstN: number): Promise<number> {
  if (firstN > head.last_n) {
    return 0;
  }
  const overlap = Math.min(batch.events.length, head.last_n - firstN + 1);
  const same = await db.get<{ count: number }>(
    "SELECT count(*) AS count FROM $.events WHERE job_key = $1 AND n BETWEEN $2 AND $3 AND run_epoch = $4",
    head.job_key,
    firstN,
    firstN + overlap - 1,
    batch.runEpoch,
  );
  return same?.count === overlap ? overlap : 0;
}

async function insertEvents(
  db: Transaction,
  jobKey: number,
  runEpoch: number,
  events: readonly NewEvent[],
): Promise<void> {
  await db.run(
    `INSERT INTO $.events (job_key, n, run_epoch, kind, payload)
     SELECT $1, n, $2, kind, payload FROM unnest($3::bigint[], $4::text[], $5::text[]) AS given(n, kind, payload)`,
    jobKey,
    runEpoch,
    events.map((event) => event.n),
    events.map((event) => event.kind),
    events.map((event) => event.payload),
  );
}

/**
 * Moves the head to the terminal event: the end of a job, of its run's authority and of its turn are one (law 3).
 *
 * @returns the conversation whose turn it was
 */
async function closeHead(
  db: Transaction,
  jobKey: number,
  moved: { lastN: number; bytes: number; resultN: number | null },
  status: FinalStatus,
  now: number,
): Promise<number | undefined> {
  await db.run(
    `UPDATE $.job_heads SET last_n = $2, bytes = bytes + $3, result_n = coalesce(result_n, $4), state = $5,
       ended_at = $6, run_epoch = run_epoch + 1, orphaned = FALSE WHERE job_key = $1`,
    jobKey,
    moved.lastN,
    moved.bytes,
    moved.resultN,
    status,
    now,
  );
  return await endTurn(db, jobKey, now);
}

/**
 * Ends a live job from outside; it, and its conversation where it is a turn, are locked. The terminal event is not its
 * run's: under the next epoch it can never be taken for one that the run tries to append under the same n (STO-1).
 */
export async function endJob(
  db: Transaction,
  job: { job_key: number; last_n: number; run_epoch: number },
  end: { kind: string; payload: string; status: FinalStatus; now: number },
): Promise<void> {
  const terminal = { n: job.last_n + 1, kind: end.kind, payload: end.payload };
  await insertEvents(db, job.job_key, job.run_epoch + 1, [terminal]);
  const moved = { lastN: terminal.n, bytes: Buffer.byteLength(end.payload), resultN: null };
  await closeHead(db, job.job_key, moved, end.status, end.now);
}

/**
 * Ends a live job's attempt from outside; the job waits for the next, and may be lost `restarts` times more. What is
 * locked, and the event's epoch, are as in {@link endJob}.
 */
export async function giveBack(
  db: Transaction,
  job: { job_key: number; last_n: number; run_epoch: number },
  given: { payload: string; restarts: number },
): Promise<void> {
  const n = job.last_n + 1;
  await insertEvents(db, job.job_key, job.run_epoch + 1, [{ n, kind: "status", payload: given.payload }]);
  const isTurn = await queueAgain(db, job.job_key);
  await db.run(
    `UPDATE $.job_heads SET last_n = $2, bytes = bytes + $3, state = 'pending', node_id = '', run_epoch = run_epoch + 1,
       attempt = attempt + 1, restarts_left = $4, orphaned = $5 WHERE job_key = $1`,
    job.job_key,
    n,
    Buffer.byteLength(given.payload),
    given.restarts,
    !isTurn,
  );
}

async function descendants(db: Transaction, jobId: string): Promise<string[]> {
  const rows = await db.all<{ job_id: string }>(
    `WITH RECURSIVE tree (job_id) AS (
       SELECT job_id FROM $.jobs WHERE parent_job_id = $1
       UNION ALL SELECT j.job_id FROM $.jobs j JOIN tree ON j.parent_job_id = tree.job_id)
     SELECT job_id FROM tree`,
    jobId,
  );
  return rows.map((row) => row.job_id);
}

/** A wish that a job ends. */
interface EndWish {
  jobId: string;
  reason: string | undefined;
  cancelledPayload: string;
  now: number;
}

async function requestCancel(db: Transaction, wish: EndWish): Promise<CancelWish> {
  const head = (await lockToEnd(db, [wish.jobId])).get(wish.jobId);
  if (head === undefined) {
    throw unknownJob(wish.jobId);
  }
  return await wishEnd(db, head, wish);
}

/**
 * Stores that a job is to be cancelled, for the node that runs it; one that waits for its turn just ends. The job, and
 * its conversation where it is a turn, are locked.
 */
export async function wishEnd(db: Transaction, head: JobHead, wish: EndWish): Promise<CancelWish> {
  const { jobId, reason } = wish;
  if (isFinal(head.state)) {
    return { outcome: "already_ended", status: head.state };
  }
  if (head.state === "pending") {
    const { cancelledPayload: payload, now } = wish;
    await endJob(db, head, { kind: "job.error", payload, status: "cancelled", now });
    db.touch({ jobId });
    return { outcome: "ended" };
  }
  // Of several wishes the first one's reason counts.
  await db.run(
    "UPDATE $.job_heads SET cancel_requested = TRUE, cancel_reason = $2 WHERE job_key = $1 AND NOT cancel_requested",
    head.job_key,
    reason ?? null,
  );
  db.touch({ jobId });
  return { outcome: "requested", nodeId: head.node_id };
}

interface EventRow {
  floor_n: number;
  /** Null, with the rest, where there is no event. */
  n: number | null;
  run_epoch: number;
  kind: string;
  payload: string;
}

/** Head and page in one statement, which is one snapshot: either the events, or the floor that says they are gone. */
async function read(db: Transaction, jobId: string, afterN: number, throughN?: number): Promise<EventPage> {
  const rows = await db.all<EventRow>(
    `SELECT h.floor_n, page.n, page.run_epoch, page.kind, page.payload
     FROM $.jobs j JOIN $.job_heads h ON h.job_key = j.job_key
       LEFT JOIN LATERAL (
         SELECT * FROM (
           SELECT *, sum(octet_length(payload)) OVER (ORDER BY n) AS total FROM (
             SELECT e.n, e.run_epoch, e.kind, e.payload FROM $.events e
             WHERE e.job_key = h.job_key AND e.n > $2 AND e.n <= least($3::bigint, h.last_n)
             ORDER BY e.n LIMIT ${PAGE_EVENTS}) AS candidates) AS counted
         WHERE total <= ${PAGE_BYTES} OR n = $2 + 1) AS page ON TRUE
     WHERE j.job_id = $1 ORDER BY page.n`,
    jobId,
    afterN,
    throughN ?? null,
  );
  const head = rows[0];
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
  for (const { n, run_epoch: runEpoch, kind, payload } of rows) {
    if (n !== null) events.push({ n, runEpoch, kind, payload });
  }
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
  cancel_requested: boolean;
}

const JOB_COLUMNS = `j.job_key, j.job_id, j.principal, s.session_id, j.agent, j.lease, j.lease_expires_at,
  j.parent_job_id, j.trace_id, j.created_at, h.state, h.run_epoch, h.node_id, h.ended_at, h.last_n, h.floor_n,
  h.cancel_requested`;

const JOB_TABLES = `$.jobs j JOIN $.job_heads h ON h.job_key = j.job_key
  LEFT JOIN $.sessions s ON s.session_key = j.session_key`;

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
    cancelRequested: row.cancel_requested,
  };
}

async function get(db: Transaction, jobId: string): Promise<JobRecord | undefined> {
  const row = await db.get<JobRow>(`SELECT ${JOB_COLUMNS} FROM ${JOB_TABLES} WHERE j.job_id = $1`, jobId);
  return row === undefined ? undefined : toRecord(row);
}

async function list(db: Transaction, query: ListQuery): Promise<ListPage> {
  const values: SqlValue[] = [];
  const given = (value: SqlValue): string => `$${values.push(value)}`;
  // Live jobs have an index of their own, for a principal with a long past asks for them most of all.
  const liveOnly = query.status !== undefined && !query.status.some(isFinal);
  const table = liveOnly ? "h" : "j";
  // Only what is asked for stands in the statement, so that each gets a plan of its own.
  const wanted: string[] = [];
  if (query.principal !== undefined) wanted.push(`${table}.principal = ${given(query.principal)}`);
  if (query.cursor !== undefined) wanted.push(`${table}.job_key < ${given(keyOf(query.cursor))}`);
  if (liveOnly) wanted.push("h.ended_at IS NULL");
  if (query.status !== undefined) wanted.push(`h.state = ANY(${given(query.status)})`);
  if (query.agent !== undefined) {
    const agent = given(query.agent);
    wanted.push(`(j.agent = ${agent} OR starts_with(j.agent, ${agent} || '@'))`);
  }
  if (query.createdAfter !== undefined) wanted.push(`j.created_at > ${given(query.createdAfter)}`);
  if (query.createdBefore !== undefined) wanted.push(`j.created_at < ${given(query.createdBefore)}`);
  const rows = await db.all<JobRow & { last_event_seq: number | null }>(
    `SELECT ${JOB_COLUMNS},
       (SELECT f.last_seq FROM $.follows f WHERE f.session_key = j.session_key AND f.job_key = j.job_key)
         AS last_event_seq
     FROM ${JOB_TABLES}
     ${wanted.length === 0 ? "" : `WHERE ${wanted.join(" AND ")}`}
     ORDER BY ${table}.job_key DESC LIMIT ${given(query.limit + 1)}`,
    ...values,
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

/**
 * Conversations, their locks and their turns (store/conversations.ts). Whatever changes a conversation's lock or queue
 * locks its row first and reads it then, and whether a lock has expired is told by the server's clock, read after that
 * wait. Of the claims for a time that they bring (`now`) only what is shown to people is kept.
 */
import { isFinal, type JobStatus } from "../../protocol/index.ts";
import {
  type ClaimedTurn,
  type ConversationFacet,
  type ConversationRecord,
  type LockRecord,
  type LockRef,
  type NewConversation,
  type NewJob,
  type NewTurn,
  StoreRefusal,
  type TurnClaim,
  type TurnPlace,
  type TurnRecord,
  type TurnRefusal,
  type UnservedTurn,
} from "../store.ts";
import { releaseBindings } from "./bindings.ts";
import type { SqlValue, Transaction } from "./database.ts";
import { insertDelivery, isDelivering } from "./delivery-rows.ts";
import type { Engine } from "./engine.ts";
import { endJob, headOf, insertJob, lockToEnd, NO_SESSION, runsTooMany, wishEnd } from "./jobs.ts";
import { deadNode, keepAlive, requireLiveNode } from "./live-node.ts";
import { FREE_LOCK, lockForTurn, lockStarted, STARTED_ONCE, takeHead } from "./turns.ts";

interface ConversationRow {
  conversation_key: number;
  conversation_id: string;
  source: string;
  key: string | null;
  principal: string | null;
  user_id: string;
  created_at: number;
  active_at: number;
  lock_epoch: number;
  lock_holder: string | null;
  lock_node: string | null;
  lock_pid: number | null;
  lock_host: string | null;
  lock_acquired_at: number | null;
  lock_expires_at: number | null;
  lock_job_key: number | null;
  lock_job_id: string | null;
  queued: number;
  /** The store's time when the row was read. */
  now: number;
}

const SELECT_CONVERSATION = `SELECT c.*, n.pid AS lock_pid, n.host AS lock_host, j.job_id AS lock_job_id, $now AS now
  FROM $.conversations c LEFT JOIN $.nodes n ON n.node_id = c.lock_node LEFT JOIN $.jobs j ON j.job_key = c.lock_job_key`;

export function conversationFacet(engine: Engine): ConversationFacet {
  return {
    resolve: async (conversation) => {
      // Nearly always it is there.
      const known = await engine.single((db) => find(db, conversation.conversationId));
      if (known !== undefined) return { conversation: toRecord(known), created: false };
      return await engine.writeInOrder(conversation.conversationId, async (db) => {
        // Who deletes it just now is waited for: what is made goes on above its epoch.
        await lockConversation(db, conversation.conversationId);
        const created = await insertConversation(db, conversation);
        return { conversation: toRecord(await existing(db, conversation.conversationId)), created };
      });
    },
    get: (conversationId) => engine.single(async (db) => optional(await find(db, conversationId))),
    list: (query) => engine.single((db) => list(db, query)),
    turns: (conversationId, limit) => engine.read((db) => turns(db, conversationId, limit)),
    delete: (conversationId, now) =>
      engine.writeInOrder(conversationId, (db) => removeConversation(db, conversationId, now)),
    acquire: (claim) => engine.writeInOrder(claim.conversationId, (db) => acquire(db, claim)),
    refresh: (refs, ttlMs) =>
      refs.length === 0 ? Promise.resolve([]) : engine.write((db) => refresh(db, refs, ttlMs)),
    release: (ref) => engine.single((db) => release(db, ref)),
    breakLock: (given) =>
      engine.writeInOrder(given.conversationId, async (db) => {
        const row = await locked(db, given.conversationId);
        const lock = lockOf(row);
        if (lock === undefined) {
          throw new StoreRefusal("not_locked", `nobody holds the lock of ${given.conversationId}`);
        }
        await endLocked(db, row, { payload: given.jobErrorPayload, now: given.now });
        // Whatever the holder still writes is refused: the next holder has another epoch, and so has nobody.
        await db.run(`${FREE_LOCK}, lock_epoch = lock_epoch + 1 WHERE conversation_key = $1`, row.conversation_key);
        return lock;
      }),
    startTurn: (given) =>
      engine.writeInOrder(given.turn.conversation.conversationId, async (db) => {
        await requireLiveNode(db, given.nodeId);
        await lockConversation(db, given.turn.conversation.conversationId);
        const repeated = await repeatedTurn(db, given.turn);
        if (repeated !== undefined) return { outcome: "repeated" as const, jobId: repeated.jobId };
        if (await runsTooMany(db, given.principal, given.maxRunningJobsPerPrincipal)) {
          return { outcome: "limit_exceeded" as const };
        }
        const placed = await placeTurn(db, given.turn);
        if ("why" in placed) return { outcome: "refused" as const, refusal: placed };
        await insertTurn(db, placed, given.turn, given.job, { ...given, sessionKey: NO_SESSION });
        return { outcome: "created" as const, place: placed.place };
      }),
    async claimTurns(claim) {
      // A look costs no lock, and mostly nothing waits that could run.
      const any = await engine.single((db) => waiting(db, { ...claim, limit: 1 }));
      if (any.length === 0) {
        await engine.single((db) => requireLiveNode(db, claim.nodeId));
        return { turns: [], endedJobIds: [] };
      }
      return await engine.write((db) => claimTurns(db, claim));
    },
    unserved: (query) => engine.single((db) => unserved(db, query)),
    endUnserved: (given) => engine.write((db) => endUnserved(db, given)),
  };
}

// ------------------------------------------------------------------------------------- conversations

const FIND = `${SELECT_CONVERSATION} WHERE c.conversation_id = $1`;

const find = (db: Transaction, conversationId: string): Promise<ConversationRow | undefined> =>
  db.get<ConversationRow>(FIND, conversationId);

async function existing(db: Transaction, conversationId: string): Promise<ConversationRow> {
  const row = await find(db, conversationId);
  if (row === undefined) {
    throw new StoreRefusal("unknown_conversation", `there is no conversation ${conversationId}`);
  }
  return row;
}

/**
 * Who makes a conversation goes through this, one at a time for each id, until the transaction is over: a row that is
 * not there cannot be locked.
 */
const announce = (db: Transaction, conversationId: string): Promise<unknown> =>
  db.get("SELECT pg_advisory_xact_lock(hashtextextended('holdfast conversation ' || $1, 0))", conversationId);

/**
 * Locks a conversation and the job of the turn that runs in it, or is to be run again; from here on nobody else changes its lock or its queue.
 * One that is not there can be made by nobody else.
 */
export async function lockConversation(db: Transaction, conversationId: string): Promise<void> {
  if (await lockRow(db, conversationId)) return;
  await announce(db, conversationId);
  await lockRow(db, conversationId);
}

async function lockRow(db: Transaction, conversationId: string): Promise<boolean> {
  const row = await db.get<{ conversation_key: number; lock_job_key: number | null; queued: number }>(
    "SELECT conversation_key, lock_job_key, queued FROM $.conversations WHERE conversation_id = $1 FOR UPDATE",
    conversationId,
  );
  if (row !== undefined && (row.lock_job_key !== null || row.queued > 0)) await lockStarted(db, [row.conversation_key]);
  return row !== undefined;
}

/** A conversation that is there, locked and then read. */
async function locked(db: Transaction, conversationId: string): Promise<ConversationRow> {
  await lockRow(db, conversationId);
  return await existing(db, conversationId);
}

/** Nobody deletes it meanwhile (`lockConversation`). @returns false when it is there already */
async function insertConversation(db: Transaction, conversation: NewConversation): Promise<boolean> {
  const inserted = await db.run(
    `INSERT INTO $.conversations (conversation_id, source, key, principal, user_id, created_at, active_at, lock_epoch, queued)
     VALUES ($1, $2, $3, $4, $5, $6, $6, (SELECT floor FROM $.epoch_floor), 0)
     ON CONFLICT (conversation_id) DO NOTHING`,
    conversation.conversationId,
    conversation.source,
    conversation.key ?? null,
    conversation.principal ?? null,
    conversation.userId,
    conversation.now,
  );
  return inserted === 1;
}

function toRecord(row: ConversationRow): ConversationRecord {
  return {
    conversationId: row.conversation_id,
    source: row.source,
    key: row.key ?? undefined,
    principal: row.principal ?? undefined,
    userId: row.user_id,
    createdAt: row.created_at,
    activeAt: row.active_at,
    lock: lockOf(row),
    queued: row.queued,
  };
}

const optional = (row: ConversationRow | undefined) => (row === undefined ? undefined : toRecord(row));

async function list(
  db: Transaction,
  query: Parameters<ConversationFacet["list"]>[0],
): Promise<{ conversations: ConversationRecord[]; nextCursor: string | undefined }> {
  const before = query.cursor === undefined ? undefined : positionOf(query.cursor);
  // Only what is asked for stands in the statement: each has an index that serves it.
  const wanted: string[] = [];
  const values: SqlValue[] = [];
  const mark = (value: SqlValue): string => `$${values.push(value)}`;
  if (query.principal !== undefined) wanted.push(`c.principal = ${mark(query.principal)}`);
  if (query.lockedOnly === true) wanted.push("c.lock_holder IS NOT NULL");
  if (before !== undefined) {
    wanted.push(`(c.active_at, c.conversation_key) < (${mark(before.activeAt)}, ${mark(before.key)})`);
  }
  const rows = await db.all<ConversationRow>(
    `${SELECT_CONVERSATION} ${wanted.length === 0 ? "" : `WHERE ${wanted.join(" AND ")}`}
     ORDER BY c.active_at DESC, c.conversation_key DESC LIMIT ${mark(query.limit + 1)}`,
    ...values,
  );
  const page = rows.slice(0, query.limit);
  const last = page.at(-1);
  return {
    conversations: page.map(toRecord),
    nextCursor: rows.length > query.limit && last !== undefined ? cursorOf(last) : undefined,
  };
}

const cursorOf = (row: ConversationRow): string =>
  `v${row.active_at.toString(36)}-${row.conversation_key.toString(36)}`;

function positionOf(cursor: string): { activeAt: number; key: number } {
  const [, at, key] = /^v([0-9a-z]{1,12})-([0-9a-z]{1,10})$/.exec(cursor) ?? [];
  if (at === undefined || key === undefined) {
    throw new StoreRefusal("bad_cursor", "the cursor is not one of this store's");
  }
  return { activeAt: Number.parseInt(at, 36), key: Number.parseInt(key, 36) };
}

interface TurnRow {
  job_id: string;
  message_id: string | null;
  user_id: string;
  agent: string;
  state: TurnRecord["state"];
  status: JobStatus;
  lock_epoch: number | null;
  created_at: number;
}

const SELECT_TURN = `SELECT j.job_id, t.message_id, t.user_id, j.agent, t.state, h.state AS status, t.lock_epoch, j.created_at
  FROM $.conversations c JOIN $.turns t ON t.conversation_key = c.conversation_key
    JOIN $.jobs j ON j.job_key = t.job_key JOIN $.job_heads h ON h.job_key = t.job_key
  WHERE c.conversation_id = $1`;

async function turns(db: Transaction, conversationId: string, limit: number): Promise<TurnRecord[]> {
  const running = await db.all<TurnRow>(`${SELECT_TURN} AND t.job_key = c.lock_job_key`, conversationId);
  const queued = await db.all<TurnRow>(
    `${SELECT_TURN} AND t.state = 'queued' ORDER BY t.ahead DESC, t.turn_key LIMIT $2`,
    conversationId,
    limit,
  );
  const ended = await db.all<TurnRow>(
    `${SELECT_TURN} AND t.state = 'ended' ORDER BY t.turn_key DESC LIMIT $2`,
    conversationId,
    limit,
  );
  return [...running, ...queued, ...ended].slice(0, limit).map((row) => ({
    jobId: row.job_id,
    messageId: row.message_id ?? undefined,
    userId: row.user_id,
    agent: row.agent,
    state: row.state,
    place: row.state === "queued" ? queued.indexOf(row) + 1 : undefined,
    status: row.status,
    lockEpoch: row.lock_epoch ?? undefined,
    submittedAt: row.created_at,
  }));
}

/** @throws StoreRefusal unknown_conversation, conversation_busy */
export async function removeConversation(db: Transaction, conversationId: string, now: number): Promise<void> {
  const row = await locked(db, conversationId);
  // Where a turn's lock has expired, its job has yet to end.
  if (isHeld(row) || row.lock_job_key !== null || row.queued > 0) {
    throw new StoreRefusal("conversation_busy", `${conversationId} is being worked on`);
  }
  if (await isDelivering(db, conversationId)) {
    throw new StoreRefusal("conversation_busy", `answers of ${conversationId} are on their way`);
  }
  await releaseBindings(db, conversationId, now);
  await db.run("DELETE FROM $.turns WHERE conversation_key = $1", row.conversation_key);
  await db.run("DELETE FROM $.conversations WHERE conversation_key = $1", row.conversation_key);
  // Its id may come back, and a stale holder of this one must not pass for a holder of that. The last lock of them all.
  await db.run("UPDATE $.epoch_floor SET floor = $1 WHERE floor < $1", row.lock_epoch);
}

// --------------------------------------------------------------------------------------------- locks

/** A lock whose expiry is now has expired. */
const isHeld = (row: ConversationRow): boolean => row.lock_holder !== null && (row.lock_expires_at ?? 0) > row.now;

function lockOf(row: ConversationRow): LockRecord | undefined {
  if (row.lock_holder === null) {
    return undefined;
  }
  return {
    holder: row.lock_holder,
    lockEpoch: row.lock_epoch,
    nodeId: row.lock_node ?? "",
    pid: row.lock_pid ?? undefined,
    host: row.lock_host ?? undefined,
    acquiredAt: row.lock_acquired_at ?? 0,
    expiresAt: row.lock_expires_at ?? 0,
    jobId: row.lock_job_id ?? undefined,
  };
}

type Acquisition = Awaited<ReturnType<ConversationFacet["acquire"]>>;

async function acquire(db: Transaction, claim: Parameters<ConversationFacet["acquire"]>[0]): Promise<Acquisition> {
  // A burial frees the locks of a node that are no turn's once, and has to find this one.
  if (!(await keepAlive(db, claim.nodeId))) throw deadNode(claim.nodeId);
  const row = await locked(db, claim.conversationId);
  if (isHeld(row) || row.queued > 0) {
    return undefined;
  }
  const endedJobId = await endStale(db, row, claim);
  const taken = await db.get<ConversationRow>(
    `UPDATE $.conversations c SET lock_epoch = c.lock_epoch + 1, lock_holder = $1, lock_node = $2, lock_acquired_at = $now,
       lock_expires_at = $now + $3, lock_job_key = NULL
     FROM $.nodes n WHERE c.conversation_key = $4 AND n.node_id = $2
     RETURNING c.*, n.pid AS lock_pid, n.host AS lock_host, NULL AS lock_job_id`,
    claim.holder,
    claim.nodeId,
    claim.ttlMs,
    row.conversation_key,
  );
  const lock = taken && lockOf(taken);
  return lock && { lock, endedJobId };
}

/** Frees a lock that has expired: the turn that held it ends, and so does its authority (law 3). */
async function endStale(
  db: Transaction,
  row: ConversationRow,
  by: { lostPayload: string; now: number },
): Promise<string | undefined> {
  if (row.lock_holder === null) {
    return undefined;
  }
  const endedJobId = await endLocked(db, row, { payload: by.lostPayload, now: by.now });
  await db.run(`${FREE_LOCK} WHERE conversation_key = $1`, row.conversation_key);
  return endedJobId;
}

/** Ends the job of the turn that holds the lock, if it is one that lives. @returns its id */
async function endLocked(
  db: Transaction,
  row: ConversationRow,
  end: { payload: string; now: number },
): Promise<string | undefined> {
  const head = row.lock_job_id === null ? undefined : await headOf(db, row.lock_job_id);
  if (head === undefined || row.lock_job_id === null || isFinal(head.state)) {
    return undefined;
  }
  await endJob(db, head, { kind: "job.error", payload: end.payload, status: "error", now: end.now });
  db.touch({ jobId: row.lock_job_id });
  return row.lock_job_id;
}

/** One that has expired and that nobody took is still its holder's. */
async function refresh(
  db: Transaction,
  refs: readonly LockRef[],
  ttlMs: number,
): Promise<{ conversationId: string; lockEpoch: number; expiresAt: number }[]> {
  const ids = refs.map((ref) => ref.conversationId);
  await db.all(
    `SELECT 1 FROM $.conversations WHERE conversation_id = ANY($1) ORDER BY conversation_key FOR UPDATE`,
    ids,
  );
  const refreshed = await db.all<{ ordinal: number; lock_expires_at: number }>(
    `UPDATE $.conversations c SET lock_expires_at = $now + $4
     FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY held (conversation_id, holder, lock_epoch, ordinal)
     WHERE c.conversation_id = held.conversation_id AND c.lock_holder = held.holder AND c.lock_epoch = held.lock_epoch
     RETURNING held.ordinal, c.lock_expires_at`,
    ids,
    refs.map((ref) => ref.holder),
    refs.map((ref) => ref.lockEpoch),
    ttlMs,
  );
  const expiries = new Map(refreshed.map((row) => [row.ordinal - 1, row.lock_expires_at]));
  return refs.flatMap(({ conversationId, lockEpoch }, i) => {
    const expiresAt = expiries.get(i);
    return expiresAt === undefined ? [] : [{ conversationId, lockEpoch, expiresAt }];
  });
}

const release = async (db: Transaction, ref: LockRef): Promise<boolean> =>
  (await db.run(
    `${FREE_LOCK} WHERE conversation_id = $1 AND lock_holder = $2 AND lock_epoch = $3 AND lock_job_key IS NULL`,
    ref.conversationId,
    ref.holder,
    ref.lockEpoch,
  )) === 1;

// --------------------------------------------------------------------------------------------- turns

/** The turn that the same message has already. */
export async function repeatedTurn(
  db: Transaction,
  turn: NewTurn,
): Promise<{ jobId: string; principal: string; acceptedPayload: string } | undefined> {
  if (turn.messageId === undefined) {
    return undefined;
  }
  const row = await db.get<{ job_id: string; principal: string; accepted_payload: string }>(
    `SELECT j.job_id, j.principal, j.accepted_payload FROM $.conversations c
       JOIN $.turns t ON t.conversation_key = c.conversation_key JOIN $.jobs j ON j.job_key = t.job_key
     WHERE c.conversation_id = $1 AND t.message_id = $2`,
    turn.conversation.conversationId,
    turn.messageId,
  );
  return row && { jobId: row.job_id, principal: row.principal, acceptedPayload: row.accepted_payload };
}

/** Where a turn goes, decided before anything is written; the conversation may have yet to be made. */
export interface Placement {
  place: TurnPlace;
  row: ConversationRow | undefined;
}

/** Decides and writes nothing. The conversation is locked (`lockConversation`). */
export async function placeTurn(db: Transaction, turn: NewTurn): Promise<Placement | TurnRefusal> {
  const { conversationId } = turn.conversation;
  const row = await find(db, conversationId);
  const base = { conversationId, created: row === undefined, interrupted: undefined, endedJobId: undefined };
  if (row === undefined) {
    const { floor } = (await db.get<{ floor: number }>("SELECT floor FROM $.epoch_floor")) as { floor: number };
    return { row, place: { ...base, state: "running", lockEpoch: floor + 1 } };
  }
  const held = isHeld(row);
  if (!held && row.queued === 0) {
    const endedJobId = row.lock_job_id ?? undefined;
    return { row, place: { ...base, endedJobId, state: "running", lockEpoch: row.lock_epoch + 1 } };
  }
  const running = { conversationId, jobId: row.lock_job_id ?? undefined, holder: row.lock_holder ?? undefined };
  if (turn.onBusy === "reject") {
    return { ...running, why: "busy" };
  }
  if (row.queued >= turn.maxQueued) {
    return { ...running, why: "queue_full" };
  }
  if (turn.onBusy === "interrupt") {
    const ahead = await db.get<{ count: number }>(
      "SELECT count(*) AS count FROM $.turns WHERE conversation_key = $1 AND state = 'queued' AND ahead = 1",
      row.conversation_key,
    );
    const interrupted = (held ? row.lock_job_id : await startedOnce(db, row)) ?? undefined;
    return { row, place: { ...base, interrupted, state: "queued", place: (ahead?.count ?? 0) + 1 } };
  }
  return { row, place: { ...base, state: "queued", place: row.queued + 1 } };
}

/** The job of a turn that was given back and waits to be run again. */
async function startedOnce(db: Transaction, row: ConversationRow): Promise<string | undefined> {
  const turn = await db.get<{ job_id: string }>(
    `SELECT j.job_id FROM $.turns t JOIN $.jobs j ON j.job_key = t.job_key
     WHERE t.conversation_key = $1 AND t.state = 'queued' AND t.ahead = ${STARTED_ONCE}`,
    row.conversation_key,
  );
  return turn?.job_id;
}

/** Stores a turn with its job, as it was placed. @returns the job's key */
export async function insertTurn(
  db: Transaction,
  { place, row: known }: Placement,
  turn: NewTurn,
  job: NewJob,
  by: {
    principal: string;
    nodeId: string;
    sessionKey: number;
    acceptedPayload: string;
    now: number;
  },
): Promise<number> {
  if (known === undefined) await insertConversation(db, turn.conversation);
  const row = known ?? (await existing(db, turn.conversation.conversationId));
  const { conversation_key: conversationKey } = row;
  await db.run("UPDATE $.conversations SET active_at = $1 WHERE conversation_key = $2", by.now, conversationKey);
  if (place.state === "running") {
    await endStale(db, row, { lostPayload: turn.lostPayload, now: by.now });
  } else if (place.interrupted !== undefined) {
    const head = await headOf(db, place.interrupted);
    if (head !== undefined) {
      await wishEnd(db, head, {
        jobId: place.interrupted,
        reason: INTERRUPTED,
        cancelledPayload: turn.lostPayload,
        now: by.now,
      });
    }
  }
  const jobKey = await insertJob(db, job, {
    principal: by.principal,
    sessionKey: by.sessionKey,
    nodeId: place.state === "running" ? by.nodeId : NOBODY,
    pending: place.state === "queued",
    acceptedPayload: by.acceptedPayload,
    now: by.now,
  });
  await db.run(
    `INSERT INTO $.turns (conversation_key, job_key, message_id, user_id, ahead, ttl_ms, state, lock_epoch)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
    conversationKey,
    jobKey,
    turn.messageId ?? null,
    turn.userId,
    turn.onBusy === "interrupt" ? 1 : 0,
    turn.ttlMs,
    place.state,
    place.state === "running" ? place.lockEpoch : null,
  );
  if (turn.delivery !== undefined) {
    const { conversationId } = turn.conversation;
    await insertDelivery(db, turn.delivery, { jobKey, conversationId, principal: by.principal, now: by.now });
  }
  if (place.state === "running") {
    const { lockEpoch } = place;
    await lockForTurn(db, conversationKey, { jobKey, jobId: job.jobId, ttlMs: turn.ttlMs, lockEpoch }, by);
  } else {
    await db.run("UPDATE $.conversations SET queued = queued + 1 WHERE conversation_key = $1", conversationKey);
  }
  return jobKey;
}

/** The node of a job that waits. */
const NOBODY = "";
const INTERRUPTED = "interrupted by a newer message of the conversation";

const NEXT_AGENT = `(SELECT j.agent FROM $.turns t JOIN $.jobs j ON j.job_key = t.job_key
   WHERE t.conversation_key = c.conversation_key AND t.state = 'queued' ORDER BY t.ahead DESC, t.turn_key LIMIT 1)`;
const IS_FREE = "c.queued > 0 AND coalesce(c.lock_expires_at, 0) <= $now";
/** Of a conversation `c`: its lock is free or has expired, and its next turn is of one of the agents $1. */
export const CLAIMABLE = `${IS_FREE} AND ${NEXT_AGENT} = ANY($1)`;

/** Conversations whose lock is free or has expired, and whose next turn is of one of these agents. */
const waiting = (
  db: Transaction,
  claim: { agents: readonly string[]; limit: number },
  lock = "",
): Promise<{ conversation_key: number }[]> =>
  db.all<{ conversation_key: number }>(
    `SELECT c.conversation_key FROM $.conversations c WHERE ${CLAIMABLE}
     ORDER BY coalesce(c.lock_expires_at, 0) LIMIT $2 ${lock}`,
    claim.agents,
    claim.limit,
  );

/**
 * What somebody else is at just now is left to him: he is claiming it too, or there will be another look. So it waits
 * for no conversation, and nobody overtakes a queue's head, for that is always what is taken.
 */
async function claimTurns(
  db: Transaction,
  claim: TurnClaim & { lostPayload: string; limit: number },
): Promise<{ turns: ClaimedTurn[]; endedJobIds: string[] }> {
  await requireLiveNode(db, claim.nodeId);
  const keys = (await waiting(db, claim, "FOR UPDATE OF c SKIP LOCKED")).map((row) => row.conversation_key);
  if (keys.length > 0) await lockStarted(db, keys);
  const turns: ClaimedTurn[] = [];
  const endedJobIds: string[] = [];
  for (const key of keys) {
    // Looked at again, now that it is locked.
    const row = await db.get<ConversationRow>(
      `${SELECT_CONVERSATION} WHERE c.conversation_key = $2 AND ${CLAIMABLE}`,
      claim.agents,
      key,
    );
    if (row === undefined) continue;
    const ended = await endStale(db, row, claim);
    if (ended !== undefined) endedJobIds.push(ended);
    const turn = await takeHead(db, key, claim);
    if (turn !== undefined) turns.push(turn);
  }
  return { turns, endedJobIds };
}

/** The turn at the head of the queue of a conversation `c`. */
const HEAD = `SELECT t.job_key FROM $.turns t WHERE t.conversation_key = c.conversation_key AND t.state = 'queued'
  ORDER BY t.ahead DESC, t.turn_key LIMIT 1`;

async function unserved(
  db: Transaction,
  { agents, limit }: Parameters<ConversationFacet["unserved"]>[0],
): Promise<UnservedTurn[]> {
  const rows = await db.all<{ job_id: string; agent: string; run_epoch: number }>(
    `SELECT j.job_id, j.agent, h.run_epoch FROM $.conversations c CROSS JOIN LATERAL (${HEAD}) AS head
       JOIN $.jobs j ON j.job_key = head.job_key JOIN $.job_heads h ON h.job_key = head.job_key
     WHERE ${IS_FREE} AND j.agent <> ALL($1)
     ORDER BY coalesce(c.lock_expires_at, 0), c.conversation_key LIMIT $2`,
    agents,
    limit,
  );
  return rows.map(({ job_id: jobId, agent, run_epoch: runEpoch }) => ({ jobId, agent, runEpoch }));
}

async function endUnserved(
  db: Transaction,
  { jobId, runEpoch, jobErrorPayload, now }: Parameters<ConversationFacet["endUnserved"]>[0],
): Promise<boolean> {
  const job = (await lockToEnd(db, [jobId])).get(jobId);
  if (job?.run_epoch !== runEpoch) return false;
  // Looked at now that its conversation is locked, and by it, so that no other one is looked at.
  const free = await db.get(
    `SELECT 1 FROM $.conversations c
     WHERE c.conversation_key = (SELECT conversation_key FROM $.turns WHERE job_key = $1) AND ${IS_FREE}
       AND (${HEAD}) = $1`,
    job.job_key,
  );
  if (free === undefined) return false;
  await endJob(db, job, { kind: "job.error", payload: jobErrorPayload, status: "error", now });
  db.touch({ jobId });
  return true;
}

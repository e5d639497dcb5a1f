/** Conversations, their locks and their turns (store/conversations.ts). */
import { isFinal, type JobStatus } from "../../protocol/index.ts";
import {
  type ClaimedTurn,
  type ConversationFacet,
  type ConversationRecord,
  type LockClaim,
  type LockRecord,
  type LockRef,
  type NewConversation,
  type NewJob,
  type NewTurn,
  StoreRefusal,
  type TurnPlace,
  type TurnRecord,
  type TurnRefusal,
} from "../store.ts";
import { releaseBindings } from "./bindings.ts";
import type { Database } from "./database.ts";
import { insertDelivery, isDelivering } from "./delivery-rows.ts";
import type { Engine } from "./engine.ts";
import { endJob, headOf, insertJob, NO_SESSION, runsTooMany, wishEnd } from "./jobs.ts";
import { requireLiveNode } from "./live-node.ts";
import { FREE_LOCK, lockForTurn, STARTED_ONCE, takeHead } from "./turns.ts";

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
}

const SELECT_CONVERSATION = `SELECT c.*, n.pid AS lock_pid, n.host AS lock_host, j.job_id AS lock_job_id
  FROM conversations c LEFT JOIN nodes n ON n.node_id = c.lock_node LEFT JOIN jobs j ON j.job_key = c.lock_job_key`;

export function conversationFacet(engine: Engine): ConversationFacet {
  return {
    resolve: async (conversation) => {
      // Nearly always it is there, and reading takes no turn among the writes.
      const known = await engine.read((db) => find(db, conversation.conversationId));
      if (known !== undefined) return { conversation: toRecord(known), created: false };
      return await engine.write((db) => {
        const { row, created } = resolve(db, conversation);
        return { conversation: toRecord(row), created };
      });
    },
    get: (conversationId) => engine.read((db) => optional(find(db, conversationId))),
    list: (query) => engine.read((db) => list(db, query)),
    turns: (conversationId, limit) => engine.read((db) => turns(db, conversationId, limit)),
    delete: (conversationId, now) => engine.write((db) => removeConversation(db, conversationId, now)),
    acquire: (claim) => engine.write((db) => acquire(db, claim)),
    refresh: (refs, ttlMs, now) =>
      engine.write((db) => refs.flatMap((ref) => refresh(db, ref, ttlMs, now)), { rows: refs.length, bytes: 0 }),
    release: (ref) => engine.write((db) => release(db, ref)),
    breakLock: (given) =>
      engine.write((db) => {
        const row = existing(db, given.conversationId);
        const lock = lockOf(row);
        if (lock === undefined) {
          throw new StoreRefusal("not_locked", `nobody holds the lock of ${given.conversationId}`);
        }
        endLocked(db, row, { payload: given.jobErrorPayload, now: given.now });
        // Whatever the holder still writes is refused: the next holder has another epoch, and so has nobody.
        db.run(`${FREE_LOCK}, lock_epoch = lock_epoch + 1 WHERE conversation_key = ?`, row.conversation_key);
        return lock;
      }),
    startTurn: (given) =>
      engine.write((db) => {
        requireLiveNode(db, given.nodeId);
        const repeated = repeatedTurn(db, given.turn);
        if (repeated !== undefined) return { outcome: "repeated" as const, jobId: repeated.jobId };
        if (runsTooMany(db, given.principal, given.maxRunningJobsPerPrincipal)) {
          return { outcome: "limit_exceeded" as const };
        }
        const placed = placeTurn(db, given.turn, given);
        if ("why" in placed) return { outcome: "refused" as const, refusal: placed };
        insertTurn(db, placed, given.turn, given.job, { ...given, sessionKey: NO_SESSION });
        return { outcome: "created" as const, place: placed.place };
      }, turnSize(given)),
    claimTurns: (claim) =>
      engine.write((db) => {
        requireLiveNode(db, claim.nodeId);
        const waiting = db.all<ConversationRow>(
          `${SELECT_CONVERSATION} WHERE ${maySpeak("?1", "?2")} ORDER BY coalesce(c.lock_expires_at, 0) LIMIT ?3`,
          claim.now,
          JSON.stringify(claim.agents),
          claim.limit,
        );
        const turns: ClaimedTurn[] = [];
        const endedJobIds: string[] = [];
        for (const row of waiting) {
          const ended = endStale(db, row, claim);
          if (ended !== undefined) endedJobIds.push(ended);
          const turn = takeHead(db, row.conversation_key, claim);
          if (turn !== undefined) turns.push(turn);
        }
        return { turns, endedJobIds };
      }, CLAIM_SIZE),
    unserved: ({ agents, now, limit }) =>
      engine.read((db) =>
        db
          .all<{ job_id: string; agent: string; run_epoch: number }>(
            `SELECT j.job_id, j.agent, h.run_epoch ${FROM_FREE_HEADS} AND j.agent NOT IN (SELECT value FROM json_each(?2))
             ORDER BY coalesce(c.lock_expires_at, 0), c.conversation_key LIMIT ?3`,
            now,
            JSON.stringify(agents),
            limit,
          )
          .map(({ job_id: jobId, agent, run_epoch: runEpoch }) => ({ jobId, agent, runEpoch })),
      ),
    endUnserved: ({ jobId, runEpoch, jobErrorPayload: payload, now }) =>
      engine.write((db) => {
        const head = headOf(db, jobId);
        if (head?.run_epoch !== runEpoch) return false;
        // By the conversation, so that no other one is looked at.
        const free = db.get(
          `SELECT 1 ${FROM_FREE_HEADS} AND j.job_key = ?2
             AND c.conversation_key = (SELECT conversation_key FROM turns WHERE job_key = ?2)`,
          now,
          head.job_key,
        );
        if (free === undefined) return false;
        endJob(db, head, { kind: "job.error", payload, status: "error", now });
        db.touch({ jobId });
        return true;
      }),
  };
}

/** Of a conversation `c`: its lock is free or has expired, and its next turn is of one of these agents. */
const maySpeak = (now: string, agents: string): string =>
  `c.queued > 0 AND coalesce(c.lock_expires_at, 0) <= ${now}
     AND (SELECT h.agent FROM turns t JOIN jobs h ON h.job_key = t.job_key
          WHERE t.conversation_key = c.conversation_key AND t.state = 'queued'
          ORDER BY t.ahead DESC, t.turn_key LIMIT 1) IN (SELECT value FROM json_each(${agents}))`;

export const claimableTurns = (now: string, agents: string): string =>
  `SELECT 1 FROM conversations c WHERE ${maySpeak(now, agents)}`;

/** Turns `t`, their jobs `j` and those jobs' state `h`, at the head of a queue whose lock nobody holds at `?1`. */
const FROM_FREE_HEADS = `FROM conversations c
    JOIN turns t ON t.turn_key = (SELECT q.turn_key FROM turns q
      WHERE q.conversation_key = c.conversation_key AND q.state = 'queued' ORDER BY q.ahead DESC, q.turn_key LIMIT 1)
    JOIN jobs j ON j.job_key = t.job_key JOIN job_heads h ON h.job_key = t.job_key
  WHERE c.queued > 0 AND coalesce(c.lock_expires_at, 0) <= ?1`;

const turnSize = (given: { job: NewJob; acceptedPayload: string }) => ({
  rows: 6,
  bytes: given.job.input.length + given.acceptedPayload.length,
});
const CLAIM_SIZE = { rows: 64 * 6, bytes: 0 };

// ------------------------------------------------------------------------------------- conversations

const FIND = `${SELECT_CONVERSATION} WHERE c.conversation_id = ?`;

const find = (db: Database, conversationId: string): ConversationRow | undefined =>
  db.get<ConversationRow>(FIND, conversationId);

function existing(db: Database, conversationId: string): ConversationRow {
  const row = find(db, conversationId);
  if (row === undefined) {
    throw new StoreRefusal("unknown_conversation", `there is no conversation ${conversationId}`);
  }
  return row;
}

function resolve(db: Database, conversation: NewConversation): { row: ConversationRow; created: boolean } {
  const known = find(db, conversation.conversationId);
  if (known !== undefined) {
    return { row: known, created: false };
  }
  db.run(
    `INSERT INTO conversations (conversation_id, source, key, principal, user_id, created_at, active_at, lock_epoch, queued)
     VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT floor FROM epoch_floor), 0)`,
    conversation.conversationId,
    conversation.source,
    conversation.key ?? null,
    conversation.principal ?? null,
    conversation.userId,
    conversation.now,
    conversation.now,
  );
  return { row: existing(db, conversation.conversationId), created: true };
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

function list(
  db: Database,
  query: Parameters<ConversationFacet["list"]>[0],
): { conversations: ConversationRecord[]; nextCursor: string | undefined } {
  const before = query.cursor === undefined ? undefined : positionOf(query.cursor);
  // Only what is asked for stands in the statement: each has an index that serves it. The held locks are few, and
  // sorted faster than found among all by activity (hence the plus).
  const wanted: string[] = [];
  const values: (string | number)[] = [];
  if (query.principal !== undefined) {
    wanted.push("c.principal = ?");
    values.push(query.principal);
  }
  if (query.lockedOnly === true) wanted.push("c.lock_holder IS NOT NULL");
  if (before !== undefined) {
    wanted.push("(c.active_at, c.conversation_key) < (?, ?)");
    values.push(before.activeAt, before.key);
  }
  const rows = db.all<ConversationRow>(
    `${SELECT_CONVERSATION} ${wanted.length === 0 ? "" : `WHERE ${wanted.join(" AND ")}`}
     ORDER BY ${query.lockedOnly === true ? "+c.active_at" : "c.active_at"} DESC, c.conversation_key DESC LIMIT ?`,
    ...values,
    query.limit + 1,
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
  FROM conversations c JOIN turns t ON t.conversation_key = c.conversation_key
    JOIN jobs j ON j.job_key = t.job_key JOIN job_heads h ON h.job_key = t.job_key
  WHERE c.conversation_id = ?1`;

function turns(db: Database, conversationId: string, limit: number): TurnRecord[] {
  const running = db.all<TurnRow>(`${SELECT_TURN} AND t.job_key = c.lock_job_key`, conversationId);
  const queued = db.all<TurnRow>(
    `${SELECT_TURN} AND t.state = 'queued' ORDER BY t.ahead DESC, t.turn_key LIMIT ?2`,
    conversationId,
    limit,
  );
  const ended = db.all<TurnRow>(
    `${SELECT_TURN} AND t.state = 'ended' ORDER BY t.turn_key DESC LIMIT ?2`,
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
export function removeConversation(db: Database, conversationId: string, now: number): void {
  const row = existing(db, conversationId);
  // Where a turn's lock has expired, its job has yet to end.
  if (isHeld(row, now) || row.lock_job_key !== null || row.queued > 0) {
    throw new StoreRefusal("conversation_busy", `${conversationId} is being worked on`);
  }
  if (isDelivering(db, conversationId)) {
    throw new StoreRefusal("conversation_busy", `answers of ${conversationId} are on their way`);
  }
  releaseBindings(db, conversationId, now);
  db.run("DELETE FROM turns WHERE conversation_key = ?", row.conversation_key);
  // Its id may come back, and a stale holder of this one must not pass for a holder of that.
  db.run("UPDATE epoch_floor SET floor = max(floor, ?)", row.lock_epoch);
  db.run("DELETE FROM conversations WHERE conversation_key = ?", row.conversation_key);
}

// --------------------------------------------------------------------------------------------- locks

/** A lock whose expiry is now has expired. */
const isHeld = (row: ConversationRow, now: number): boolean =>
  row.lock_holder !== null && (row.lock_expires_at ?? 0) > now;

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

function acquire(db: Database, claim: Parameters<ConversationFacet["acquire"]>[0]): Acquisition {
  const free = takeFree(db, claim);
  if (free !== undefined) {
    return { lock: free, endedJobId: undefined };
  }
  const row = existing(db, claim.conversationId);
  requireLiveNode(db, claim.nodeId);
  if (isHeld(row, claim.now) || row.queued > 0) {
    return undefined;
  }
  const endedJobId = endStale(db, row, claim);
  const lock = takeFree(db, claim);
  return lock && { lock, endedJobId };
}

/** The lock that nobody holds and for which nobody waits, in one statement: that is how it is nearly always. */
function takeFree(db: Database, { conversationId, holder, nodeId, ttlMs, now }: LockClaim): LockRecord | undefined {
  const expiresAt = now + ttlMs;
  const taken = db.get<{ lock_epoch: number; pid: number; host: string }>(
    `UPDATE conversations SET lock_epoch = lock_epoch + 1, lock_holder = ?1, lock_node = ?2, lock_acquired_at = ?3,
       lock_expires_at = ?4, lock_job_key = NULL
     WHERE conversation_id = ?5 AND lock_holder IS NULL AND queued = 0
       AND (SELECT state FROM nodes WHERE node_id = ?2) = 'alive'
     RETURNING lock_epoch, (SELECT pid FROM nodes WHERE node_id = ?2) AS pid,
       (SELECT host FROM nodes WHERE node_id = ?2) AS host`,
    holder,
    nodeId,
    now,
    expiresAt,
    conversationId,
  );
  if (taken === undefined) {
    return undefined;
  }
  const { lock_epoch: lockEpoch, pid, host } = taken;
  return { holder, lockEpoch, nodeId, pid, host, acquiredAt: now, expiresAt, jobId: undefined };
}

/** Frees a lock that has expired: the turn that held it ends, and so does its authority (law 3). */
function endStale(db: Database, row: ConversationRow, by: { lostPayload: string; now: number }): string | undefined {
  if (row.lock_holder === null) {
    return undefined;
  }
  const endedJobId = endLocked(db, row, { payload: by.lostPayload, now: by.now });
  db.run(`${FREE_LOCK} WHERE conversation_key = ?`, row.conversation_key);
  return endedJobId;
}

/** Ends the job of the turn that holds the lock, if it is one that lives. @returns its id */
function endLocked(db: Database, row: ConversationRow, end: { payload: string; now: number }): string | undefined {
  const head = row.lock_job_id === null ? undefined : headOf(db, row.lock_job_id);
  if (head === undefined || row.lock_job_id === null || isFinal(head.state)) {
    return undefined;
  }
  endJob(db, head, { kind: "job.error", payload: end.payload, status: "error", now: end.now });
  db.touch({ jobId: row.lock_job_id });
  return row.lock_job_id;
}

function refresh(
  db: Database,
  ref: LockRef,
  ttlMs: number,
  now: number,
): { conversationId: string; lockEpoch: number; expiresAt: number }[] {
  // One that has expired and that nobody took is still its holder's.
  const refreshed = db.run(
    `UPDATE conversations SET lock_expires_at = ? WHERE conversation_id = ? AND lock_holder = ? AND lock_epoch = ?`,
    now + ttlMs,
    ref.conversationId,
    ref.holder,
    ref.lockEpoch,
  );
  return refreshed === 0
    ? []
    : [{ conversationId: ref.conversationId, lockEpoch: ref.lockEpoch, expiresAt: now + ttlMs }];
}

const RELEASE = `${FREE_LOCK} WHERE conversation_id = ? AND lock_holder = ? AND lock_epoch = ? AND lock_job_key IS NULL`;

const release = (db: Database, ref: LockRef): boolean =>
  db.run(RELEASE, ref.conversationId, ref.holder, ref.lockEpoch) === 1;

// --------------------------------------------------------------------------------------------- turns

/** The turn that the same message has already. */
export function repeatedTurn(
  db: Database,
  turn: NewTurn,
): { jobId: string; principal: string; acceptedPayload: string; traceId: string } | undefined {
  if (turn.messageId === undefined) {
    return undefined;
  }
  const row = db.get<{ job_id: string; principal: string; accepted_payload: string; trace_id: string }>(
    `SELECT j.job_id, j.principal, j.accepted_payload, j.trace_id FROM conversations c
       JOIN turns t ON t.conversation_key = c.conversation_key JOIN jobs j ON j.job_key = t.job_key
     WHERE c.conversation_id = ? AND t.message_id = ?`,
    turn.conversation.conversationId,
    turn.messageId,
  );
  if (row === undefined) return undefined;
  const { job_id: jobId, principal, accepted_payload: acceptedPayload, trace_id: traceId } = row;
  return { jobId, principal, acceptedPayload, traceId };
}

/** Where a turn goes, decided before anything is written; the conversation may have yet to be made. */
export interface Placement {
  place: TurnPlace;
  row: ConversationRow | undefined;
}

/** Decides and writes nothing. */
export function placeTurn(db: Database, turn: NewTurn, by: { now: number }): Placement | TurnRefusal {
  const { conversationId } = turn.conversation;
  const row = find(db, conversationId);
  const base = { conversationId, created: row === undefined, interrupted: undefined, endedJobId: undefined };
  if (row === undefined) {
    const { floor } = db.get<{ floor: number }>("SELECT floor FROM epoch_floor") as { floor: number };
    return { row, place: { ...base, state: "running", lockEpoch: floor + 1 } };
  }
  const held = isHeld(row, by.now);
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
    const ahead = db.get<{ count: number }>(
      "SELECT count(*) AS count FROM turns WHERE conversation_key = ? AND state = 'queued' AND ahead = 1",
      row.conversation_key,
    );
    const interrupted = (held ? row.lock_job_id : startedOnce(db, row)) ?? undefined;
    return { row, place: { ...base, interrupted, state: "queued", place: (ahead?.count ?? 0) + 1 } };
  }
  return { row, place: { ...base, state: "queued", place: row.queued + 1 } };
}

/** The job of a turn that was given back and waits to be run again. */
const startedOnce = (db: Database, row: ConversationRow): string | undefined =>
  db.get<{ job_id: string }>(
    `SELECT j.job_id FROM turns t JOIN jobs j ON j.job_key = t.job_key
     WHERE t.conversation_key = ? AND t.state = 'queued' AND t.ahead = ?`,
    row.conversation_key,
    STARTED_ONCE,
  )?.job_id;

/** Stores a turn with its job, as it was placed. @returns the job's key */
export function insertTurn(
  db: Database,
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
): number {
  const row = known ?? resolve(db, turn.conversation).row;
  const { conversation_key: conversationKey } = row;
  db.run("UPDATE conversations SET active_at = ? WHERE conversation_key = ?", by.now, conversationKey);
  if (place.state === "running") {
    endStale(db, row, { lostPayload: turn.lostPayload, now: by.now });
  } else if (place.interrupted !== undefined) {
    const head = headOf(db, place.interrupted);
    if (head !== undefined) {
      wishEnd(db, head, {
        jobId: place.interrupted,
        reason: INTERRUPTED,
        cancelledPayload: turn.lostPayload,
        now: by.now,
      });
    }
  }
  const jobKey = insertJob(db, job, {
    principal: by.principal,
    sessionKey: by.sessionKey,
    nodeId: place.state === "running" ? by.nodeId : NOBODY,
    pending: place.state === "queued",
    acceptedPayload: by.acceptedPayload,
    now: by.now,
  });
  db.run(
    `INSERT INTO turns (conversation_key, job_key, message_id, user_id, ahead, ttl_ms, state, lock_epoch)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
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
    insertDelivery(db, turn.delivery, { jobKey, conversationId, principal: by.principal, now: by.now });
  }
  if (place.state === "running") {
    const { lockEpoch } = place;
    lockForTurn(db, conversationKey, { jobKey, jobId: job.jobId, ttlMs: turn.ttlMs, lockEpoch }, by);
  } else {
    db.run("UPDATE conversations SET queued = queued + 1 WHERE conversation_key = ?", conversationKey);
  }
  return jobKey;
}

/** The node of a job that waits. */
const NOBODY = "";
const INTERRUPTED = "interrupted by a newer message of the conversation";

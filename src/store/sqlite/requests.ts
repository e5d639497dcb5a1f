/**
 * The requests of a session. Each one is fence, then identity, then all or nothing: what it changes, its
 * deduplication row and its reply are one commit (law 6), so a lost answer is given again and never
 * made again.
 */
import { isFinal, isVisible } from "../../protocol/index.ts";
import {
  type Abandonable,
  type CancelOutcome,
  type CancelRequest,
  type Duplicate,
  type FollowOutcome,
  type FollowRequest,
  type ReplyDraft,
  type RequestFacet,
  type RequestRef,
  StoreRefusal,
  type SubmitOutcome,
  type SubmitRequest,
} from "../store.ts";
import { insertTurn, placeTurn, repeatedTurn } from "./conversations.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";
import { openFollowAt } from "./follows.ts";
import { heldKey, holdKey } from "./idempotency.ts";
import { headOf, insertJob, type JobHead, runsTooMany, unknownJob, wishEnd } from "./jobs.ts";
import { requireLiveNode } from "./live-node.ts";
import { storeReply } from "./replies.ts";
import { type FencedSession, fence } from "./sessions.ts";

export function requestFacet(engine: Engine): RequestFacet {
  return {
    submit: (request) =>
      engine.write((db) => wanted(db, request, (session) => framed(submit(db, session, request), request)), {
        rows: 8,
        bytes: request.job.input.length + request.acceptedPayload.length,
      }),
    follow: (request) =>
      engine.write((db) => wanted(db, request, (session) => framed(follow(db, session, request), request))),
    unfollow: (request) =>
      engine.write((db) =>
        once(db, request, (session) => ({ answer: unfollow(db, session, request.jobId), frame: undefined })),
      ),
    cancel: (request) =>
      engine.write((db) => once(db, request, (session) => framed(cancel(db, session, request), request))),
    find: (request) => engine.read((db) => processed(db, fence(db, request), request)),
    note: (request) =>
      engine.write((db) => once(db, request, () => ({ answer: { outcome: "noted" as const }, frame: request.frame }))),
  };
}

/** What a request came to, and the reply that is to be given again when the request comes again. */
interface Done<Answer> {
  answer: Answer;
  frame: string | undefined;
}

export function framed<Outcome>(
  outcome: Outcome,
  request: { reply(outcome: Outcome): ReplyDraft },
): Done<Outcome & { frame: string }> {
  const { frame } = request.reply(outcome);
  return { answer: { ...outcome, frame }, frame };
}

function processed(db: Database, session: FencedSession, request: RequestRef): Duplicate | undefined {
  const row = db.get<{ frame: string | null }>(
    "SELECT frame FROM requests WHERE session_key = ? AND message_id = ?",
    session.session_key,
    request.messageId,
  );
  return row && { outcome: "duplicate", frame: row.frame ?? undefined };
}

/** Does a request unless it was done before, and stores that it was. */
export function once<Answer>(
  db: Database,
  request: RequestRef,
  act: (session: FencedSession) => Done<Answer>,
): Answer | Duplicate {
  const session = fence(db, request);
  const before = processed(db, session, request);
  if (before !== undefined) {
    return before;
  }
  const { answer, frame } = act(session);
  storeReply(db, session.session_key, { messageId: request.messageId, eventSeq: session.last_seq, frame });
  return answer;
}

/** As {@link once}, unless nobody waits for it any more: a follow that nobody was told of would send events of a job that its session does not know. */
function wanted<Answer>(
  db: Database,
  request: RequestRef & Abandonable,
  act: (session: FencedSession) => Done<Answer>,
): Answer | Duplicate {
  if (request.abandoned?.() === true) {
    throw new StoreRefusal("abandoned", "the sender was told that nothing was done");
  }
  return once(db, request, act);
}

// ------------------------------------------------------------------------------------------- submit

function submit(db: Database, session: FencedSession, request: SubmitRequest): SubmitOutcome {
  requireLiveNode(db, request.nodeId);
  return (
    repeatedSubmit(db, session, request) ?? repeatedMessage(db, session, request) ?? newSubmit(db, session, request)
  );
}

/** What an idempotency key that is still held makes of the submit; `undefined` when nothing. */
function repeatedSubmit(db: Database, session: FencedSession, request: SubmitRequest): SubmitOutcome | undefined {
  const held = request.idempotency && heldKey(db, request.principal, request.idempotency.key, request.now);
  const head = held && headOf(db, held.jobId);
  if (held === undefined || head === undefined) {
    return undefined;
  }
  if (held.digest !== request.idempotency?.digest) {
    return { outcome: "duplicate_key" };
  }
  const { jobId, acceptedPayload } = held;
  return repeated(db, session, head, { jobId, acceptedPayload });
}

/** What a message makes of the submit that was a turn of its conversation before. */
function repeatedMessage(db: Database, session: FencedSession, request: SubmitRequest): SubmitOutcome | undefined {
  const known = request.turn && repeatedTurn(db, request.turn);
  const head = known && headOf(db, known.jobId);
  if (head === undefined || known === undefined) return undefined;
  const { principal, jobId, acceptedPayload } = known;
  if (principal !== request.principal) return { outcome: "foreign_message" };
  return repeated(db, session, head, { jobId, acceptedPayload });
}

/** The job is followed again from its first kept event, with the right to cancel it. */
function repeated(
  db: Database,
  session: FencedSession,
  head: JobHead,
  job: { jobId: string; acceptedPayload: string },
): SubmitOutcome {
  const current = openFollow(db, session, head);
  const positionN = current ?? head.floor_n;
  if (current === undefined) {
    openFollowAt(db, session.session_key, head.job_key, positionN);
  }
  db.run("UPDATE follows SET can_cancel = 1 WHERE session_key = ? AND job_key = ?", session.session_key, head.job_key);
  return { outcome: "repeated", traceId: head.trace_id, positionN, ...job };
}

function newSubmit(db: Database, session: FencedSession, request: SubmitRequest): SubmitOutcome {
  if (runsTooMany(db, request.principal, request.maxRunningJobsPerPrincipal)) {
    return { outcome: "limit_exceeded" };
  }
  const { job, idempotency, principal, turn, nodeId, now } = request;
  const placed = turn && placeTurn(db, turn, request);
  if (placed !== undefined && "why" in placed) {
    return { outcome: "turn_refused", refusal: placed };
  }
  const by = { principal, sessionKey: session.session_key, nodeId, now };
  const jobKey =
    placed === undefined || turn === undefined
      ? insertJob(db, job, by)
      : insertTurn(db, placed, turn, job, { ...by, acceptedPayload: request.acceptedPayload });
  openFollowAt(db, session.session_key, jobKey, 0, true);
  if (idempotency !== undefined) {
    const { acceptedPayload } = request;
    holdKey(db, { principal, ...idempotency, jobKey, acceptedPayload, now });
  }
  return placed === undefined ? { outcome: "created" } : { outcome: "created", place: placed.place };
}

// ------------------------------------------------------------------------------------------ follows

/** The position of the session's open follow of a job. */
function openFollow(db: Database, session: FencedSession, head: JobHead): number | undefined {
  return db.get<{ position_n: number }>(
    "SELECT position_n FROM follows WHERE session_key = ? AND job_key = ? AND open = 1",
    session.session_key,
    head.job_key,
  )?.position_n;
}

function follow(db: Database, session: FencedSession, request: FollowRequest): FollowOutcome {
  const head = headOf(db, request.jobId);
  if (head === undefined) {
    throw unknownJob(request.jobId);
  }
  const submitter = submitterOf(db, head);
  const current = openFollow(db, session, head);
  const positionN = current ?? startOf(db, head, submitter, request);
  if (current === undefined) {
    openFollowAt(db, session.session_key, head.job_key, positionN);
  }
  return {
    outcome: "followed",
    status: head.state,
    already: current !== undefined,
    canCancel: mayCancel(db, session, head),
    positionN,
    subscribedFrom: numberAfter(db, head, submitter, positionN),
    traceId: head.trace_id,
  };
}

function unfollow(db: Database, session: FencedSession, jobId: string): { outcome: "unfollowed" } {
  db.run(
    `UPDATE follows SET open = 0
     WHERE session_key = ? AND job_key = (SELECT job_key FROM jobs WHERE job_id = ?) AND open = 1`,
    session.session_key,
    jobId,
  );
  return { outcome: "unfollowed" };
}

/** The session that submitted a job: its numbers are what a subscriber's `from_event_seq` counts in. */
interface Submitter {
  sessionKey: number;
  features: string[];
  /** The newest number in the session. */
  sessionSeq: number;
  /** The newest number of an event of this job; 0 for none. */
  jobSeq: number;
  positionN: number;
}

function submitterOf(db: Database, head: JobHead): Submitter {
  const row = db.get<{ features: string; session_seq: number; job_seq: number; position_n: number }>(
    `SELECT s.features, s.last_seq AS session_seq, f.last_seq AS job_seq, f.position_n
     FROM sessions s JOIN follows f ON f.session_key = s.session_key AND f.job_key = ?
     WHERE s.session_key = ?`,
    head.job_key,
    head.session_key,
  );
  return {
    sessionKey: head.session_key,
    features: row === undefined ? [] : (JSON.parse(row.features) as string[]),
    sessionSeq: row?.session_seq ?? 0,
    jobSeq: row?.job_seq ?? 0,
    positionN: row?.position_n ?? 0,
  };
}

/** The position at which a new follow starts. */
function startOf(db: Database, head: JobHead, submitter: Submitter, request: FollowRequest): number {
  // Every follow of a job that has ended delivers its terminal event, the newest.
  const newest = isFinal(head.state) ? head.last_n - 1 : head.last_n;
  if (!request.history) {
    return newest;
  }
  const from = request.fromEventSeq ?? 0;
  if (from <= 1) {
    return head.floor_n;
  }
  const position = positionBefore(db, head, submitter, from) ?? newest;
  return Math.max(head.floor_n, Math.min(position, newest));
}

interface RunRow {
  first_seq: number;
  count: number;
  first_n: number;
  last_n: number;
}

/**
 * The n before the job's first event that has the submitter's number `seq` or a later one. `undefined` when
 * that lies in the future: `seq` is more than the next number that the submitter's session will give.
 */
function positionBefore(db: Database, head: JobHead, submitter: Submitter, seq: number): number | undefined {
  const run = db.get<RunRow>(
    `SELECT first_seq, count, first_n, last_n FROM runs
     WHERE job_key = ?1 AND session_key = ?2 AND first_seq + count > ?3 AND first_seq >= coalesce(
       (SELECT max(first_seq) FROM runs WHERE job_key = ?1 AND session_key = ?2 AND first_seq <= ?3), 0)
     ORDER BY first_seq LIMIT 1`,
    head.job_key,
    submitter.sessionKey,
    seq,
  );
  if (run === undefined) {
    // What has no number yet will get one above all that were given.
    return seq <= submitter.sessionSeq + 1 ? submitter.positionN : undefined;
  }
  const skip = Math.max(0, seq - run.first_seq);
  if (run.count === run.last_n - run.first_n + 1) {
    return run.first_n + skip - 1;
  }
  const visible = visibleIn(db, head, submitter, run.first_n, run.last_n);
  return (visible[skip] ?? run.first_n) - 1;
}

/** The submitter's number of the job's first event with n > `positionN`, or the one it may get. */
function numberAfter(db: Database, head: JobHead, submitter: Submitter, positionN: number): number {
  const runs = db.iterate<RunRow>(
    `SELECT first_seq, count, first_n, last_n FROM runs
     WHERE job_key = ? AND session_key = ? AND last_n > ? ORDER BY first_seq`,
    head.job_key,
    submitter.sessionKey,
    positionN,
  );
  for (const run of runs) {
    const passed = Math.max(0, positionN - run.first_n + 1);
    const passedVisible =
      passed === 0 || run.count === run.last_n - run.first_n + 1
        ? passed
        : visibleIn(db, head, submitter, run.first_n, positionN).length;
    if (passedVisible < run.count) {
      return run.first_seq + passedVisible;
    }
  }
  return submitter.jobSeq + 1;
}

/** The n of the events that the submitter's features let it see, of one run: a page at the most. */
function visibleIn(db: Database, head: JobHead, submitter: Submitter, firstN: number, lastN: number): number[] {
  return db
    .all<{ n: number; kind: string }>(
      "SELECT n, kind FROM events WHERE job_key = ? AND n BETWEEN ? AND ? ORDER BY n",
      head.job_key,
      firstN,
      lastN,
    )
    .filter((event) => isVisible(event.kind, submitter.features))
    .map((event) => event.n);
}

// ------------------------------------------------------------------------------------------- cancel

/** Whether the session has submitted the job, itself or by repeating a key, or the job's parent. */
function mayCancel(db: Database, session: FencedSession, head: JobHead): boolean {
  const granted = db.get(
    "SELECT 1 FROM follows WHERE session_key = ? AND job_key = ? AND can_cancel = 1",
    session.session_key,
    head.job_key,
  );
  return granted !== undefined || head.session_key === session.session_key;
}

function cancel(db: Database, session: FencedSession, request: CancelRequest): CancelOutcome {
  const head = headOf(db, request.jobId);
  if (head === undefined) {
    throw unknownJob(request.jobId);
  }
  if (!mayCancel(db, session, head)) {
    return { outcome: "not_submitter" };
  }
  return wishEnd(db, head, request);
}

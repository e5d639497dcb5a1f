/**
 * The requests of a session. Each one is fence, then identity, then all or nothing: what it changes, its
 * deduplication row and its reply are one commit (law 6), so a lost answer is given again and never
 * made again. What a request locks besides its session it locks before it, in the engine's order.
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
import { insertTurn, lockConversation, placeTurn, repeatedTurn } from "./conversations.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { fence, fenceRead, type SessionRow } from "./fence.ts";
import { openFollowAt } from "./follows.ts";
import { heldKey, holdKey } from "./idempotency.ts";
import { insertJob, type JobHead, keepJob, lockToEnd, runsTooMany, unknownJob, wishEnd } from "./jobs.ts";
import { requireLiveNode } from "./live-node.ts";
import { storeReply } from "./replies.ts";
import { lockFollows } from "./runs.ts";

export function requestFacet(engine: Engine): RequestFacet {
  return {
    submit: (request) => engine.writeInOrder(request.sessionId, (db) => wanted(request, () => submit(db, request))),
    follow: (request) =>
      engine.writeInOrder(request.sessionId, (db) =>
        wanted(request, async () => {
          const head = await keepJob(db, request.jobId);
          await lockFollows(db, request.sessionId, [request.jobId]);
          return await once(db, request, async (session) => framed(await follow(db, session, head, request), request));
        }),
      ),
    unfollow: (request) =>
      engine.writeInOrder(request.sessionId, async (db) => {
        await lockFollows(db, request.sessionId, [request.jobId]);
        return await once(db, request, async (session) => ({
          answer: await unfollow(db, session, request.jobId),
          frame: undefined,
        }));
      }),
    cancel: (request) =>
      engine.writeInOrder(request.sessionId, async (db) => {
        const head = (await lockToEnd(db, [request.jobId])).get(request.jobId);
        return await once(db, request, async (session) => framed(await cancel(db, session, head, request), request));
      }),
    find: (request) => engine.read(async (db) => processed(db, await fenceRead(db, request), request)),
    note: (request) =>
      engine.writeInOrder(request.sessionId, (db) =>
        once(db, request, async () => ({ answer: { outcome: "noted" as const }, frame: request.frame })),
      ),
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

async function processed(db: Transaction, sessionKey: number, request: RequestRef): Promise<Duplicate | undefined> {
  const row = await db.get<{ frame: string | null }>(
    "SELECT frame FROM $.requests WHERE session_key = $1 AND message_id = $2",
    sessionKey,
    request.messageId,
  );
  return row && { outcome: "duplicate", frame: row.frame ?? undefined };
}

/** Does a request unless it was done before, and stores that it was. Locks the session. */
export async function once<Answer>(
  db: Transaction,
  request: RequestRef,
  act: (session: SessionRow) => Promise<Done<Answer>>,
): Promise<Answer | Duplicate> {
  const session = await fence(db, request);
  const before = await processed(db, session.session_key, request);
  if (before !== undefined) {
    return before;
  }
  const { answer, frame } = await act(session);
  await storeReply(db, session.session_key, { messageId: request.messageId, eventSeq: session.last_seq, frame });
  return answer;
}

/**
 * Does a request unless nobody waits for it any more: a follow that nobody was told of would send events of a job that
 * its session does not know. It is asked once more when the commit is all that is left, which then does not come.
 */
async function wanted<Answer>(request: Abandonable, act: () => Promise<Answer>): Promise<Answer> {
  requireWanted(request);
  const answer = await act();
  requireWanted(request);
  return answer;
}

function requireWanted(request: Abandonable): void {
  if (request.abandoned?.() === true) {
    throw new StoreRefusal("abandoned", "the sender was told that nothing was done");
  }
}

// ------------------------------------------------------------------------------------------- submit

async function submit(
  db: Transaction,
  request: SubmitRequest,
): Promise<(SubmitOutcome & { frame: string }) | Duplicate> {
  const repeated = (await repeatedSubmit(db, request)) ?? (await repeatedMessage(db, request));
  if (typeof repeated === "object") await lockFollows(db, request.sessionId, [repeated.head.job_id]);
  return await once(db, request, async (session) => {
    await requireLiveNode(db, request.nodeId);
    const outcome =
      repeated === undefined
        ? await newSubmit(db, session, request)
        : typeof repeated === "string"
          ? { outcome: repeated }
          : await followAgain(db, session, repeated);
    return framed<SubmitOutcome>(outcome, request);
  });
}

/** A job that a submit turns out to be a repeat of. */
interface Repeated {
  head: JobHead;
  acceptedPayload: string;
}

/** What an idempotency key that is still held makes of the submit; `undefined` when nothing. Locks the key, and the job. */
async function repeatedSubmit(
  db: Transaction,
  { idempotency, principal, now }: SubmitRequest,
): Promise<Repeated | "duplicate_key" | undefined> {
  if (idempotency === undefined) {
    return undefined;
  }
  const held = await heldKey(db, principal, idempotency.key, now);
  const head = held && (await keepJob(db, held.jobId));
  if (held === undefined || head === undefined) {
    return undefined;
  }
  return held.digest === idempotency.digest ? { head, acceptedPayload: held.acceptedPayload } : "duplicate_key";
}

/** What a message makes of the submit that was a turn of its conversation before. Locks the conversation, and the job. */
async function repeatedMessage(
  db: Transaction,
  { turn, principal }: SubmitRequest,
): Promise<Repeated | "foreign_message" | undefined> {
  if (turn === undefined) {
    return undefined;
  }
  await lockConversation(db, turn.conversation.conversationId);
  const known = await repeatedTurn(db, turn);
  if (known !== undefined && known.principal !== principal) return "foreign_message";
  const head = known && (await keepJob(db, known.jobId));
  return known && head && { head, acceptedPayload: known.acceptedPayload };
}

/** The job is followed again from its first kept event, with the right to cancel it. */
async function followAgain(
  db: Transaction,
  session: SessionRow,
  { head, acceptedPayload }: Repeated,
): Promise<SubmitOutcome> {
  const current = await openFollow(db, session, head);
  const positionN = current ?? head.floor_n;
  if (current === undefined) {
    await openFollowAt(db, session.session_key, head.job_key, positionN, true);
  } else {
    await db.run(
      "UPDATE $.follows SET can_cancel = TRUE WHERE session_key = $1 AND job_key = $2",
      session.session_key,
      head.job_key,
    );
  }
  return { outcome: "repeated", jobId: head.job_id, traceId: head.trace_id, positionN, acceptedPayload };
}

async function newSubmit(db: Transaction, session: SessionRow, request: SubmitRequest): Promise<SubmitOutcome> {
  if (await runsTooMany(db, request.principal, request.maxRunningJobsPerPrincipal)) {
    return { outcome: "limit_exceeded" };
  }
  const { job, idempotency, principal, turn, nodeId, now } = request;
  const placed = turn && (await placeTurn(db, turn));
  if (placed !== undefined && "why" in placed) {
    return { outcome: "turn_refused", refusal: placed };
  }
  const by = { principal, sessionKey: session.session_key, nodeId, now };
  const jobKey =
    placed === undefined || turn === undefined
      ? await insertJob(db, job, by)
      : await insertTurn(db, placed, turn, job, { ...by, acceptedPayload: request.acceptedPayload });
  await openFollowAt(db, session.session_key, jobKey, 0, true);
  if (idempotency !== undefined) {
    const { acceptedPayload } = request;
    await holdKey(db, { principal, ...idempotency, jobKey, acceptedPayload, now });
  }
  return placed === undefined ? { outcome: "created" } : { outcome: "created", place: placed.place };
}

// ------------------------------------------------------------------------------------------ follows

/** The position of the session's open follow of a job. */
async function openFollow(db: Transaction, session: SessionRow, head: JobHead): Promise<number | undefined> {
  const row = await db.get<{ position_n: number }>(
    "SELECT position_n FROM $.follows WHERE session_key = $1 AND job_key = $2 AND open",
    session.session_key,
    head.job_key,
  );
  return row?.position_n;
}

async function follow(
  db: Transaction,
  session: SessionRow,
  head: JobHead | undefined,
  request: FollowRequest,
): Promise<FollowOutcome> {
  if (head === undefined) {
    throw unknownJob(request.jobId);
  }
  const submitter = await submitterOf(db, head);
  const current = await openFollow(db, session, head);
  const positionN = current ?? (await startOf(db, head, submitter, request));
  if (current === undefined) {
    await openFollowAt(db, session.session_key, head.job_key, positionN);
  }
  return {
    outcome: "followed",
    status: head.state,
    already: current !== undefined,
    canCancel: await mayCancel(db, session, head),
    positionN,
    subscribedFrom: await numberAfter(db, head, submitter, positionN),
    traceId: head.trace_id,
  };
}

async function unfollow(db: Transaction, session: SessionRow, jobId: string): Promise<{ outcome: "unfollowed" }> {
  await db.run(
    `UPDATE $.follows SET open = FALSE
     WHERE session_key = $1 AND job_key = (SELECT job_key FROM $.jobs WHERE job_id = $2) AND open`,
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

async function submitterOf(db: Transaction, head: JobHead): Promise<Submitter> {
  const row = await db.get<{ features: string; session_seq: number; job_seq: number; position_n: number }>(
    `SELECT c.features, s.last_seq AS session_seq, f.last_seq AS job_seq, f.position_n
     FROM $.sessions s JOIN $.session_clients c ON c.session_key = s.session_key
       JOIN $.follows f ON f.session_key = s.session_key AND f.job_key = $1
     WHERE s.session_key = $2`,
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
async function startOf(db: Transaction, head: JobHead, submitter: Submitter, request: FollowRequest): Promise<number> {
  // Every follow of a job that has ended delivers its terminal event, the newest.
  const newest = isFinal(head.state) ? head.last_n - 1 : head.last_n;
  if (!request.history) {
    return newest;
  }
  const from = request.fromEventSeq ?? 0;
  if (from <= 1) {
    return head.floor_n;
  }
  const position = (await positionBefore(db, head, submitter, from)) ?? newest;
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
async function positionBefore(
  db: Transaction,
  head: JobHead,
  submitter: Submitter,
  seq: number,
): Promise<number | undefined> {
  const run = await db.get<RunRow>(
    `SELECT first_seq, count, first_n, last_n FROM $.runs
     WHERE job_key = $1 AND session_key = $2 AND first_seq + count > $3 AND first_seq >= coalesce(
       (SELECT max(first_seq) FROM $.runs WHERE job_key = $1 AND session_key = $2 AND first_seq <= $3), 0)
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
  const visible = await visibleIn(db, head, submitter, run.first_n, run.last_n);
  return (visible[skip] ?? run.first_n) - 1;
}

/** The submitter's number of the job's first event with n > `positionN`, or the one it may get. */
async function numberAfter(db: Transaction, head: JobHead, submitter: Submitter, positionN: number): Promise<number> {
  // All of the first one may be passed, of the second one nothing is.
  const runs = await db.all<RunRow>(
    `SELECT first_seq, count, first_n, last_n FROM $.runs
     WHERE job_key = $1 AND session_key = $2 AND last_n > $3 ORDER BY first_seq LIMIT 2`,
    head.job_key,
    submitter.sessionKey,
    positionN,
  );
  for (const run of runs) {
    const passed = Math.max(0, positionN - run.first_n + 1);
    const passedVisible =
      passed === 0 || run.count === run.last_n - run.first_n + 1
        ? passed
        : (await visibleIn(db, head, submitter, run.first_n, positionN)).length;
    if (passedVisible < run.count) {
      return run.first_seq + passedVisible;
    }
  }
  return submitter.jobSeq + 1;
}

/** The n of the events that the submitter's features let it see, of one run: a page at the most. */
async function visibleIn(
  db: Transaction,
  head: JobHead,
  submitter: Submitter,
  firstN: number,
  lastN: number,
): Promise<number[]> {
  const events = await db.all<{ n: number; kind: string }>(
    "SELECT n, kind FROM $.events WHERE job_key = $1 AND n BETWEEN $2 AND $3 ORDER BY n",
    head.job_key,
    firstN,
    lastN,
  );
  return events.filter((event) => isVisible(event.kind, submitter.features)).map((event) => event.n);
}

// ------------------------------------------------------------------------------------------- cancel

/** Whether the session has submitted the job, itself or by repeating a key, or the job's parent. */
async function mayCancel(db: Transaction, session: SessionRow, head: JobHead): Promise<boolean> {
  if (head.session_key === session.session_key) return true;
  const granted = await db.get(
    "SELECT 1 FROM $.follows WHERE session_key = $1 AND job_key = $2 AND can_cancel",
    session.session_key,
    head.job_key,
  );
  return granted !== undefined;
}

async function cancel(
  db: Transaction,
  session: SessionRow,
  head: JobHead | undefined,
  request: CancelRequest,
): Promise<CancelOutcome> {
  if (head === undefined) {
    throw unknownJob(request.jobId);
  }
  if (!(await mayCancel(db, session, head))) {
    return { outcome: "not_submitter" };
  }
  return await wishEnd(db, head, request);
}

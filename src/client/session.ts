/** A session as its user sees it. */
import type { AgentInfo, Feature, JobStatus, Lease, ListedJob } from "../protocol/index.ts";
import type { JobHandle } from "./job-handle.ts";
import type { ResumeState } from "./options.ts";
import type { SessionStatus } from "./status.ts";
import type { TurnKey } from "./turn.ts";

export interface SubmitOptions {
  /** The same key with the same parameters gives the same job, for 24 h (JOB-5). */
  idempotencyKey?: string | undefined;
  /** What the job may do. */
  leaseRequest?: Lease | undefined;
  /** When the lease ends: ISO 8601 in UTC, or a date. */
  leaseConstraints?: { expiresAt: string | Date } | undefined;
  /** The runtime ends a job that runs longer, with `TIMEOUT`. */
  maxRuntimeSec?: number | undefined;
  /** 32 lowercase hex digits, or a whole W3C `traceparent`: the job's span then hangs under its. @default a new one */
  traceId?: string | undefined;
  /**
   * Lets go of the job: before it is accepted the promise rejects with the signal's reason, and a job
   * that is accepted all the same is cancelled; after that, an abort cancels it.
   */
  signal?: AbortSignal | undefined;
}

export interface TurnOptions extends SubmitOptions {
  /**
   * What happens while a turn of the conversation runs: this one is refused with `CONVERSATION_BUSY`, waits for
   * those before it, or asks the running one to stop and is next. @default "enqueue"
   */
  onBusy?: "reject" | "enqueue" | "interrupt" | undefined;
  /** The channel's id of the message: the same one in the same conversation is one turn (TRN-5). */
  messageId?: string | undefined;
  /** Who speaks; another than the token's principal takes an operator. @default the principal */
  userId?: string | undefined;
}

export interface SubscribeOptions {
  /** Deliver stored events too, from the first or `fromEventSeq`. @default false */
  history?: boolean | undefined;
  /** With `history`: from this event on, in the numbers of the submitter's session. */
  fromEventSeq?: number | undefined;
  /** Stops waiting for the answer; a subscription that comes about all the same is ended. */
  signal?: AbortSignal | undefined;
}

export interface AnswerOptions {
  /** Stops waiting for the runtime's word; the answer may count all the same. */
  signal?: AbortSignal | undefined;
}

export interface ListJobsOptions {
  status?: readonly JobStatus[] | undefined;
  /** `name` or `name@version`. */
  agent?: string | undefined;
  createdAfter?: string | Date | undefined;
  createdBefore?: string | Date | undefined;
  /** Jobs per page, at most 1,000. @default the runtime's (100) */
  limit?: number | undefined;
  /** The `nextCursor` of the page before. */
  cursor?: string | undefined;
  signal?: AbortSignal | undefined;
}

export interface JobsPage {
  /** Newest first. */
  jobs: ListedJob[];
  /** `null` on the last page. */
  nextCursor: string | null;
}

export interface CloseOptions {
  /** Told to the runtime, and the `closed` status's reason. @default "closed" */
  reason?: string | undefined;
  /** How long the runtime may take to answer. @default 2_000 */
  timeoutMs?: number | undefined;
}

/**
 * A session that heals itself: a lost connection is resumed, jobs go on where they were, and requests
 * that were not answered are asked again. Requests made meanwhile wait and go out after the resume.
 */
export interface Session extends AsyncDisposable {
  readonly id: string;
  /** Those that both sides offer, fixed at the first welcome. */
  readonly features: readonly Feature[];
  /** As of the newest welcome. */
  readonly agents: readonly AgentInfo[];
  readonly runtime: { readonly name: string; readonly version: string };
  readonly status: SessionStatus;
  /** What another process needs to go on with this session. Changes with every event: read it last. */
  readonly resumeState: ResumeState;
  /** Resolves when the session has closed, whoever closed it. */
  readonly closed: Promise<Extract<SessionStatus, { state: "closed" }>>;
  /** The current status, then every change, up to `closed`. */
  statuses(): AsyncIterable<SessionStatus>;
  /**
   * Submits a job; resolves when it is accepted.
   *
   * Rejects with the runtime's `ArcpError`; with `OUTCOME_UNKNOWN` when the session ended before the
   * answer and nobody can tell whether the job runs; with `SessionClosedError` when it surely does not,
   * or has an idempotency key under which it can be submitted again.
   *
   * @param agent `name` or `name@version`
   * @param input any JSON value
   */
  submit(agent: string, input?: unknown, options?: SubmitOptions): Promise<JobHandle>;
  /**
   * Speaks in a conversation: submits a job that runs once the conversation is its own, one turn at a time. Resolves
   * when the turn is accepted, running or waiting; `handle.turn` says which.
   *
   * Rejects as {@link Session.submit} does; with `details.code` CONVERSATION_BUSY when the turn is not taken, and
   * PERMISSION_DENIED for a key that is not the principal's. With a `messageId` a turn is repeatable like a submit
   * with an idempotency key.
   *
   * @param key where: `slack:C1/1700.1`, `cli:notes`, or the parts as an object
   * @param agent `name` or `name@version`
   * @param input any JSON value
   */
  turn(key: TurnKey, agent: string, input?: unknown, options?: TurnOptions): Promise<JobHandle>;
  /**
   * Follows a job that another session submitted, or follows it again. A job that is followed already
   * gives the same handle, which goes on unchanged (JOB-12).
   */
  subscribe(jobId: string, options?: SubscribeOptions): Promise<JobHandle>;
  /** Follows the job no longer; an iteration of its handle ends. Resolves when the runtime knows. */
  unsubscribe(jobId: string): Promise<void>;
  /**
   * Answers a question that a job asked in a `status` event `input_required` (see `questionOf`). Resolves when
   * the answer counts. Rejects with the runtime's `ArcpError`: INVALID_REQUEST for an answer that the question's
   * schema does not allow, or with `details.code` ALREADY_ANSWERED, QUESTION_CLOSED or QUESTION_NOT_FOUND;
   * PERMISSION_DENIED; JOB_NOT_FOUND.
   *
   * @param answer any JSON value
   */
  answer(jobId: string, questionId: string, answer: unknown, options?: AnswerOptions): Promise<void>;
  /** One page of this principal's jobs. */
  listJobs(options?: ListJobsOptions): Promise<JobsPage>;
  /** Milliseconds to the runtime and back. Rejects when the connection is lost meanwhile, or there is none. */
  ping(): Promise<number>;
  /** Ends the session. Its jobs run on. Idempotent. */
  close(options?: CloseOptions): Promise<void>;
}

/**
 * Jobs for whoever has no session: the HTTP API, or the program that embeds the runtime. Each question is
 * one or two reads of the store, so the answer is the same on every node; it costs the runtime nothing
 * while nobody asks. Everything is seen from a principal, and another one's job is not there (SRV-13),
 * except for an operator.
 */
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError, type FinalStatus, isFinal, type JobStatus, type Lease } from "../protocol/index.ts";
import { type JobRecord, type ListQuery, type QuestionRecord, type Store, StoreRefusal } from "../store/store.ts";
import { type Asker, isOperator, principalOf } from "./auth.ts";
import type { Masking } from "./credentials/masking.ts";
import { inTime } from "./in-time.ts";
import { cancelledPayload } from "./job/cancelled.ts";
import type { RecentEvents } from "./job/recent-events.ts";
import type { RunningJobs } from "./job/running-jobs.ts";
import { JobFollow } from "./job-follow.ts";
import { type JobSubmission, type SubmitParts, type SubmittedJob, submitJob } from "./job-submit.ts";
import type { Answering } from "./questions/answering.ts";
import type { Stats } from "./stats.ts";
import { type JobOutcome, storedOutcome } from "./stored-outcome.ts";
import { noJob, type Viewing } from "./visibility.ts";
import type { Wakeups } from "./wakeups.ts";

/** A job as it is told over `/v1`. Times are ISO 8601 in UTC. */
export interface JobInfo {
  job_id: string;
  /** Whose it is. */
  principal: string;
  /** `name@version`. */
  agent: string;
  status: JobStatus;
  lease: Lease;
  lease_constraints?: { expires_at: string };
  parent_job_id: string | null;
  trace_id: string;
  created_at: string;
  ended_at?: string;
  /** Whether somebody has asked for the job's end. */
  cancel_requested: boolean;
  /** How many events it has emitted, the terminal one included. */
  events: number;
}

/** Newest first. */
export interface JobInfoPage {
  jobs: JobInfo[];
  /** For the next page; null when this is the last. */
  next_cursor: string | null;
}

export type JobFilter = Omit<ListQuery, "principal" | "limit"> & {
  /** 1 to 1000. @default 100 */
  limit?: number | undefined;
};

export type CancelAnswer =
  /** The wish is stored; the job ends soon. */
  { outcome: "requested" } | { outcome: "already_ended"; status: FinalStatus };

/** A question that a job asked, as it is told over `/v1`. */
export interface QuestionInfo {
  question_id: string;
  state: "open" | "answered";
  message: string;
  /** Whom the agent meant to ask. */
  to?: string;
  /** JSON Schema of the answer. */
  schema?: unknown;
  asked_at: string;
  answer?: unknown;
  answered_by?: string;
  answered_at?: string;
}

/** An event of a job's log. */
export interface LoggedEvent {
  n: number;
  /** `job.result` or `job.error` for the last. */
  kind: string;
  /** As on the wire: `{kind, ts, body}` for an event. */
  payload: unknown;
}

export interface JobDeskParts {
  store: Store;
  jobs: RunningJobs;
  answering: Answering;
  masking: Masking;
  clock: Clock;
  logger: Logger;
  storeTimeoutMs: number;
  viewing: Viewing;
  recent: RecentEvents;
  wakeups: Wakeups;
  stats: Stats;
  submit: Pick<SubmitParts, "settings" | "agents" | "nodeId" | "accepting">;
  /** The store has ended these jobs: their followers are to be told. */
  ended(jobIds: readonly string[]): void;
}

const DEFAULT_PAGE = 100;

/**
 * Every method rejects with an `ArcpError`: `JOB_NOT_FOUND` for a job that is not the principal's, and a
 * retryable `INTERNAL_ERROR` (`details.code: "STORE_UNAVAILABLE"`) when the store does not answer.
 */
export class JobDesk {
  readonly #parts: JobDeskParts;
  readonly #follows = new Set<JobFollow>();

  constructor(parts: JobDeskParts) {
    this.#parts = parts;
  }

  async get(jobId: string, asker: Asker): Promise<JobInfo> {
    return toInfo(await this.#ask(() => this.#parts.viewing.visible(asker, jobId)));
  }

  /**
   * The jobs that the asker may see, newest first.
   *
   * @throws ArcpError INVALID_REQUEST for a cursor that no list has given
   */
  async list(asker: Asker, filter: JobFilter = {}): Promise<JobInfoPage> {
    const { limit = DEFAULT_PAGE } = filter;
    const page = await this.#ask(() => this.#parts.viewing.list(asker, { ...filter, limit }));
    return { jobs: page.jobs.map(toInfo), next_cursor: page.nextCursor ?? null };
  }

  /**
   * Takes a job as `job.submit` does on the wire. With a key, a repeat finds the first one's job. Rejects as there:
   * naming the field, or with DUPLICATE_KEY, LIMIT_EXCEEDED, PERMISSION_DENIED.
   */
  async submit(principal: string, submission: JobSubmission, key?: string): Promise<SubmittedJob> {
    const { submit, jobs, masking, clock, logger } = this.#parts;
    const submitted = await submitJob({ ...submit, jobs, masking, clock, logger }, principal, submission, key);
    const { jobId, created } = submitted;
    if (created)
      logger.info({ audit: "job.submit", principal, job_id: jobId, agent: submission.agent }, "job submitted");
    return submitted;
  }

  /**
   * Whether the asker may read a job's events, and which there are. For another's job a line of the log says who asked.
   *
   * @throws ArcpError JOB_NOT_FOUND; PERMISSION_DENIED for one that may be seen and not observed
   */
  async observe(jobId: string, asker: Asker): Promise<{ newestN: number; ended: boolean }> {
    const job = await this.#ask(() => this.#parts.viewing.observable(asker, jobId));
    const principal = principalOf(asker);
    if (job.principal !== principal) {
      const line = { audit: "job.observe", principal, job_id: jobId, owner: job.principal };
      this.#parts.logger.info(line, "somebody else's job is read");
    }
    return { newestN: job.lastN, ended: isFinal(job.status) };
  }

  /** Reads the events of a job that may be observed, those after `afterN`. Whoever asked for it closes it. */
  follow(jobId: string, afterN: number): JobFollow {
    const { store, recent, wakeups, stats, clock, logger } = this.#parts;
    const follow = new JobFollow({ jobs: store.jobs, recent, wakeups, stats, clock, logger }, jobId, afterN);
    this.#follows.add(follow);
    follow.closed.addEventListener("abort", () => this.#follows.delete(follow), { once: true });
    return follow;
  }

  /** How many follow now. */
  get followers(): number {
    return this.#follows.size;
  }

  /** Resolves when every follower has read what there is. */
  async whenIdle(): Promise<void> {
    await Promise.all([...this.#follows].map((follow) => follow.whenIdle()));
  }

  /** Ends what is being followed. */
  stop(): void {
    for (const follow of this.#follows) follow.close();
  }

  /** How a job ended, or that it has not. */
  async result(jobId: string, asker: Asker): Promise<JobOutcome> {
    const job = await this.#ask(() => this.#parts.viewing.observable(asker, jobId));
    if (!isFinal(job.status)) return { status: job.status };
    return await this.#ask(() => storedOutcome(this.#parts.store.jobs, job)).catch((error: unknown) => {
      // Its retention has passed since we looked.
      throw error instanceof StoreRefusal ? noJob(jobId) : error;
    });
  }

  /**
   * A page of a job's log above an n, in order, from the first event that is still kept; empty at its end. For an
   * agent that goes on from where another job of its own stopped.
   */
  async events(jobId: string, principal: string, afterN = 0): Promise<LoggedEvent[]> {
    const { jobs } = this.#parts.store;
    const read = async (): Promise<LoggedEvent[]> => {
      const { floorN } = await this.#parts.viewing.observable(principal, jobId);
      const { events } = await jobs.read(jobId, Math.max(afterN, floorN));
      return events.map(({ n, kind, payload }) => ({ n, kind, payload: JSON.parse(payload) as unknown }));
    };
    return await this.#ask(read).catch((error: unknown) => {
      // It was shortened, or its retention has passed, since we looked.
      throw error instanceof StoreRefusal ? noJob(jobId) : error;
    });
  }

  /**
   * Asks for a job's end, as `job.cancel` does on the wire. The first wish's reason is the one that is told.
   * A line of the runtime's log says who asked. For the principal that submitted it, and operators.
   */
  async cancel(jobId: string, asker: Asker, reason?: string): Promise<CancelAnswer> {
    const { store, jobs, ended, clock, logger, masking } = this.#parts;
    // It is kept, and nothing that is kept has a secret in it (law 8).
    const kept = reason === undefined ? undefined : masking.text(reason);
    const principal = principalOf(asker);
    const job = await this.#ask(() => this.#parts.viewing.visible(asker, jobId));
    if (job.principal !== principal && !isOperator(asker)) {
      throw new ArcpError(
        "PERMISSION_DENIED",
        "job_id: only the principal that submitted a job, or an operator, may cancel it.",
      );
    }
    const wish = await this.#ask(() =>
      store.jobs.requestCancel({ jobId, reason: kept, cancelledPayload: cancelledPayload(kept), now: clock.wall() }),
    ).catch((error: unknown) => {
      throw error instanceof StoreRefusal ? noJob(jobId) : error;
    });
    logger.info({ audit: "job.cancel", principal, job_id: jobId, outcome: wish.outcome }, "cancel asked for");
    if (wish.outcome === "already_ended") return wish;
    if (wish.outcome === "ended") ended([jobId]);
    // A job of another process learns it from the store.
    jobs.cancel(jobId, kept);
    return { outcome: "requested" };
  }

  /** The questions of a job, oldest first, that are open or were answered, as far as the principal may answer them. */
  async questions(jobId: string, asker: Asker): Promise<QuestionInfo[]> {
    return (await this.#ask(() => this.#parts.answering.list(jobId, asker))).map(toQuestionInfo);
  }

  /**
   * Answers a question of a job, as the submitting session does on the wire. A line of the runtime's log says
   * who did. Rejects with INVALID_REQUEST too: for an answer that its schema does not allow, and with
   * `details.code` `ALREADY_ANSWERED`, `QUESTION_CLOSED` or `QUESTION_NOT_FOUND`.
   */
  async answer(jobId: string, questionId: string, asker: Asker, answer: unknown): Promise<void> {
    await this.#ask(() => this.#parts.answering.directly({ jobId, questionId, asker, answer }));
  }

  async #ask<T>(work: () => Promise<T>): Promise<T> {
    const { clock, logger, storeTimeoutMs, stats } = this.#parts;
    try {
      return await inTime(work, { clock, logger, timeoutMs: storeTimeoutMs });
    } catch (error) {
      if (isStoreUnavailable(error)) stats.storeErrors.request += 1;
      throw error;
    }
  }
}

const isStoreUnavailable = (error: unknown): boolean =>
  error instanceof ArcpError && error.details?.["code"] === "STORE_UNAVAILABLE";

const iso = (wallMs: number): string => new Date(wallMs).toISOString();

function toInfo(job: JobRecord): JobInfo {
  return {
    job_id: job.jobId,
    principal: job.principal,
    agent: job.agent,
    status: job.status,
    lease: job.lease,
    ...(job.leaseExpiresAt === undefined ? {} : { lease_constraints: { expires_at: iso(job.leaseExpiresAt) } }),
    parent_job_id: job.parentJobId ?? null,
    trace_id: job.traceId,
    created_at: iso(job.createdAt),
    ...(job.endedAt === undefined ? {} : { ended_at: iso(job.endedAt) }),
    cancel_requested: job.cancelRequested,
    events: job.lastN,
  };
}

function toQuestionInfo(question: QuestionRecord): QuestionInfo {
  const { to, schema, answer, answeredBy, answeredAt } = question;
  return {
    question_id: question.questionId,
    state: question.state === "answered" ? "answered" : "open",
    message: question.message,
    ...(to === undefined ? {} : { to }),
    ...(schema === undefined ? {} : { schema: JSON.parse(schema) as unknown }),
    asked_at: iso(question.askedAt),
    ...(answer === undefined ? {} : { answer: JSON.parse(answer) as unknown }),
    ...(answeredBy === undefined ? {} : { answered_by: answeredBy }),
    ...(answeredAt === undefined ? {} : { answered_at: iso(answeredAt) }),
  };
}

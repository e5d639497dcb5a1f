/**
 * The questions that this process's jobs wait on (SPEC.md, ASK). The store has the question and its answer;
 * here is only who waits. An answer that this process stored is handed over at once; one that another
 * process stored is found by the hint it leaves, or by the sweep (law 4).
 */
import { type Clock, sleep } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError, newQuestionId } from "../../protocol/index.ts";
import { type QuestionRecord, type Store, StoreUnavailable, type SweepAnswer } from "../../store/store.ts";
import type { Masking } from "../credentials/masking.ts";
import { schemaText } from "./answer-schema.ts";

/** What a job asks a person, or whoever may answer. */
export interface Question {
  /** What is asked: 1 to 4,096 characters. */
  message: string;
  /** JSON Schema (draft 2020-12) of the answer, at most 16 KiB. @default any JSON value */
  schema?: object | boolean | undefined;
  /** After this the question is closed, and `ask` rejects with `TIMEOUT`. @default as long as the job may run */
  timeoutMs?: number | undefined;
  /** Whom the agent means to ask, for whoever shows the question. Gives nobody a right to answer. */
  to?: string | undefined;
}

/** What a question needs of the run that asks. */
export interface AskingRun {
  readonly jobId: string;
  readonly runEpoch: number;
  readonly signal: AbortSignal;
  /** Settles when the job has ended here. */
  readonly closed: Promise<void>;
  emit(kind: string, body: unknown): Promise<void>;
}

/** What there is to know of an answer. */
export interface Answer {
  /** JSON text. */
  answer: string;
  answeredBy: string;
}

interface AskingJob {
  /** How many answers the store had for the job when we last read them. */
  answers: number;
  /** By question; resolved with nothing when the time is up. */
  readonly waiting: Map<string, PromiseWithResolvers<Answer | undefined>>;
}

const MAX_OPEN_PER_JOB = 16;
const MAX_MESSAGE_CHARS = 4_096;
const MAX_ADDRESSEE_CHARS = 256;
const CLOSE_RETRY_MS = 500;

export class OpenQuestions {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #masking: Masking;
  readonly #jobs = new Map<string, AskingJob>();
  /** Jobs whose answers are to be read. */
  readonly #unread = new Set<string>();

  constructor(parts: { store: Store; masking: Masking; clock: Clock; logger: Logger }) {
    this.#store = parts.store;
    this.#clock = parts.clock;
    this.#logger = parts.logger;
    this.#masking = parts.masking;
  }

  /**
   * Asks, and waits for the answer.
   *
   * @throws ArcpError INVALID_REQUEST for a wrong question, TIMEOUT, LIMIT_EXCEEDED for one open question too
   *   many, STORE_UNAVAILABLE; and what ends the job
   */
  ask(run: AskingRun, question: Question): Promise<unknown> {
    const answer = this.#ask(run, question);
    // An agent that does not await its question would otherwise end the process with an unhandled rejection.
    answer.catch((error: unknown) => {
      this.#logger.debug({ err: error, job_id: run.jobId }, "a question was not answered");
    });
    return answer;
  }

  async #ask(run: AskingRun, question: Question): Promise<unknown> {
    const { message, schema, timeoutMs, to } = checked(question, this.#masking);
    run.signal.throwIfAborted();
    const { jobId, runEpoch } = run;
    const { waiting } = this.#jobOf(run);
    if (waiting.size >= MAX_OPEN_PER_JOB) {
      throw ArcpError.detail("LIMIT_EXCEEDED", `A job has at most ${MAX_OPEN_PER_JOB} open questions; await some.`, {
        limit: MAX_OPEN_PER_JOB,
      });
    }
    const questionId = newQuestionId();
    const answered = Promise.withResolvers<Answer | undefined>();
    answered.promise.catch(() => undefined);
    waiting.set(questionId, answered);
    const onAbort = () => answered.reject(run.signal.reason);
    run.signal.addEventListener("abort", onAbort, { once: true });
    const timer = timeoutMs === undefined ? undefined : this.#clock.after(timeoutMs, () => answered.resolve(undefined));
    let mayBeOpen = true;
    try {
      await this.#open({ jobId, runEpoch, questionId, message, schema, to, now: this.#clock.wall() });
      await run.emit("status", {
        phase: "input_required",
        question_id: questionId,
        message,
        ...(to === undefined ? {} : { to }),
        ...(schema === undefined ? {} : { schema: JSON.parse(schema) as unknown }),
      });
      const answer = (await answered.promise) ?? answerIn(await this.#close(run, questionId));
      mayBeOpen = false;
      if (answer === undefined) {
        await run.emit("status", { phase: "input_closed", question_id: questionId, reason: "timeout" });
        throw new ArcpError("TIMEOUT", `Nobody answered the question within ${timeoutMs} ms.`, {
          details: { question_id: questionId },
        });
      }
      await run.emit("status", {
        phase: "input_received",
        question_id: questionId,
        answered_by: answer.answeredBy,
      });
      return JSON.parse(answer.answer) as unknown;
    } finally {
      if (mayBeOpen) this.#abandon(jobId, questionId);
      timer?.cancel();
      run.signal.removeEventListener("abort", onAbort);
      waiting.delete(questionId);
      // Nothing is asked any more. A job that was taken away may never be told that it has ended.
      if (run.signal.aborted && waiting.size === 0) this.#jobs.delete(jobId);
    }
  }

  /** An answer was stored here. */
  deliver(jobId: string, questionId: string, answer: Answer): void {
    this.#jobs.get(jobId)?.waiting.get(questionId)?.resolve(answer);
  }

  /** There may be an answer in the store that nobody was told of. */
  look(jobId: string): void {
    if (this.#jobs.has(jobId)) this.#unread.add(jobId);
    this.#readAll();
  }

  /** Acts on what the store says of jobs, and no wake-up told. */
  reconcile(jobs: SweepAnswer["jobs"]): void {
    for (const { jobId, answers } of jobs) {
      const job = this.#jobs.get(jobId);
      if (job === undefined || job.answers === answers) continue;
      job.answers = answers;
      this.#unread.add(jobId);
    }
    this.#readAll();
  }

  /** What cannot be read now is read at the next sweep. */
  #readAll(): void {
    for (const jobId of this.#unread) {
      this.#unread.delete(jobId);
      this.#read(jobId).catch((error: unknown) => {
        if (this.#jobs.has(jobId)) this.#unread.add(jobId);
        this.#logger.warn({ err: error, job_id: jobId }, "answers could not be read; the next sweep will");
      });
    }
  }

  async #read(jobId: string): Promise<void> {
    for (const [questionId, answered] of this.#jobs.get(jobId)?.waiting ?? []) {
      const answer = answerIn(await this.#store.questions.get(jobId, questionId));
      if (answer !== undefined) answered.resolve(answer);
    }
  }

  #jobOf(run: AskingRun): AskingJob {
    const known = this.#jobs.get(run.jobId);
    if (known !== undefined) return known;
    const job: AskingJob = { answers: 0, waiting: new Map() };
    this.#jobs.set(run.jobId, job);
    void run.closed.then(() => {
      this.#jobs.delete(run.jobId);
      this.#unread.delete(run.jobId);
      const over = new ArcpError("INTERNAL_ERROR", "The job has ended; nobody can answer its questions any more.");
      for (const answered of job.waiting.values()) answered.reject(over);
    });
    return job;
  }

  async #open(question: Parameters<Store["questions"]["open"]>[0]): Promise<void> {
    try {
      await this.#store.questions.open(question);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      throw ArcpError.detail("STORE_UNAVAILABLE", "The store did not answer; nothing was asked. Try again.", {}, error);
    }
  }

  /** Closes a question whose time is up. It is over when the store says so: an answer that came first stands. */
  async #close(run: AskingRun, questionId: string): Promise<QuestionRecord | undefined> {
    for (;;) {
      try {
        return await this.#store.questions.close({ jobId: run.jobId, questionId, now: this.#clock.wall() });
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
        await sleep(this.#clock, CLOSE_RETRY_MS, run.signal);
      }
    }
  }

  /** Nobody waits any more. Should the store not take it, the job's end closes the question. */
  #abandon(jobId: string, questionId: string): void {
    this.#store.questions.close({ jobId, questionId, now: this.#clock.wall() }).catch((error: unknown) => {
      this.#logger.debug({ err: error, job_id: jobId, question_id: questionId }, "question not closed");
    });
  }
}

function answerIn(record: QuestionRecord | undefined): Answer | undefined {
  if (record?.answer === undefined || record.answeredBy === undefined) return undefined;
  return { answer: record.answer, answeredBy: record.answeredBy };
}

/** What is asked, as it may be stored. @throws ArcpError INVALID_REQUEST naming the option */
function checked(question: Question, masking: Masking): Omit<Question, "schema"> & { schema: string | undefined } {
  const { message, schema, timeoutMs, to } = question;
  const wrong = (what: string) => new ArcpError("INVALID_REQUEST", `${what}.`);
  const isText = (value: unknown, max: number): boolean =>
    typeof value === "string" && value !== "" && value.length <= max && value.isWellFormed();
  if (!isText(message, MAX_MESSAGE_CHARS))
    throw wrong(`message: must be a text of 1 to ${MAX_MESSAGE_CHARS} characters`);
  if (to !== undefined && !isText(to, MAX_ADDRESSEE_CHARS)) {
    throw wrong(`to: must be a text of 1 to ${MAX_ADDRESSEE_CHARS} characters`);
  }
  if (timeoutMs !== undefined && !(timeoutMs > 0 && Number.isFinite(timeoutMs))) {
    throw wrong(`timeoutMs: ${timeoutMs} is not a positive number`);
  }
  return {
    message: masking.text(message),
    schema: schema === undefined ? undefined : masking.json(schemaText(schema)),
    timeoutMs,
    to: to === undefined ? undefined : masking.text(to),
  };
}

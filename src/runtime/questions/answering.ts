/**
 * Answers to the questions of jobs, from a session or over HTTP (SPEC.md, ASK). Who may answer and what is
 * an answer is decided here; who was first, in the store. An answer is data for the agent and nothing
 * else: it changes no lease.
 */
import type { Clock } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import {
  type AnswerOutcome,
  type Duplicate,
  type JobRecord,
  type NewAnswer,
  type QuestionRecord,
  type RequestRef,
  type Store,
  StoreRefusal,
} from "../../store/store.ts";
import { type Asker, isOperator, principalOf } from "../auth.ts";
import type { Masking } from "../credentials/masking.ts";
import { noJob, type Viewing } from "../visibility.ts";
import { answerText } from "./answer-schema.ts";
import type { OpenQuestions } from "./open-questions.ts";

/**
 * Whether a principal may answer a question of a job, besides the session that submitted it. Whoever may
 * answer may learn that the job is there.
 */
export type AnswerPolicy = (principal: string, job: JobRecord, question: QuestionRecord) => boolean;

/** An answer as it came. */
export interface GivenAnswer {
  asker: Asker;
  jobId: string;
  questionId: string;
  answer: unknown;
}

export class Answering {
  readonly #store: Store;
  readonly #open: OpenQuestions;
  readonly #mayAnswer: AnswerPolicy;
  readonly #viewing: Viewing;
  readonly #masking: Masking;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(parts: {
    store: Store;
    open: OpenQuestions;
    mayAnswer: AnswerPolicy;
    viewing: Viewing;
    masking: Masking;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = parts.store;
    this.#open = parts.open;
    this.#mayAnswer = parts.mayAnswer;
    this.#viewing = parts.viewing;
    this.#masking = parts.masking;
    this.#clock = parts.clock;
    this.#logger = parts.logger;
  }

  /**
   * Answers as a session's request.
   *
   * @param frames the reply, whatever comes of it; called inside the store's transaction
   * @returns the reply's frame; of a request that came before, as it was stored then
   * @throws ArcpError JOB_NOT_FOUND, PERMISSION_DENIED, INVALID_REQUEST for an answer of the wrong form;
   *   StoreRefusal superseded
   */
  async fromSession(
    ref: RequestRef,
    given: GivenAnswer,
    frames: { accepted(): string; refused(error: ArcpError): string },
  ): Promise<string | undefined> {
    const answer = await this.#checked(given, "payload", ref.sessionId);
    const result: (AnswerOutcome & { frame: string }) | Duplicate = await this.#found(
      given.jobId,
      this.#store.questions.answer({
        ...ref,
        ...answer,
        reply: (outcome) => {
          const refusal = refusalOf(given, outcome, "payload");
          return { frame: refusal === undefined ? frames.accepted() : frames.refused(refusal) };
        },
      }),
    );
    if (result.outcome === "duplicate") this.#open.look(given.jobId);
    else this.#settled(given, answer, result, ref.sessionId);
    return result.frame;
  }

  /**
   * Answers for a principal without a session, who must be the one that submitted the job, named by the policy,
   * or an operator.
   *
   * @throws ArcpError
   */
  async directly(given: GivenAnswer): Promise<void> {
    const answer = await this.#checked(given, "body", undefined);
    const outcome = await this.#found(given.jobId, this.#store.questions.answerDirectly(answer));
    this.#settled(given, answer, outcome, undefined);
    const refusal = refusalOf(given, outcome, "path");
    if (refusal !== undefined) throw refusal;
  }

  /**
   * The questions of a job that the principal may answer, open and answered.
   *
   * @throws ArcpError JOB_NOT_FOUND, PERMISSION_DENIED
   */
  async list(jobId: string, asker: Asker): Promise<QuestionRecord[]> {
    const job = await this.#store.jobs.get(jobId);
    if (job === undefined) throw noJob(jobId);
    const all = await this.#store.questions.list(jobId);
    const principal = principalOf(asker);
    const own = job.principal === principal || isOperator(asker);
    const mine = own ? all : all.filter((question) => this.#mayAnswer(principal, job, question));
    if (!own && mine.length === 0) throw this.#refusal(asker, job);
    return mine.filter((question) => question.state !== "closed");
  }

  async #checked(given: GivenAnswer, where: string, sessionId: string | undefined): Promise<NewAnswer> {
    const { asker, jobId, questionId } = given;
    const principal = principalOf(asker);
    const job = await this.#store.jobs.get(jobId);
    if (job === undefined) throw noJob(jobId);
    const question = await this.#store.questions.get(jobId, questionId);
    const isNamed = isOperator(asker) || (question !== undefined && this.#mayAnswer(principal, job, question));
    const isSubmitter =
      job.principal === principal &&
      (sessionId === undefined || (await this.#store.questions.isSubmitter(jobId, sessionId)));
    if (!isNamed && !isSubmitter) throw this.#refusal(asker, job);
    // Of a question that is not open the store says so, whatever the answer looks like.
    const schema = question?.state === "open" ? question.schema : undefined;
    const answer = this.#masking.json(answerText(given.answer, schema, `${where}.answer`));
    return { jobId, questionId, answer, answeredBy: principal, now: this.#clock.wall() };
  }

  /** Whoever may not see a job is not told that there is one. */
  #refusal(asker: Asker, job: JobRecord): ArcpError {
    if (this.#viewing.of(asker, job) === "none") return noJob(job.jobId);
    return new ArcpError("PERMISSION_DENIED", "Only the session that submitted a job may answer its questions.");
  }

  /** A job whose retention has passed since we looked is not there. */
  #found<T>(jobId: string, work: Promise<T>): Promise<T> {
    return work.catch((error: unknown) => {
      throw error instanceof StoreRefusal && error.reason === "unknown_job" ? noJob(jobId) : error;
    });
  }

  #settled(given: GivenAnswer, answer: NewAnswer, { outcome }: AnswerOutcome, sessionId: string | undefined): void {
    const { jobId, questionId } = given;
    this.#logger.info(
      {
        audit: "job.answer",
        principal: principalOf(given.asker),
        ...(sessionId === undefined ? {} : { session_id: sessionId }),
        job_id: jobId,
        question_id: questionId,
        outcome,
      },
      "question answered",
    );
    if (outcome === "accepted") this.#open.deliver(jobId, questionId, answer);
  }
}

/** Why an answer does not count, `undefined` when it does. */
function refusalOf(given: GivenAnswer, { outcome }: AnswerOutcome, where: string): ArcpError | undefined {
  const jobId = given.jobId.slice(0, 256);
  const questionId = given.questionId.slice(0, 256);
  const name = `${where}.question_id: ${JSON.stringify(questionId)}`;
  const details = { question_id: questionId };
  switch (outcome) {
    case "accepted":
      return undefined;
    case "already_answered":
      return ArcpError.detail("ALREADY_ANSWERED", `${name} was answered before; that answer stands.`, details);
    case "closed":
      return ArcpError.detail("QUESTION_CLOSED", `${name} is closed; nobody waits for an answer any more.`, details);
    case "unknown_question":
      return ArcpError.detail("QUESTION_NOT_FOUND", `${name} is no question of ${jobId}.`, details);
  }
}

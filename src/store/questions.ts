/**
 * What agents ask people, as a store keeps it (SPEC.md, ASK). A question belongs to its job and goes with
 * it. Only the attempt that asked can open or close it; whoever answers first has answered, and the rest are
 * told so. A question whose job has ended, or whose attempt is over, counts as closed without a write.
 */
import type { Duplicate, ReplyDraft, RequestRef } from "./request.ts";

/** The answered and closed questions that are kept of one job; of more, the oldest go. */
export const KEPT_QUESTIONS_PER_JOB = 100;

export interface NewQuestion {
  jobId: string;
  /** Of the attempt that asks. */
  runEpoch: number;
  questionId: string;
  message: string;
  /** JSON text of the JSON Schema that an answer must satisfy. */
  schema: string | undefined;
  /** Whom the agent means to ask. Says nothing about who may answer. */
  to: string | undefined;
  now: number;
}

/** `closed`: nobody waits for an answer any more. */
export type QuestionState = "open" | "answered" | "closed";

export interface QuestionRecord {
  questionId: string;
  state: QuestionState;
  message: string;
  schema: string | undefined;
  to: string | undefined;
  askedAt: number;
  /** JSON text, once it is answered. */
  answer: string | undefined;
  /** The principal. */
  answeredBy: string | undefined;
  answeredAt: number | undefined;
}

export interface NewAnswer {
  jobId: string;
  questionId: string;
  /** JSON text. */
  answer: string;
  answeredBy: string;
  now: number;
}

export type AnswerOutcome =
  /** This answer is the one. */
  { outcome: "accepted" } | { outcome: "already_answered" } | { outcome: "closed" } | { outcome: "unknown_question" };

export interface AnswerRequest extends RequestRef, NewAnswer {
  reply(outcome: AnswerOutcome): ReplyDraft;
}

export interface QuestionFacet {
  /** Repeating it changes nothing. @throws StoreRefusal unknown_job, stale_run, job_ended */
  open(question: NewQuestion): Promise<void>;
  /** One question of a job. */
  get(jobId: string, questionId: string): Promise<QuestionRecord | undefined>;
  /** Those that are kept, in the order in which they were asked. */
  list(jobId: string): Promise<QuestionRecord[]>;
  /**
   * Whether a session has the right to cancel a job, which is the right to answer its questions: it submitted
   * it. A right once had stays.
   */
  isSubmitter(jobId: string, sessionId: string): Promise<boolean>;
  /**
   * Answers, if nobody has, and stores the reply in the same commit. Who may answer is the caller's affair.
   *
   * @throws StoreRefusal superseded, unknown_job
   */
  answer(request: AnswerRequest): Promise<(AnswerOutcome & { frame: string }) | Duplicate>;
  /** The same for whoever has no session. @throws StoreRefusal unknown_job */
  answerDirectly(answer: NewAnswer): Promise<AnswerOutcome>;
  /**
   * Closes a question that nobody has answered.
   *
   * @returns the question as it is now: an answer that came first stands; `undefined` for one that is not there
   */
  close(question: { jobId: string; questionId: string; now: number }): Promise<QuestionRecord | undefined>;
}

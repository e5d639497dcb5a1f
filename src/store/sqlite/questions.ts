/**
 * Questions of running jobs. An answer is a compare-and-set on one row; it also counts up a number in the
 * job's head, which is what the sweep of the node that runs the job looks at (law 4).
 */
import {
  type AnswerOutcome,
  KEPT_QUESTIONS_PER_JOB,
  type NewAnswer,
  type NewQuestion,
  type QuestionFacet,
  type QuestionRecord,
  type QuestionState,
} from "../store.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";
import { headOf, type JobHead, requireRunning, unknownJob } from "./jobs.ts";
import { framed, once } from "./requests.ts";

export function questionFacet(engine: Engine): QuestionFacet {
  return {
    open: (question) => engine.write((db) => open(db, question)),
    get: (jobId, questionId) => engine.read((db) => get(db, jobId, questionId)),
    list: (jobId) => engine.read((db) => list(db, jobId)),
    isSubmitter: (jobId, sessionId) => engine.read((db) => isSubmitter(db, jobId, sessionId)),
    answer: (request) => engine.write((db) => once(db, request, () => framed(answer(db, request), request))),
    answerDirectly: (given) => engine.write((db) => answer(db, given)),
    close: (question) => engine.write((db) => close(db, question)),
  };
}

interface QuestionRow {
  ordinal: number;
  question_id: string;
  run_epoch: number;
  state: QuestionState;
  message: string;
  schema: string | null;
  addressee: string | null;
  asked_at: number;
  answer: string | null;
  answered_by: string | null;
  settled_at: number | null;
}

const COLUMNS = `ordinal, question_id, run_epoch, state, message, schema, addressee, asked_at, answer, answered_by,
  settled_at`;

const rowOf = (db: Database, head: JobHead, questionId: string): QuestionRow | undefined =>
  db.get<QuestionRow>(
    `SELECT ${COLUMNS} FROM questions WHERE job_key = ? AND question_id = ?`,
    head.job_key,
    questionId,
  );

/** Nobody waits for an answer to what an attempt asked that is over, and the end of a job ends its attempt. */
const stateOf = (row: QuestionRow, head: JobHead): QuestionState =>
  row.state === "open" && head.run_epoch !== row.run_epoch ? "closed" : row.state;

function toRecord(row: QuestionRow, head: JobHead): QuestionRecord {
  return {
    questionId: row.question_id,
    state: stateOf(row, head),
    message: row.message,
    schema: row.schema ?? undefined,
    to: row.addressee ?? undefined,
    askedAt: row.asked_at,
    answer: row.answer ?? undefined,
    answeredBy: row.answered_by ?? undefined,
    answeredAt: row.state === "answered" ? (row.settled_at ?? undefined) : undefined,
  };
}

function open(db: Database, question: NewQuestion): void {
  const head = headOf(db, question.jobId);
  if (head === undefined) {
    throw unknownJob(question.jobId);
  }
  requireRunning(head, question.jobId, question.runEpoch);
  if (rowOf(db, head, question.questionId) !== undefined) {
    return;
  }
  const { newest } = db.get<{ newest: number | null }>(
    "SELECT max(ordinal) AS newest FROM questions WHERE job_key = ?",
    head.job_key,
  ) ?? { newest: null };
  const ordinal = (newest ?? 0) + 1;
  db.run(
    `INSERT INTO questions (job_key, ordinal, question_id, run_epoch, state, message, schema, addressee, asked_at)
     VALUES (?, ?, ?, ?, 'open', ?, ?, ?, ?)`,
    head.job_key,
    ordinal,
    question.questionId,
    question.runEpoch,
    question.message,
    question.schema ?? null,
    question.to ?? null,
    question.now,
  );
  db.run(
    "DELETE FROM questions WHERE job_key = ? AND ordinal <= ? AND state <> 'open'",
    head.job_key,
    ordinal - KEPT_QUESTIONS_PER_JOB,
  );
}

function get(db: Database, jobId: string, questionId: string): QuestionRecord | undefined {
  const head = headOf(db, jobId);
  const row = head && rowOf(db, head, questionId);
  return row && toRecord(row, head);
}

function list(db: Database, jobId: string): QuestionRecord[] {
  const head = headOf(db, jobId);
  if (head === undefined) {
    return [];
  }
  return db
    .all<QuestionRow>(`SELECT ${COLUMNS} FROM questions WHERE job_key = ? ORDER BY ordinal`, head.job_key)
    .map((row) => toRecord(row, head));
}

function isSubmitter(db: Database, jobId: string, sessionId: string): boolean {
  return (
    db.get(
      `SELECT 1 FROM jobs j JOIN sessions s ON s.session_id = ?2
       WHERE j.job_id = ?1 AND (j.session_key = s.session_key OR EXISTS
         (SELECT 1 FROM follows f WHERE f.session_key = s.session_key AND f.job_key = j.job_key AND f.can_cancel = 1))`,
      jobId,
      sessionId,
    ) !== undefined
  );
}

function answer(db: Database, given: NewAnswer): AnswerOutcome {
  const head = headOf(db, given.jobId);
  if (head === undefined) {
    throw unknownJob(given.jobId);
  }
  const row = rowOf(db, head, given.questionId);
  if (row === undefined) {
    return { outcome: "unknown_question" };
  }
  switch (stateOf(row, head)) {
    case "answered":
      return { outcome: "already_answered" };
    case "closed":
      return { outcome: "closed" };
    case "open":
      db.run(
        `UPDATE questions SET state = 'answered', answer = ?, answered_by = ?, settled_at = ?
         WHERE job_key = ? AND ordinal = ?`,
        given.answer,
        given.answeredBy,
        given.now,
        head.job_key,
        row.ordinal,
      );
      db.run("UPDATE job_heads SET answers = answers + 1 WHERE job_key = ?", head.job_key);
      db.touch({ jobId: given.jobId });
      return { outcome: "accepted" };
  }
}

function close(db: Database, question: { jobId: string; questionId: string; now: number }): QuestionRecord | undefined {
  const head = headOf(db, question.jobId);
  if (head === undefined) {
    return undefined;
  }
  db.run(
    "UPDATE questions SET state = 'closed', settled_at = ? WHERE job_key = ? AND question_id = ? AND state = 'open'",
    question.now,
    head.job_key,
    question.questionId,
  );
  const row = rowOf(db, head, question.questionId);
  return row && toRecord(row, head);
}

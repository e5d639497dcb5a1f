/**
 * Questions of running jobs. An answer is a compare-and-set under the job's lock; it also counts up a number in the
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
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { headOf, type JobHead, lockHead, requireRunning, unknownJob } from "./jobs.ts";
import { framed, once } from "./requests.ts";

export function questionFacet(engine: Engine): QuestionFacet {
  return {
    open: (question) => engine.write((db) => open(db, question)),
    get: (jobId, questionId) => engine.read((db) => get(db, jobId, questionId)),
    list: (jobId) => engine.read((db) => list(db, jobId)),
    isSubmitter: (jobId, sessionId) => engine.single((db) => isSubmitter(db, jobId, sessionId)),
    answer: (request) =>
      engine.writeInOrder(request.sessionId, async (db) => {
        // The job's lock comes before the session's.
        const head = await lockHead(db, request.jobId);
        return await once(db, request, async () => framed(await answer(db, head, request), request));
      }),
    answerDirectly: (given) => engine.write(async (db) => answer(db, await lockHead(db, given.jobId), given)),
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

const rowOf = (db: Transaction, head: JobHead, questionId: string): Promise<QuestionRow | undefined> =>
  db.get<QuestionRow>(
    `SELECT ${COLUMNS} FROM $.questions WHERE job_key = $1 AND question_id = $2`,
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

async function open(db: Transaction, question: NewQuestion): Promise<void> {
  const head = await lockHead(db, question.jobId);
  if (head === undefined) {
    throw unknownJob(question.jobId);
  }
  requireRunning(head, question.jobId, question.runEpoch);
  if ((await rowOf(db, head, question.questionId)) !== undefined) {
    return;
  }
  const { newest } = (await db.get<{ newest: number | null }>(
    "SELECT max(ordinal) AS newest FROM $.questions WHERE job_key = $1",
    head.job_key,
  )) ?? { newest: null };
  const ordinal = (newest ?? 0) + 1;
  await db.run(
    `INSERT INTO $.questions (job_key, ordinal, question_id, run_epoch, state, message, schema, addressee, asked_at)
     VALUES ($1, $2, $3, $4, 'open', $5, $6, $7, $8)`,
    head.job_key,
    ordinal,
    question.questionId,
    question.runEpoch,
    question.message,
    question.schema ?? null,
    question.to ?? null,
    question.now,
  );
  await db.run(
    "DELETE FROM $.questions WHERE job_key = $1 AND ordinal <= $2 AND state <> 'open'",
    head.job_key,
    ordinal - KEPT_QUESTIONS_PER_JOB,
  );
}

async function get(db: Transaction, jobId: string, questionId: string): Promise<QuestionRecord | undefined> {
  const head = await headOf(db, jobId);
  const row = head && (await rowOf(db, head, questionId));
  return row && toRecord(row, head);
}

async function list(db: Transaction, jobId: string): Promise<QuestionRecord[]> {
  const head = await headOf(db, jobId);
  if (head === undefined) {
    return [];
  }
  const rows = await db.all<QuestionRow>(
    `SELECT ${COLUMNS} FROM $.questions WHERE job_key = $1 ORDER BY ordinal`,
    head.job_key,
  );
  return rows.map((row) => toRecord(row, head));
}

const isSubmitter = async (db: Transaction, jobId: string, sessionId: string): Promise<boolean> =>
  (await db.get(
    `SELECT 1 FROM $.jobs j JOIN $.sessions s ON s.session_id = $2
     WHERE j.job_id = $1 AND (j.session_key = s.session_key OR EXISTS
       (SELECT FROM $.follows f WHERE f.session_key = s.session_key AND f.job_key = j.job_key AND f.can_cancel))`,
    jobId,
    sessionId,
  )) !== undefined;

/** @param head locked */
async function answer(db: Transaction, head: JobHead | undefined, given: NewAnswer): Promise<AnswerOutcome> {
  if (head === undefined) {
    throw unknownJob(given.jobId);
  }
  const row = await rowOf(db, head, given.questionId);
  if (row === undefined) {
    return { outcome: "unknown_question" };
  }
  switch (stateOf(row, head)) {
    case "answered":
      return { outcome: "already_answered" };
    case "closed":
      return { outcome: "closed" };
    case "open":
      await db.run(
        `UPDATE $.questions SET state = 'answered', answer = $1, answered_by = $2, settled_at = $3
         WHERE job_key = $4 AND ordinal = $5`,
        given.answer,
        given.answeredBy,
        given.now,
        head.job_key,
        row.ordinal,
      );
      await db.run("UPDATE $.job_heads SET answers = answers + 1 WHERE job_key = $1", head.job_key);
      db.touch({ jobId: given.jobId });
      return { outcome: "accepted" };
  }
}

async function close(
  db: Transaction,
  question: { jobId: string; questionId: string; now: number },
): Promise<QuestionRecord | undefined> {
  // Either this or an answer comes first: both lock the job.
  const head = await lockHead(db, question.jobId);
  if (head === undefined) {
    return undefined;
  }
  await db.run(
    `UPDATE $.questions SET state = 'closed', settled_at = $1
     WHERE job_key = $2 AND question_id = $3 AND state = 'open'`,
    question.now,
    head.job_key,
    question.questionId,
  );
  const row = await rowOf(db, head, question.questionId);
  return row && toRecord(row, head);
}

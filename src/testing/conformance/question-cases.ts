/**
 * ASK: questions of jobs to people. They are Holdfast's own extension to the wire, so that a runtime which has none
 * offers no agent `approve`, and these rules are not run.
 */
import { bodyOf, codeOf, detailsOf, messageOf, type Peer, type Received, type Request, record } from "./peer.ts";
import { type ConformanceCase, checkStream, type Stage } from "./stage.ts";
import { check } from "./verdict.ts";

const ANSWER = "x-vendor.holdfast.answer";
const agents = ["approve"];

const statuses = (peer: Peer, jobId: string, phase: string): Received[] =>
  peer.events(jobId, "status").filter((event) => bodyOf(event)["phase"] === phase);

const question = (peer: Peer, jobId: string): Promise<Received> =>
  peer.until(() => statuses(peer, jobId, "input_required")[0], `a status event input_required of ${jobId}`);

interface Asked {
  peer: Peer;
  jobId: string;
  questionId: string;
  asked: Received;
}

/** A job that has asked its question. */
async function asking(stage: Stage, input: object = {}): Promise<Asked> {
  const peer = await stage.connect();
  const jobId = await peer.start("approve", { action: "go on", ...input });
  const asked = await question(peer, jobId);
  const questionId = bodyOf(asked)["question_id"];
  check(typeof questionId === "string" && questionId !== "", "`question_id` in input_required", asked);
  return { peer, jobId, questionId, asked };
}

const prepared = (peer: Peer, { jobId, questionId }: Pick<Asked, "jobId" | "questionId">, answer: unknown): Request =>
  peer.prepare(ANSWER, { job_id: jobId, question_id: questionId, answer });

function give(peer: Peer, to: Pick<Asked, "jobId" | "questionId">, answer: unknown): Promise<Received> {
  const request = prepared(peer, to, answer);
  peer.post(request);
  return peer.answerTo(request);
}

function checkAccepted(answer: Received, what: string): void {
  const { type, payload } = answer.envelope;
  check(
    type === "x-vendor.holdfast.answered" && payload["outcome"] === "accepted",
    `x-vendor.holdfast.answered with outcome "accepted" for ${what}`,
    answer,
  );
}

function checkRefused(answer: Received, code: string, detail: string | undefined, what: string): void {
  check(
    answer.envelope.type === "session.error" && codeOf(answer) === code,
    `session.error ${code} for ${what}`,
    answer,
  );
  if (detail !== undefined) check(detailsOf(answer)["code"] === detail, `details.code "${detail}" for ${what}`, answer);
}

const YES = { approve: true, note: "žádný problém" };
const NO = { approve: false };

const asksAndHears: ConformanceCase = {
  rule: "ASK-1",
  title: "a question and its answer are status events for every follower, and the answer reaches the agent",
  agents,
  async run(stage) {
    stage.needsFeatures("subscribe");
    const one = await asking(stage);
    const { peer, jobId, questionId, asked } = one;
    const { message, schema } = bodyOf(asked);
    check(typeof message === "string" && message.includes("go on"), "`message` in input_required", asked);
    check(record(schema)["type"] === "object", "`schema` in input_required, as approve gives one", asked);
    const watcher = await stage.connect();
    await watcher.ask("job.subscribe", { job_id: jobId, history: true });
    checkAccepted(await give(peer, one, YES), "the answer of the submitting session");
    for (const follower of [peer, watcher]) {
      const end = await follower.terminal(jobId);
      const result = record(end.envelope.payload["result"]);
      check(result["approve"] === true && result["note"] === YES.note, "the answer in approve's result", end);
      const [required] = statuses(follower, jobId, "input_required");
      const [received] = statuses(follower, jobId, "input_received");
      check(required !== undefined && received !== undefined, "input_required and input_received", end);
      check(bodyOf(received)["question_id"] === questionId, "the question's question_id in input_received", received);
      check(typeof bodyOf(received)["answered_by"] === "string", "`answered_by` in input_received", received);
      checkStream(follower);
    }
  },
};

const firstWins: ConformanceCase = {
  rule: "ASK-2",
  title: "the first answer stands, a later one is ALREADY_ANSWERED, a repeat is given the stored reply",
  agents,
  async run(stage) {
    const one = await asking(stage);
    const [first, second] = [prepared(one.peer, one, YES), prepared(one.peer, one, NO)];
    one.peer.post(first, second);
    const accepted = await one.peer.answerTo(first);
    checkAccepted(accepted, "the first of two answers");
    checkRefused(await one.peer.answerTo(second), "INVALID_REQUEST", "ALREADY_ANSWERED", "the second of two answers");
    const end = await one.peer.terminal(one.jobId);
    check(record(end.envelope.payload["result"])["approve"] === true, "the first answer in approve's result", end);
    const again: Request = { ...first, answer: undefined };
    one.peer.post(again);
    const repeated = await one.peer.answerTo(again);
    check(repeated.frame === accepted.frame, `the stored reply to a repeat, ${accepted.frame}`, repeated);
  },
};

const whoMayAnswer: ConformanceCase = {
  rule: "ASK-3",
  title: "the submitting session answers; another is PERMISSION_DENIED, and hears nothing of jobs that it may not see",
  agents,
  async run(stage) {
    const one = await asking(stage);
    const other = await stage.connect();
    checkRefused(await give(other, one, NO), "PERMISSION_DENIED", undefined, "another session's answer");
    const unknown = { jobId: "job_conformance", questionId: one.questionId };
    checkRefused(await give(other, unknown, NO), "JOB_NOT_FOUND", undefined, "an answer to an unknown job");
    if (stage.hasOtherToken) {
      const stranger = await stage.connect({ token: stage.otherToken() });
      checkRefused(await give(stranger, one, NO), "JOB_NOT_FOUND", undefined, "another principal's answer");
    }
    checkAccepted(await give(one.peer, one, YES), "the submitting session's answer after refused ones");
    const end = await one.peer.terminal(one.jobId);
    check(record(end.envelope.payload["result"])["approve"] === true, "the submitting session's answer to count", end);
  },
};

/** Above what an answer may take, 64 KiB, and below what a frame may. */
const TOO_LONG = 70_000;

const wrongAnswers: ConformanceCase = {
  rule: "ASK-4",
  title: "an answer that the schema does not allow is INVALID_REQUEST naming the path; the question stays open",
  agents,
  async run(stage) {
    const one = await asking(stage);
    for (const [answer, named] of [
      [{ approve: "yes" }, "approve"],
      [{ note: "no decision" }, "approve"],
      [{ approve: true, note: 5 }, "note"],
      [{ approve: true, note: "x".repeat(TOO_LONG) }, "answer"],
      ["yes", "answer"],
    ] as const) {
      const refusal = await give(one.peer, one, answer);
      const what = `the answer ${JSON.stringify(answer).slice(0, 60)}`;
      checkRefused(refusal, "INVALID_REQUEST", undefined, what);
      check(messageOf(refusal).includes(named), `the message to name ${named} for ${what}`, refusal);
    }
    checkAccepted(await give(one.peer, one, NO), "a good answer after wrong ones");
    await one.peer.terminal(one.jobId);
  },
};

const closes: ConformanceCase = {
  rule: "ASK-5",
  title: "a question closes when its time is up and when its job is stopped; an answer then is QUESTION_CLOSED",
  agents,
  async run(stage) {
    const late = await asking(stage, { timeout_ms: 100 });
    const end = await late.peer.terminal(late.jobId);
    check(codeOf(end) === "TIMEOUT", "TIMEOUT for a question that nobody answered", end);
    const [closed] = statuses(late.peer, late.jobId, "input_closed");
    check(
      closed !== undefined && bodyOf(closed)["question_id"] === late.questionId,
      "input_closed with question_id",
      end,
    );
    checkRefused(await give(late.peer, late, YES), "INVALID_REQUEST", "QUESTION_CLOSED", "an answer that is too late");
    const none = { jobId: late.jobId, questionId: "q_conformance" };
    const never = await give(late.peer, none, YES);
    checkRefused(never, "INVALID_REQUEST", "QUESTION_NOT_FOUND", "an answer to what was never asked");
    const stopped = await asking(stage);
    await stopped.peer.ask("job.cancel", {}, { job_id: stopped.jobId });
    const cancelled = await stopped.peer.terminal(stopped.jobId);
    check(codeOf(cancelled) === "CANCELLED", "CANCELLED for a job that is stopped while it asks", cancelled);
    const over = await give(stopped.peer, stopped, YES);
    checkRefused(over, "INVALID_REQUEST", "QUESTION_CLOSED", "an answer to a job that was stopped");
  },
};

const outlives: ConformanceCase = {
  rule: "ASK-7",
  title: "a session that was resumed sees the question by replay, and may answer it",
  agents,
  async run(stage) {
    const { peer, jobId, questionId } = await asking(stage);
    peer.cut();
    const back = await stage.resume(peer, { seq: 0 });
    const again = bodyOf(await question(back, jobId))["question_id"];
    check(again === questionId, `the question ${questionId} again`, String(again));
    checkAccepted(await give(back, { jobId, questionId }, YES), "the resumed session's answer");
    await back.terminal(jobId);
    checkStream(peer, back);
  },
};

export const QUESTION_CASES: readonly ConformanceCase[] = [
  asksAndHears,
  firstWins,
  whoMayAnswer,
  wrongAnswers,
  closes,
  outlives,
];

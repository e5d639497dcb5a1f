/** The cases of questions: who may ask, who answers first, and what is left of it. */
import assert from "node:assert/strict";
import type { FinalStatus } from "../../protocol/index.ts";
import {
  type AnswerRequest,
  type AttachedSession,
  type ConnectionRef,
  KEPT_QUESTIONS_PER_JOB,
  type NewQuestion,
  type RefusalReason,
  type Store,
  StoreRefusal,
} from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface QuestionScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
  register(nodeId: string): Promise<void>;
  create(sessionId: string): Promise<AttachedSession>;
  attach(sessionId: string, presented: number, next: number): Promise<AttachedSession>;
  submit(ref: ConnectionRef, jobId: string): Promise<unknown>;
  follow(ref: ConnectionRef, jobId: string): Promise<unknown>;
  append(jobId: string, firstN: number, lastN: number, end?: FinalStatus): Promise<void>;
  run(
    ref: ConnectionRef,
    jobId: string,
    firstSeq: number,
    firstN: number,
    lastN: number,
    given: object,
  ): Promise<unknown>;
  retain(): Promise<{ jobs: number }>;
}

type Case = (title: string, body: (scene: QuestionScene) => Promise<void>) => void;

const NODE = "node_a";
const DAY_MS = 86_400_000;

let lastMessage = 0;

async function refused(reason: RefusalReason, operation: Promise<unknown>): Promise<void> {
  await assert.rejects(operation, (error: unknown) => {
    assert.ok(error instanceof StoreRefusal, `a StoreRefusal was expected: ${String(error)}`);
    assert.equal(error.reason, reason);
    return true;
  });
}

/** A running job of one attached session, which has asked nothing. */
async function running(scene: QuestionScene): Promise<AttachedSession> {
  await scene.register(NODE);
  const session = await scene.create("sess_1");
  await scene.submit(session, "job_1");
  return session;
}

const open = ({ store, clock }: QuestionScene, questionId: string, given: Partial<NewQuestion> = {}) =>
  store.questions.open({
    jobId: "job_1",
    runEpoch: 1,
    questionId,
    message: "Go on?",
    schema: undefined,
    to: undefined,
    now: clock.wall(),
    ...given,
  });

const answer = (
  { store, clock }: QuestionScene,
  { sessionId, connectionEpoch }: ConnectionRef,
  questionId: string,
  given: Partial<AnswerRequest> = {},
) =>
  store.questions.answer({
    sessionId,
    connectionEpoch,
    messageId: `answer ${++lastMessage}`,
    now: clock.wall(),
    jobId: "job_1",
    questionId,
    answer: "true",
    answeredBy: "alice",
    reply: ({ outcome }) => ({ frame: `${questionId}: ${outcome}` }),
    ...given,
  });

const answerDirectly = ({ store, clock }: QuestionScene, questionId: string, text: string) =>
  store.questions.answerDirectly({
    jobId: "job_1",
    questionId,
    answer: text,
    answeredBy: "bob",
    now: clock.wall(),
  });

const stateOf = async ({ store }: QuestionScene, questionId: string) =>
  (await store.questions.get("job_1", questionId))?.state;

const answersOf = async ({ store }: QuestionScene) =>
  (await store.sweep({ sessionIds: [], jobIds: ["job_1"], complete: false })).jobs[0]?.answers;

export function questionCases(it: Case): void {
  it("[ASK-9] a question is kept as it was asked; asking it again changes nothing", async (scene) => {
    await running(scene);
    await open(scene, "q_1", { schema: '{"type":"boolean"}', to: "the boss" });
    await open(scene, "q_2", { message: "And then?" });
    await open(scene, "q_1", { message: "another" });
    await scene.reopen();
    const nothing = {
      schema: undefined,
      to: undefined,
      answer: undefined,
      answeredBy: undefined,
      answeredAt: undefined,
    };
    const now = scene.clock.wall();
    assert.deepEqual(await scene.store.questions.list("job_1"), [
      {
        ...nothing,
        questionId: "q_1",
        state: "open",
        message: "Go on?",
        schema: '{"type":"boolean"}',
        to: "the boss",
        askedAt: now,
      },
      { ...nothing, questionId: "q_2", state: "open", message: "And then?", askedAt: now },
    ]);
    assert.equal((await scene.store.questions.get("job_1", "q_2"))?.message, "And then?");
    assert.equal(await scene.store.questions.get("job_1", "q_3"), undefined);
    assert.deepEqual(await scene.store.questions.list("job_9"), []);
  });

  it("[ASK-9] an attempt that is over asks nothing, nor does a job that has ended", async (scene) => {
    await running(scene);
    await refused("stale_run", open(scene, "q_1", { runEpoch: 0 }));
    await refused("unknown_job", open(scene, "q_1", { jobId: "job_9" }));
    await scene.append("job_1", 1, 1, "success");
    await refused("job_ended", open(scene, "q_1"));
    assert.deepEqual(await scene.store.questions.list("job_1"), []);
  });

  it("[ASK-2] the first answer stands and is stored with its reply; others are told, a repeat gets the reply", async (scene) => {
    const session = await running(scene);
    await open(scene, "q_1");
    const first = await answer(scene, session, "q_1", { messageId: "m_1", answer: '{"yes":1}' });
    assert.deepEqual(first, { outcome: "accepted", frame: "q_1: accepted" });
    assert.deepEqual(await answer(scene, session, "q_1", { messageId: "m_2" }), {
      outcome: "already_answered",
      frame: "q_1: already_answered",
    });
    assert.deepEqual(await answerDirectly(scene, "q_1", "false"), { outcome: "already_answered" });
    for (const messageId of ["m_1", "m_2"]) {
      const repeated = await answer(scene, session, "q_1", { messageId, answer: "null" });
      assert.equal(repeated.outcome, "duplicate");
      assert.equal(repeated.frame, messageId === "m_1" ? "q_1: accepted" : "q_1: already_answered");
    }
    const record = await scene.store.questions.get("job_1", "q_1");
    assert.deepEqual(
      [record?.state, record?.answer, record?.answeredBy, record?.answeredAt],
      ["answered", '{"yes":1}', "alice", scene.clock.wall()],
    );
    const resumed = await scene.attach("sess_1", 1, 2);
    assert.ok(resumed.unprovenReplies.includes("q_1: accepted"));
  });

  it("[ASK-2] of answers that come at once one is accepted", async (scene) => {
    const session = await running(scene);
    await open(scene, "q_1");
    const outcomes = await Promise.all([
      answer(scene, session, "q_1"),
      answerDirectly(scene, "q_1", "1"),
      answerDirectly(scene, "q_1", "2"),
      answer(scene, session, "q_1"),
    ]);
    assert.deepEqual(
      outcomes.map(({ outcome }) => outcome),
      ["accepted", "already_answered", "already_answered", "already_answered"],
    );
  });

  it("[ASK-2] a superseded connection answers nothing", async (scene) => {
    const old = await running(scene);
    await open(scene, "q_1");
    await scene.attach("sess_1", 1, 2);
    await refused("superseded", answer(scene, old, "q_1"));
    assert.equal(await stateOf(scene, "q_1"), "open");
  });

  it("[ASK-5] what is closed cannot be answered, and what is answered not closed", async (scene) => {
    const session = await running(scene);
    const { questions } = scene.store;
    const now = scene.clock.wall();
    await open(scene, "q_1");
    await open(scene, "q_2");
    assert.equal((await questions.close({ jobId: "job_1", questionId: "q_1", now }))?.state, "closed");
    assert.equal((await answer(scene, session, "q_1")).outcome, "closed");
    assert.equal(await stateOf(scene, "q_1"), "closed");
    await answerDirectly(scene, "q_2", "7");
    const late = await questions.close({ jobId: "job_1", questionId: "q_2", now });
    assert.deepEqual([late?.state, late?.answer], ["answered", "7"]);
    assert.equal(await questions.close({ jobId: "job_1", questionId: "q_3", now }), undefined);
    assert.equal((await answer(scene, session, "q_3")).outcome, "unknown_question");
    await refused("unknown_job", answer(scene, session, "q_1", { jobId: "job_9" }));
  });

  it("[ASK-5] the end of a job closes what it had asked", async (scene) => {
    const session = await running(scene);
    await open(scene, "q_1");
    await scene.append("job_1", 1, 1, "error");
    assert.equal(await stateOf(scene, "q_1"), "closed");
    assert.equal((await answer(scene, session, "q_1")).outcome, "closed");
    assert.equal((await answerDirectly(scene, "q_1", "1")).outcome, "closed");
  });

  it("[ASK-3] the session that submitted a job is told from those that follow it", async (scene) => {
    const session = await running(scene);
    const other = await scene.create("sess_2");
    await scene.follow(other, "job_1");
    const { questions } = scene.store;
    assert.equal(await questions.isSubmitter("job_1", session.sessionId), true);
    assert.equal(await questions.isSubmitter("job_1", other.sessionId), false);
    assert.equal(await questions.isSubmitter("job_9", session.sessionId), false);
    assert.equal(await questions.isSubmitter("job_1", "sess_9"), false);
  });

  it("[ASK-7] the sweep tells how many answers a job was given", async (scene) => {
    const session = await running(scene);
    await open(scene, "q_1");
    await open(scene, "q_2");
    assert.equal(await answersOf(scene), 0);
    await answer(scene, session, "q_1");
    await answer(scene, session, "q_1");
    assert.equal(await answersOf(scene), 1);
    await answerDirectly(scene, "q_2", "1");
    assert.equal(await answersOf(scene), 2);
  });

  it("[ASK-6] of one job the newest questions that are over are kept, and all that are open", async (scene) => {
    await running(scene);
    await open(scene, "q_open");
    for (let index = 1; index <= KEPT_QUESTIONS_PER_JOB + 3; index += 1) {
      await open(scene, `q_${index}`);
      await answerDirectly(scene, `q_${index}`, String(index));
    }
    const kept = (await scene.store.questions.list("job_1")).map(({ questionId }) => questionId);
    assert.equal(kept[0], "q_open");
    assert.equal(kept.at(-1), `q_${KEPT_QUESTIONS_PER_JOB + 3}`);
    assert.equal(kept.length, KEPT_QUESTIONS_PER_JOB + 1);
  });

  it("[ASK-9] questions go with their job", async (scene) => {
    const session = await running(scene);
    await open(scene, "q_1");
    await answerDirectly(scene, "q_1", "1");
    await scene.append("job_1", 1, 1, "success");
    await scene.run(session, "job_1", 1, 1, 1, { endsFollow: true });
    await scene.store.sessions.ack(session, 1);
    assert.equal(await stateOf(scene, "q_1"), "answered");
    await scene.clock.advance(DAY_MS + 1);
    assert.equal((await scene.retain()).jobs, 1);
    await refused("unknown_job", answerDirectly(scene, "q_1", "1"));
    // Under the same name another job is another one.
    await scene.submit(await scene.create("sess_2"), "job_1");
    assert.deepEqual(await scene.store.questions.list("job_1"), []);
  });
}

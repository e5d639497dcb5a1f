/** The cases of jobs that are run again: who gets them, what of them is kept, and whom the store refuses then. */
import assert from "node:assert/strict";
import {
  type AppendBatch,
  type AttachedSession,
  type ClaimedJob,
  type ConnectionRef,
  type RefusalReason,
  type Store,
  StoreRefusal,
  type SubmitRequest,
} from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface RestartScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
  register(nodeId: string): Promise<void>;
  create(sessionId: string): Promise<AttachedSession>;
  submit(ref: ConnectionRef, jobId: string, given: Partial<SubmitRequest>): ReturnType<Store["requests"]["submit"]>;
  append(jobId: string, firstN: number, lastN: number): Promise<void>;
  batch(jobId: string, firstN: number, lastN: number, given: Partial<AppendBatch>): AppendBatch;
  appendRefused(reason: RefusalReason, batch: AppendBatch): Promise<void>;
  retain(): Promise<{ jobs: number }>;
}

type Case = (title: string, body: (scene: RestartScene) => Promise<void>) => void;

const NODE = "node_a";
const OTHER_NODE = "node_b";
const AGENT = "report@2";
const PLACE = "slack_1";
const LOST = JSON.stringify({ final_status: "error", code: "INTERNAL_ERROR", message: "lost", retryable: true });
const AGAIN = JSON.stringify({ kind: "status", ts: "2026-01-01T00:00:00.000Z", body: { phase: "node_lost" } });

const newJob = (jobId: string, restarts: number) => ({
  jobId,
  agent: AGENT,
  input: '{"week":19}',
  lease: { "tool.call": ["search"] },
  traceId: `trace-${jobId}`,
  maxRuntimeMs: 60_000,
  restarts,
});

/** Two live nodes, and a session of the first that has submitted these jobs. */
async function running(scene: RestartScene, restarts: Readonly<Record<string, number>>): Promise<void> {
  await scene.register(NODE);
  await scene.register(OTHER_NODE);
  const session = await scene.create("sess_1");
  for (const [jobId, times] of Object.entries(restarts)) {
    await scene.submit(session, jobId, { job: newJob(jobId, times) });
  }
}

const bury = ({ store, clock }: RestartScene, nodeId: string) =>
  store.nodes.bury({
    nodeId,
    heartbeat: 0,
    jobErrorPayload: LOST,
    givenBackPayload: AGAIN,
    now: clock.wall(),
  });

const claim = ({ store }: RestartScene, nodeId = OTHER_NODE, agents: readonly string[] = [AGENT]) =>
  store.jobs.claim({ nodeId, agents, limit: 10 });

const claimedIds = async (scene: RestartScene, ...given: [string?, string[]?]): Promise<string[]> =>
  (await claim(scene, ...given)).map(({ job }) => job.jobId);

async function refused(reason: RefusalReason, operation: Promise<unknown>): Promise<void> {
  await assert.rejects(operation, (error: unknown) => error instanceof StoreRefusal && error.reason === reason);
}

/** A turn of one conversation, and how often its job may be run again. */
async function say(scene: RestartScene, jobId: string, restarts: number, onBusy: "enqueue" | "interrupt" = "enqueue") {
  const now = scene.clock.wall();
  const answer = await scene.store.conversations.startTurn({
    turn: {
      conversation: {
        conversationId: PLACE,
        source: "slack",
        key: undefined,
        principal: undefined,
        userId: "ann",
        now,
      },
      onBusy,
      messageId: undefined,
      userId: "ann",
      maxQueued: 10,
      ttlMs: 180_000,
      lostPayload: LOST,
    },
    principal: "alice",
    nodeId: NODE,
    job: newJob(jobId, restarts),
    acceptedPayload: "{}",
    maxRunningJobsPerPrincipal: 100,
    now,
  });
  assert.equal(answer.outcome, "created");
}

const claimTurns = ({ store, clock }: RestartScene, nodeId = OTHER_NODE) =>
  store.conversations.claimTurns({ nodeId, agents: [AGENT], limit: 10, lostPayload: LOST, now: clock.wall() });

/** What a sweep tells of the work that waits for a node with these agents and the channel `slack`. */
const waiting = async ({ store, clock }: RestartScene, agents: readonly string[] = [AGENT]) =>
  (
    await store.sweep({
      sessionIds: [],
      jobIds: [],
      complete: true,
      takes: { agents, channels: ["slack"], now: clock.wall() },
    })
  ).waiting;

export function restartCases(it: Case): void {
  it("[CLU-11] a census tells of each node what it has in hand, and of the store what waits", async (scene) => {
    const look = async () => {
      const { nodes, schema, now, ...waits } = await scene.store.nodes.census(scene.clock.wall());
      assert.ok(schema.number > 0 && schema.name !== "");
      assert.equal(now, scene.clock.wall());
      return { nodes: nodes.map(({ nodeId, state, jobs, sessions }) => [nodeId, state, jobs, sessions]), ...waits };
    };
    const nothing = { waitingJobs: 0, waitingConversations: 0, expiredLocks: 0, failedDeliveries: 0 };
    await running(scene, { job_1: 1, job_2: 0 });
    const both = (one: unknown[], other: unknown[]) => ({
      nodes: [
        [NODE, ...one],
        [OTHER_NODE, ...other],
      ],
    });
    assert.deepEqual(await look(), { ...both(["alive", 2, 1], ["alive", 0, 0]), ...nothing });
    await say(scene, "job_3", 0);
    await say(scene, "job_4", 0);
    await scene.clock.advance(180_000);
    const busy = both(["alive", 3, 1], ["alive", 0, 0]);
    assert.deepEqual(await look(), { ...busy, ...nothing, waitingConversations: 1, expiredLocks: 1 });
    await bury(scene, NODE);
    const dead = both(["dead", 0, 0], ["alive", 0, 0]);
    assert.deepEqual(await look(), { ...dead, ...nothing, waitingJobs: 1, waitingConversations: 1 });
    await scene.store.nodes.leave(OTHER_NODE, scene.clock.wall());
    assert.deepEqual((await look()).nodes.at(-1), [OTHER_NODE, "left", 0, 0]);
  });

  it("[CLU-9] the sweep tells a node of jobs and turns that it could take, and of none for others", async (scene) => {
    const nothing = { jobs: false, turns: false, deliveries: false };
    await running(scene, { job_1: 1 });
    await say(scene, "job_2", 0);
    await say(scene, "job_3", 0);
    assert.deepEqual(await waiting(scene), nothing);
    await scene.store.jobs.giveBack({ jobId: "job_1", runEpoch: 1, payload: AGAIN });
    assert.deepEqual(await waiting(scene), { ...nothing, jobs: true });
    assert.deepEqual(await waiting(scene, ["other@1"]), nothing);
    await claim(scene);
    assert.deepEqual(await waiting(scene), nothing);
    await scene.clock.advance(180_000);
    assert.deepEqual(await waiting(scene), { ...nothing, turns: true }, "the lock of the turn that runs has expired");
    assert.deepEqual(await waiting(scene, ["other@1"]), nothing);
    await claimTurns(scene);
    assert.deepEqual(await waiting(scene), nothing);
  });

  it("[CLU-1] of a dead node's jobs those that may be run again wait for a node, and the others end", async (scene) => {
    await running(scene, { job_1: 1, job_2: 0 });
    await scene.append("job_1", 1, 3);
    assert.deepEqual(await bury(scene, NODE), { endedJobIds: ["job_2"], givenBackJobIds: ["job_1"], more: false });
    const { status, runEpoch, lastN, nodeId } = (await scene.store.jobs.get("job_1")) ?? assert.fail("it is gone");
    assert.deepEqual({ status, runEpoch, lastN, nodeId }, { status: "pending", runEpoch: 2, lastN: 4, nodeId: "" });
    const { events } = await scene.store.jobs.read("job_1", 3);
    assert.deepEqual(events, [{ n: 4, runEpoch: 2, kind: "status", payload: AGAIN }]);
    await scene.appendRefused("stale_run", scene.batch("job_1", 4, 4, {}));
  });

  it("[CLU-1] one of all who claim a job gets it, with what the attempts before have left", async (scene) => {
    await running(scene, { job_1: 2 });
    await scene.append("job_1", 1, 3);
    await scene.store.jobs.checkpoint({ jobId: "job_1", runEpoch: 1, value: '{"page":1}' });
    await scene.store.jobs.checkpoint({ jobId: "job_1", runEpoch: 1, value: '{"page":2}' });
    await bury(scene, NODE);
    assert.deepEqual(await claimedIds(scene, OTHER_NODE, ["other@1"]), []);
    await scene.reopen();
    const got = (await Promise.all([claim(scene), claim(scene), claim(scene)])).flat();
    const expected: ClaimedJob = {
      job: { ...newJob("job_1", 1), leaseExpiresAt: undefined },
      principal: "alice",
      runEpoch: 3,
      attempt: 2,
      lastN: 4,
      checkpoint: '{"page":2}',
    };
    assert.deepEqual(got, [expected]);
    const { status, nodeId } = (await scene.store.jobs.get("job_1")) ?? assert.fail("it is gone");
    assert.deepEqual([status, nodeId], ["running", OTHER_NODE]);
    const batch = scene.batch("job_1", 5, 5, { runEpoch: 3, end: "success" });
    assert.deepEqual(await scene.store.jobs.append([batch]), [{ ok: true }]);
    await refused("job_ended", scene.store.jobs.checkpoint({ jobId: "job_1", runEpoch: 3, value: "1" }));
  });

  it("[CLU-1] a node that is dead claims nothing", async (scene) => {
    await running(scene, { job_1: 1 });
    await bury(scene, NODE);
    await refused("dead_node", claim(scene, NODE));
  });

  it("[CLU-3] a job whose nodes are lost too often ends", async (scene) => {
    await running(scene, { job_1: 1 });
    await bury(scene, NODE);
    assert.deepEqual(await claimedIds(scene), ["job_1"]);
    assert.deepEqual((await bury(scene, OTHER_NODE)).endedJobIds, ["job_1"]);
    assert.equal((await scene.store.jobs.get("job_1"))?.status, "error");
  });

  it("[CLU-3] a job that somebody wants cancelled ends with its node", async (scene) => {
    await running(scene, { job_1: 1 });
    const wish = { jobId: "job_1", reason: undefined, cancelledPayload: LOST, now: scene.clock.wall() };
    await scene.store.jobs.requestCancel(wish);
    assert.deepEqual((await bury(scene, NODE)).endedJobIds, ["job_1"]);
  });

  it("[CLU-3] one that waits for a node is cancelled at once, and nobody gets it", async (scene) => {
    await running(scene, { job_1: 1 });
    await bury(scene, NODE);
    const wish = { jobId: "job_1", reason: undefined, cancelledPayload: LOST, now: scene.clock.wall() };
    assert.deepEqual(await scene.store.jobs.requestCancel(wish), { outcome: "ended" });
    assert.deepEqual(await claimedIds(scene), []);
  });

  it("[CLU-5] a job that is given back costs none of its lost nodes, and its attempt is over", async (scene) => {
    await running(scene, { job_1: 1 });
    await scene.append("job_1", 1, 2);
    await scene.store.jobs.giveBack({ jobId: "job_1", runEpoch: 1, payload: AGAIN });
    await refused("stale_run", scene.store.jobs.giveBack({ jobId: "job_1", runEpoch: 1, payload: AGAIN }));
    await refused("stale_run", scene.store.jobs.checkpoint({ jobId: "job_1", runEpoch: 1, value: "1" }));
    await refused("unknown_job", scene.store.jobs.giveBack({ jobId: "job_9", runEpoch: 1, payload: AGAIN }));
    const [again] = await claim(scene);
    assert.deepEqual([again?.attempt, again?.lastN, again?.job.restarts], [2, 3, 1]);
  });

  it("[CLU-6] a turn that is given back runs again before all others, under a new epoch of the lock", async (scene) => {
    await scene.register(NODE);
    await scene.register(OTHER_NODE);
    await say(scene, "job_1", 1);
    await say(scene, "job_2", 0);
    await scene.append("job_1", 1, 2);
    await scene.store.jobs.checkpoint({ jobId: "job_1", runEpoch: 1, value: "7" });
    assert.deepEqual((await bury(scene, NODE)).givenBackJobIds, ["job_1"]);
    assert.deepEqual(await claimedIds(scene), [], "a turn is had through its conversation alone");
    const conversation = await scene.store.conversations.get(PLACE);
    assert.deepEqual([conversation?.lock, conversation?.queued], [undefined, 2]);
    const { turns } = await claimTurns(scene);
    assert.deepEqual(
      turns.map(({ job, lockEpoch, attempt, lastN, checkpoint }) => [job.jobId, lockEpoch, attempt, lastN, checkpoint]),
      [["job_1", 2, 2, 3, "7"]],
    );
    const end = scene.batch("job_1", 4, 4, { runEpoch: turns[0]?.runEpoch ?? 0, end: "success" });
    await scene.store.jobs.append([end]);
    assert.deepEqual(
      (await claimTurns(scene)).turns.map(({ job, attempt }) => [job.jobId, attempt]),
      [["job_2", 1]],
    );
  });

  it("[CLU-6] a turn that waits to be run again ends where a newer message interrupts it", async (scene) => {
    await scene.register(NODE);
    await scene.register(OTHER_NODE);
    await say(scene, "job_1", 1);
    await bury(scene, NODE);
    await scene.register("node_c");
    await scene.store.nodes.leave("node_c", scene.clock.wall());
    const now = scene.clock.wall();
    assert.equal((await scene.store.conversations.get(PLACE))?.queued, 1);
    const answer = await scene.store.conversations.startTurn({
      turn: {
        conversation: {
          conversationId: PLACE,
          source: "slack",
          key: undefined,
          principal: undefined,
          userId: "bea",
          now,
        },
        onBusy: "interrupt",
        messageId: undefined,
        userId: "bea",
        maxQueued: 10,
        ttlMs: 180_000,
        lostPayload: LOST,
      },
      principal: "alice",
      nodeId: OTHER_NODE,
      job: newJob("job_2", 0),
      acceptedPayload: "{}",
      maxRunningJobsPerPrincipal: 100,
      now,
    });
    assert.equal(answer.outcome, "created");
    assert.equal((await scene.store.jobs.get("job_1"))?.status, "cancelled");
    assert.deepEqual(
      (await claimTurns(scene)).turns.map(({ job }) => job.jobId),
      ["job_2"],
    );
  });

  it("[CLU-7] the jobs that a job delegated are known, down to the last", async (scene) => {
    await running(scene, { job_1: 1 });
    const spawn = (parentJobId: string, jobId: string) =>
      scene.store.jobs.spawn({
        parentJobId,
        runEpoch: 1,
        delegateId: `del_${jobId}`,
        job: newJob(jobId, 0),
        acceptedPayload: "{}",
        maxRunningJobsPerPrincipal: 100,
        now: scene.clock.wall(),
      });
    await spawn("job_1", "job_2");
    await spawn("job_1", "job_3");
    await spawn("job_3", "job_4");
    assert.deepEqual((await scene.store.jobs.descendants("job_1")).sort(), ["job_2", "job_3", "job_4"]);
    assert.deepEqual(await scene.store.jobs.descendants("job_4"), []);
  });
}

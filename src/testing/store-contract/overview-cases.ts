/** The cases of what is asked without a session: jobs that are started, sessions that are listed. */
import assert from "node:assert/strict";
import type { FinalStatus } from "../../protocol/index.ts";
import {
  type AttachedSession,
  type ConnectionRef,
  type JobStart,
  type Store,
  StoreRefusal,
} from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface OverviewScene {
  readonly store: Store;
  readonly clock: ManualClock;
  register(nodeId: string): Promise<void>;
  create(sessionId: string, given?: { principal?: string }): Promise<AttachedSession>;
  attach(sessionId: string, presented: number, next: number): Promise<AttachedSession>;
  submit(ref: ConnectionRef, jobId: string, given?: object): Promise<unknown>;
  append(jobId: string, firstN: number, lastN: number, end?: FinalStatus): Promise<void>;
  run(ref: ConnectionRef, jobId: string, firstSeq: number, firstN: number, lastN: number): Promise<unknown>;
}

type Case = (title: string, body: (scene: OverviewScene) => Promise<void>) => void;

const NODE = "node_a";
const ALICE = "alice";
const BOB = "bob";
const WINDOW_MS = 600_000;

function start(scene: OverviewScene, jobId: string, given: Partial<JobStart> = {}) {
  return scene.store.jobs.start({
    principal: ALICE,
    nodeId: NODE,
    job: { jobId, agent: "report@2", input: "1", lease: {}, traceId: `trace-${jobId}` },
    acceptedPayload: `{"job_id":"${jobId}"}`,
    maxRunningJobsPerPrincipal: 10,
    now: scene.clock.wall(),
    ...given,
  });
}

const keyed = (fingerprint: string) => ({ idempotency: { key: "k", fingerprint, ttlMs: 1_000 } });

export function overviewCases(it: Case): void {
  it("[STO-22] a job is started without a session: running, nobody's to follow, its log its own", async (scene) => {
    await scene.register(NODE);
    assert.deepEqual(await start(scene, "job_1"), { outcome: "created" });
    const job = await scene.store.jobs.get("job_1");
    assert.deepEqual(
      [job?.status, job?.runEpoch, job?.nodeId, job?.principal, job?.sessionId, job?.createdAt],
      ["running", 1, NODE, ALICE, undefined, scene.clock.wall()],
    );
    await scene.append("job_1", 1, 3, "success");
    assert.equal((await scene.store.jobs.read("job_1", 0)).events.length, 3);
    await assert.rejects(start(scene, "job_2", { nodeId: "node_b" }), (error) => {
      return error instanceof StoreRefusal && error.reason === "dead_node";
    });
    assert.equal(await scene.store.jobs.get("job_2"), undefined);
  });

  it("[STO-22] a key starts one job, changed parameters are refused, and it is over at its end", async (scene) => {
    await scene.register(NODE);
    const answers = await Promise.all(["job_1", "job_2", "job_3"].map((jobId) => start(scene, jobId, keyed("f"))));
    assert.deepEqual(answers, [
      { outcome: "created" },
      { outcome: "repeated", jobId: "job_1" },
      { outcome: "repeated", jobId: "job_1" },
    ]);
    assert.deepEqual(await start(scene, "job_4", keyed("other")), { outcome: "duplicate_key" });
    assert.deepEqual(await start(scene, "job_5", { ...keyed("f"), principal: BOB }), { outcome: "created" });
    for (const jobId of ["job_2", "job_3", "job_4"]) assert.equal(await scene.store.jobs.get(jobId), undefined);
    await scene.clock.advance(1_000);
    assert.deepEqual(await start(scene, "job_6", keyed("other")), { outcome: "created" });
  });

  it("[STO-22] a key is the same one with a session and without", async (scene) => {
    await scene.register(NODE);
    const session = await scene.create("sess_1");
    await start(scene, "job_1", keyed("f"));
    const idempotency = { key: "k", digest: "f", ttlMs: 1_000 };
    const repeated = (await scene.submit(session, "job_2", { idempotency })) as Record<string, unknown>;
    assert.deepEqual(
      [repeated["outcome"], repeated["jobId"], repeated["acceptedPayload"]],
      ["repeated", "job_1", '{"job_id":"job_1"}'],
    );
  });

  it("[STO-22] a principal's live jobs are limited, whoever started them", async (scene) => {
    await scene.register(NODE);
    const session = await scene.create("sess_1");
    await scene.submit(session, "job_1");
    const two = { maxRunningJobsPerPrincipal: 2 };
    assert.deepEqual(await start(scene, "job_2", two), { outcome: "created" });
    assert.deepEqual(await start(scene, "job_3", two), { outcome: "limit_exceeded" });
    assert.deepEqual(await start(scene, "job_3", { ...two, principal: BOB }), { outcome: "created" });
    await scene.append("job_2", 1, 1, "success");
    assert.deepEqual(await start(scene, "job_4", two), { outcome: "created" });
  });

  it("[STO-23] sessions are listed, newest first, with their connection and how far behind they are", async (scene) => {
    await scene.register(NODE);
    const now = scene.clock.wall();
    const first = await scene.create("sess_1");
    await scene.create("sess_bob", { principal: BOB });
    await scene.submit(first, "job_1");
    await scene.append("job_1", 1, 5);
    await scene.run(first, "job_1", 1, 1, 3);
    await scene.store.sessions.ack(first, 2);
    const second = await scene.attach("sess_1", 1, 2);
    const mine = await scene.store.sessions.list({ principal: ALICE, limit: 10, now });
    assert.deepEqual(mine, {
      sessions: [
        {
          sessionId: "sess_1",
          principal: ALICE,
          clientName: "client",
          clientVersion: "1",
          createdAt: now,
          connectionEpoch: 2,
          nodeId: NODE,
          resumableUntil: undefined,
          lastSeq: 3,
          ackedSeq: 2,
          follows: 1,
          undelivered: 2,
        },
      ],
      nextCursor: undefined,
    });
    await scene.store.sessions.detach(second, now);
    const [detached] = (await scene.store.sessions.list({ principal: ALICE, limit: 10, now })).sessions;
    assert.deepEqual([detached?.nodeId, detached?.resumableUntil], [undefined, now + WINDOW_MS]);
    const over = await scene.store.sessions.list({ principal: undefined, limit: 10, now: now + WINDOW_MS + 1 });
    assert.deepEqual(
      over.sessions.map(({ sessionId }) => sessionId),
      ["sess_bob"],
    );
  });

  it("[STO-23] sessions are listed in pages that stay good while sessions come and go", async (scene) => {
    await scene.register(NODE);
    for (const n of [1, 2, 3, 4, 5]) await scene.create(`sess_${n}`);
    const page = async (cursor?: string) => {
      const { sessions, nextCursor } = await scene.store.sessions.list({
        principal: ALICE,
        limit: 2,
        cursor,
        now: scene.clock.wall(),
      });
      return { ids: sessions.map(({ sessionId }) => sessionId), nextCursor };
    };
    const first = await page();
    assert.deepEqual(first.ids, ["sess_5", "sess_4"]);
    await scene.create("sess_6");
    const second = await page(first.nextCursor);
    assert.deepEqual(second.ids, ["sess_3", "sess_2"]);
    assert.deepEqual(await page(second.nextCursor), { ids: ["sess_1"], nextCursor: undefined });
    await assert.rejects(page("nonsense"), (error) => error instanceof StoreRefusal && error.reason === "bad_cursor");
  });
}

/**
 * What every store must do, whatever its engine: the contract suite of src/store/store.ts. Hand it a
 * factory and it registers its cases with node:test. A case that an engine cannot pass is skipped by its
 * title, with the reason.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test as declare, describe } from "node:test";
import type { FinalStatus } from "../protocol/index.ts";
import {
  type AppendBatch,
  type AttachedSession,
  type AttachRequest,
  type ConnectionRef,
  type DelegatedJob,
  type FollowRequest,
  type NewRun,
  type NewSession,
  type RefusalReason,
  type RetentionPolicy,
  type RetentionStep,
  type Store,
  StoreRefusal,
  StoreUnavailable,
  type SubmitRequest,
} from "../store/store.ts";
import type { ManualClock } from "./manual-clock.ts";
import { bindingCases } from "./store-contract/binding-cases.ts";
import { conversationCases } from "./store-contract/conversation-cases.ts";
import { credentialCases } from "./store-contract/credential-cases.ts";
import { deliveryCases } from "./store-contract/delivery-cases.ts";
import { overviewCases } from "./store-contract/overview-cases.ts";
import { passCases } from "./store-contract/pass-cases.ts";
import { questionCases } from "./store-contract/question-cases.ts";
import { restartCases } from "./store-contract/restart-cases.ts";
import { routeCases } from "./store-contract/route-cases.ts";

/** A started, empty store of its own for one case. */
export interface StoreFixture {
  readonly store: Store;
  /** The clock that the store was handed. */
  readonly clock: ManualClock;
  /** Stops the store that is in use and starts another over the same data. */
  reopen(): Promise<Store>;
  [Symbol.asyncDispose](): Promise<void>;
}

const NODE = "node_a";
const OTHER_NODE = "node_b";
const ALICE = "alice";
const BOB = "bob";
const WINDOW_MS = 600_000;
const RETENTION_MS = 86_400_000;
const MANY = 1_000;
const CANCELLED = JSON.stringify({ final_status: "cancelled", code: "CANCELLED", message: "m", retryable: false });

/** The hash that a store gets to see of the token of that name. */
const token = (name: string) => createHash("sha256").update(name).digest();

let lastMessage = 0;
const freshMessageId = () => `msg_${++lastMessage}`;

/** One store with the few actors that the cases need; every value that does not matter has a default. */
class Scene {
  store: Store;
  readonly #fixture: StoreFixture;

  constructor(fixture: StoreFixture) {
    this.#fixture = fixture;
    this.store = fixture.store;
  }

  get clock(): ManualClock {
    return this.#fixture.clock;
  }

  get now(): number {
    return this.clock.wall();
  }

  async reopen(): Promise<void> {
    this.store = await this.#fixture.reopen();
  }

  register(nodeId: string): Promise<void> {
    return this.store.nodes.register({ nodeId, pid: 1, host: "host", now: this.now });
  }

  create(sessionId: string, given: Partial<NewSession> = {}): Promise<AttachedSession> {
    return this.store.sessions.create({
      sessionId,
      principal: ALICE,
      clientName: "client",
      clientVersion: "1",
      features: ["ack", "subscribe"],
      tokenHash: token(`${sessionId}/1`),
      nodeId: NODE,
      resumeWindowMs: WINDOW_MS,
      now: this.now,
      maxSessionsPerPrincipal: MANY,
      ...given,
    });
  }

  /** Presents token `presented` and is to be issued token `next` (1 is the one of `create`). */
  attach(sessionId: string, presented: number, next: number, given: Partial<AttachRequest> = {}) {
    return this.store.sessions.attach({
      sessionId,
      principal: ALICE,
      presentedTokenHash: token(`${sessionId}/${presented}`),
      nextTokenHash: token(`${sessionId}/${next}`),
      lastEventSeq: 0,
      nodeId: NODE,
      now: this.now,
      ...given,
    });
  }

  submit(ref: ConnectionRef, jobId: string, given: Partial<SubmitRequest> = {}) {
    return this.store.requests.submit({
      ...identity(ref),
      messageId: freshMessageId(),
      now: this.now,
      principal: ALICE,
      nodeId: NODE,
      job: {
        jobId,
        agent: "report@2",
        input: '{"week":19}',
        lease: { "fs.read": ["/srv/**"] },
        traceId: `trace-${jobId}`,
      },
      acceptedPayload: `{"job_id":"${jobId}"}`,
      maxRunningJobsPerPrincipal: MANY,
      reply: (outcome) => ({ frame: `${jobId}: ${outcome.outcome}` }),
      ...given,
    });
  }

  follow(ref: ConnectionRef, jobId: string, given: Partial<FollowRequest> = {}) {
    return this.store.requests.follow({
      ...identity(ref),
      messageId: freshMessageId(),
      now: this.now,
      jobId,
      history: true,
      reply: (outcome) => ({ frame: `${jobId}: followed from ${outcome.subscribedFrom}` }),
      ...given,
    });
  }

  cancel(ref: ConnectionRef, jobId: string, reason?: string) {
    return this.store.requests.cancel({
      ...identity(ref),
      messageId: freshMessageId(),
      now: this.now,
      jobId,
      reason,
      cancelledPayload: CANCELLED,
      reply: (outcome) => ({ frame: `${jobId}: ${outcome.outcome}` }),
    });
  }

  unfollow(ref: ConnectionRef, jobId: string) {
    return this.store.requests.unfollow({ ...identity(ref), messageId: freshMessageId(), now: this.now, jobId });
  }

  batch(jobId: string, firstN: number, lastN: number, given: Partial<AppendBatch> = {}): AppendBatch {
    const events = [];
    for (let n = firstN; n <= lastN; n++) {
      events.push({ n, kind: "log", payload: `{"n":${n}}` });
    }
    const last = events.at(-1);
    if (given.end !== undefined && last !== undefined) {
      last.kind = given.end === "success" ? "job.result" : "job.error";
    }
    return { jobId, runEpoch: 1, events, now: this.now, ...given };
  }

  /** Appends one batch, which must be taken. */
  async append(jobId: string, firstN: number, lastN: number, end?: FinalStatus): Promise<void> {
    const results = await this.store.jobs.append([this.batch(jobId, firstN, lastN, { end })]);
    assert.deepEqual(results, [{ ok: true }]);
  }

  async appendRefused(reason: RefusalReason, batch: AppendBatch): Promise<void> {
    const before = await this.store.jobs.get(batch.jobId);
    const [result] = await this.store.jobs.append([batch]);
    assert.ok(result !== undefined && !result.ok, `the append was taken, but ${reason} was expected`);
    assert.ok(result.refusal instanceof StoreRefusal);
    assert.equal(result.refusal.reason, reason);
    assert.deepEqual(await this.store.jobs.get(batch.jobId), before, "a refused append wrote something");
  }

  /** Stores a run of a job of which every event is visible. */
  run(ref: ConnectionRef, jobId: string, firstSeq: number, firstN: number, lastN: number, given: Partial<NewRun> = {}) {
    const run = { firstSeq, count: lastN - firstN + 1, jobId, firstN, lastN, endsFollow: false, ...given };
    return this.store.sessions.storeRuns(identity(ref), [run], frameChild);
  }

  /** Lets the janitor work until nothing is left, and answers what it removed. */
  async retain(given: Partial<RetentionPolicy> = {}): Promise<Omit<RetentionStep, "more">> {
    const removed = { events: 0, jobs: 0, sessions: 0 };
    for (let more = true; more; ) {
      const step = await this.store.retain({
        jobRetentionMs: RETENTION_MS,
        maxEventsPerJob: 1_000_000,
        maxBytesPerJob: 1_000_000_000,
        maxBytesPerStore: undefined,
        now: this.now,
        ...given,
      });
      removed.events += step.events;
      removed.jobs += step.jobs;
      removed.sessions += step.sessions;
      more = step.more;
    }
    return removed;
  }

  async events(jobId: string): Promise<number> {
    return (await this.store.jobs.get(jobId))?.lastN ?? -1;
  }
}

/** What tells of a child, here just its payload. */
const frameChild = (child: DelegatedJob): string => child.acceptedPayload;

const identity = ({ sessionId, connectionEpoch }: ConnectionRef): ConnectionRef => ({ sessionId, connectionEpoch });

async function refused(reason: RefusalReason, operation: Promise<unknown>): Promise<void> {
  await assert.rejects(operation, (error: unknown) => {
    assert.ok(error instanceof StoreRefusal, `a StoreRefusal was expected: ${String(error)}`);
    assert.equal(error.reason, reason);
    return true;
  });
}

/** A scene with one live node and one attached session of alice. */
async function started(scene: Scene): Promise<AttachedSession> {
  await scene.register(NODE);
  return scene.create("sess_1");
}

const range = (length: number) => Array.from({ length }, (_, i) => i);

/**
 * Registers the contract's cases for one implementation.
 *
 * @param skips the titles of cases that it cannot pass, each with the reason
 */
export function storeContract(
  name: string,
  factory: () => Promise<StoreFixture>,
  skips: Readonly<Record<string, string>> = {},
): void {
  const it = (title: string, body: (scene: Scene) => Promise<void>) => {
    declare(title, { skip: skips[title] ?? false }, async () => {
      await using fixture = await factory();
      await body(new Scene(fixture));
    });
  };

  describe(`store contract: ${name}`, () => {
    sessions(it);
    resumes(it);
    runs(it);
    submits(it);
    follows(it);
    cancels(it);
    logs(it);
    retention(it);
    listing(it);
    nodes(it);
    bindingCases(it);
    conversationCases(it);
    credentialCases(it);
    deliveryCases(it);
    overviewCases(it);
    passCases(it);
    questionCases(it);
    restartCases(it);
    routeCases(it);
    lifecycle(it);
  });
}

type Case = (title: string, body: (scene: Scene) => Promise<void>) => void;

function sessions(it: Case): void {
  it("[SES-4] a session keeps the features of its first welcome", async (scene) => {
    const session = await started(scene);
    assert.deepEqual(session, {
      sessionId: "sess_1",
      connectionEpoch: 1,
      principal: ALICE,
      clientName: "client",
      features: ["ack", "subscribe"],
      lastSeq: 0,
      ackedSeq: 0,
      follows: [],
      unprovenReplies: [],
      owesChildren: false,
    });
    const resumed = await scene.attach("sess_1", 1, 2);
    assert.deepEqual(resumed, { ...session, connectionEpoch: 2 });
  });

  it("[SES-14] sessions of a principal that can be resumed are limited, those that are over do not count", async (scene) => {
    await scene.register(NODE);
    const limit = { maxSessionsPerPrincipal: 2 };
    const first = await scene.create("sess_1", limit);
    await scene.create("sess_2", limit);
    await refused("limit_exceeded", scene.create("sess_3", limit));
    await scene.create("sess_bob", { ...limit, principal: BOB });
    await scene.store.sessions.detach(first, scene.now);
    await refused("limit_exceeded", scene.create("sess_3", limit));
    await scene.clock.advance(WINDOW_MS + 1);
    await scene.create("sess_3", limit);
  });

  it("[SES-8] an ack below the last or above the newest is ignored", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 10);
    await scene.run(session, "job_1", 1, 1, 10);
    assert.equal(await scene.store.sessions.ack(session, 5), true);
    assert.equal(await scene.store.sessions.ack(session, 4), false);
    assert.equal(await scene.store.sessions.ack(session, 11), false);
    assert.equal(await scene.store.sessions.ack(session, 5), true);
    assert.equal((await scene.attach("sess_1", 1, 2)).ackedSeq, 5);
  });

  it("[STO-4] everything an older connection writes or reads is refused, and changes nothing", async (scene) => {
    const old = await started(scene);
    await scene.submit(old, "job_1");
    await scene.append("job_1", 1, 4);
    await scene.run(old, "job_1", 1, 1, 2);
    const newer = await scene.attach("sess_1", 1, 2);
    await refused("superseded", scene.run(old, "job_1", 3, 3, 4));
    await refused("superseded", scene.store.sessions.readRuns(old, 0, 10));
    await refused("superseded", scene.store.sessions.ack(old, 1));
    await refused("superseded", scene.submit(old, "job_2"));
    await refused("superseded", scene.follow(old, "job_1"));
    await refused("superseded", scene.unfollow(old, "job_1"));
    await refused("superseded", scene.cancel(old, "job_1"));
    await refused(
      "superseded",
      scene.store.requests.note({ ...identity(old), messageId: freshMessageId(), now: scene.now }),
    );
    assert.equal(await scene.store.jobs.get("job_2"), undefined);
    const after = await scene.attach("sess_1", 2, 3);
    assert.deepEqual([after.lastSeq, after.ackedSeq, after.follows], [2, 0, newer.follows]);
    assert.equal((await scene.store.jobs.get("job_1"))?.cancelRequested, false);
  });

  it("[STO-4] the fence comes before the identity: an old connection gets no stored reply", async (scene) => {
    const old = await started(scene);
    await scene.submit(old, "job_1", { messageId: "m" });
    await scene.attach("sess_1", 1, 2);
    await refused("superseded", scene.submit(old, "job_1", { messageId: "m" }));
  });
}

function resumes(it: Case): void {
  it("[RES-5] an unknown session, an unknown token and a number above the newest are refused", async (scene) => {
    const session = await started(scene);
    await refused("unknown_session", scene.attach("sess_2", 1, 2));
    await refused("unknown_token", scene.attach("sess_1", 99, 2));
    await refused("seq_above_newest", scene.attach("sess_1", 1, 2, { lastEventSeq: 1 }));
    // None of them disturbed the connection that is attached.
    await scene.submit(session, "job_1");
  });

  it("[RES-5] the window runs from the detach, and not while attached", async (scene) => {
    const session = await started(scene);
    await scene.clock.advance(WINDOW_MS * 3);
    const second = await scene.attach("sess_1", 1, 2);
    // A detach of the older connection starts nothing.
    await scene.store.sessions.detach(session, scene.now);
    await scene.clock.advance(WINDOW_MS * 3);
    const third = await scene.attach("sess_1", 2, 3);
    assert.equal(third.connectionEpoch, second.connectionEpoch + 1);
    await scene.store.sessions.detach(third, scene.now);
    await scene.clock.advance(WINDOW_MS);
    const fourth = await scene.attach("sess_1", 3, 4);
    await scene.store.sessions.detach(fourth, scene.now);
    await scene.clock.advance(WINDOW_MS);
    // A second detach does not start the window anew.
    await scene.store.sessions.detach(fourth, scene.now);
    await scene.clock.advance(1);
    await refused("window_over", scene.attach("sess_1", 4, 5));
  });

  it("[RES-5] a session whose node died counts as detached since it was declared dead", async (scene) => {
    await started(scene);
    await scene.register(OTHER_NODE);
    await scene.create("sess_2");
    await scene.clock.advance(WINDOW_MS * 2);
    await scene.store.nodes.bury({ nodeId: NODE, heartbeat: 0, jobErrorPayload: "{}", now: scene.now });
    await scene.clock.advance(WINDOW_MS);
    await scene.attach("sess_1", 1, 2, { nodeId: OTHER_NODE });
    await scene.clock.advance(1);
    await refused("window_over", scene.attach("sess_2", 1, 2, { nodeId: OTHER_NODE }));
  });

  it("[RES-6] presenting a token retires those before it; it and the newest seven stay valid", async (scene) => {
    await started(scene);
    // Token 2 is presented at last; 3 to 10 are issued and lost on the wire.
    await scene.attach("sess_1", 1, 2);
    for (let next = 3; next <= 10; next++) {
      await scene.attach("sess_1", 2, next);
    }
    await refused("unknown_token", scene.attach("sess_1", 1, 11));
    await refused("unknown_token", scene.attach("sess_1", 3, 11));
    await scene.attach("sess_1", 4, 11);
    await refused("unknown_token", scene.attach("sess_1", 2, 12));
    await scene.attach("sess_1", 11, 12);
    await refused("unknown_token", scene.attach("sess_1", 10, 13));
  });

  it("[RES-7] another principal with a valid token is refused and disturbs nothing", async (scene) => {
    const session = await started(scene);
    await refused("other_principal", scene.attach("sess_1", 1, 2, { principal: BOB }));
    // Whoever has no good token does not learn that the session exists.
    await refused("unknown_token", scene.attach("sess_1", 99, 2, { principal: BOB }));
    await scene.submit(session, "job_1");
    await refused("unknown_token", scene.attach("sess_1", 2, 3));
  });

  it("[RES-8] of one client instance a lower attempt is refused, of another one taken", async (scene) => {
    await started(scene);
    const as = (instance: string, attempt: number) => ({ instance: { instance, attempt } });
    await scene.attach("sess_1", 1, 2, as("tab", 5));
    await refused("stale_attempt", scene.attach("sess_1", 2, 3, as("tab", 4)));
    await scene.attach("sess_1", 2, 3, as("tab", 5));
    await scene.attach("sess_1", 3, 4, as("other tab", 1));
    await refused("stale_attempt", scene.attach("sess_1", 4, 5, as("other tab", 0)));
    await scene.attach("sess_1", 4, 5, as("tab", 1));
  });

  it("[RES-8] the instance of the first hello counts", async (scene) => {
    await scene.register(NODE);
    await scene.create("sess_1", { instance: { instance: "tab", attempt: 3 } });
    await refused("stale_attempt", scene.attach("sess_1", 1, 2, { instance: { instance: "tab", attempt: 2 } }));
  });

  it("[RES-8] each attach gives the next epoch, also when several come at once", async (scene) => {
    await started(scene);
    const attached = await Promise.all(range(6).map((i) => scene.attach("sess_1", 1, i + 2)));
    // Which of them is served first is nobody's promise.
    assert.deepEqual(
      attached.map((session) => session.connectionEpoch).sort((a, b) => a - b),
      range(6).map((i) => i + 2),
    );
  });

  it("[RES-10] replies that nothing proves to have arrived are given at the attach, in order", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.store.requests.note({ ...identity(session), messageId: freshMessageId(), now: scene.now });
    await scene.submit(session, "job_2");
    assert.deepEqual((await scene.attach("sess_1", 1, 2)).unprovenReplies, ["job_1: created", "job_2: created"]);
  });

  it("[RES-10] an ack or a resume above the number at its commit proves that a reply arrived", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1", { messageId: "first" });
    await scene.append("job_1", 1, 3);
    await scene.run(session, "job_1", 1, 1, 1);
    await scene.submit(session, "job_2");
    await scene.run(session, "job_1", 2, 2, 2);
    await scene.submit(session, "job_3");
    // Event 1 came after job_1's reply, and is no proof for job_2's, which has the number 1 itself.
    const second = await scene.attach("sess_1", 1, 2, { lastEventSeq: 1 });
    assert.deepEqual(second.unprovenReplies, ["job_2: created", "job_3: created"]);
    assert.equal(second.ackedSeq, 0);
    await scene.store.sessions.ack(second, 2);
    const third = await scene.attach("sess_1", 2, 3);
    assert.deepEqual(third.unprovenReplies, ["job_3: created"]);
    // A resent envelope is given its reply all the same.
    assert.deepEqual(await scene.submit(third, "job_1", { messageId: "first" }), {
      outcome: "duplicate",
      frame: "job_1: created",
    });
  });

  it("[RES-11] sessions, tokens, follows, replies and keys survive a restart", async (scene) => {
    const session = await started(scene);
    const idempotency = { key: "k", digest: "d", ttlMs: 1_000 };
    await scene.submit(session, "job_1", { messageId: "m", idempotency });
    await scene.append("job_1", 1, 5);
    await scene.run(session, "job_1", 1, 1, 3);
    await scene.reopen();
    await scene.register(OTHER_NODE);
    const resumed = await scene.attach("sess_1", 1, 2, { nodeId: OTHER_NODE });
    assert.equal(resumed.connectionEpoch, 2);
    assert.equal(resumed.lastSeq, 3);
    assert.deepEqual(resumed.follows, [{ jobId: "job_1", traceId: "trace-job_1", positionN: 3, canCancel: true }]);
    assert.deepEqual(resumed.unprovenReplies, ["job_1: created"]);
    const repeat = await scene.submit(resumed, "job_2", { nodeId: OTHER_NODE, idempotency });
    assert.equal(repeat.outcome, "repeated");
    assert.equal((await scene.store.jobs.read("job_1", 0)).events.length, 5);
  });
}

function runs(it: Case): void {
  it("[STO-5] runs continue the session's numbers, whatever job they are of", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    await scene.append("job_1", 1, 10);
    await scene.append("job_2", 1, 10);
    const both: NewRun[] = [
      { firstSeq: 1, count: 4, jobId: "job_1", firstN: 1, lastN: 4, endsFollow: false },
      { firstSeq: 5, count: 2, jobId: "job_2", firstN: 1, lastN: 2, endsFollow: false },
      { firstSeq: 7, count: 1, jobId: "job_1", firstN: 5, lastN: 5, endsFollow: false },
    ];
    await scene.store.sessions.storeRuns(session, both, frameChild);
    await refused("wrong_number", scene.run(session, "job_1", 9, 6, 7));
    await refused("wrong_number", scene.run(session, "job_1", 7, 6, 7));
    await scene.run(session, "job_1", 8, 6, 7);
    const stored = await scene.store.sessions.readRuns(session, 0, 10);
    assert.deepEqual(stored, [
      { firstSeq: 1, count: 4, jobId: "job_1", firstN: 1, lastN: 4, traceId: "trace-job_1", notice: undefined },
      { firstSeq: 5, count: 2, jobId: "job_2", firstN: 1, lastN: 2, traceId: "trace-job_2", notice: undefined },
      { firstSeq: 7, count: 1, jobId: "job_1", firstN: 5, lastN: 5, traceId: "trace-job_1", notice: undefined },
      { firstSeq: 8, count: 2, jobId: "job_1", firstN: 6, lastN: 7, traceId: "trace-job_1", notice: undefined },
    ]);
    const from = async (seq: number, limit = 10) =>
      (await scene.store.sessions.readRuns(session, seq, limit)).map((run) => run.firstSeq);
    assert.deepEqual(await from(3), [1, 5, 7, 8]);
    assert.deepEqual(await from(4), [5, 7, 8]);
    assert.deepEqual(await from(5, 2), [5, 7]);
    assert.deepEqual(await from(9), []);
  });

  it("[STO-5] events that have a number, are not stored, or are not followed get none", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 10);
    await scene.run(session, "job_1", 1, 1, 5);
    await refused("wrong_number", scene.run(session, "job_1", 6, 5, 6));
    await refused("wrong_number", scene.run(session, "job_1", 6, 6, 11));
    await refused("wrong_number", scene.run(session, "job_1", 6, 6, 7, { count: 3 }));
    await refused("wrong_number", scene.run(session, "job_9", 6, 1, 1));
    const other = await scene.create("sess_2");
    await refused("wrong_number", scene.run(other, "job_1", 1, 1, 1));
    const [follow] = (await scene.attach("sess_1", 1, 2)).follows;
    assert.equal(follow?.positionN, 5);
  });

  it("[STO-5] of several runs of which one is wrong none is stored", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 4);
    const wrong: NewRun[] = [
      { firstSeq: 1, count: 2, jobId: "job_1", firstN: 1, lastN: 2, endsFollow: false },
      { firstSeq: 3, count: 2, jobId: "job_1", firstN: 2, lastN: 3, endsFollow: false },
    ];
    await refused("wrong_number", scene.store.sessions.storeRuns(session, wrong, frameChild));
    assert.deepEqual(await scene.store.sessions.readRuns(session, 0, 10), []);
    await scene.run(session, "job_1", 1, 1, 4);
  });

  it("[SES-5] a stretch of which the session sees nothing moves the follow and takes no number", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 6);
    await scene.run(session, "job_1", 1, 1, 2, { count: 0 });
    await scene.run(session, "job_1", 1, 3, 4, { count: 1 });
    await scene.run(session, "job_1", 2, 5, 5, { count: 0 });
    await scene.run(session, "job_1", 2, 6, 6);
    const stored = await scene.store.sessions.readRuns(session, 0, 10);
    assert.deepEqual(
      stored.map((run) => [run.firstSeq, run.count, run.firstN, run.lastN]),
      [
        [1, 1, 3, 4],
        [2, 1, 6, 6],
      ],
    );
  });

  it("[JOB-1] the run with the terminal event ends the follow: nothing comes after it", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 3, "success");
    await scene.run(session, "job_1", 1, 1, 3, { endsFollow: true });
    await refused("wrong_number", scene.run(session, "job_1", 4, 3, 3));
    assert.deepEqual((await scene.attach("sess_1", 1, 2)).follows, []);
  });
}

function submits(it: Case): void {
  it("[STO-6] job, follow, key and reply are stored together", async (scene) => {
    const session = await started(scene);
    const answer = await scene.submit(session, "job_1", { idempotency: { key: "k", digest: "d", ttlMs: 1_000 } });
    assert.deepEqual(answer, { outcome: "created", frame: "job_1: created" });
    assert.deepEqual(await scene.store.jobs.get("job_1"), {
      jobId: "job_1",
      principal: ALICE,
      sessionId: "sess_1",
      agent: "report@2",
      lease: { "fs.read": ["/srv/**"] },
      leaseExpiresAt: undefined,
      parentJobId: undefined,
      traceId: "trace-job_1",
      status: "running",
      runEpoch: 1,
      nodeId: NODE,
      createdAt: scene.now,
      endedAt: undefined,
      lastN: 0,
      floorN: 0,
      cancelRequested: false,
    });
    const resumed = await scene.attach("sess_1", 1, 2);
    assert.deepEqual(resumed.follows, [{ jobId: "job_1", traceId: "trace-job_1", positionN: 0, canCancel: true }]);
    assert.deepEqual(resumed.unprovenReplies, ["job_1: created"]);
  });

  it("[STO-6] when the reply cannot be framed, nothing is stored", async (scene) => {
    const session = await started(scene);
    const idempotency = { key: "k", digest: "d", ttlMs: 1_000 };
    const failing = () => {
      throw new TypeError("no frame");
    };
    const good = scene.submit(session, "job_good");
    const bad = scene.submit(session, "job_1", { messageId: "m", idempotency, reply: failing });
    const alsoGood = scene.submit(session, "job_also_good");
    await assert.rejects(bad, /no frame/);
    assert.equal((await good).outcome, "created");
    assert.equal((await alsoGood).outcome, "created");
    assert.equal(await scene.store.jobs.get("job_1"), undefined);
    const again = await scene.submit(session, "job_1", { messageId: "m", idempotency });
    assert.equal(again.outcome, "created");
  });

  it("[ENV-8] a repeated request is not done again and is given its stored reply", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1", { messageId: "m1" });
    const repeated = await scene.submit(session, "job_2", { messageId: "m1" });
    assert.deepEqual(repeated, { outcome: "duplicate", frame: "job_1: created" });
    assert.equal(await scene.store.jobs.get("job_2"), undefined);
    const ref = { ...identity(session), now: scene.now };
    assert.deepEqual(await scene.store.requests.note({ ...ref, messageId: "m2" }), { outcome: "noted" });
    assert.deepEqual(await scene.store.requests.note({ ...ref, messageId: "m2", frame: "late" }), {
      outcome: "duplicate",
      frame: undefined,
    });
    assert.deepEqual(await scene.store.requests.note({ ...ref, messageId: "m3", frame: "said" }), { outcome: "noted" });
    assert.deepEqual(await scene.store.requests.note({ ...ref, messageId: "m3" }), {
      outcome: "duplicate",
      frame: "said",
    });
    // The id is the session's: another session may use it.
    const other = await scene.create("sess_2");
    assert.equal((await scene.submit(other, "job_2", { messageId: "m1" })).outcome, "created");
  });

  it("[ENV-8] a repeat in a resumed session is a repeat", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1", { messageId: "m1" });
    const resumed = await scene.attach("sess_1", 1, 2);
    assert.deepEqual(await scene.submit(resumed, "job_1", { messageId: "m1" }), {
      outcome: "duplicate",
      frame: "job_1: created",
    });
  });

  it("[JOB-5] the same key and parameters give the first job, other parameters DUPLICATE_KEY", async (scene) => {
    const session = await started(scene);
    const key = (digest: string) => ({ idempotency: { key: "k", digest, ttlMs: 1_000 } });
    await scene.submit(session, "job_1", key("same"));
    const other = await scene.create("sess_2");
    assert.deepEqual(await scene.submit(other, "job_2", key("same")), {
      outcome: "repeated",
      jobId: "job_1",
      positionN: 0,
      traceId: "trace-job_1",
      acceptedPayload: '{"job_id":"job_1"}',
      frame: "job_2: repeated",
    });
    assert.deepEqual(await scene.submit(other, "job_3", key("different")), {
      outcome: "duplicate_key",
      frame: "job_3: duplicate_key",
    });
    assert.equal(await scene.store.jobs.get("job_2"), undefined);
    assert.equal(await scene.store.jobs.get("job_3"), undefined);
    // It follows the job from its first event, with the right to cancel.
    assert.deepEqual((await scene.attach("sess_2", 1, 2)).follows, [
      { jobId: "job_1", traceId: "trace-job_1", positionN: 0, canCancel: true },
    ]);
    // Another principal's key is another key.
    const bob = await scene.create("sess_bob", { principal: BOB });
    assert.equal((await scene.submit(bob, "job_4", { ...key("different"), principal: BOB })).outcome, "created");
  });

  it("[JOB-5] a key is free again when its time is over", async (scene) => {
    const session = await started(scene);
    const idempotency = { key: "k", digest: "d", ttlMs: 1_000 };
    await scene.submit(session, "job_1", { idempotency });
    await scene.clock.advance(999);
    assert.equal((await scene.submit(session, "job_2", { idempotency })).outcome, "repeated");
    await scene.clock.advance(1);
    assert.equal((await scene.submit(session, "job_3", { idempotency })).outcome, "created");
    const again = await scene.submit(session, "job_4", { idempotency });
    assert.ok(again.outcome === "repeated" && again.jobId === "job_3");
  });

  it("[JOB-5] fifty concurrent submits of one key make one job", async (scene) => {
    const session = await started(scene);
    const idempotency = { key: "k", digest: "d", ttlMs: 1_000 };
    const answers = await Promise.all(range(50).map((i) => scene.submit(session, `job_${i}`, { idempotency })));
    assert.equal(answers.filter((answer) => answer.outcome === "created").length, 1);
    assert.equal(answers.filter((answer) => answer.outcome === "repeated").length, 49);
    assert.equal((await scene.store.jobs.list({ principal: ALICE, limit: 100 })).jobs.length, 1);
    assert.equal((await scene.attach("sess_1", 1, 2)).follows.length, 1);
  });

  it("[JOB-5] a repeat of a finished job is replayed to the session that saw its end", async (scene) => {
    const session = await started(scene);
    const idempotency = { key: "k", digest: "d", ttlMs: 1_000 };
    await scene.submit(session, "job_1", { idempotency });
    await scene.append("job_1", 1, 3, "success");
    await scene.run(session, "job_1", 1, 1, 3, { endsFollow: true });
    await scene.submit(session, "job_2", { idempotency });
    await scene.run(session, "job_1", 4, 1, 3, { endsFollow: true });
    assert.equal((await scene.attach("sess_1", 1, 2)).lastSeq, 6);
  });

  it("[JOB-5] a repeat while the follow is open leaves its position and grants the cancel", async (scene) => {
    const session = await started(scene);
    const idempotency = { key: "k", digest: "d", ttlMs: 1_000 };
    await scene.submit(session, "job_1", { idempotency });
    await scene.append("job_1", 1, 5);
    const other = await scene.create("sess_2");
    await scene.follow(other, "job_1");
    await scene.run(other, "job_1", 1, 1, 4);
    assert.equal((await scene.cancel(other, "job_1")).outcome, "not_submitter");
    await scene.submit(other, "job_2", { idempotency });
    const [follow] = (await scene.attach("sess_2", 1, 2)).follows;
    assert.deepEqual([follow?.positionN, follow?.canCancel], [4, true]);
  });

  it("[JOB-17] running jobs of a principal are limited; ended ones and other principals do not count", async (scene) => {
    const session = await started(scene);
    const limit = { maxRunningJobsPerPrincipal: 2 };
    await scene.submit(session, "job_1", limit);
    await scene.submit(session, "job_2", limit);
    const over = await scene.submit(session, "job_3", { ...limit, messageId: "m3" });
    assert.deepEqual(over, { outcome: "limit_exceeded", frame: "job_3: limit_exceeded" });
    assert.equal(await scene.store.jobs.get("job_3"), undefined);
    assert.deepEqual(await scene.submit(session, "job_3", { ...limit, messageId: "m3" }), {
      outcome: "duplicate",
      frame: "job_3: limit_exceeded",
    });
    const bob = await scene.create("sess_bob", { principal: BOB });
    assert.equal((await scene.submit(bob, "job_4", { ...limit, principal: BOB })).outcome, "created");
    await scene.append("job_1", 1, 1, "success");
    assert.equal((await scene.submit(session, "job_5", limit)).outcome, "created");
  });

  it("[JOB-17] a repeated key is answered although the limit is reached", async (scene) => {
    const session = await started(scene);
    const given = { maxRunningJobsPerPrincipal: 1, idempotency: { key: "k", digest: "d", ttlMs: 1_000 } };
    await scene.submit(session, "job_1", given);
    assert.equal((await scene.submit(session, "job_2", given)).outcome, "repeated");
  });
}

function follows(it: Case): void {
  it("[STO-12] what its sender was told had failed is not done after all", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 2, "success");
    const abandoned = () => true;
    await refused("abandoned", scene.submit(session, "job_2", { abandoned, messageId: "m_2" }));
    await refused("abandoned", scene.follow(session, "job_1", { abandoned, messageId: "m_3" }));
    assert.equal(await scene.store.jobs.get("job_2"), undefined);
    assert.equal(
      (await scene.submit(session, "job_2", { abandoned: () => false, messageId: "m_2" })).outcome,
      "created",
    );
    const resumed = await scene.attach("sess_1", 1, 2);
    assert.deepEqual(resumed.follows.map(({ jobId }) => jobId).sort(), ["job_1", "job_2"]);
  });

  it("[JOB-11] with history a follow starts at the first event, without it at the newest", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 5);
    await scene.run(session, "job_1", 1, 1, 4);
    const [a, b] = [await scene.create("sess_2"), await scene.create("sess_3")];
    assert.deepEqual(await scene.follow(a, "job_1", { messageId: "m" }), {
      outcome: "followed",
      status: "running",
      already: false,
      canCancel: false,
      positionN: 0,
      subscribedFrom: 1,
      traceId: "trace-job_1",
      frame: "job_1: followed from 1",
    });
    const live = await scene.follow(b, "job_1", { history: false });
    assert.ok(live.outcome === "followed");
    // The fifth event has no number in the submitter's session yet, nor has the sixth.
    assert.deepEqual([live.positionN, live.subscribedFrom], [5, 5]);
    assert.deepEqual(await scene.follow(a, "job_1", { messageId: "m" }), {
      outcome: "duplicate",
      frame: "job_1: followed from 1",
    });
    const [follow] = (await scene.attach("sess_2", 1, 2)).follows;
    assert.deepEqual(follow, { jobId: "job_1", traceId: "trace-job_1", positionN: 0, canCancel: false });
  });

  it("[JOB-11] every follow of a job that has ended delivers its terminal event", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 5, "success");
    await scene.run(session, "job_1", 1, 1, 5, { endsFollow: true });
    const positions = [];
    for (const [i, given] of [
      { history: false },
      { history: true },
      { fromEventSeq: 6 },
      { fromEventSeq: 99 },
    ].entries()) {
      const followed = await scene.follow(await scene.create(`sess_f${i}`), "job_1", given);
      assert.ok(followed.outcome === "followed" && followed.status === "success");
      positions.push([followed.positionN, followed.subscribedFrom]);
    }
    assert.deepEqual(positions, [
      [4, 5],
      [0, 1],
      [4, 5],
      [4, 5],
    ]);
  });

  it("[JOB-11] from_event_seq counts in the submitter's numbers, inclusive", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    await scene.append("job_1", 1, 12);
    await scene.append("job_2", 1, 10);
    // job_1: 1-4 are n 1-4, 8-10 are n 5-7; n 8-12 have no number yet. job_2: 5-7.
    await scene.run(session, "job_1", 1, 1, 4);
    await scene.run(session, "job_2", 5, 1, 3);
    await scene.run(session, "job_1", 8, 5, 7);
    const seen: Record<number, [number, number]> = {};
    for (const fromEventSeq of [0, 1, 2, 4, 5, 8, 10, 11, 12]) {
      const other = await scene.create(`sess_from_${fromEventSeq}`);
      const followed = await scene.follow(other, "job_1", { fromEventSeq });
      assert.ok(followed.outcome === "followed");
      seen[fromEventSeq] = [followed.positionN, followed.subscribedFrom];
    }
    assert.deepEqual(seen, {
      0: [0, 1],
      1: [0, 1],
      2: [1, 2],
      4: [3, 4],
      5: [4, 8],
      8: [4, 8],
      10: [6, 10],
      // The next number to be given will be that of n = 8.
      11: [7, 11],
      // What gets that number is not known: only what is new.
      12: [12, 11],
    });
  });

  it("[JOB-11] from_event_seq skips what the submitter's features hide", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    const kinds = ["progress", "log", "progress", "progress", "log", "log", "progress", "log"];
    const events = kinds.map((kind, i) => ({ n: i + 1, kind, payload: "{}" }));
    await scene.store.jobs.append([{ jobId: "job_1", runEpoch: 1, events, now: scene.now }]);
    // Numbers 1, 2, 3, 4 are n = 2, 5, 6, 8.
    await scene.run(session, "job_1", 1, 1, 6, { count: 3 });
    await scene.run(session, "job_1", 4, 7, 8, { count: 1 });
    const seen = [];
    for (const fromEventSeq of [2, 3, 4]) {
      const other = await scene.create(`sess_from_${fromEventSeq}`);
      const followed = await scene.follow(other, "job_1", { fromEventSeq });
      assert.ok(followed.outcome === "followed");
      seen.push([followed.positionN, followed.subscribedFrom]);
    }
    assert.deepEqual(seen, [
      [4, 2],
      [5, 3],
      [7, 4],
    ]);
  });

  it("[JOB-11] before anything is numbered subscribed_from is 1", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    const other = await scene.create("sess_2");
    const followed = await scene.follow(other, "job_1");
    assert.ok(followed.outcome === "followed");
    assert.deepEqual([followed.positionN, followed.subscribedFrom], [0, 1]);
  });

  it("[JOB-12] another follow changes nothing while one is open", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 5);
    await scene.run(session, "job_1", 1, 1, 3);
    const again = await scene.follow(session, "job_1", { history: true });
    assert.ok(again.outcome === "followed");
    assert.deepEqual([again.already, again.positionN, again.subscribedFrom], [true, 3, 4]);
    assert.deepEqual((await scene.attach("sess_1", 1, 2)).follows, [
      { jobId: "job_1", traceId: "trace-job_1", positionN: 3, canCancel: true },
    ]);
  });

  it("[JOB-12] an unsubscribe ends the follow, a new one starts over and keeps the right to cancel", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    await scene.append("job_1", 1, 5);
    await scene.run(session, "job_1", 1, 1, 5);
    assert.deepEqual(await scene.unfollow(session, "job_1"), { outcome: "unfollowed" });
    assert.deepEqual(await scene.unfollow(session, "job_1"), { outcome: "unfollowed" });
    assert.deepEqual(await scene.unfollow(session, "job_unknown"), { outcome: "unfollowed" });
    await refused("wrong_number", scene.run(session, "job_1", 6, 6, 6));
    const again = await scene.follow(session, "job_1", { history: true });
    assert.ok(again.outcome === "followed");
    assert.deepEqual([again.already, again.positionN], [false, 0]);
    // It began after job_2's.
    const { follows } = await scene.attach("sess_1", 1, 2);
    assert.deepEqual(
      follows.map((follow) => [follow.jobId, follow.positionN, follow.canCancel]),
      [
        ["job_2", 0, true],
        ["job_1", 0, true],
      ],
    );
  });

  it("[JOB-13] a job that is not there cannot be followed, and the id is not used up", async (scene) => {
    const session = await started(scene);
    await refused("unknown_job", scene.follow(session, "job_1", { messageId: "m" }));
    await scene.submit(session, "job_1");
    assert.equal((await scene.follow(session, "job_1", { messageId: "m" })).outcome, "followed");
  });
}

function cancels(it: Case): void {
  it("[JOB-6] a cancel is stored, names the node, and its first reason counts", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    assert.deepEqual(await scene.cancel(session, "job_1", "enough"), {
      outcome: "requested",
      nodeId: NODE,
      frame: "job_1: requested",
    });
    await scene.cancel(session, "job_1", "another reason");
    await scene.cancel(session, "job_2");
    assert.equal((await scene.store.jobs.get("job_1"))?.cancelRequested, true);
    const { jobs } = await scene.store.sweep({ sessionIds: [], jobIds: ["job_1", "job_2"], complete: true });
    const reasons = Object.fromEntries(jobs.map((job) => [job.jobId, job.cancelReason]));
    assert.deepEqual(reasons, { job_1: "enough", job_2: null });
  });

  it("[JOB-7] a session that merely follows cannot cancel, and an unknown job is unknown", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    const other = await scene.create("sess_2");
    await scene.follow(other, "job_1");
    assert.deepEqual(await scene.cancel(other, "job_1"), { outcome: "not_submitter", frame: "job_1: not_submitter" });
    await refused("unknown_job", scene.cancel(other, "job_2"));
    assert.equal((await scene.store.jobs.get("job_1"))?.cancelRequested, false);
    const resumed = await scene.attach("sess_1", 1, 2);
    await scene.unfollow(resumed, "job_1");
    assert.equal((await scene.cancel(resumed, "job_1")).outcome, "requested");
  });

  it("[JOB-6] a cancel of a job that has ended says how it ended", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 1, "timed_out");
    assert.deepEqual(await scene.cancel(session, "job_1"), {
      outcome: "already_ended",
      status: "timed_out",
      frame: "job_1: already_ended",
    });
  });

  it("[SRV-12] a cancel without a session is stored as one of a session is, and the first reason counts", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    const { jobs } = scene.store;
    const wish = { outcome: "requested", nodeId: NODE };
    assert.deepEqual(
      await jobs.requestCancel({ jobId: "job_1", reason: "enough", cancelledPayload: CANCELLED, now: scene.now }),
      wish,
    );
    assert.deepEqual(
      await jobs.requestCancel({
        jobId: "job_1",
        reason: "another reason",
        cancelledPayload: CANCELLED,
        now: scene.now,
      }),
      wish,
    );
    await scene.cancel(session, "job_2", "the session's");
    assert.deepEqual(
      await jobs.requestCancel({ jobId: "job_2", reason: undefined, cancelledPayload: CANCELLED, now: scene.now }),
      wish,
    );
    assert.equal((await jobs.get("job_1"))?.cancelRequested, true);
    const answer = await scene.store.sweep({ sessionIds: [], jobIds: ["job_1", "job_2"], complete: true });
    const reasons = Object.fromEntries(answer.jobs.map((job) => [job.jobId, job.cancelReason]));
    assert.deepEqual(reasons, { job_1: "enough", job_2: "the session's" });
  });

  it("[SRV-12] a cancel without a session changes nothing about a job that has ended or is unknown", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 1, "error");
    const { jobs } = scene.store;
    assert.deepEqual(
      await jobs.requestCancel({ jobId: "job_1", reason: "late", cancelledPayload: CANCELLED, now: scene.now }),
      {
        outcome: "already_ended",
        status: "error",
      },
    );
    assert.equal((await jobs.get("job_1"))?.cancelRequested, false);
    await refused(
      "unknown_job",
      jobs.requestCancel({ jobId: "job_2", reason: undefined, cancelledPayload: CANCELLED, now: scene.now }),
    );
  });
}

function retention(it: Case): void {
  it("[STO-13] a job goes with its log when its retention has passed and it is acked, and not before", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 1_200, "success");
    await scene.run(session, "job_1", 1, 1, 1_200, { endsFollow: true });
    await scene.store.sessions.ack(session, 1_199);
    await scene.clock.advance(RETENTION_MS + 1);
    assert.deepEqual(await scene.retain(), { events: 0, jobs: 0, sessions: 0 }, "an ack is owed");
    await scene.store.sessions.ack(session, 1_200);
    assert.deepEqual(await scene.retain({ jobRetentionMs: RETENTION_MS + 2 }), { events: 0, jobs: 0, sessions: 0 });
    assert.deepEqual(await scene.retain(), { events: 1_200, jobs: 1, sessions: 0 });
    assert.equal(await scene.store.jobs.get("job_1"), undefined);
    assert.deepEqual((await scene.store.jobs.list({ principal: ALICE, limit: 10 })).jobs, []);
    await refused("below_floor", scene.attach("sess_1", 1, 2, { lastEventSeq: 1_199 }));
    assert.equal((await scene.attach("sess_1", 1, 2, { lastEventSeq: 1_200 })).lastSeq, 1_200);
  });

  it("[STO-13] without the ack feature numbered counts as acked, and what has no number is owed", async (scene) => {
    await scene.register(NODE);
    const session = await scene.create("sess_1", { features: [] });
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 2, "success");
    await scene.clock.advance(RETENTION_MS + 1);
    assert.equal((await scene.retain()).jobs, 0);
    await scene.run(session, "job_1", 1, 1, 2, { endsFollow: true });
    assert.equal((await scene.retain()).jobs, 1);
  });

  it("[STO-13] a session goes when its window is over, and owes nothing from then on", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 700, "success");
    for (let n = 1; n <= 700; n += 1) await scene.run(session, "job_1", n, n, n, { endsFollow: n === 700 });
    await scene.store.sessions.detach(session, scene.now);
    await scene.clock.advance(WINDOW_MS);
    assert.equal((await scene.retain()).sessions, 0, "the window ends after its last millisecond");
    await scene.clock.advance(1);
    assert.deepEqual(await scene.retain(), { events: 0, jobs: 0, sessions: 1 });
    await refused("unknown_session", scene.attach("sess_1", 1, 2));
    assert.equal((await scene.store.jobs.get("job_1"))?.status, "success", "the job is kept for its own time");
    await scene.clock.advance(RETENTION_MS);
    assert.deepEqual(await scene.retain(), { events: 700, jobs: 1, sessions: 0 });
  });

  it("[STO-13] a live job and an attached session never go, however old", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 3);
    await scene.clock.advance(10 * RETENTION_MS);
    assert.deepEqual(await scene.retain(), { events: 0, jobs: 0, sessions: 0 });
  });

  it("[STO-13] a job stays while its key can still repeat it", async (scene) => {
    const session = await started(scene);
    const idempotency = { key: "k", digest: "d", ttlMs: 2 * RETENTION_MS };
    await scene.submit(session, "job_1", { idempotency });
    await scene.append("job_1", 1, 1, "success");
    await scene.run(session, "job_1", 1, 1, 1, { endsFollow: true });
    await scene.store.sessions.ack(session, 1);
    await scene.clock.advance(RETENTION_MS + 1);
    assert.equal((await scene.retain()).jobs, 0);
    await scene.clock.advance(RETENTION_MS);
    assert.equal((await scene.retain()).jobs, 1);
    assert.equal((await scene.submit(session, "job_2", { idempotency })).outcome, "created");
  });

  it("[STO-13] a key of a job that outlived its session does not fall to a later session", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.store.sessions.detach(session, scene.now);
    await scene.clock.advance(WINDOW_MS + 1);
    await scene.retain();
    const later = await scene.create("sess_2");
    const answer = await scene.cancel(later, "job_1");
    assert.equal(answer.outcome, "not_submitter");
  });

  it("[STO-14] a job over its cap loses its oldest events, up to its terminal one and its result", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 1_500);
    assert.deepEqual(await scene.retain({ maxEventsPerJob: 400 }), { events: 1_100, jobs: 0, sessions: 0 });
    const job = await scene.store.jobs.get("job_1");
    assert.deepEqual([job?.floorN, job?.lastN], [1_100, 1_500]);
    await refused("below_floor", scene.store.jobs.read("job_1", 1_099));
    assert.equal((await scene.store.jobs.read("job_1", 1_100)).events[0]?.n, 1_101);
    await scene.store.jobs.append([
      { jobId: "job_1", runEpoch: 1, events: [{ n: 1_501, kind: "result_chunk", payload: "{}" }], now: scene.now },
    ]);
    await scene.append("job_1", 1_502, 1_502, "success");
    assert.equal((await scene.retain({ maxEventsPerJob: 1, maxBytesPerJob: 1 })).events, 400);
    const left = (await scene.store.jobs.read("job_1", 1_500)).events;
    assert.deepEqual(
      left.map((event) => event.kind),
      ["result_chunk", "job.result"],
    );
  });

  it("[STO-14] a store over its cap gives up first what nobody owes an ack for", async (scene) => {
    const session = await started(scene);
    for (const jobId of ["job_1", "job_2"]) {
      await scene.submit(session, jobId);
      await scene.append(jobId, 1, 300, "success");
    }
    await scene.run(session, "job_2", 1, 1, 300, { endsFollow: true });
    await scene.store.sessions.ack(session, 300);
    const policy = { maxBytesPerStore: 5_000 };
    await scene.retain(policy);
    const [one, two] = [await scene.store.jobs.get("job_1"), await scene.store.jobs.get("job_2")];
    assert.equal(one?.floorN, 0, "what is owed was taken although there was something else");
    assert.equal(two?.floorN, 299);
    await scene.retain({ maxBytesPerStore: 100 });
    assert.equal((await scene.store.jobs.get("job_1"))?.floorN, 299);
  });

  it("[STO-15] numbers whose events are gone cannot be resumed from, those above can", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 600);
    await scene.run(session, "job_1", 1, 1, 300);
    await scene.run(session, "job_1", 301, 301, 600);
    await scene.retain({ maxEventsPerJob: 200 });
    await refused("below_floor", scene.store.sessions.readRuns(session, 399, 10));
    await refused("below_floor", scene.attach("sess_1", 1, 2, { lastEventSeq: 399 }));
    const resumed = await scene.attach("sess_1", 1, 2, { lastEventSeq: 400 });
    const [run] = await scene.store.sessions.readRuns(resumed, 400, 10);
    assert.deepEqual([run?.firstSeq, run?.firstN, run?.lastN], [301, 301, 600]);
    await refused("below_floor", scene.store.jobs.read("job_1", 300));
  });

  it("[STO-15] a run of events that were trimmed meanwhile is refused and writes nothing", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 100);
    await scene.retain({ maxEventsPerJob: 40 });
    await refused("below_floor", scene.run(session, "job_1", 1, 60, 70));
    assert.deepEqual(await scene.store.sessions.readRuns(session, 0, 10), []);
    await scene.run(session, "job_1", 1, 61, 100);
  });

  it("[STO-15] a notice takes the next number, moves the follow, and is read back", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 100);
    await scene.retain({ maxEventsPerJob: 40 });
    const notice = { jobId: "job_1", payload: '{"kind":"status"}', skipToN: 60 };
    const { storeNotice } = scene.store.sessions;
    await refused("wrong_number", storeNotice(session, { ...notice, seq: 2 }));
    await storeNotice(session, { ...notice, seq: 1 });
    await refused("wrong_number", storeNotice(session, { ...notice, seq: 1 }));
    await scene.run(session, "job_1", 2, 61, 100);
    const resumed = await scene.attach("sess_1", 1, 2);
    await refused("superseded", storeNotice(session, { ...notice, seq: 42 }));
    assert.equal(resumed.lastSeq, 41);
    const runs = await scene.store.sessions.readRuns(resumed, 0, 10);
    assert.deepEqual(
      runs.map((run) => [run.firstSeq, run.count, run.notice]),
      [
        [1, 1, notice.payload],
        [2, 40, undefined],
      ],
    );
  });
}

function logs(it: Case): void {
  it("[STO-1] a repeated append has succeeded and stores nothing twice", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 5);
    await scene.append("job_1", 1, 5);
    await scene.append("job_1", 2, 3);
    // A prefix that is stored, and a rest that is not.
    await scene.append("job_1", 4, 8);
    assert.equal(await scene.events("job_1"), 8);
    const { events } = await scene.store.jobs.read("job_1", 0);
    assert.deepEqual(
      events,
      range(8).map((i) => ({ n: i + 1, runEpoch: 1, kind: "log", payload: `{"n":${i + 1}}` })),
    );
  });

  it("[STO-1] a repeat succeeds after the job has ended, and its end is not ended again", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 5);
    await scene.append("job_1", 6, 7, "success");
    const ended = await scene.store.jobs.get("job_1");
    await scene.append("job_1", 1, 5);
    await scene.append("job_1", 6, 7, "success");
    assert.deepEqual(await scene.store.jobs.get("job_1"), ended);
    assert.deepEqual([ended?.status, ended?.runEpoch, ended?.lastN, ended?.endedAt], ["success", 2, 7, scene.now]);
  });

  it("[STO-2] an append to a job that has ended is refused, under any epoch", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 2, "cancelled");
    await scene.appendRefused("job_ended", scene.batch("job_1", 3, 3));
    await scene.appendRefused("job_ended", scene.batch("job_1", 3, 3, { runEpoch: 2 }));
    await scene.appendRefused("job_ended", scene.batch("job_1", 2, 3, { end: "success" }));
  });

  it("[STO-2] an append under another epoch is refused", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 2);
    await scene.appendRefused("stale_run", scene.batch("job_1", 3, 4, { runEpoch: 0 }));
    // The same number under another epoch is another event.
    await scene.appendRefused("stale_run", scene.batch("job_1", 1, 2, { runEpoch: 0 }));
  });

  it("[STO-2] a gap, numbers out of order and an end without its event are refused", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 2);
    await scene.appendRefused("wrong_number", scene.batch("job_1", 4, 5));
    const [one, two] = scene.batch("job_1", 3, 4).events;
    assert.ok(one !== undefined && two !== undefined);
    await scene.appendRefused("wrong_number", scene.batch("job_1", 0, 0, { events: [two, one] }));
    await scene.appendRefused("wrong_number", scene.batch("job_1", 0, 0, { events: [], end: "success" }));
    const [unknown] = await scene.store.jobs.append([scene.batch("job_2", 1, 1)]);
    assert.ok(unknown !== undefined && !unknown.ok && unknown.refusal.reason === "unknown_job");
  });

  it("[STO-3] of several batches the stale one fails alone", async (scene) => {
    const session = await started(scene);
    for (const jobId of ["job_1", "job_2", "job_3"]) {
      await scene.submit(session, jobId);
    }
    await scene.append("job_2", 1, 1, "success");
    const results = await scene.store.jobs.append([
      scene.batch("job_1", 1, 3),
      scene.batch("job_2", 2, 2),
      scene.batch("job_3", 1, 2),
      scene.batch("job_1", 4, 4),
    ]);
    assert.deepEqual(
      results.map((result) => (result.ok ? "ok" : result.refusal.reason)),
      ["ok", "job_ended", "ok", "ok"],
    );
    assert.deepEqual([await scene.events("job_1"), await scene.events("job_3")], [4, 2]);
  });

  it("[STO-7] a page holds at most 512 events", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.append("job_1", 1, 1_000);
    const first = await scene.store.jobs.read("job_1", 0);
    assert.equal(first.events.length, 512);
    assert.equal(first.events[0]?.n, 1);
    const second = await scene.store.jobs.read("job_1", 512);
    assert.deepEqual([second.events.length, second.events[0]?.n, second.events.at(-1)?.n], [488, 513, 1_000]);
    assert.deepEqual(await scene.store.jobs.read("job_1", 1_000), { events: [] });
    const some = await scene.store.jobs.read("job_1", 10, 12);
    assert.deepEqual(
      some.events.map((event) => event.n),
      [11, 12],
    );
    await refused("unknown_job", scene.store.jobs.read("job_2", 0));
  });

  it("[STO-7] a page holds at most 1 MiB, counted in UTF-8, and at least one event", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    const wide = JSON.stringify("é".repeat(200 * 1024));
    const huge = JSON.stringify("x".repeat(1024 * 1024));
    const payloads = [wide, wide, wide, huge, wide];
    const events = payloads.map((payload, i) => ({ n: i + 1, kind: "log", payload }));
    await scene.store.jobs.append([{ jobId: "job_1", runEpoch: 1, events, now: scene.now }]);
    const pages = [];
    for (let after = 0; after < 5; ) {
      const page = await scene.store.jobs.read("job_1", after);
      assert.equal(page.events[0]?.n, after + 1);
      assert.deepEqual(
        page.events.map((event) => event.payload),
        payloads.slice(after, after + page.events.length),
      );
      pages.push(page.events.length);
      after += page.events.length;
    }
    assert.deepEqual(pages, [2, 1, 1, 1]);
  });
}

function listing(it: Case): void {
  it("[JOB-10] jobs are listed newest first, in pages, of one principal", async (scene) => {
    const session = await started(scene);
    const bob = await scene.create("sess_bob", { principal: BOB });
    await scene.submit(bob, "job_bob", { principal: BOB });
    for (const i of range(5)) {
      await scene.submit(session, `job_${i}`);
    }
    const first = await scene.store.jobs.list({ principal: ALICE, limit: 2 });
    assert.deepEqual(
      first.jobs.map((job) => job.jobId),
      ["job_4", "job_3"],
    );
    assert.equal(first.nextCursor, first.jobs[1]?.cursor);
    const second = await scene.store.jobs.list({ principal: ALICE, limit: 3, cursor: first.nextCursor });
    assert.deepEqual(
      [second.jobs.map((job) => job.jobId), second.nextCursor],
      [["job_2", "job_1", "job_0"], undefined],
    );
    assert.deepEqual(await scene.store.jobs.list({ principal: "nobody", limit: 3 }), {
      jobs: [],
      nextCursor: undefined,
    });
    const everybodys = await scene.store.jobs.list({ principal: undefined, limit: 10, status: ["running"] });
    assert.deepEqual(everybodys.jobs.map((job) => job.jobId).sort(), [...range(5).map((i) => `job_${i}`), "job_bob"]);
    for (const cursor of ["job_3", "", "c", "c!", "c99999999999999"]) {
      await refused("bad_cursor", scene.store.jobs.list({ principal: ALICE, limit: 3, cursor }));
    }
  });

  it("[JOB-10] jobs are filtered by status, agent and time of creation", async (scene) => {
    const session = await started(scene);
    const job = (jobId: string, agent: string) => ({ job: { jobId, agent, input: "null", lease: {}, traceId: "t" } });
    const times = [];
    for (const [jobId, agent] of [
      ["job_1", "report@1"],
      ["job_2", "report@2"],
      ["job_3", "report"],
      ["job_4", "reporter"],
    ] as const) {
      times.push(scene.now);
      await scene.submit(session, jobId, job(jobId, agent));
      await scene.clock.advance(1_000);
    }
    await scene.append("job_2", 1, 1, "success");
    await scene.append("job_3", 1, 1, "error");
    const ids = async (filter: object) =>
      (await scene.store.jobs.list({ principal: ALICE, limit: 10, ...filter })).jobs.map((entry) => entry.jobId);
    assert.deepEqual(await ids({ status: ["running"] }), ["job_4", "job_1"]);
    assert.deepEqual(await ids({ status: ["success", "running"] }), ["job_4", "job_2", "job_1"]);
    assert.deepEqual(await ids({ agent: "report" }), ["job_3", "job_2", "job_1"]);
    assert.deepEqual(await ids({ agent: "report@2" }), ["job_2"]);
    assert.deepEqual(await ids({ createdAfter: times[1] }), ["job_4", "job_3"]);
    assert.deepEqual(await ids({ createdBefore: times[1] }), ["job_1"]);
  });

  it("[JOB-10] last_event_seq is the submitting session's newest number of the job", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    await scene.append("job_1", 1, 5);
    await scene.append("job_2", 1, 5);
    await scene.run(session, "job_1", 1, 1, 3);
    await scene.run(session, "job_2", 4, 1, 1);
    await scene.run(session, "job_1", 5, 4, 4);
    const other = await scene.create("sess_2");
    await scene.follow(other, "job_2");
    await scene.run(other, "job_2", 1, 1, 5);
    const { jobs } = await scene.store.jobs.list({ principal: ALICE, limit: 10 });
    assert.deepEqual(
      jobs.map((job) => [job.jobId, job.lastEventSeq]),
      [
        ["job_2", 4],
        ["job_1", 5],
      ],
    );
  });

  it("[RES-8] a sweep tells the newest state of what is known", async (scene) => {
    const session = await started(scene);
    await scene.create("sess_2");
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    await scene.append("job_1", 1, 3);
    await scene.append("job_2", 1, 1, "success");
    await scene.attach("sess_1", 1, 2);
    const answer = await scene.store.sweep({
      sessionIds: ["sess_1", "sess_2", "sess_unknown"],
      jobIds: ["job_1", "job_2", "job_unknown"],
      complete: true,
    });
    answer.sessions.sort((a, b) => a.sessionId.localeCompare(b.sessionId));
    answer.jobs.sort((a, b) => a.jobId.localeCompare(b.jobId));
    assert.deepEqual(answer, {
      sessions: [
        { sessionId: "sess_1", connectionEpoch: 2 },
        { sessionId: "sess_2", connectionEpoch: 1 },
      ],
      jobs: [
        { jobId: "job_1", lastN: 3, status: "running", runEpoch: 1, cancelReason: undefined, answers: 0 },
        { jobId: "job_2", lastN: 1, status: "success", runEpoch: 2, cancelReason: undefined, answers: 0 },
      ],
    });
  });
}

function nodes(it: Case): void {
  const burial = (scene: Scene, given: { nodeId?: string; heartbeat?: number } = {}) =>
    scene.store.nodes.bury({ nodeId: NODE, heartbeat: 0, jobErrorPayload: '{"lost":true}', now: scene.now, ...given });

  it("[STO-11] a heartbeat grows while the node is alive, and a node that has beaten since is left alone", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    assert.equal(await scene.store.nodes.beat(NODE, scene.now), true);
    const [node] = await scene.store.nodes.list();
    assert.deepEqual([node?.nodeId, node?.heartbeat, node?.state], [NODE, 1, "alive"]);
    assert.notEqual(node?.provenDead, true);
    assert.deepEqual(await burial(scene), { endedJobIds: [], givenBackJobIds: [], more: false });
    assert.equal(await scene.store.nodes.beat(NODE, scene.now), true);
    assert.equal((await scene.store.jobs.get("job_1"))?.status, "running");
    assert.deepEqual(await burial(scene, { nodeId: "node_unknown" }), {
      endedJobIds: [],
      givenBackJobIds: [],
      more: false,
    });
    assert.equal(await scene.store.nodes.beat("node_unknown", scene.now), false);
  });

  it("[STO-11] the jobs of a dead node end once, with an event that its run cannot take for its own", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.submit(session, "job_2");
    await scene.append("job_1", 1, 3);
    await scene.append("job_2", 1, 1, "success");
    assert.deepEqual(await burial(scene), { endedJobIds: ["job_1"], givenBackJobIds: [], more: false });
    const job = await scene.store.jobs.get("job_1");
    assert.deepEqual([job?.status, job?.lastN, job?.runEpoch, job?.endedAt], ["error", 4, 2, scene.now]);
    assert.deepEqual((await scene.store.jobs.read("job_1", 3)).events, [
      { n: 4, runEpoch: 2, kind: "job.error", payload: '{"lost":true}' },
    ]);
    assert.equal((await scene.store.jobs.get("job_2"))?.status, "success");
    await scene.appendRefused("job_ended", scene.batch("job_1", 4, 4));
    assert.deepEqual(await burial(scene), { endedJobIds: [], givenBackJobIds: [], more: false });
    assert.equal(await scene.store.nodes.beat(NODE, scene.now), false);
    assert.deepEqual(await scene.store.nodes.list(), []);
  });

  it("[STO-11] two that bury at once end each job once between them, in steps of 64", async (scene) => {
    const session = await started(scene);
    await Promise.all(range(150).map((i) => scene.submit(session, `job_${i}`)));
    const ended: string[] = [];
    const steps: number[] = [];
    const buryAll = async () => {
      for (let more = true; more; ) {
        const step = await burial(scene);
        steps.push(step.endedJobIds.length);
        ended.push(...step.endedJobIds);
        more = step.more;
        const unfinished = (await scene.store.nodes.list()).some((node) => node.nodeId === NODE);
        assert.ok(unfinished || ended.length === 150, "the node went from the list before its jobs had ended");
      }
    };
    await Promise.all([buryAll(), buryAll()]);
    assert.equal(ended.length, 150);
    assert.equal(new Set(ended).size, 150);
    assert.ok(Math.max(...steps) <= 64);
    assert.equal((await scene.store.jobs.get("job_0"))?.lastN, 1);
  });

  it("[STO-11] a dead node is refused what only a live one may do", async (scene) => {
    const session = await started(scene);
    await scene.register(OTHER_NODE);
    await burial(scene);
    await refused("dead_node", scene.create("sess_2"));
    await refused("dead_node", scene.attach("sess_1", 1, 2));
    await refused("dead_node", scene.submit(session, "job_1"));
    assert.equal(await scene.store.jobs.get("job_1"), undefined);
    const resumed = await scene.attach("sess_1", 1, 2, { nodeId: OTHER_NODE });
    await scene.submit(resumed, "job_1", { nodeId: OTHER_NODE });
    assert.deepEqual(
      (await scene.store.nodes.list()).map((node) => node.nodeId),
      [OTHER_NODE],
    );
  });

  it("[STO-11] a node that leaves is gone, its sessions are detached", async (scene) => {
    await started(scene);
    await scene.register(OTHER_NODE);
    await scene.store.nodes.leave(NODE, scene.now);
    assert.deepEqual(
      (await scene.store.nodes.list()).map((node) => node.nodeId),
      [OTHER_NODE],
    );
    assert.equal(await scene.store.nodes.beat(NODE, scene.now), false);
    assert.deepEqual(await burial(scene), { endedJobIds: [], givenBackJobIds: [], more: false });
    await scene.clock.advance(WINDOW_MS + 1);
    await refused("window_over", scene.attach("sess_1", 1, 2, { nodeId: OTHER_NODE }));
  });

  it("[STO-11] a node that leaves a running job behind is to be buried", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    await scene.store.nodes.leave(NODE, scene.now);
    assert.deepEqual(
      (await scene.store.nodes.list()).map((node) => [node.nodeId, node.state]),
      [[NODE, "dead"]],
    );
    assert.deepEqual((await burial(scene)).endedJobIds, ["job_1"]);
    assert.deepEqual(await scene.store.nodes.list(), []);
  });
}

function lifecycle(it: Case): void {
  it("[STO-12] what was begun before the stop is finished, what is begun later is refused", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    const begun = range(20).map((i) => scene.store.jobs.append([scene.batch("job_1", i + 1, i + 1)]));
    const stopped = scene.store.stop();
    await assert.rejects(scene.store.jobs.append([scene.batch("job_1", 21, 21)]), StoreUnavailable);
    await assert.rejects(scene.store.jobs.get("job_1"), StoreUnavailable);
    for (const results of await Promise.all(begun)) {
      assert.deepEqual(results, [{ ok: true }]);
    }
    await stopped;
    await scene.store.stop();
    await scene.reopen();
    assert.equal(await scene.events("job_1"), 20);
  });

  it("[STO-8] operations take effect in the order in which they were begun", async (scene) => {
    const session = await started(scene);
    await scene.submit(session, "job_1");
    const order: number[] = [];
    await Promise.all(
      range(50).map(async (i) => {
        await scene.append("job_1", i + 1, i + 1);
        order.push(i);
      }),
    );
    assert.deepEqual(order, range(50));
    assert.equal(await scene.events("job_1"), 50);
  });
}

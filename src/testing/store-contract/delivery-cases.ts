/** The cases of deliveries: when an answer is due, who may send it, in which order, and what is kept of it. */
import assert from "node:assert/strict";
import type { FinalStatus } from "../../protocol/index.ts";
import {
  type AppendBatch,
  type DeliveryRecord,
  type DeliverySettlement,
  type NewTurn,
  type RefusalReason,
  type Store,
  StoreRefusal,
} from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface DeliveryScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
  register(nodeId: string): Promise<void>;
  batch(jobId: string, firstN: number, lastN: number, given: Partial<AppendBatch>): AppendBatch;
  retain(given?: { conversationRetentionMs?: number }): Promise<{ jobs: number }>;
}

type Case = (title: string, body: (scene: DeliveryScene) => Promise<void>) => void;

const NODE = "node_a";
const OTHER_NODE = "node_b";
const AGENT = "report@2";
const PLACE = "slack_1";
const ELSEWHERE = "slack_2";
const TTL_MS = 180_000;
const LEASE_MS = 30_000;
const DAY_MS = 86_400_000;
const ENDED = JSON.stringify({ final_status: "error", code: "INTERNAL_ERROR", message: "m", retryable: true });
const CANCELLED = JSON.stringify({ final_status: "cancelled", code: "CANCELLED", message: "m", retryable: false });

async function refused(reason: RefusalReason, operation: Promise<unknown>): Promise<void> {
  await assert.rejects(operation, (error: unknown) => {
    assert.ok(error instanceof StoreRefusal, `a StoreRefusal was expected: ${String(error)}`);
    assert.equal(error.reason, reason);
    return true;
  });
}

interface Words extends Partial<Pick<NewTurn, "onBusy" | "messageId">> {
  conversationId?: string;
  principal?: string;
  channel?: string;
  /** False: an answer that stays in the log. */
  delivered?: boolean;
}

/** Its delivery is `dlv_1` for `job_1`. */
const idOf = (jobId: string) => jobId.replace("job", "dlv");

function start({ store, clock }: DeliveryScene, jobId: string, words: Words = {}) {
  const { conversationId = PLACE, principal = "alice", channel = "slack", delivered = true } = words;
  const now = clock.wall();
  return store.conversations.startTurn({
    turn: {
      conversation: {
        conversationId,
        source: "slack",
        key: `{"source":"slack","channel":"C1","thread":"${conversationId}"}`,
        principal: undefined,
        userId: "ann",
        now,
      },
      onBusy: words.onBusy ?? "enqueue",
      messageId: words.messageId,
      userId: "ann",
      maxQueued: 100,
      ttlMs: TTL_MS,
      lostPayload: ENDED,
      delivery: delivered
        ? {
            deliveryId: idOf(jobId),
            channel,
            routeKey: `${channel}:team:C1:${conversationId}`,
            route: `{"externalRoomId":"C1","threadId":"${conversationId}"}`,
          }
        : undefined,
    },
    principal,
    nodeId: NODE,
    job: {
      jobId,
      agent: AGENT,
      input: "{}",
      lease: {},
      leaseExpiresAt: undefined,
      traceId: `trace-${jobId}`,
      maxRuntimeMs: undefined,
    },
    acceptedPayload: `{"job_id":"${jobId}"}`,
    maxRunningJobsPerPrincipal: 1_000,
    now,
  });
}

/** Starts a turn that must be taken. */
async function say(scene: DeliveryScene, jobId: string, words: Words = {}): Promise<void> {
  const answer = await start(scene, jobId, words);
  assert.ok(answer.outcome === "created", `${jobId} was not taken: ${JSON.stringify(answer)}`);
}

/** The job ends by its own run, and the next turn of its conversation runs. */
async function end(scene: DeliveryScene, jobId: string, status: FinalStatus = "success"): Promise<void> {
  const handOver = { nodeId: NODE, agents: [AGENT] };
  const [result] = await scene.store.jobs.append([scene.batch(jobId, 1, 1, { end: status, handOver })]);
  assert.ok(result?.ok, `${jobId} was not ended`);
}

/** A turn that has ended: its answer is due. */
async function answered(scene: DeliveryScene, jobId: string, words: Words = {}): Promise<void> {
  await say(scene, jobId, words);
  await end(scene, jobId);
}

async function get({ store }: DeliveryScene, deliveryId: string): Promise<DeliveryRecord> {
  const record = await store.deliveries.get({ deliveryId });
  assert.ok(record !== undefined, `${deliveryId} is not there`);
  return record;
}

const stateOf = async (scene: DeliveryScene, deliveryId: string) => (await get(scene, deliveryId)).state;

const due = async ({ store, clock }: DeliveryScene, given: Partial<Parameters<Store["deliveries"]["due"]>[0]> = {}) =>
  (await store.deliveries.due({ channels: ["slack", "web"], limit: 100, now: clock.wall(), ...given })).map(
    ({ deliveryId }) => deliveryId,
  );

const claim = ({ store, clock }: DeliveryScene, deliveryIds: readonly string[], nodeId = NODE) =>
  store.deliveries.claim({ deliveryIds, nodeId, leaseMs: LEASE_MS, now: clock.wall() });

/** Claims one that must be free. */
async function claimed(scene: DeliveryScene, deliveryId: string, nodeId = NODE): Promise<DeliveryRecord> {
  const [record] = await claim(scene, [deliveryId], nodeId);
  assert.ok(record !== undefined, `${deliveryId} was not given to ${nodeId}`);
  return record;
}

const settle = (
  { store, clock }: DeliveryScene,
  { deliveryId, attempt }: Pick<DeliveryRecord, "deliveryId" | "attempt">,
  settlement: DeliverySettlement = { state: "delivered" },
) => store.deliveries.settle({ deliveryId, attempt, settlement, now: clock.wall() });

const note = (
  { store, clock }: DeliveryScene,
  { deliveryId, attempt }: Pick<DeliveryRecord, "deliveryId" | "attempt">,
  ...parts: number[]
) =>
  store.deliveries.note({
    deliveryId,
    attempt,
    parts: parts.map((part) => ({ part, receipt: `{"ts":"${part}"}`, final: true })),
    leaseMs: LEASE_MS,
    now: clock.wall(),
  });

/** To be tried again `afterMs` from now. */
const again = ({ clock }: DeliveryScene, afterMs: number, given: { unclear?: boolean; failed?: boolean } = {}) => ({
  state: "pending" as const,
  dueAt: clock.wall() + afterMs,
  error: "it is down",
  unclear: given.unclear ?? false,
  failed: given.failed ?? true,
});

const FAILED = { state: "failed", error: "the place is archived", unclear: false } as const;

const bury = ({ store, clock }: DeliveryScene, nodeId = NODE) =>
  store.nodes.bury({ nodeId, heartbeat: 0, jobErrorPayload: ENDED, now: clock.wall() });

const stream = (
  { store, clock }: DeliveryScene,
  deliveryId: string,
  given: Partial<Parameters<Store["deliveries"]["stream"]>[0]> = {},
) =>
  store.deliveries.stream({
    deliveryId,
    runEpoch: 1,
    until: undefined,
    receipt: undefined,
    unclear: false,
    now: clock.wall(),
    ...given,
  });

async function nodes(scene: DeliveryScene): Promise<void> {
  await scene.register(NODE);
  await scene.register(OTHER_NODE);
}

export function deliveryCases(it: Case): void {
  pins(it);
  endings(it);
  claims(it);
  order(it);
  streams(it);
  operators(it);
  retention(it);
}

// --------------------------------------------------------------------------------------------- pins

function pins(it: Case): void {
  it("[DLV-1] a turn's delivery is stored with it, and its route stays what it was", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    const now = scene.clock.wall();
    const expected: DeliveryRecord = {
      deliveryId: "dlv_1",
      channel: "slack",
      routeKey: "slack:team:C1:slack_1",
      route: '{"externalRoomId":"C1","threadId":"slack_1"}',
      state: "open",
      conversationId: PLACE,
      jobId: "job_1",
      principal: "alice",
      attempt: 0,
      failures: 0,
      lastError: undefined,
      unclear: false,
      parts: [],
      dueAt: undefined,
      createdAt: now,
      changedAt: now,
    };
    assert.deepEqual(await scene.store.deliveries.get({ deliveryId: "dlv_1" }), expected);
    assert.deepEqual(await scene.store.deliveries.get({ jobId: "job_1" }), expected);
    await scene.reopen();
    assert.deepEqual(await scene.store.deliveries.get({ deliveryId: "dlv_1" }), expected);
    assert.equal(await scene.store.deliveries.get({ deliveryId: "dlv_2" }), undefined);
    assert.equal(await scene.store.deliveries.get({ jobId: "job_2" }), undefined);
  });

  it("[DLV-3] a turn without a place for its answer has no delivery", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { delivered: false });
    await end(scene, "job_1");
    assert.equal(await scene.store.deliveries.get({ jobId: "job_1" }), undefined);
    assert.deepEqual(await due(scene), []);
  });

  it("[DLV-3] a message that comes again, and a turn that is refused, make no delivery", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { messageId: "m_1" });
    const repeated = await Promise.all(["job_2", "job_3"].map((id) => start(scene, id, { messageId: "m_1" })));
    assert.deepEqual(
      repeated.map(({ outcome }) => outcome),
      ["repeated", "repeated"],
    );
    assert.equal((await start(scene, "job_4", { onBusy: "reject" })).outcome, "refused");
    const { deliveries } = await scene.store.deliveries.list({ limit: 10 });
    assert.deepEqual(
      deliveries.map(({ deliveryId }) => deliveryId),
      ["dlv_1"],
    );
  });
}

// ------------------------------------------------------------------------------------------ endings

function endings(it: Case): void {
  it("[DLV-3] an answer is due in the commit in which its run ends the job, however that ends", async (scene) => {
    await nodes(scene);
    for (const [index, status] of (["success", "error", "cancelled", "timed_out"] as const).entries()) {
      const jobId = `job_${index}`;
      await say(scene, jobId, { conversationId: `c_${index}` });
      assert.deepEqual(await due(scene), []);
      await scene.clock.advance(5);
      await end(scene, jobId, status);
      const record = await get(scene, idOf(jobId));
      assert.deepEqual([record.state, record.dueAt], ["pending", scene.clock.wall()]);
      assert.deepEqual(await due(scene), [idOf(jobId)]);
      await settle(scene, await claimed(scene, idOf(jobId)));
    }
  });

  it("[DLV-3] an append that is refused, or that ends nothing, leaves the answer open", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await scene.store.jobs.append([scene.batch("job_1", 1, 2, {})]);
    const [stale] = await scene.store.jobs.append([scene.batch("job_1", 3, 3, { end: "success", runEpoch: 7 })]);
    assert.equal(stale?.ok, false);
    assert.equal(await stateOf(scene, "dlv_1"), "open");
  });

  it("[DLV-3] an end that is told twice after an unclear commit makes one answer due", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    const taken = await claimed(scene, "dlv_1");
    await end(scene, "job_1");
    assert.equal(await stateOf(scene, "dlv_1"), "sending");
    await settle(scene, taken);
    await end(scene, "job_1");
    assert.equal(await stateOf(scene, "dlv_1"), "delivered");
  });

  it("[DLV-3] an answer is due when its turn is cancelled in the queue", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    const wish = { jobId: "job_2", reason: "enough", cancelledPayload: CANCELLED, now: scene.clock.wall() };
    assert.equal((await scene.store.jobs.requestCancel(wish)).outcome, "ended");
    assert.deepEqual(await due(scene), ["dlv_2"]);
    assert.equal((await scene.store.jobs.requestCancel({ ...wish, jobId: "job_1" })).outcome, "requested");
    assert.equal(await stateOf(scene, "dlv_1"), "open", "one that runs is not over before it has unwound");
  });

  it("[DLV-3] an answer is due when an operator breaks the lock", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await scene.store.conversations.breakLock({
      conversationId: PLACE,
      jobErrorPayload: ENDED,
      now: scene.clock.wall(),
    });
    assert.deepEqual(await due(scene), ["dlv_1"]);
  });

  it("[DLV-3] an answer is due when an expired lock is taken over, by whichever way", async (scene) => {
    await nodes(scene);
    const ways: [string, (conversationId: string) => Promise<unknown>][] = [
      ["a turn", (conversationId) => start(scene, "job_new", { conversationId, delivered: false })],
      [
        "a lock",
        (conversationId) =>
          scene.store.conversations.acquire({
            conversationId,
            holder: "me",
            nodeId: OTHER_NODE,
            ttlMs: TTL_MS,
            lostPayload: ENDED,
            now: scene.clock.wall(),
          }),
      ],
      [
        "a claim of the queue",
        () =>
          scene.store.conversations.claimTurns({
            nodeId: OTHER_NODE,
            agents: [AGENT],
            limit: 10,
            lostPayload: ENDED,
            now: scene.clock.wall(),
          }),
      ],
    ];
    for (const [index] of ways.entries()) await say(scene, `job_${index}`, { conversationId: `c_${index}` });
    // Somebody waits where the queue is to be claimed.
    await say(scene, "job_waits", { conversationId: "c_2", delivered: false });
    await scene.clock.advance(TTL_MS);
    for (const [index, [what, work]] of ways.entries()) {
      assert.equal(await stateOf(scene, `dlv_${index}`), "open", what);
      await work(`c_${index}`);
      assert.equal(await stateOf(scene, `dlv_${index}`), "pending", what);
    }
  });

  it("[DLV-3] an answer is due when the node that worked on it is buried", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2", { conversationId: ELSEWHERE });
    await bury(scene);
    assert.deepEqual(await due(scene), ["dlv_1", "dlv_2"]);
  });
}

// ------------------------------------------------------------------------------------------- claims

function claims(it: Case): void {
  it("[CLU-9] the sweep tells a node of answers that are due on its channels", async (scene) => {
    const waits = async (channels: readonly string[]) => {
      const takes = { agents: [], channels, now: scene.clock.wall() };
      const { waiting } = await scene.store.sweep({ sessionIds: [], jobIds: [], complete: true, takes });
      return waiting?.deliveries;
    };
    await nodes(scene);
    await say(scene, "job_1");
    assert.equal(await waits(["slack"]), false);
    await end(scene, "job_1");
    assert.deepEqual([await waits(["slack"]), await waits(["web"]), await waits([])], [true, false, false]);
    await claim(scene, ["dlv_1"]);
    assert.equal(await waits(["slack"]), false);
    await scene.clock.advance(LEASE_MS);
    assert.equal(await waits(["slack"]), true, "the claim has run out");
  });

  it("[DLV-4] of two that claim at once one has it, with its attempt, and it is not due any more", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    const now = scene.clock.wall();
    const [one, other] = await Promise.all([claim(scene, ["dlv_1"]), claim(scene, ["dlv_1"], OTHER_NODE)]);
    assert.equal(one.length + other.length, 1);
    const [record] = [...one, ...other];
    assert.deepEqual(
      [record?.state, record?.attempt, record?.dueAt, record?.unclear, record?.failures],
      ["sending", 1, now + LEASE_MS, false, 0],
    );
    assert.deepEqual(await due(scene), []);
    assert.deepEqual(await claim(scene, ["dlv_1"], OTHER_NODE), []);
  });

  it("[DLV-4] fifty answers and four nodes: each answer has one claim", async (scene) => {
    await nodes(scene);
    const claimers = [NODE, OTHER_NODE, "node_c", "node_d"];
    for (const nodeId of claimers.slice(2)) await scene.register(nodeId);
    const ids = Array.from({ length: 50 }, (_, i) => `job_${i}`);
    for (const jobId of ids) await answered(scene, jobId, { conversationId: `c ${jobId}` });
    const all = ids.map(idOf);
    const taken = (await Promise.all(claimers.map((nodeId) => claim(scene, all, nodeId)))).flat();
    assert.deepEqual(taken.map(({ deliveryId }) => deliveryId).sort(), [...all].sort());
    assert.ok(taken.every(({ attempt }) => attempt === 1));
  });

  it("[DLV-4] a node that is dead claims nothing", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    await bury(scene, OTHER_NODE);
    await refused("dead_node", claim(scene, ["dlv_1"], OTHER_NODE));
    assert.equal(await stateOf(scene, "dlv_1"), "pending");
  });

  it("[DLV-4] what is open, over or not there is not claimed", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await answered(scene, "job_2", { conversationId: ELSEWHERE });
    await settle(scene, await claimed(scene, "dlv_2"));
    await answered(scene, "job_3", { conversationId: "c_3" });
    await settle(scene, await claimed(scene, "dlv_3"), FAILED);
    assert.deepEqual(await due(scene), []);
    assert.deepEqual(await claim(scene, ["dlv_1", "dlv_2", "dlv_3", "dlv_4"]), []);
  });

  it("[DLV-4] parts are noted under the claim, which that renews, and are kept", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    const record = await claimed(scene, "dlv_1");
    await scene.clock.advance(LEASE_MS - 1);
    assert.equal(await note(scene, record, 2), true);
    assert.equal(await note(scene, record, 1), true);
    await scene.clock.advance(LEASE_MS - 1);
    assert.deepEqual(await due(scene), []);
    const receipts = async () => (await get(scene, "dlv_1")).parts.map(({ part, receipt }) => [part, receipt]);
    assert.deepEqual(await receipts(), [
      [1, '{"ts":"1"}'],
      [2, '{"ts":"2"}'],
    ]);
    const better = { part: 1, receipt: '{"ts":"9"}', final: false };
    const given = { deliveryId: "dlv_1", attempt: 1, parts: [better], leaseMs: LEASE_MS, now: scene.clock.wall() };
    assert.equal(await scene.store.deliveries.note(given), true);
    assert.deepEqual((await get(scene, "dlv_1")).parts, [better, { part: 2, receipt: '{"ts":"2"}', final: true }]);
    assert.equal(await settle(scene, record), true);
    assert.equal((await get(scene, "dlv_1")).parts.length, 2);
  });

  it("[DLV-6] a claim whose end is now is over: the next one is told that it is unclear", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    const first = await claimed(scene, "dlv_1");
    await note(scene, first, 1);
    await scene.clock.advance(LEASE_MS - 1);
    assert.deepEqual([await due(scene), await claim(scene, ["dlv_1"], OTHER_NODE)], [[], []]);
    await scene.clock.advance(1);
    assert.deepEqual(await due(scene), ["dlv_1"]);
    const second = await claimed(scene, "dlv_1", OTHER_NODE);
    assert.deepEqual([second.attempt, second.unclear, second.failures], [2, true, 1]);
    assert.equal(second.parts.length, 1, "what the first one has noted is known to the second");
    assert.ok(second.lastError !== undefined);
  });

  it("[DLV-4] whoever lost a claim changes nothing, and is told so", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    const stale = await claimed(scene, "dlv_1");
    await scene.clock.advance(LEASE_MS);
    const record = await claimed(scene, "dlv_1", OTHER_NODE);
    const before = await get(scene, "dlv_1");
    assert.equal(await note(scene, stale, 7), false);
    assert.equal(await settle(scene, stale), false);
    assert.equal(await settle(scene, stale, FAILED), false);
    assert.equal(await settle(scene, stale, again(scene, 1)), false);
    assert.deepEqual(await get(scene, "dlv_1"), before);
    assert.equal(await settle(scene, record), true);
    assert.equal(await settle(scene, record), false, "a claim is settled once");
    assert.equal(await note(scene, record, 1), false);
    assert.equal(await stateOf(scene, "dlv_1"), "delivered");
  });

  it("[DLV-6] a claim that ran out and that nobody took is still its holder's", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    const record = await claimed(scene, "dlv_1");
    await scene.clock.advance(LEASE_MS * 2);
    assert.equal(await note(scene, record, 1), true);
    assert.deepEqual(await due(scene), []);
    assert.equal(await settle(scene, record), true);
  });

  it("[DLV-6] the claims of a node that is buried, or leaves, are over at once", async (scene) => {
    await nodes(scene);
    await scene.register("node_c");
    await answered(scene, "job_1");
    await answered(scene, "job_2", { conversationId: ELSEWHERE });
    await answered(scene, "job_3", { conversationId: "c_3" });
    await claimed(scene, "dlv_1", OTHER_NODE);
    await claimed(scene, "dlv_2", NODE);
    await claimed(scene, "dlv_3", "node_c");
    await scene.clock.advance(5);
    await bury(scene, OTHER_NODE);
    assert.deepEqual(await due(scene), ["dlv_1"]);
    await scene.store.nodes.leave("node_c", scene.clock.wall());
    assert.deepEqual((await due(scene)).sort(), ["dlv_1", "dlv_3"]);
    assert.equal((await claimed(scene, "dlv_1")).unclear, true);
  });

  it("[DLV-8] what is to be tried again waits for its time, with what was wrong", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    await settle(scene, await claimed(scene, "dlv_1"), again(scene, 4_000, { unclear: true }));
    const waiting = await get(scene, "dlv_1");
    assert.deepEqual(
      [waiting.state, waiting.failures, waiting.lastError, waiting.unclear, waiting.dueAt],
      ["pending", 1, "it is down", true, scene.clock.wall() + 4_000],
    );
    await scene.clock.advance(3_999);
    assert.deepEqual([await due(scene), await claim(scene, ["dlv_1"])], [[], []]);
    await scene.clock.advance(1);
    assert.deepEqual(await due(scene), ["dlv_1"]);
    const second = await claimed(scene, "dlv_1");
    assert.deepEqual([second.attempt, second.unclear, second.failures], [2, true, 1]);
    // A rate limit does not count, and what was unclear is clear now.
    const given = { ...again(scene, 0, { failed: false }), error: undefined };
    await settle(scene, second, given);
    const third = await claimed(scene, "dlv_1");
    assert.deepEqual(
      [third.attempt, third.failures, third.unclear, third.lastError],
      [3, 1, false, "it is down"],
      "what was wrong last is kept",
    );
    await settle(scene, third, FAILED);
    const failed = await get(scene, "dlv_1");
    assert.deepEqual(
      [failed.state, failed.failures, failed.lastError, failed.dueAt],
      ["failed", 2, "the place is archived", undefined],
    );
  });

  it("[DLV-4] what is due is told by its channel, longest due first, in pages", async (scene) => {
    await nodes(scene);
    for (const [index, channel] of ["slack", "web", "slack", "other", "slack"].entries()) {
      // Some became due in the same millisecond.
      await scene.clock.advance(index % 2);
      await answered(scene, `job_${index}`, { conversationId: `c_${index}`, channel });
    }
    assert.deepEqual(await due(scene, { channels: ["slack"] }), ["dlv_0", "dlv_2", "dlv_4"]);
    assert.deepEqual(await due(scene, { channels: [] }), []);
    const all = ["dlv_0", "dlv_1", "dlv_2", "dlv_3", "dlv_4"];
    const paged: string[] = [];
    for (let after: { dueAt: number; deliveryId: string } | undefined; ; ) {
      const channels = ["slack", "web", "other"];
      const page = await scene.store.deliveries.due({ channels, after, limit: 2, now: scene.clock.wall() });
      paged.push(...page.map(({ deliveryId }) => deliveryId));
      after = page.at(-1);
      if (page.length < 2) break;
    }
    assert.deepEqual(paged, all);
    const [first] = await scene.store.deliveries.due({ channels: ["web"], limit: 1, now: scene.clock.wall() });
    const { deliveryId, channel, route } = first ?? {};
    assert.deepEqual(
      [deliveryId, channel, route],
      ["dlv_1", "web", '{"externalRoomId":"C1","threadId":"c_1"}'],
      "whoever looks can tell whether it reaches the place",
    );
  });
}

// -------------------------------------------------------------------------------------------- order

function order(it: Case): void {
  it("[DLV-5] of a conversation only the first answer may go, and others do not wait for it", async (scene) => {
    await nodes(scene);
    for (const jobId of ["job_1", "job_2", "job_3"]) await say(scene, jobId);
    await end(scene, "job_1");
    await end(scene, "job_2");
    await answered(scene, "job_9", { conversationId: ELSEWHERE });
    assert.deepEqual(await due(scene), ["dlv_1", "dlv_9"]);
    assert.deepEqual(await claim(scene, ["dlv_2"]), []);
    const first = await claimed(scene, "dlv_1");
    assert.deepEqual(await claim(scene, ["dlv_2"]), [], "nobody overtakes what is being sent");
    await settle(scene, first, again(scene, 60_000));
    assert.deepEqual(await due(scene), ["dlv_9"], "nor what waits for its next try");
    await scene.clock.advance(60_000);
    await settle(scene, await claimed(scene, "dlv_1"));
    assert.deepEqual((await due(scene)).sort(), ["dlv_2", "dlv_9"]);
    assert.equal(await stateOf(scene, "dlv_3"), "open");
    await settle(scene, await claimed(scene, "dlv_2"));
    await end(scene, "job_3");
    assert.deepEqual((await due(scene)).sort(), ["dlv_3", "dlv_9"]);
  });

  it("[DLV-5] asked for two of a conversation at once, one is given", async (scene) => {
    await nodes(scene);
    for (const jobId of ["job_1", "job_2"]) await say(scene, jobId);
    for (const jobId of ["job_1", "job_2"]) await end(scene, jobId);
    const given = await Promise.all([claim(scene, ["dlv_2", "dlv_1"]), claim(scene, ["dlv_1", "dlv_2"], OTHER_NODE)]);
    assert.deepEqual(
      given.flat().map(({ deliveryId }) => deliveryId),
      ["dlv_1"],
    );
  });

  it("[DLV-5] one that failed, or is discarded, holds up nobody", async (scene) => {
    await nodes(scene);
    for (const jobId of ["job_1", "job_2", "job_3"]) await say(scene, jobId);
    for (const jobId of ["job_1", "job_2", "job_3"]) await end(scene, jobId);
    await settle(scene, await claimed(scene, "dlv_1"), FAILED);
    assert.deepEqual(await due(scene), ["dlv_2"]);
    await scene.store.deliveries.discard("dlv_2", scene.clock.wall());
    assert.deepEqual(await due(scene), ["dlv_3"]);
  });

  it("[DLV-5] answers go in the order in which their turns ended, not in which they were asked for", async (scene) => {
    await nodes(scene);
    for (const jobId of ["job_1", "job_2"]) await say(scene, jobId);
    await say(scene, "job_3", { onBusy: "interrupt" });
    await end(scene, "job_1", "cancelled");
    await end(scene, "job_3");
    await end(scene, "job_2");
    const sent: string[] = [];
    for (let [next] = await due(scene); next !== undefined; [next] = await due(scene)) {
      sent.push(next);
      await settle(scene, await claimed(scene, next));
    }
    assert.deepEqual(sent, ["dlv_1", "dlv_3", "dlv_2"]);
  });
}

// ------------------------------------------------------------------------------------------ streams

function streams(it: Case): void {
  it("[DLV-11] what was shown while the turn ran is known to whoever sends its answer", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    const until = scene.clock.wall() + 10_000;
    assert.equal(await stream(scene, "dlv_1", { until, unclear: true }), true);
    assert.equal((await get(scene, "dlv_1")).unclear, true, "it may be there, and nobody has its receipt");
    assert.equal(await stream(scene, "dlv_1", { receipt: '{"ts":"1"}' }), true);
    await end(scene, "job_1");
    const record = await claimed(scene, "dlv_1", OTHER_NODE);
    assert.deepEqual(record.parts, [{ part: 1, receipt: '{"ts":"1"}', final: false }]);
    assert.equal(record.unclear, false);
  });

  it("[DLV-11] an answer waits for a call that is under way when its turn ends, and no longer", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    const until = scene.clock.wall() + 10_000;
    await stream(scene, "dlv_1", { until, receipt: '{"ts":"1"}' });
    await end(scene, "job_1");
    assert.deepEqual([await stateOf(scene, "dlv_1"), await due(scene)], ["pending", []]);
    assert.equal(await stream(scene, "dlv_1"), true);
    assert.deepEqual(await due(scene), ["dlv_1"]);
    assert.equal((await get(scene, "dlv_1")).parts.length, 1, "the receipt is kept");

    await say(scene, "job_2", { conversationId: ELSEWHERE });
    await stream(scene, "dlv_2", { until, unclear: true });
    await bury(scene);
    assert.deepEqual(await due(scene), ["dlv_1"]);
    await scene.clock.advance(10_000);
    assert.deepEqual((await due(scene)).sort(), ["dlv_1", "dlv_2"]);
    assert.equal((await claimed(scene, "dlv_2", OTHER_NODE)).unclear, true);
  });

  it("[DLV-11] a call is not begun for a turn that has ended, nor by a run that is over", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    const until = scene.clock.wall() + 10_000;
    assert.equal(await stream(scene, "dlv_1", { until, runEpoch: 7 }), false);
    await stream(scene, "dlv_1", { until });
    await end(scene, "job_1");
    const before = await get(scene, "dlv_1");
    assert.equal(await stream(scene, "dlv_1", { until: until + 10_000 }), false);
    assert.equal(await stream(scene, "dlv_1", { runEpoch: 7, receipt: '{"ts":"7"}' }), false);
    assert.equal(await stream(scene, "dlv_none", { until }), false);
    assert.deepEqual(await get(scene, "dlv_1"), before);
  });

  it("[DLV-11] once its answer is claimed, a run's late receipt changes nothing", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await stream(scene, "dlv_1", { until: scene.clock.wall() + 10_000, unclear: true });
    await end(scene, "job_1");
    await scene.clock.advance(10_000);
    const record = await claimed(scene, "dlv_1", OTHER_NODE);
    assert.equal(await stream(scene, "dlv_1", { receipt: '{"ts":"1"}' }), false);
    assert.deepEqual((await get(scene, "dlv_1")).parts, []);
    await settle(scene, record, again(scene, 0));
    assert.equal(await stream(scene, "dlv_1", { receipt: '{"ts":"1"}' }), false);
  });
}

// ---------------------------------------------------------------------------------------- operators

function operators(it: Case): void {
  it("[DLV-9] one that failed is tried again, due now, behind what is on its way", async (scene) => {
    await nodes(scene);
    for (const jobId of ["job_1", "job_2"]) await say(scene, jobId);
    await end(scene, "job_1");
    const first = await claimed(scene, "dlv_1");
    await note(scene, first, 1);
    await settle(scene, first, { ...FAILED, unclear: true });
    await end(scene, "job_2");
    await scene.clock.advance(DAY_MS);
    const back = await scene.store.deliveries.retry("dlv_1", scene.clock.wall());
    assert.deepEqual(
      [back.state, back.failures, back.dueAt, back.unclear, back.parts.length],
      ["pending", 0, scene.clock.wall(), true, 1],
    );
    assert.deepEqual(await get(scene, "dlv_1"), back);
    assert.deepEqual(await due(scene), ["dlv_2"]);
    await settle(scene, await claimed(scene, "dlv_2"));
    const again = await claimed(scene, "dlv_1");
    assert.deepEqual([again.attempt, again.failures], [2, 0]);
    assert.equal(await settle(scene, first), false, "the old claim is over");
  });

  it("[DLV-9] only what failed is tried again; what is being sent, or over, is not discarded", async (scene) => {
    await nodes(scene);
    const { retry, discard } = scene.store.deliveries;
    const now = () => scene.clock.wall();
    await refused("unknown_delivery", retry("dlv_1", now()));
    await refused("unknown_delivery", discard("dlv_1", now()));
    await say(scene, "job_1");
    await refused("wrong_state", retry("dlv_1", now()));
    await refused("wrong_state", discard("dlv_1", now()));
    await end(scene, "job_1");
    await refused("wrong_state", retry("dlv_1", now()));
    const record = await claimed(scene, "dlv_1");
    await refused("wrong_state", retry("dlv_1", now()));
    await refused("wrong_state", discard("dlv_1", now()));
    await settle(scene, record);
    await refused("wrong_state", retry("dlv_1", now()));
    await refused("wrong_state", discard("dlv_1", now()));
    assert.equal(await stateOf(scene, "dlv_1"), "delivered");
  });

  it("[DLV-9] what waits for a channel that nobody has, or whose sender is gone, can be discarded", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    assert.equal((await scene.store.deliveries.discard("dlv_1", scene.clock.wall())).state, "discarded");
    await answered(scene, "job_2");
    const record = await claimed(scene, "dlv_2");
    await scene.clock.advance(LEASE_MS);
    assert.equal((await scene.store.deliveries.discard("dlv_2", scene.clock.wall())).state, "discarded");
    assert.equal(await settle(scene, record), false);
    assert.equal(await stateOf(scene, "dlv_2"), "discarded");
    assert.deepEqual(await due(scene), []);
  });

  it("[DLV-18] deliveries are listed newest first, by whose, state, channel and conversation, in pages", async (scene) => {
    await nodes(scene);
    const words = [
      { conversationId: "c_1", principal: "alice", channel: "slack" },
      { conversationId: "c_2", principal: "bob", channel: "web" },
      { conversationId: "c_1", principal: "alice", channel: "slack" },
      { conversationId: "c_3", principal: "alice", channel: "web" },
      { conversationId: "c_2", principal: "bob", channel: "slack" },
    ];
    for (const [index, given] of words.entries()) await answered(scene, `job_${index + 1}`, given);
    await settle(scene, await claimed(scene, "dlv_1"), FAILED);
    await settle(scene, await claimed(scene, "dlv_4"), FAILED);
    const list = async (query: Omit<Parameters<Store["deliveries"]["list"]>[0], "limit">, limit = 10) => {
      const { deliveries, nextCursor } = await scene.store.deliveries.list({ ...query, limit });
      return { ids: deliveries.map(({ deliveryId }) => deliveryId), cursor: nextCursor };
    };
    const whole = (ids: string[]) => ({ ids, cursor: undefined });
    assert.deepEqual(await list({}), whole(["dlv_5", "dlv_4", "dlv_3", "dlv_2", "dlv_1"]));
    assert.deepEqual(await list({ principal: "alice" }), whole(["dlv_4", "dlv_3", "dlv_1"]));
    assert.deepEqual(await list({ state: "failed" }), whole(["dlv_4", "dlv_1"]));
    assert.deepEqual(await list({ channel: "web" }), whole(["dlv_4", "dlv_2"]));
    assert.deepEqual(await list({ conversationId: "c_1" }), whole(["dlv_3", "dlv_1"]));
    assert.deepEqual(await list({ principal: "bob", channel: "web", state: "pending" }), whole(["dlv_2"]));
    assert.deepEqual(await list({ principal: "nobody" }), whole([]));
    const first = await list({}, 2);
    assert.deepEqual(first.ids, ["dlv_5", "dlv_4"]);
    await answered(scene, "job_6", { conversationId: "c_6" });
    const second = await list({ cursor: first.cursor }, 2);
    assert.deepEqual(second.ids, ["dlv_3", "dlv_2"]);
    assert.deepEqual(await list({ cursor: second.cursor }, 2), whole(["dlv_1"]));
    for (const cursor of ["", "d", "c1", "d1-1", "1 OR 1"]) {
      await refused("bad_cursor", scene.store.deliveries.list({ cursor, limit: 2 }));
    }
  });
}

// ---------------------------------------------------------------------------------------- retention

function retention(it: Case): void {
  it("[DLV-14] a job is kept while its answer has not arrived, and goes with its delivery after that", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_pending", { conversationId: "c_1" });
    await answered(scene, "job_sending", { conversationId: "c_2" });
    await answered(scene, "job_failed", { conversationId: "c_3" });
    await answered(scene, "job_delivered", { conversationId: "c_4" });
    await answered(scene, "job_discarded", { conversationId: "c_5" });
    await claimed(scene, "dlv_sending");
    await settle(scene, await claimed(scene, "dlv_failed"), FAILED);
    await settle(scene, await claimed(scene, "dlv_delivered"));
    await scene.store.deliveries.discard("dlv_discarded", scene.clock.wall());
    assert.equal((await scene.retain()).jobs, 0);
    await scene.clock.advance(2 * DAY_MS);
    assert.equal((await scene.retain()).jobs, 2);
    const kept = async () =>
      (await scene.store.deliveries.list({ limit: 10 })).deliveries.map(({ deliveryId }) => deliveryId);
    assert.deepEqual(await kept(), ["dlv_failed", "dlv_sending", "dlv_pending"]);
    for (const deliveryId of await kept()) {
      const { jobId } = await get(scene, deliveryId);
      assert.equal((await scene.store.jobs.read(jobId, 0)).events.length, 1, "the log says what is to be delivered");
    }
    assert.equal(await scene.store.jobs.get("job_delivered"), undefined);
    await scene.store.deliveries.discard("dlv_failed", scene.clock.wall());
    await settle(scene, await claimed(scene, "dlv_pending"));
    assert.equal((await scene.retain()).jobs, 2);
    assert.deepEqual(await kept(), ["dlv_sending"]);
  });

  it("[DLV-14] a conversation whose answers are on their way is not removed; what failed is kept after it", async (scene) => {
    await nodes(scene);
    await answered(scene, "job_1");
    await answered(scene, "job_2", { conversationId: ELSEWHERE });
    await settle(scene, await claimed(scene, "dlv_2"), FAILED);
    await refused("conversation_busy", scene.store.conversations.delete(PLACE, scene.clock.wall()));
    await scene.store.conversations.delete(ELSEWHERE, scene.clock.wall());
    assert.equal(await stateOf(scene, "dlv_2"), "failed");
    await scene.clock.advance(DAY_MS / 2);
    await scene.retain({ conversationRetentionMs: 1_000 });
    assert.ok((await scene.store.conversations.get(PLACE)) !== undefined);
    await settle(scene, await claimed(scene, "dlv_1"));
    await scene.retain({ conversationRetentionMs: 1_000 });
    assert.equal(await scene.store.conversations.get(PLACE), undefined);
    await scene.store.deliveries.retry("dlv_2", scene.clock.wall());
    await settle(scene, await claimed(scene, "dlv_2"));
    assert.equal(await stateOf(scene, "dlv_2"), "delivered");
  });
}

/** The cases of conversations: who gets their lock, in which order their turns run, and what is left of either. */
import assert from "node:assert/strict";
import type { FinalStatus } from "../../protocol/index.ts";
import {
  type AppendBatch,
  type AppendResult,
  type AttachedSession,
  type ClaimedTurn,
  type ConnectionRef,
  type NewConversation,
  type NewTurn,
  type RefusalReason,
  type Store,
  StoreRefusal,
  type SubmitRequest,
  type TurnPlace,
} from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface ConversationScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
  register(nodeId: string): Promise<void>;
  create(sessionId: string): Promise<AttachedSession>;
  submit(ref: ConnectionRef, jobId: string, given: Partial<SubmitRequest>): ReturnType<Store["requests"]["submit"]>;
  cancel(ref: ConnectionRef, jobId: string): Promise<{ outcome: string }>;
  append(jobId: string, firstN: number, lastN: number, end?: FinalStatus): Promise<void>;
  batch(jobId: string, firstN: number, lastN: number, given: Partial<AppendBatch>): AppendBatch;
  appendRefused(reason: RefusalReason, batch: AppendBatch): Promise<void>;
  retain(): Promise<{ jobs: number }>;
}

type Case = (title: string, body: (scene: ConversationScene) => Promise<void>) => void;

const NODE = "node_a";
const OTHER_NODE = "node_b";
const AGENT = "report@2";
const PLACE = "slack_1";
const TTL_MS = 180_000;
const DAY_MS = 86_400_000;
/** Jobs that one step of a burial ends at the most. */
const BURIED_AT_ONCE = 64;
const errorPayload = (message: string) =>
  JSON.stringify({ final_status: "error", code: "INTERNAL_ERROR", message, retryable: true });
const LOST = errorPayload("the lock was lost");
const BROKEN = errorPayload("an operator broke the lock");
const CANCELLED = JSON.stringify({ final_status: "cancelled", code: "CANCELLED", message: "m", retryable: false });

async function refused(reason: RefusalReason, operation: Promise<unknown>): Promise<void> {
  await assert.rejects(operation, (error: unknown) => {
    assert.ok(error instanceof StoreRefusal, `a StoreRefusal was expected: ${String(error)}`);
    assert.equal(error.reason, reason);
    return true;
  });
}

/** Two live nodes. */
async function nodes(scene: ConversationScene): Promise<void> {
  await scene.register(NODE);
  await scene.register(OTHER_NODE);
}

const made = (
  { clock }: ConversationScene,
  conversationId: string,
  given: Partial<NewConversation> = {},
): NewConversation => ({
  conversationId,
  source: "slack",
  key: `{"source":"slack","channel":"C1","thread":"${conversationId}"}`,
  principal: undefined,
  userId: "ann",
  now: clock.wall(),
  ...given,
});

const resolve = (scene: ConversationScene, conversationId = PLACE, given: Partial<NewConversation> = {}) =>
  scene.store.conversations.resolve(made(scene, conversationId, given));

interface Words extends Partial<Omit<NewTurn, "conversation">> {
  conversationId?: string;
  nodeId?: string;
  agent?: string;
  maxRunning?: number;
}

const newTurn = (
  scene: ConversationScene,
  { conversationId = PLACE, nodeId: _, agent: __, maxRunning: ___, ...given }: Words,
) => ({
  conversation: made(scene, conversationId),
  onBusy: "enqueue" as const,
  messageId: undefined,
  userId: "ann",
  maxQueued: 100,
  ttlMs: TTL_MS,
  lostPayload: LOST,
  ...given,
});

const newJob = (jobId: string, agent = AGENT) => ({
  jobId,
  agent,
  input: `{"of":"${jobId}"}`,
  lease: { "fs.read": ["/srv/**"] },
  leaseExpiresAt: undefined,
  traceId: `trace-${jobId}`,
  maxRuntimeMs: 60_000,
});

const start = (scene: ConversationScene, jobId: string, words: Words = {}) =>
  scene.store.conversations.startTurn({
    turn: newTurn(scene, words),
    principal: "alice",
    nodeId: words.nodeId ?? NODE,
    job: newJob(jobId, words.agent),
    acceptedPayload: `{"job_id":"${jobId}"}`,
    maxRunningJobsPerPrincipal: words.maxRunning ?? 1_000,
    now: scene.clock.wall(),
  });

/** Starts a turn that must be taken, and answers its place. */
async function say(scene: ConversationScene, jobId: string, words: Words = {}): Promise<TurnPlace> {
  const answer = await start(scene, jobId, words);
  assert.ok(answer.outcome === "created", `${jobId} was not taken: ${JSON.stringify(answer)}`);
  return answer.place;
}

/** Submits a turn in a session. */
const submit = (scene: ConversationScene, session: ConnectionRef, jobId: string, words: Words = {}) =>
  scene.submit(session, jobId, { turn: newTurn(scene, words), job: newJob(jobId, words.agent) });

interface Ending extends Partial<AppendBatch> {
  n?: number;
  by?: string;
  agents?: readonly string[];
}

/** The terminal event of a turn, with which the next one is to be taken. */
const ending = (scene: ConversationScene, jobId: string, { n = 1, by = NODE, agents = [AGENT], ...given }: Ending) =>
  scene.batch(jobId, n, n, { end: "success", handOver: { nodeId: by, agents }, ...given });

async function end(scene: ConversationScene, jobId: string, given: Ending = {}): Promise<ClaimedTurn | undefined> {
  const [result] = await scene.store.jobs.append([ending(scene, jobId, given)]);
  assert.ok(result?.ok, `${jobId} was not ended`);
  return result.next;
}

const claim = (
  scene: ConversationScene,
  {
    nodeId = NODE,
    agents = [AGENT],
    limit = 100,
  }: { nodeId?: string; agents?: readonly string[]; limit?: number } = {},
) => scene.store.conversations.claimTurns({ nodeId, agents, limit, lostPayload: LOST, now: scene.clock.wall() });

const unserved = ({ store, clock }: ConversationScene, agents: readonly string[] = [AGENT], limit = 100) =>
  store.conversations.unserved({ agents, limit, now: clock.wall() });

/** The jobs of the turns that a node takes. */
const claimed = async (...given: Parameters<typeof claim>): Promise<string[]> =>
  (await claim(...given)).turns.map(({ job }) => job.jobId);

const acquire = (
  scene: ConversationScene,
  holder: string,
  { conversationId = PLACE, nodeId = NODE, ttlMs = TTL_MS } = {},
) =>
  scene.store.conversations.acquire({
    conversationId,
    holder,
    nodeId,
    ttlMs,
    lostPayload: LOST,
    now: scene.clock.wall(),
  });

/** Takes a lock that must be free. */
async function held(scene: ConversationScene, holder: string, given: Parameters<typeof acquire>[2] = {}) {
  const answer = await acquire(scene, holder, given);
  assert.ok(answer !== undefined, `${holder} did not get the lock`);
  const { lockEpoch } = answer.lock;
  return { ...answer, ref: { conversationId: given.conversationId ?? PLACE, holder, lockEpoch } };
}

const refresh = (scene: ConversationScene, ...refs: Parameters<Store["conversations"]["refresh"]>[0]) =>
  scene.store.conversations.refresh(refs, TTL_MS, scene.clock.wall());

const breakLock = ({ store, clock }: ConversationScene, conversationId = PLACE) =>
  store.conversations.breakLock({ conversationId, jobErrorPayload: BROKEN, now: clock.wall() });

const bury = ({ store, clock }: ConversationScene, nodeId = NODE) =>
  store.nodes.bury({ nodeId, heartbeat: 0, jobErrorPayload: errorPayload("its node died"), now: clock.wall() });

const cancel = ({ store, clock }: ConversationScene, jobId: string) =>
  store.jobs.requestCancel({ jobId, reason: "enough", cancelledPayload: CANCELLED, now: clock.wall() });

const lockOf = async ({ store }: ConversationScene, conversationId = PLACE) =>
  (await store.conversations.get(conversationId))?.lock;

/** `job_1 running`, `job_2 1` (its place), `job_3 success`. */
const turnsOf = async ({ store }: ConversationScene, conversationId = PLACE, limit = 100): Promise<string[]> =>
  (await store.conversations.turns(conversationId, limit)).map(
    ({ jobId, place, status }) => `${jobId} ${place ?? status}`,
  );

/** The only events of a job that was ended by somebody else: under the epoch after its run's. */
async function endedWith(scene: ConversationScene, jobId: string, payload: string, runEpoch = 2): Promise<void> {
  const { events } = await scene.store.jobs.read(jobId, 0);
  assert.deepEqual(events, [{ n: 1, runEpoch, kind: "job.error", payload }]);
  assert.equal((await scene.store.jobs.get(jobId))?.runEpoch, runEpoch);
}

export function conversationCases(it: Case): void {
  conversations(it);
  locks(it);
  takeovers(it);
  queues(it);
  handOvers(it);
  messages(it);
  deaths(it);
}

// ------------------------------------------------------------------------------------- conversations

function conversations(it: Case): void {
  it("[CNV-2] of fifty that ask at once all get the same conversation, and one has made it", async (scene) => {
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, i) => resolve(scene, PLACE, { userId: `user ${i}`, principal: "alice" })),
    );
    const makers = answers.flatMap(({ created }, i) => (created ? [`user ${i}`] : []));
    assert.equal(makers.length, 1);
    const { now, ...given } = made(scene, PLACE, { userId: makers[0] ?? "", principal: "alice" });
    const expected = { ...given, createdAt: now, activeAt: now, lock: undefined, queued: 0 };
    for (const { conversation } of answers) assert.deepEqual(conversation, expected);
    await scene.reopen();
    await scene.clock.advance(1);
    const again = await resolve(scene, PLACE, { userId: "somebody else", key: undefined });
    assert.deepEqual(again, { conversation: expected, created: false });
    assert.equal((await resolve(scene, "slack_2")).created, true);
  });

  it("[CNV-2] a first turn makes its conversation, once", async (scene) => {
    await nodes(scene);
    const answers = await Promise.all(["job_1", "job_2", "job_3"].map((jobId) => say(scene, jobId)));
    assert.deepEqual(
      answers.map(({ created }) => created),
      [true, false, false],
    );
    assert.equal((await scene.store.conversations.get(PLACE))?.userId, "ann");
  });

  it("[CNV-3] looking for a conversation makes none", async (scene) => {
    assert.equal(await scene.store.conversations.get(PLACE), undefined);
    assert.deepEqual(await scene.store.conversations.turns(PLACE, 10), []);
    assert.deepEqual((await scene.store.conversations.list({ limit: 10 })).conversations, []);
    assert.equal((await resolve(scene)).created, true);
  });

  it("[CNV-6] conversations are listed newest activity first, in pages that stay good", async (scene) => {
    await nodes(scene);
    for (const [at, conversationId] of ["c_1", "c_2", "c_3", "c_4", "c_5"].entries()) {
      // Some were active in the same millisecond.
      await scene.clock.advance(at % 2);
      await resolve(scene, conversationId, { principal: at % 2 === 0 ? "alice" : undefined });
    }
    const page = async (query: Omit<Parameters<Store["conversations"]["list"]>[0], "limit">, limit = 2) => {
      const { conversations, nextCursor } = await scene.store.conversations.list({ ...query, limit });
      return { ids: conversations.map(({ conversationId }) => conversationId), cursor: nextCursor };
    };
    const first = await page({});
    assert.deepEqual(first.ids, ["c_5", "c_4"]);
    await resolve(scene, "c_6");
    const second = await page({ cursor: first.cursor });
    assert.deepEqual(second.ids, ["c_3", "c_2"]);
    assert.deepEqual(await page({ cursor: second.cursor }), { ids: ["c_1"], cursor: undefined });

    // A page may end between two of the same millisecond.
    for (const limit of [1, 3]) {
      const ids: string[] = [];
      for (let cursor: string | undefined = "", query = {}; cursor !== undefined; query = { cursor }) {
        const some = await page(query, limit);
        ids.push(...some.ids);
        cursor = some.cursor;
      }
      assert.deepEqual(ids, ["c_6", "c_5", "c_4", "c_3", "c_2", "c_1"]);
    }

    const own = await page({ principal: "alice" });
    assert.deepEqual(own.ids, ["c_5", "c_3"]);
    assert.deepEqual(await page({ principal: "alice", cursor: own.cursor }), { ids: ["c_1"], cursor: undefined });
    assert.deepEqual(await page({ principal: "bob" }), { ids: [], cursor: undefined });

    await scene.clock.advance(1);
    await say(scene, "job_1", { conversationId: "c_2" });
    await held(scene, "me", { conversationId: "c_1" });
    assert.deepEqual((await page({}, 1)).ids, ["c_2"], "a turn is activity");
    assert.deepEqual(await page({ lockedOnly: true }), { ids: ["c_2", "c_1"], cursor: undefined });
    assert.deepEqual(await page({ lockedOnly: true, principal: "alice" }), { ids: ["c_1"], cursor: undefined });
    for (const cursor of ["", "v", "v1", "v1-1-1", "-1", "1 OR 1"]) {
      await refused("bad_cursor", scene.store.conversations.list({ cursor, limit: 2 }));
    }
  });

  it("[CNV-6] turns are told in order: running, waiting with their places, then the newest that ended", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { userId: "bea", messageId: "m_1" });
    await say(scene, "job_2");
    await end(scene, "job_1");
    await end(scene, "job_2", { end: "error" });
    for (const jobId of ["job_3", "job_4", "job_5"]) await say(scene, jobId);
    await say(scene, "job_6", { onBusy: "interrupt" });
    const all = ["job_3 running", "job_6 1", "job_4 2", "job_5 3", "job_2 error", "job_1 success"];
    assert.deepEqual(await turnsOf(scene), all);
    for (const limit of [1, 2, 5]) assert.deepEqual(await turnsOf(scene, PLACE, limit), all.slice(0, limit));
    const turns = await scene.store.conversations.turns(PLACE, 100);
    const now = scene.clock.wall();
    const told = { agent: AGENT, submittedAt: now, place: undefined };
    assert.deepEqual(turns.at(-1), {
      ...told,
      jobId: "job_1",
      messageId: "m_1",
      userId: "bea",
      state: "ended",
      status: "success",
      lockEpoch: 1,
    });
    const waiting = { ...told, messageId: undefined, userId: "ann", state: "queued", status: "pending" };
    assert.deepEqual(turns[1], { ...waiting, jobId: "job_6", place: 1, lockEpoch: undefined });
  });

  it("[CNV-6] a conversation that somebody works on is not deleted", async (scene) => {
    await nodes(scene);
    const remove = (conversationId = PLACE) => scene.store.conversations.delete(conversationId, scene.clock.wall());
    await refused("unknown_conversation", remove());
    await say(scene, "job_1");
    await refused("conversation_busy", remove());
    await scene.clock.advance(TTL_MS);
    await refused("conversation_busy", remove());
    await say(scene, "job_2", { nodeId: OTHER_NODE });
    await say(scene, "job_3");
    await bury(scene, OTHER_NODE);
    await refused("conversation_busy", remove());
    assert.deepEqual(await turnsOf(scene), ["job_3 1", "job_2 error", "job_1 error"], "nothing was deleted");
    await cancel(scene, "job_3");
    await remove();
    assert.equal(await scene.store.conversations.get(PLACE), undefined);
    assert.deepEqual(await turnsOf(scene), []);
    assert.equal((await scene.store.jobs.get("job_3"))?.status, "cancelled", "its jobs are kept");
    await refused("unknown_conversation", acquire(scene, "me"));

    assert.equal((await say(scene, "job_4")).created, true);
    assert.deepEqual(await turnsOf(scene), ["job_4 running"]);
    await end(scene, "job_4");
    await held(scene, "me");
    await refused("conversation_busy", remove());
    await scene.clock.advance(TTL_MS);
    await remove();
  });
}

// --------------------------------------------------------------------------------------------- locks

function locks(it: Case): void {
  it("[LCK-1] of those who ask at once one has the lock, and the same holder again has not", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        acquire(scene, i % 3 === 0 ? "the same" : `holder ${i}`, { nodeId: i % 2 === 0 ? NODE : OTHER_NODE }),
      ),
    );
    assert.equal(answers.filter((answer) => answer !== undefined).length, 1);
    assert.equal(await acquire(scene, "the same"), undefined);
    assert.equal((await lockOf(scene))?.lockEpoch, 1);
  });

  it("[LCK-1] a lock is held until its expiry, and at that very moment it is not", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    await held(scene, "first", { ttlMs: 1_000 });
    await scene.clock.advance(999);
    assert.equal(await acquire(scene, "second"), undefined);
    await scene.clock.advance(1);
    const { lock, endedJobId } = await held(scene, "second");
    assert.deepEqual([lock.holder, lock.lockEpoch, endedJobId], ["second", 2, undefined]);
  });

  it("[LCK-1] nobody has a lock for the asking while a turn waits, though it be free or expired", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    await end(scene, "job_1", { handOver: undefined });
    assert.equal(await lockOf(scene), undefined);
    assert.equal(await acquire(scene, "me"), undefined);
    assert.deepEqual(await claimed(scene), ["job_2"]);
    await say(scene, "job_3");
    await scene.clock.advance(TTL_MS);
    assert.equal(await acquire(scene, "me"), undefined);
    assert.equal((await scene.store.jobs.get("job_2"))?.status, "running", "a refused claim ends nothing");
    await cancel(scene, "job_3");
    assert.equal((await acquire(scene, "me"))?.endedJobId, "job_2");
  });

  it("[LCK-1] there is no lock of an unknown conversation, and none for a node that is not alive", async (scene) => {
    await nodes(scene);
    await refused("unknown_conversation", acquire(scene, "me"));
    await refused("unknown_conversation", breakLock(scene));
    await resolve(scene);
    await bury(scene, OTHER_NODE);
    await refused("dead_node", acquire(scene, "me", { nodeId: OTHER_NODE }));
    await refused("dead_node", acquire(scene, "me", { nodeId: "never entered" }));
    await refused("dead_node", start(scene, "job_1", { nodeId: OTHER_NODE }));
    await refused("dead_node", claim(scene, { nodeId: OTHER_NODE }));
    assert.equal(await lockOf(scene), undefined);
    assert.equal(await scene.store.jobs.get("job_1"), undefined);
  });

  it("[LCK-2] the epoch grows with every acquisition, however the lock was lost, and across a restart", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    const epochs: number[] = [];
    const note = async () => epochs.push((await lockOf(scene))?.lockEpoch ?? Number.NaN);
    const { ref } = await held(scene, "released");
    await note();
    await scene.store.conversations.release(ref);
    await held(scene, "broken");
    await note();
    await breakLock(scene);
    await scene.reopen();
    await held(scene, "expired");
    await note();
    await scene.clock.advance(TTL_MS);
    await say(scene, "job_1");
    await note();
    await say(scene, "job_2");
    await end(scene, "job_1");
    await note();
    await scene.clock.advance(TTL_MS);
    await say(scene, "job_3");
    await claim(scene);
    await note();
    assert.deepEqual(
      epochs,
      [...new Set(epochs)].toSorted((a, b) => a - b),
    );
    assert.equal(epochs.length, 6);
  });

  it("[LCK-2] a conversation that was deleted and made anew goes on above its old epochs", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    const { ref } = await held(scene, "me");
    await scene.store.conversations.release(ref);
    await scene.store.conversations.delete(PLACE, scene.clock.wall());
    await scene.reopen();
    await resolve(scene);
    const again = await held(scene, "me");
    assert.ok(again.ref.lockEpoch > ref.lockEpoch, `${again.ref.lockEpoch} after ${ref.lockEpoch}`);
    assert.deepEqual(await refresh(scene, ref), []);
    assert.equal(await scene.store.conversations.release(ref), false);
    await scene.store.conversations.release(again.ref);
    await scene.store.conversations.delete(PLACE, scene.clock.wall());
    const place = await say(scene, "job_1");
    assert.ok(place.state === "running" && place.lockEpoch > again.ref.lockEpoch);
    assert.equal((await lockOf(scene))?.lockEpoch, place.lockEpoch, "what is told is what is stored");
  });

  it("[LCK-6] a refresh moves the expiry of what is held under that epoch, also when it has expired", async (scene) => {
    await nodes(scene);
    for (const conversationId of ["c_1", "c_2", "c_3", "c_4"]) await resolve(scene, conversationId);
    const first = await held(scene, "me", { conversationId: "c_1" });
    const second = await held(scene, "me", { conversationId: "c_2" });
    const lapsed = await held(scene, "me", { conversationId: "c_3", ttlMs: 1 });
    const taken = await held(scene, "me", { conversationId: "c_4", ttlMs: 1 });
    await scene.clock.advance(10);
    const thief = await held(scene, "me", { conversationId: "c_4" });
    const expiresAt = scene.clock.wall() + TTL_MS;
    const answer = await refresh(
      scene,
      first.ref,
      { ...second.ref, holder: "another" },
      lapsed.ref,
      taken.ref,
      { ...first.ref, lockEpoch: 2 },
      { ...first.ref, conversationId: "unknown" },
    );
    assert.deepEqual(answer, [
      { conversationId: "c_1", lockEpoch: 1, expiresAt },
      { conversationId: "c_3", lockEpoch: 1, expiresAt },
    ]);
    assert.deepEqual(await lockOf(scene, "c_1"), { ...first.lock, expiresAt });
    assert.deepEqual(await lockOf(scene, "c_2"), second.lock);
    assert.deepEqual(await lockOf(scene, "c_4"), thief.lock);
    assert.equal(await acquire(scene, "another", { conversationId: "c_3" }), undefined, "it is held again");
    assert.deepEqual(await refresh(scene), []);
  });

  it("[LCK-6] a release by who does not hold the lock any more changes nothing and says so", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    const { release } = scene.store.conversations;
    const first = await held(scene, "me", { ttlMs: 1 });
    await scene.clock.advance(1);
    const second = await held(scene, "me");
    assert.equal(await release(first.ref), false);
    assert.equal(await release({ ...second.ref, holder: "another" }), false);
    assert.equal(await release({ ...second.ref, lockEpoch: 3 }), false);
    assert.equal(await release({ ...second.ref, conversationId: "unknown" }), false);
    assert.deepEqual(await lockOf(scene), second.lock);
    assert.equal(await release(second.ref), true);
    assert.equal(await lockOf(scene), undefined);
    assert.equal(await release(second.ref), false);
    assert.deepEqual(await refresh(scene, second.ref), []);
    assert.equal(await lockOf(scene), undefined, "a refresh does not take what is free");
  });

  it("[LCK-6] the lock of a turn is refreshed like any other and released by the end of its job alone", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    const lock = await lockOf(scene);
    assert.ok(lock !== undefined);
    const ref = { conversationId: PLACE, holder: lock.holder, lockEpoch: lock.lockEpoch };
    assert.equal(await scene.store.conversations.release(ref), false);
    assert.deepEqual(await lockOf(scene), lock);
    await scene.clock.advance(TTL_MS);
    assert.equal((await refresh(scene, ref)).length, 1);
    await scene.append("job_1", 1, 1, "success");
    assert.equal(await lockOf(scene), undefined);
    assert.deepEqual(await refresh(scene, ref), []);
  });

  it("[LCK-7] a lock tells who holds it, where, since when and until when", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    const now = scene.clock.wall();
    const { lock } = await held(scene, "me", { nodeId: OTHER_NODE });
    const told = { nodeId: OTHER_NODE, pid: 1, host: "host", acquiredAt: now, expiresAt: now + TTL_MS };
    assert.deepEqual(lock, { ...told, holder: "me", lockEpoch: 1, jobId: undefined });
    assert.deepEqual(await lockOf(scene), lock);
    await say(scene, "job_1", { conversationId: "slack_2", nodeId: OTHER_NODE, ttlMs: 5_000 });
    const { holder, ...ofTurn } = (await lockOf(scene, "slack_2")) ?? {};
    assert.equal(typeof holder, "string");
    assert.deepEqual(ofTurn, { ...told, expiresAt: now + 5_000, lockEpoch: 1, jobId: "job_1" });
  });

  it("[LCK-7] a broken lock is free, its turn has ended, and its holder has nothing left", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    await refused("not_locked", breakLock(scene));
    const { lock, ref } = await held(scene, "me");
    assert.deepEqual(await breakLock(scene), lock);
    assert.deepEqual(await refresh(scene, ref), []);
    assert.equal(await scene.store.conversations.release(ref), false);
    await refused("not_locked", breakLock(scene));

    await say(scene, "job_1");
    await say(scene, "job_2");
    const ofTurn = await lockOf(scene);
    assert.deepEqual(await breakLock(scene), ofTurn);
    await endedWith(scene, "job_1", BROKEN);
    await scene.appendRefused("job_ended", ending(scene, "job_1", {}));
    assert.deepEqual(await turnsOf(scene), ["job_2 1", "job_1 error"]);
    assert.deepEqual(await claimed(scene), ["job_2"]);
    await breakLock(scene);
    assert.equal((await acquire(scene, "me"))?.endedJobId, undefined);
  });

  it("[LCK-9] the locks of a node that is dead or has left are free at once, and lost to it", async (scene) => {
    await nodes(scene);
    for (const conversationId of ["c_1", "c_2", "c_3"]) await resolve(scene, conversationId);
    const ofDead = await held(scene, "me", { conversationId: "c_1" });
    const ofOther = await held(scene, "me", { conversationId: "c_2", nodeId: OTHER_NODE });
    await bury(scene);
    assert.equal(await lockOf(scene, "c_1"), undefined);
    assert.deepEqual(await lockOf(scene, "c_2"), ofOther.lock);
    assert.deepEqual(await refresh(scene, ofDead.ref), []);
    assert.equal(await scene.store.conversations.release(ofDead.ref), false);
    await scene.store.nodes.leave(OTHER_NODE, scene.clock.wall());
    assert.equal(await lockOf(scene, "c_2"), undefined);
    await scene.register("node_c");
    await held(scene, "me", { conversationId: "c_1", nodeId: "node_c" });
    assert.deepEqual(await refresh(scene, ofDead.ref), [], "the same holder, but another epoch");
  });
}

// ----------------------------------------------------------------------------------------- takeovers

function takeovers(it: Case): void {
  /** A turn whose lock has expired, and which does not know it. */
  async function stalled(scene: ConversationScene): Promise<void> {
    await nodes(scene);
    await say(scene, "job_1", { nodeId: OTHER_NODE });
    await scene.clock.advance(TTL_MS);
  }

  /** The old turn has ended in the takeover, and what it still does is refused. */
  async function isOver(scene: ConversationScene): Promise<void> {
    await endedWith(scene, "job_1", LOST);
    const before = await scene.store.conversations.get(PLACE);
    await scene.appendRefused("job_ended", scene.batch("job_1", 1, 3, {}));
    await scene.appendRefused("job_ended", ending(scene, "job_1", { by: OTHER_NODE }));
    await scene.appendRefused("job_ended", ending(scene, "job_1", { n: 2, by: OTHER_NODE, runEpoch: 2 }));
    assert.deepEqual(await scene.store.conversations.get(PLACE), before);
  }

  it("[LCK-5] who acquires an expired lock ends its turn, under its next epoch", async (scene) => {
    await stalled(scene);
    const { lock, endedJobId } = await held(scene, "me");
    assert.deepEqual([endedJobId, lock.jobId, lock.lockEpoch], ["job_1", undefined, 2]);
    await isOver(scene);
  });

  it("[LCK-5] the next turn takes an expired lock over, with a session or without", async (scene) => {
    await stalled(scene);
    await scene.register("node_c");
    const session = await scene.create("sess_1");
    const outcome = await submit(scene, session, "job_2");
    assert.ok(outcome.outcome === "created");
    const place = { conversationId: PLACE, created: false, interrupted: undefined };
    assert.deepEqual(outcome.place, { ...place, state: "running", lockEpoch: 2, endedJobId: "job_1" });
    await isOver(scene);
    await scene.clock.advance(TTL_MS);
    const third = await say(scene, "job_3", { onBusy: "reject" });
    assert.deepEqual(third, { ...place, state: "running", lockEpoch: 3, endedJobId: "job_2" });
    assert.deepEqual(await turnsOf(scene), ["job_3 running", "job_2 error", "job_1 error"]);
  });

  it("[LCK-5] an expired lock goes to the turn that waits, and to one of the nodes that claim it", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { nodeId: OTHER_NODE });
    await say(scene, "job_2");
    await scene.clock.advance(TTL_MS - 1);
    assert.deepEqual(await claim(scene), { turns: [], endedJobIds: [] });
    await scene.clock.advance(1);
    const answers = await Promise.all([claim(scene), claim(scene, { nodeId: OTHER_NODE }), claim(scene)]);
    assert.deepEqual(
      answers.flatMap(({ turns }) => turns.map(({ job }) => job.jobId)),
      ["job_2"],
    );
    assert.deepEqual(
      answers.flatMap(({ endedJobIds }) => endedJobIds),
      ["job_1"],
    );
    await isOver(scene);
    assert.deepEqual(await turnsOf(scene), ["job_2 running", "job_1 error"]);
  });

  it("[LCK-5] an expired lock that nobody wants leaves its turn alone", async (scene) => {
    await stalled(scene);
    assert.deepEqual(await claim(scene), { turns: [], endedJobIds: [] });
    await scene.append("job_1", 1, 4);
    await scene.append("job_1", 5, 5, "success");
    assert.deepEqual(await turnsOf(scene), ["job_1 success"]);
  });

  it("[LCK-2] of a takeover and the end of the old turn, at once, one counts", async (scene) => {
    await stalled(scene);
    const [taken, [appended], answer] = await Promise.all([
      acquire(scene, "me"),
      scene.store.jobs.append([ending(scene, "job_1", { by: OTHER_NODE })]),
      start(scene, "job_2", { onBusy: "reject" }),
    ]);
    assert.equal(taken?.endedJobId, "job_1");
    assert.equal(appended?.ok, false);
    assert.equal(answer.outcome, "refused");
    assert.equal((await scene.store.jobs.get("job_1"))?.lastN, 1);
  });
}

// -------------------------------------------------------------------------------------------- queues

function queues(it: Case): void {
  it("[TRN-1] a rejected turn is told which one runs, and nothing is stored of it", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    const before = await scene.store.conversations.get(PLACE);
    const refusal = { why: "busy", conversationId: PLACE };
    const { holder } = (await lockOf(scene)) ?? {};
    const byTurn = { outcome: "refused", refusal: { ...refusal, jobId: "job_1", holder } };
    await scene.clock.advance(1);
    assert.deepEqual(await start(scene, "job_2", { onBusy: "reject", messageId: "m_1" }), byTurn);
    assert.equal(await scene.store.jobs.get("job_2"), undefined);
    assert.deepEqual(await scene.store.conversations.get(PLACE), before);
    await end(scene, "job_1");
    await say(scene, "job_2", { onBusy: "reject", messageId: "m_1" });
    await end(scene, "job_2");

    await held(scene, "me");
    assert.deepEqual(await start(scene, "job_3", { onBusy: "reject" }), {
      outcome: "refused",
      refusal: { ...refusal, jobId: undefined, holder: "me" },
    });
    await say(scene, "job_4");
    await breakLock(scene);
    assert.deepEqual(await start(scene, "job_3", { onBusy: "reject" }), {
      outcome: "refused",
      refusal: { ...refusal, jobId: undefined, holder: undefined },
    });
  });

  it("[TRN-1] a session's rejected turn is answered again as it was, and uses up no key", async (scene) => {
    await nodes(scene);
    const session = await scene.create("sess_1");
    await say(scene, "job_1");
    const request = {
      turn: newTurn(scene, { onBusy: "reject" }),
      job: newJob("job_2"),
      idempotency: { key: "k", digest: "d", ttlMs: DAY_MS },
    };
    const once = await scene.submit(session, "job_2", { ...request, messageId: "submit" });
    assert.deepEqual(once, {
      outcome: "turn_refused",
      refusal: { why: "busy", conversationId: PLACE, jobId: "job_1", holder: (await lockOf(scene))?.holder },
      frame: "job_2: turn_refused",
    });
    await end(scene, "job_1");
    const again = await scene.submit(session, "job_2", { ...request, messageId: "submit" });
    assert.deepEqual(again, { outcome: "duplicate", frame: "job_2: turn_refused" });
    assert.equal((await scene.submit(session, "job_2", request)).outcome, "created");
  });

  it("[TRN-2] what has to wait is stored as pending with its place, and runs in its order", async (scene) => {
    await nodes(scene);
    const place = { conversationId: PLACE, created: false, interrupted: undefined, endedJobId: undefined };
    assert.deepEqual(await say(scene, "job_1"), { ...place, created: true, state: "running", lockEpoch: 1 });
    assert.deepEqual(await say(scene, "job_2", { ttlMs: 7_000, userId: "bea" }), {
      ...place,
      state: "queued",
      place: 1,
    });
    assert.deepEqual(await say(scene, "job_3"), { ...place, state: "queued", place: 2 });
    const waiting = await scene.store.jobs.get("job_2");
    assert.deepEqual([waiting?.status, waiting?.runEpoch, waiting?.lastN], ["pending", 0, 0]);
    await scene.appendRefused("stale_run", scene.batch("job_2", 1, 1, {}));
    await scene.reopen();
    await scene.clock.advance(10);
    const next = await end(scene, "job_1", { by: OTHER_NODE });
    assert.deepEqual(next, {
      job: { ...newJob("job_2"), restarts: 0 },
      principal: "alice",
      userId: "bea",
      runEpoch: 1,
      attempt: 1,
      lastN: 0,
      checkpoint: undefined,
      conversationId: PLACE,
      lockEpoch: 2,
      ttlMs: 7_000,
    });
    const running = await scene.store.jobs.get("job_2");
    assert.deepEqual([running?.status, running?.runEpoch, running?.nodeId], ["running", 1, OTHER_NODE]);
    const lock = await lockOf(scene);
    const now = scene.clock.wall();
    assert.deepEqual(
      [lock?.jobId, lock?.nodeId, lock?.acquiredAt, lock?.expiresAt],
      ["job_2", OTHER_NODE, now, now + 7_000],
    );
    assert.deepEqual(await turnsOf(scene), ["job_2 running", "job_3 1", "job_1 success"]);
    await scene.append("job_2", 1, 2);
    assert.equal((await end(scene, "job_2", { n: 3 }))?.job.jobId, "job_3");
    assert.equal(await end(scene, "job_3"), undefined);
    assert.equal(await lockOf(scene), undefined);
  });

  it("[TRN-2] a session's turns wait with those of others, and it follows them from the start", async (scene) => {
    await nodes(scene);
    const session = await scene.create("sess_1");
    assert.equal((await say(scene, "job_1")).state, "running");
    const outcome = await submit(scene, session, "job_2");
    assert.ok(outcome.outcome === "created" && outcome.place?.state === "queued" && outcome.place.place === 1);
    assert.equal((await say(scene, "job_3")).state, "queued");
    assert.equal((await end(scene, "job_1"))?.job.jobId, "job_2");
    await scene.append("job_2", 1, 2);
    const run = { firstSeq: 1, count: 2, jobId: "job_2", firstN: 1, lastN: 2, endsFollow: false };
    await scene.store.sessions.storeRuns(session, [run], () => "");
    assert.equal((await end(scene, "job_2", { n: 3 }))?.job.jobId, "job_3");
    assert.equal((await scene.store.jobs.get("job_2"))?.sessionId, "sess_1");
  });

  it("[TRN-2] conversations do not wait for one another", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { conversationId: "c_1" });
    await say(scene, "job_2", { conversationId: "c_1" });
    assert.equal((await say(scene, "job_3", { conversationId: "c_2" })).state, "running");
    await say(scene, "job_4", { conversationId: "c_2" });
    assert.equal((await end(scene, "job_3"))?.job.jobId, "job_4");
    assert.deepEqual(await turnsOf(scene, "c_1"), ["job_1 running", "job_2 1"]);
  });

  it("[TRN-3] an interrupt goes ahead of what waits and leaves its wish for the running turn", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { nodeId: OTHER_NODE });
    await say(scene, "job_2");
    const place = { conversationId: PLACE, created: false, endedJobId: undefined, state: "queued" };
    const first = await say(scene, "job_3", { onBusy: "interrupt" });
    assert.deepEqual(first, { ...place, interrupted: "job_1", place: 1 });
    const [told] = (await scene.store.sweep({ sessionIds: [], jobIds: ["job_1"], complete: false })).jobs;
    assert.equal(typeof told?.cancelReason, "string");
    assert.equal((await scene.store.jobs.get("job_1"))?.status, "running", "it has yet to unwind");
    const second = await say(scene, "job_4", { onBusy: "interrupt" });
    assert.deepEqual(second, { ...place, interrupted: "job_1", place: 2 });
    assert.deepEqual(await say(scene, "job_5"), { ...place, interrupted: undefined, place: 4 });
    assert.deepEqual(await turnsOf(scene), ["job_1 running", "job_3 1", "job_4 2", "job_2 3", "job_5 4"]);
    await scene.append("job_1", 1, 1);
    const order: (string | undefined)[] = [];
    const next = async (jobId: string, given?: Ending) => (await end(scene, jobId, given))?.job.jobId;
    order.push(await next("job_1", { n: 2, end: "cancelled" }), await next("job_3"), await next("job_4"));
    assert.deepEqual(order, ["job_3", "job_4", "job_2"]);
    assert.equal((await scene.store.jobs.get("job_2"))?.cancelRequested, false);
  });

  it("[TRN-3] an interrupt runs at once where nothing does, and waits for a lock without a turn", async (scene) => {
    await nodes(scene);
    await resolve(scene);
    assert.equal((await say(scene, "job_1", { onBusy: "interrupt" })).state, "running");
    await end(scene, "job_1");
    const { ref, lock } = await held(scene, "me");
    const place = await say(scene, "job_2", { onBusy: "interrupt" });
    assert.deepEqual([place.state, place.interrupted], ["queued", undefined]);
    assert.deepEqual(await lockOf(scene), lock);
    assert.deepEqual(await claimed(scene), []);
    assert.equal(await scene.store.conversations.release(ref), true);
    assert.deepEqual(await claimed(scene), ["job_2"]);
  });

  it("[TRN-8] a full queue refuses what would wait, whatever it does when busy, until there is room", async (scene) => {
    await nodes(scene);
    const bound = { maxQueued: 2 };
    await say(scene, "job_1", bound);
    await say(scene, "job_2", bound);
    await say(scene, "job_3", bound);
    const before = await turnsOf(scene);
    const { holder } = (await lockOf(scene)) ?? {};
    const refusal = { why: "queue_full", conversationId: PLACE, jobId: "job_1", holder };
    for (const onBusy of ["enqueue", "interrupt"] as const) {
      assert.deepEqual(await start(scene, "job_4", { ...bound, onBusy }), { outcome: "refused", refusal });
    }
    assert.equal((await scene.store.jobs.get("job_1"))?.cancelRequested, false, "a refused turn interrupts nothing");
    assert.deepEqual(await turnsOf(scene), before);
    await cancel(scene, "job_2");
    await say(scene, "job_4", bound);
    assert.equal((await start(scene, "job_5", bound)).outcome, "refused");
    await end(scene, "job_1");
    await say(scene, "job_5", bound);
  });

  it("[JOB-17] turns that wait count among a principal's jobs", async (scene) => {
    await nodes(scene);
    const session = await scene.create("sess_1");
    await say(scene, "job_1", { maxRunning: 2 });
    await say(scene, "job_2", { maxRunning: 2 });
    assert.deepEqual(await start(scene, "job_3", { maxRunning: 2 }), { outcome: "limit_exceeded" });
    const outcome = await scene.submit(session, "job_3", {
      turn: newTurn(scene, {}),
      maxRunningJobsPerPrincipal: 2,
    });
    assert.equal(outcome.outcome, "limit_exceeded");
    assert.deepEqual(await turnsOf(scene), ["job_1 running", "job_2 1"]);
  });

  it("[TRN-9] a turn that waits and is cancelled ends at once, and those behind it move up", async (scene) => {
    await nodes(scene);
    const session = await scene.create("sess_1");
    await say(scene, "job_1");
    await submit(scene, session, "job_2");
    for (const jobId of ["job_3", "job_4"]) await say(scene, jobId);
    const lock = await lockOf(scene);
    assert.deepEqual(await cancel(scene, "job_3"), { outcome: "ended" });
    assert.equal((await scene.cancel(session, "job_2")).outcome, "ended");
    for (const jobId of ["job_2", "job_3"]) {
      await endedWith(scene, jobId, CANCELLED, 1);
      assert.deepEqual(await cancel(scene, jobId), { outcome: "already_ended", status: "cancelled" });
    }
    assert.deepEqual(await lockOf(scene), lock, "the running turn has nothing to do with it");
    assert.deepEqual(await turnsOf(scene), ["job_1 running", "job_4 1", "job_3 cancelled", "job_2 cancelled"]);
    assert.equal((await scene.store.conversations.get(PLACE))?.queued, 1);
    assert.equal((await end(scene, "job_1"))?.job.jobId, "job_4");
    assert.equal((await cancel(scene, "job_4")).outcome, "requested");
    assert.equal(await end(scene, "job_4", { end: "cancelled" }), undefined);
  });

  it("[TRN-9] of a cancel and the start of a turn, at once, the first one counts", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    // Which of the two is first is nobody's promise, but they agree about it.
    const [next, cancelled] = await Promise.all([end(scene, "job_1"), cancel(scene, "job_2")]);
    if (next === undefined) {
      assert.equal(cancelled.outcome, "ended");
      assert.equal(await lockOf(scene), undefined);
    } else {
      assert.deepEqual([next.job.jobId, cancelled.outcome], ["job_2", "requested"]);
      await end(scene, "job_2");
    }
    await say(scene, "job_3");
    await say(scene, "job_4");
    const [wish, after] = await Promise.all([cancel(scene, "job_4"), end(scene, "job_3")]);
    assert.equal(wish.outcome, after === undefined ? "ended" : "requested");
    assert.equal((await lockOf(scene))?.jobId, after?.job.jobId);
  });
}

// ----------------------------------------------------------------------------------------- hand-overs

function handOvers(it: Case): void {
  it("[TRN-4] the lock is handed over in the commit that ends a turn, so nobody is quicker", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    const [[appended], overtaking, plain, other] = await Promise.all([
      scene.store.jobs.append([ending(scene, "job_1", {})]),
      start(scene, "job_3", { onBusy: "reject" }),
      acquire(scene, "me"),
      claim(scene, { nodeId: OTHER_NODE }),
    ]);
    assert.equal(appended?.ok && appended.next?.job.jobId, "job_2");
    // It came while the first one ran, or found the next one at it.
    const held = overtaking.outcome === "refused" ? overtaking.refusal.jobId : "nobody";
    assert.ok(held === "job_1" || held === "job_2", `the lock was held by ${held}`);
    assert.equal(plain, undefined);
    assert.deepEqual(other, { turns: [], endedJobIds: [] });
  });

  it("[TRN-4] a new turn never goes before one that waits, though the lock be free", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    await end(scene, "job_1", { handOver: undefined });
    const place = await say(scene, "job_3");
    assert.ok(place.state === "queued" && place.place === 2);
    assert.equal((await start(scene, "job_4", { onBusy: "reject" })).outcome, "refused");
    assert.deepEqual(await claimed(scene), ["job_2"]);
    assert.equal((await end(scene, "job_2"))?.job.jobId, "job_3");
  });

  it("[TRN-4] a repeat after an unclear commit hands over the same turn, until that has said something", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    for (const jobId of ["job_2", "job_3"]) await say(scene, jobId);
    const next = await end(scene, "job_1");
    assert.equal(next?.job.jobId, "job_2");
    const before = await scene.store.conversations.get(PLACE);
    assert.deepEqual(await end(scene, "job_1"), next);
    await scene.reopen();
    assert.deepEqual(await end(scene, "job_1"), next);
    assert.equal(await end(scene, "job_1", { by: OTHER_NODE }), undefined, "it is not that node's");
    assert.equal(await end(scene, "job_1", { handOver: undefined }), undefined);
    assert.deepEqual(await scene.store.conversations.get(PLACE), before);
    await scene.append("job_2", 1, 1);
    assert.equal(await end(scene, "job_1"), undefined);
    assert.equal((await end(scene, "job_2", { n: 2 }))?.job.jobId, "job_3");
    assert.equal(await end(scene, "job_1"), undefined, "what came after the next is not this one's to tell");
  });

  it("[TRN-4] what a repeat hands over is locked for its whole ttl from then", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    const next = await end(scene, "job_1");
    await scene.clock.advance(45_000);
    assert.deepEqual(await end(scene, "job_1"), next);
    assert.equal((await lockOf(scene))?.expiresAt, scene.clock.wall() + TTL_MS);
  });

  it("[TRN-4] what is refused, and what does not end a turn, hands nothing over", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    const handOver = { nodeId: NODE, agents: [AGENT] };
    const results = await scene.store.jobs.append([
      scene.batch("job_1", 1, 2, { handOver }),
      scene.batch("job_1", 1, 2, { handOver }),
      ending(scene, "job_1", { n: 3, runEpoch: 2 }),
      ending(scene, "job_1", { n: 9 }),
      scene.batch("job_1", 3, 2, { handOver }),
    ]);
    assert.deepEqual(
      results.map((result) => (result.ok ? result.next : result.refusal.reason)),
      [undefined, undefined, "stale_run", "wrong_number", undefined],
    );
    assert.deepEqual(await turnsOf(scene), ["job_1 running", "job_2 1"]);
    const session = await scene.create("sess_1");
    await scene.submit(session, "job_3", {});
    assert.equal(await end(scene, "job_3"), undefined, "a job that is no turn");
  });

  it("[TRN-4] turns of many conversations that end at once are each handed over", async (scene) => {
    await nodes(scene);
    const places = Array.from({ length: 40 }, (_, i) => `c_${i}`);
    for (const conversationId of places) {
      await say(scene, `${conversationId} 1`, { conversationId });
      await say(scene, `${conversationId} 2`, { conversationId });
    }
    const results: AppendResult[] = await scene.store.jobs.append(
      places.map((conversationId) => ending(scene, `${conversationId} 1`, {})),
    );
    assert.deepEqual(
      results.map((result) => result.ok && result.next?.job.jobId),
      places.map((conversationId) => `${conversationId} 2`),
    );
  });

  it("[TRN-10] a turn is left to the nodes that offer its agent, and so are those behind it", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2", { agent: "survey@1" });
    await say(scene, "job_3");
    assert.equal(await end(scene, "job_1"), undefined);
    assert.equal(await lockOf(scene), undefined);
    assert.deepEqual(await claim(scene), { turns: [], endedJobIds: [] });
    assert.deepEqual(await claimed(scene, { agents: [] }), []);
    assert.deepEqual(await claimed(scene, { agents: ["survey", "survey@2"] }), []);
    assert.deepEqual(await claimed(scene, { nodeId: OTHER_NODE, agents: [AGENT, "survey@1"] }), ["job_2"]);
    const next = await end(scene, "job_2", { by: OTHER_NODE, agents: ["survey@1"] });
    assert.equal(next, undefined);
    assert.deepEqual(await claimed(scene), ["job_3"]);
  });

  it("[TRN-10] an expired lock is left alone by a node that does not offer the next turn's agent", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2", { agent: "survey@1" });
    await scene.clock.advance(TTL_MS);
    assert.deepEqual(await claim(scene), { turns: [], endedJobIds: [] });
    assert.equal((await scene.store.jobs.get("job_1"))?.status, "running");
    const { turns, endedJobIds } = await claim(scene, { nodeId: OTHER_NODE, agents: ["survey@1"] });
    assert.deepEqual([turns.map(({ job }) => job.jobId), endedJobIds], [["job_2"], ["job_1"]]);
  });

  it("[TRN-10] other conversations are not kept waiting by one whose agent is not offered", async (scene) => {
    await nodes(scene);
    for (const i of [1, 2, 3, 4]) {
      const conversationId = `c_${i}`;
      await say(scene, `${conversationId} 1`, { conversationId });
      await say(scene, `${conversationId} 2`, { conversationId, agent: i <= 2 ? "survey@1" : AGENT });
      await end(scene, `${conversationId} 1`, { handOver: undefined });
    }
    assert.deepEqual(await claimed(scene, { limit: 1 }), ["c_3 2"]);
    assert.deepEqual(await claimed(scene, { limit: 2 }), ["c_4 2"]);
    assert.deepEqual(await claimed(scene), []);
  });

  it("[TRN-13] the heads of queues that nobody serves are told, with their agents", async (scene) => {
    await nodes(scene);
    assert.deepEqual(await unserved(scene, []), []);
    await say(scene, "job_1");
    await say(scene, "job_2", { agent: "survey@1" });
    await say(scene, "job_3", { agent: "survey@2" });
    assert.deepEqual(await unserved(scene, []), [], "somebody works on it");
    await end(scene, "job_1");
    const head = { jobId: "job_2", agent: "survey@1", runEpoch: 0 };
    assert.deepEqual(await unserved(scene), [head]);
    assert.deepEqual(await unserved(scene, ["survey@1"]), []);
    await say(scene, "job_4", { conversationId: "slack_2" });
    await say(scene, "job_5", { conversationId: "slack_2", agent: "survey@2" });
    await scene.clock.advance(TTL_MS);
    const expired = { jobId: "job_5", agent: "survey@2", runEpoch: 0 };
    assert.deepEqual(await unserved(scene), [head, expired]);
    assert.deepEqual(await unserved(scene, [AGENT], 1), [head]);
  });

  it("[TRN-13] a turn that nobody serves is ended once, and those behind it move up", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    for (const jobId of ["job_2", "job_3", "job_4"]) await say(scene, jobId, { agent: "survey@1" });
    const giveUp = (jobId: string, runEpoch = 0) =>
      scene.store.conversations.endUnserved({ jobId, runEpoch, jobErrorPayload: LOST, now: scene.clock.wall() });
    assert.equal(await giveUp("job_2"), false, "somebody works on it");
    await end(scene, "job_1");
    for (const jobId of ["job_1", "job_3", "job_none"]) assert.equal(await giveUp(jobId), false, jobId);
    const answers = await Promise.all([giveUp("job_2"), giveUp("job_2"), giveUp("job_2")]);
    assert.deepEqual(answers.toSorted(), [false, false, true]);
    await endedWith(scene, "job_2", LOST, 1);
    assert.deepEqual(await turnsOf(scene), ["job_3 1", "job_4 2", "job_2 error", "job_1 success"]);

    // Of its end and of a claim, at once, one counts; a claim may leave alone what somebody else is at.
    const [ended, claimedTurns] = await Promise.all([giveUp("job_3"), claimed(scene, { agents: ["survey@1"] })]);
    const all = [...claimedTurns, ...(await claimed(scene, { agents: ["survey@1"] }))];
    assert.deepEqual(all, [ended ? "job_4" : "job_3"]);
  });

  it("[TRN-13] a turn that was taken and given back since it was seen is not ended", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2", { agent: "survey@1" });
    await end(scene, "job_1");
    const [seen] = await unserved(scene);
    assert.equal(seen?.runEpoch, 0);
    assert.deepEqual(await claimed(scene, { agents: ["survey@1"] }), ["job_2"]);
    await scene.store.jobs.giveBack({ jobId: "job_2", runEpoch: 1, payload: LOST });
    const given = { jobId: "job_2", jobErrorPayload: LOST, now: scene.clock.wall() };
    assert.equal(await scene.store.conversations.endUnserved({ ...given, runEpoch: 0 }), false);
    assert.deepEqual(await unserved(scene), [{ jobId: "job_2", agent: "survey@1", runEpoch: 2 }]);
    assert.equal(await scene.store.conversations.endUnserved({ ...given, runEpoch: 2 }), true);
    assert.deepEqual(await unserved(scene), []);
  });
}

// ------------------------------------------------------------------------------------------- messages

function messages(it: Case): void {
  it("[TRN-5] a message that comes again is the turn that it was, waiting, running or ended", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2", { messageId: "m_1" });
    const again = () => start(scene, "job_3", { messageId: "m_1", onBusy: "interrupt", agent: "survey@1" });
    const repeated = { outcome: "repeated", jobId: "job_2" };
    assert.deepEqual(await again(), repeated);
    assert.equal((await scene.store.jobs.get("job_1"))?.cancelRequested, false);
    await end(scene, "job_1");
    assert.deepEqual(await again(), repeated);
    await scene.append("job_2", 1, 1);
    assert.deepEqual(await again(), repeated);
    await end(scene, "job_2", { n: 2, end: "error" });
    await scene.reopen();
    assert.deepEqual(await again(), repeated);
    assert.deepEqual(await turnsOf(scene), ["job_2 error", "job_1 success"]);
    assert.equal(await scene.store.jobs.get("job_3"), undefined);
  });

  it("[TRN-5] of a message that comes twenty times at once one is a turn", async (scene) => {
    await nodes(scene);
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        start(scene, `job_${i}`, { messageId: "m_1", nodeId: i % 2 === 0 ? NODE : OTHER_NODE }),
      ),
    );
    assert.equal(answers.filter(({ outcome }) => outcome === "created").length, 1);
    assert.equal(answers.filter(({ outcome }) => outcome === "repeated").length, 19);
    assert.equal((await turnsOf(scene)).length, 1);
  });

  it("[TRN-5] the same id in another conversation is another message, and none is none", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { messageId: "m_1" });
    await say(scene, "job_2", { messageId: "m_1", conversationId: "slack_2" });
    await say(scene, "job_3");
    await say(scene, "job_4");
    assert.deepEqual(await turnsOf(scene), ["job_1 running", "job_3 1", "job_4 2"]);
  });

  it("[TRN-5] a repeat is neither refused for a full queue nor for a limit", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { messageId: "m_1" });
    await say(scene, "job_2");
    const again = await start(scene, "job_3", { messageId: "m_1", maxQueued: 1, maxRunning: 1, onBusy: "reject" });
    assert.deepEqual(again, { outcome: "repeated", jobId: "job_1" });
  });

  it("[TRN-5] a session that repeats a message follows its job, and may cancel it", async (scene) => {
    await nodes(scene);
    const session = await scene.create("sess_1");
    await say(scene, "job_1", { messageId: "m_1" });
    await scene.append("job_1", 1, 3);
    const repeated = await submit(scene, session, "job_2", { messageId: "m_1" });
    assert.deepEqual(repeated, {
      outcome: "repeated",
      jobId: "job_1",
      traceId: "trace-job_1",
      positionN: 0,
      acceptedPayload: '{"job_id":"job_1"}',
      frame: "job_2: repeated",
    });
    assert.equal((await scene.cancel(session, "job_1")).outcome, "requested");
  });

  it("[TRN-5] another principal that repeats a message follows nothing, and may cancel nothing", async (scene) => {
    await nodes(scene);
    const session = await scene.create("sess_1");
    await say(scene, "job_1", { messageId: "m_1" });
    const turn = newTurn(scene, { messageId: "m_1" });
    const answer = await scene.submit(session, "job_2", { turn, job: newJob("job_2"), principal: "bob" });
    assert.equal(answer.outcome, "foreign_message");
    assert.notEqual((await scene.cancel(session, "job_1")).outcome, "requested");
    assert.equal(await scene.store.jobs.get("job_2"), undefined);
  });

  it("[TRN-5] with its conversation a message is forgotten, though its job is kept", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { messageId: "m_1" });
    await end(scene, "job_1");
    await scene.store.conversations.delete(PLACE, scene.clock.wall());
    assert.equal((await scene.store.jobs.get("job_1"))?.status, "success");
    await say(scene, "job_2", { messageId: "m_1" });
    assert.deepEqual(await turnsOf(scene), ["job_2 running"]);
  });

  it("[TRN-5] with its job, when that is no longer kept, a message is forgotten", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1", { messageId: "m_1" });
    await say(scene, "job_2", { messageId: "m_2" });
    await end(scene, "job_1", { handOver: undefined });
    await scene.clock.advance(10 * DAY_MS);
    assert.equal((await start(scene, "job_3", { messageId: "m_1" })).outcome, "repeated");
    assert.equal((await scene.retain()).jobs, 1);
    assert.equal(await scene.store.jobs.get("job_1"), undefined);
    assert.deepEqual(await turnsOf(scene), ["job_2 1"], "what waits is kept, however long");
    await say(scene, "job_3", { messageId: "m_1" });
    assert.deepEqual(await claimed(scene), ["job_2"]);
    assert.equal((await end(scene, "job_2"))?.job.jobId, "job_3");
  });
}

// --------------------------------------------------------------------------------------------- deaths

function deaths(it: Case): void {
  it("[TRN-6] a node that dies ends its turn and leaves the queue, which another one takes up at once", async (scene) => {
    await nodes(scene);
    await say(scene, "job_1");
    await say(scene, "job_2");
    await say(scene, "job_3");
    assert.deepEqual(await bury(scene), { endedJobIds: ["job_1"], givenBackJobIds: [], more: false });
    assert.equal(await lockOf(scene), undefined);
    await endedWith(scene, "job_1", errorPayload("its node died"));
    await scene.appendRefused("job_ended", ending(scene, "job_1", {}));
    assert.deepEqual(await turnsOf(scene), ["job_2 1", "job_3 2", "job_1 error"]);
    const { turns, endedJobIds } = await claim(scene, { nodeId: OTHER_NODE });
    assert.deepEqual([turns.map(({ job }) => job.jobId), endedJobIds], [["job_2"], []]);
    assert.equal((await end(scene, "job_2", { by: OTHER_NODE }))?.job.jobId, "job_3");
  });

  it("[TRN-6] a turn that was handed over to a node that dies ends once, and the next one is free", async (scene) => {
    await nodes(scene);
    for (const jobId of ["job_1", "job_2", "job_3"]) await say(scene, jobId);
    assert.equal((await end(scene, "job_1"))?.job.jobId, "job_2");
    assert.deepEqual((await bury(scene)).endedJobIds, ["job_2"]);
    assert.equal(await end(scene, "job_1"), undefined, "a repeat hands over nothing that has ended");
    assert.deepEqual(await claimed(scene, { nodeId: OTHER_NODE }), ["job_3"]);
  });

  it("[TRN-6] a node that is dead takes no turn over, though the burial has not come to its last one", async (scene) => {
    await nodes(scene);
    const places = Array.from({ length: BURIED_AT_ONCE + 1 }, (_, i) => `c_${i}`);
    for (const conversationId of places) {
      await say(scene, `${conversationId} 1`, { conversationId });
      await say(scene, `${conversationId} 2`, { conversationId });
    }
    const { endedJobIds, more } = await bury(scene);
    assert.ok(more, "the burial was to take several steps");
    const left = places.map((conversationId) => `${conversationId} 1`).filter((id) => !endedJobIds.includes(id));
    const [last = ""] = left;
    assert.equal(await end(scene, last), undefined);
    assert.equal((await scene.store.jobs.get(last))?.status, "success");
    while ((await bury(scene)).more);
    assert.equal((await claim(scene, { nodeId: OTHER_NODE })).turns.length, places.length, "no message was lost");
  });

  it("[TRN-6] many queues that nobody serves are taken up in steps, each turn once", async (scene) => {
    await nodes(scene);
    const places = Array.from({ length: 30 }, (_, i) => `c_${i}`);
    for (const conversationId of places) {
      await say(scene, `${conversationId} 1`, { conversationId });
      await say(scene, `${conversationId} 2`, { conversationId });
    }
    await bury(scene);
    await scene.register("node_c");
    const taken: string[] = [];
    const take = async (nodeId: string) => taken.push(...(await claimed(scene, { nodeId, limit: 7 })));
    for (let step = 0; step < 3; step += 1) await Promise.all([take("node_c"), take(OTHER_NODE)]);
    assert.deepEqual(taken.toSorted(), places.map((conversationId) => `${conversationId} 2`).toSorted());
    const [first] = await scene.store.conversations.turns("c_0", 1);
    assert.deepEqual([first?.state, first?.lockEpoch], ["running", 2]);
  });

  it("[CNV-9] a conversation that nobody has spoken in for its retention goes, and one that is worked on stays", async (scene) => {
    await nodes(scene);
    await resolve(scene, "cli_idle");
    await resolve(scene, "cli_held");
    const claim = { conversationId: "cli_held", ttlMs: 1_000_000 };
    assert.ok((await acquire(scene, "me", claim)) !== undefined);
    await scene.clock.advance(10_000);
    await resolve(scene, "cli_young");
    const policy = { jobRetentionMs: 1e12, maxEventsPerJob: 1e9, maxBytesPerJob: 1e12, maxBytesPerStore: undefined };
    const ids = async () =>
      (await scene.store.conversations.list({ limit: 10 })).conversations.map((row) => row.conversationId).sort();
    const retain = async (conversationRetentionMs: number | undefined) => {
      const step = { ...policy, conversationRetentionMs, now: scene.clock.wall() };
      for (let more = true; more; ) more = (await scene.store.retain(step)).more;
    };
    await retain(undefined);
    assert.deepEqual(await ids(), ["cli_held", "cli_idle", "cli_young"]);
    await retain(5_000);
    assert.deepEqual(await ids(), ["cli_held", "cli_young"]);
  });
}

/** The cases of bindings: who may bind a conversation, and what is noted of sessions that may be nobody's. */
import assert from "node:assert/strict";
import { type BindingRecord, type Store, StoreRefusal, type UpstreamDebt } from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface BindingScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
}

type Case = (title: string, body: (scene: BindingScene) => Promise<void>) => void;

const BACKEND = "opencode";
const PLACE = "slack_1";
const REF = { conversationId: PLACE, backend: BACKEND };
const STALE_MS = 20_000;
const MAX_NOTED = 3;
const ROW = { owner: "table:threads", recordId: "7", backend: BACKEND };

const converse = ({ store, clock }: BindingScene, conversationId = PLACE) =>
  store.conversations.resolve({
    conversationId,
    source: "slack",
    key: undefined,
    principal: undefined,
    userId: "ann",
    now: clock.wall(),
  });

const claim = ({ store, clock }: BindingScene, nonce: string, conversationId = PLACE) =>
  store.bindings.claim({
    backend: BACKEND,
    conversationId,
    nonce,
    staleBefore: clock.wall() - STALE_MS,
    maxNoted: MAX_NOTED,
    now: clock.wall(),
  });

async function claimed(scene: BindingScene, nonce: string): Promise<BindingRecord> {
  const record = await claim(scene, nonce);
  assert.ok(record !== undefined, `${nonce} was not given the claim`);
  return record;
}

const bind = ({ store, clock }: BindingScene, { generation }: BindingRecord, nonce: string, upstreamId: string) =>
  store.bindings.bind({ ...REF, generation, nonce, upstreamId, now: clock.wall() });

const unclaim = ({ store, clock }: BindingScene, { generation }: BindingRecord, nonce: string, mayExist = false) =>
  store.bindings.unclaim({ ...REF, generation, nonce, mayExist, now: clock.wall() });

/** The conversation has that session. */
async function bound(scene: BindingScene, nonce: string, upstreamId: string): Promise<void> {
  assert.equal(await bind(scene, await claimed(scene, nonce), nonce, upstreamId), true);
}

const lose = ({ store, clock }: BindingScene, upstreamId: string) =>
  store.bindings.lose({ ...REF, upstreamId, now: clock.wall() });

/** What is due to whoever looks with notes of `ageMs` in mind. */
async function due({ store, clock }: BindingScene, given: { after?: number; limit?: number } = {}) {
  const now = clock.wall();
  return await store.bindings.sweep({
    backend: BACKEND,
    madeBefore: now - STALE_MS,
    after: 0,
    limit: 10,
    now,
    ...given,
  });
}

const shown = (debts: readonly UpstreamDebt[]) =>
  debts.map(({ state, nonce, upstreamId }) => `${state} ${upstreamId ?? nonce}`);

async function state({ store }: BindingScene): Promise<string> {
  const { state, upstreamId } = await store.bindings.get(REF);
  return upstreamId === undefined ? state : `${state} ${upstreamId}`;
}

export function bindingCases(it: Case): void {
  it("[UPS-13] a binding goes from unbound to bound, lost, and bound again, and its generation grows", async (scene) => {
    await converse(scene);
    const generations = [(await scene.store.bindings.get(REF)).generation];
    const note = async (expected: string) => {
      assert.equal(await state(scene), expected);
      generations.push((await scene.store.bindings.get(REF)).generation);
    };
    assert.equal(await state(scene), "unbound");
    const first = await claimed(scene, "n1");
    await note("binding");
    assert.equal(await bind(scene, first, "n1", "ses_1"), true);
    await note("bound ses_1");
    await scene.reopen();
    const second = await claimed(scene, "n2");
    await note("binding ses_1");
    assert.equal(await bind(scene, second, "n2", "ses_2"), true);
    await note("bound ses_2");
    assert.equal(await lose(scene, "ses_2"), true);
    await note("lost");
    await bound(scene, "n3", "ses_3");
    await note("bound ses_3");
    assert.deepEqual(
      generations,
      [...generations].sort((a, b) => a - b),
    );
    assert.equal(new Set(generations).size, generations.length);
    assert.deepEqual(await scene.store.bindings.census(), { bound: 1, binding: 0, lost: 0, debts: 2 });
  });

  it("[UPS-13] one at a time may bind; a claim that is given back leaves all as it was", async (scene) => {
    await converse(scene);
    const first = await claimed(scene, "n1");
    assert.equal(await claim(scene, "n2"), undefined);
    await unclaim(scene, first, "n1");
    assert.equal(await state(scene), "unbound");
    assert.equal((await scene.store.bindings.census()).debts, 0);
    const asked = await Promise.all(["a", "b", "c"].map((nonce) => claim(scene, nonce)));
    const winners = asked.filter((record) => record !== undefined);
    assert.equal(winners.length, 1);
    assert.equal(await bind(scene, first, "n1", "ses_old"), false, "a claim that is over bound");
    const won = asked.findIndex((record) => record !== undefined);
    await bind(scene, winners[0] as BindingRecord, ["a", "b", "c"][won] as string, "ses_1");
    const again = await claimed(scene, "n3");
    await unclaim(scene, again, "n3");
    assert.equal(await state(scene), "bound ses_1");
    await lose(scene, "ses_1");
    await unclaim(scene, await claimed(scene, "n4"), "n4");
    assert.equal(await state(scene), "lost");
    await unclaim(scene, first, "n1");
    assert.equal(await state(scene), "lost", "a stale claim was given back");
  });

  it("[UPS-13] another generation, another nonce or another session changes nothing", async (scene) => {
    await converse(scene);
    const record = await claimed(scene, "n1");
    assert.equal(await bind(scene, { ...record, generation: record.generation - 1 }, "n1", "ses_1"), false);
    assert.equal(await bind(scene, record, "n0", "ses_1"), false);
    assert.equal(await bind(scene, record, "n1", "ses_1"), true);
    assert.equal(await bind(scene, record, "n1", "ses_1"), true, "the same again is refused");
    assert.equal(await bind(scene, record, "n1", "ses_2"), false);
    assert.equal(await lose(scene, "ses_0"), false);
    assert.equal(await state(scene), "bound ses_1");
  });

  it("[UPS-13] a conversation that nobody knows has no binding, and each backend has its own", async (scene) => {
    await assert.rejects(
      claim(scene, "n1", "slack_none"),
      (error: unknown) => error instanceof StoreRefusal && error.reason === "unknown_conversation",
    );
    await converse(scene);
    await bound(scene, "n1", "ses_1");
    assert.equal((await scene.store.bindings.get({ ...REF, backend: "other" })).state, "unbound");
  });

  it("[UPS-12] a claim that is too old goes to the next one, and its nonce is swept", async (scene) => {
    await converse(scene);
    const dead = await claimed(scene, "n1");
    await scene.clock.advance(STALE_MS - 1);
    assert.equal(await claim(scene, "n2"), undefined);
    await scene.clock.advance(1);
    const next = await claimed(scene, "n2");
    assert.equal(await bind(scene, dead, "n1", "ses_dead"), false);
    assert.equal(await bind(scene, next, "n2", "ses_1"), true);
    assert.deepEqual(shown(await due(scene)), ["swept n1"]);
    await scene.store.bindings.gone({ backend: BACKEND, nonce: "n1" });
    assert.deepEqual(await due(scene), []);
  });

  it("[UPS-12] the sweep takes notes that are old enough, and whoever binds later has lost", async (scene) => {
    await converse(scene);
    const slow = await claimed(scene, "n1");
    await scene.clock.advance(STALE_MS - 1);
    assert.deepEqual(await due(scene), []);
    await scene.clock.advance(1);
    assert.deepEqual(shown(await due(scene)), ["swept n1"]);
    assert.equal(await state(scene), "unbound");
    assert.equal(await bind(scene, slow, "n1", "ses_1"), false);
    assert.deepEqual(shown(await due(scene)), ["swept n1"], "it is due until it is gone");
  });

  it("[UPS-12] a claim that is given back after a create call of unknown end is swept in its time", async (scene) => {
    await converse(scene);
    await unclaim(scene, await claimed(scene, "n1"), "n1", true);
    assert.equal(await state(scene), "unbound");
    await bound(scene, "n2", "ses_2");
    assert.deepEqual(await due(scene), []);
    await scene.clock.advance(STALE_MS);
    assert.deepEqual(shown(await due(scene)), ["swept n1"]);
    assert.equal(await state(scene), "bound ses_2");
  });

  it("[UPS-18] as many notes of one record as may be without an end, and no more", async (scene) => {
    await converse(scene);
    const { bindings } = scene.store;
    const full = (error: unknown) => error instanceof StoreRefusal && error.reason === "limit_exceeded";
    const intend = (recordId: string, nonce: string) =>
      bindings.intend({ ...ROW, recordId, nonce, maxNoted: MAX_NOTED, now: scene.clock.wall() });
    for (const nonce of ["n1", "n2", "n3"]) {
      await unclaim(scene, await claimed(scene, nonce), nonce, true);
      await intend("7", `row ${nonce}`);
    }
    await assert.rejects(claim(scene, "n4"), full);
    await assert.rejects(intend("7", "row n4"), full);
    await intend("8", "of another row");
    assert.equal(await state(scene), "unbound");
    await scene.clock.advance(STALE_MS);
    await due(scene);
    await assert.rejects(claim(scene, "n4"), full, "what is swept and not gone may exist");
    await bindings.gone({ backend: BACKEND, nonce: "n1" });
    await claimed(scene, "n4");
  });

  it("[UPS-12] what is replaced or lost is due at once, in order and in pages", async (scene) => {
    await converse(scene);
    await bound(scene, "n1", "ses_1");
    await bound(scene, "n2", "ses_2");
    await lose(scene, "ses_2");
    const all = await due(scene);
    assert.deepEqual(shown(all), ["swept ses_1", "swept ses_2"]);
    const [first] = await due(scene, { limit: 1 });
    assert.deepEqual(shown(await due(scene, { after: first?.debtId as number })), ["swept ses_2"]);
    const now = scene.clock.wall();
    const other = { backend: "other", madeBefore: now, after: 0, limit: 10, now };
    assert.deepEqual(await scene.store.bindings.sweep(other), []);
    await scene.store.bindings.gone({ backend: BACKEND, upstreamId: "ses_1" });
    assert.deepEqual(shown(await due(scene)), ["swept ses_2"]);
  });

  it("[UPS-15] what a deleted conversation has upstream is due, and nobody binds it any more", async (scene) => {
    await converse(scene);
    await bound(scene, "n1", "ses_1");
    const late = await claimed(scene, "n2");
    await scene.store.conversations.delete(PLACE, scene.clock.wall());
    assert.equal(await state(scene), "released");
    assert.equal(await bind(scene, late, "n2", "ses_2"), false);
    assert.deepEqual(shown(await due(scene)), ["swept ses_1"]);
    await scene.store.bindings.gone({ backend: BACKEND, upstreamId: "ses_1" });
    await scene.clock.advance(STALE_MS);
    assert.deepEqual(shown(await due(scene)), ["swept n2"]);
    await scene.store.bindings.gone({ backend: BACKEND, nonce: "n2" });
    assert.equal(await state(scene), "unbound", "something of it is left");
    await converse(scene);
    await bound(scene, "n3", "ses_3");
    assert.equal(await bind(scene, late, "n2", "ses_2"), false);
  });

  it("[UPS-16] what is about to be committed to a row waits for the row's word", async (scene) => {
    const { bindings } = scene.store;
    const now = scene.clock.wall();
    for (const nonce of ["kept", "dropped", "unsaid"]) {
      await bindings.intend({ ...ROW, nonce, maxNoted: MAX_NOTED, now });
      const replaces = `before ${nonce}`;
      assert.equal(await bindings.persist({ nonce, upstreamId: `ses_${nonce}`, replaces }), true);
    }
    await bindings.settle({ nonce: "kept", holds: "ses_kept", now });
    await bindings.settle({ nonce: "dropped", holds: "before dropped", now });
    await bindings.settle({ nonce: "nobody's", holds: undefined, now });
    assert.deepEqual(shown(await due(scene)), ["swept before kept", "swept ses_dropped"]);
    await scene.clock.advance(STALE_MS);
    await scene.reopen();
    const [asked] = await due(scene);
    assert.deepEqual(
      { ...asked, debtId: 0 },
      { ...ROW, debtId: 0, state: "persisting", nonce: "unsaid", upstreamId: "ses_unsaid" },
    );
  });

  it("[UPS-16] what the sweep took is not persisted, and what is doomed is due under its id", async (scene) => {
    const { bindings } = scene.store;
    const now = scene.clock.wall();
    await bindings.intend({ ...ROW, nonce: "n1", maxNoted: MAX_NOTED, now });
    await bindings.intend({ ...ROW, nonce: "n2", maxNoted: MAX_NOTED, now });
    await bindings.doom({ ...ROW, nonce: "n2", upstreamId: "ses_2", now });
    await bindings.doom({ ...ROW, nonce: undefined, upstreamId: "ses_2", now });
    assert.deepEqual(shown(await due(scene)), ["swept ses_2"]);
    await scene.clock.advance(STALE_MS);
    assert.deepEqual(shown(await due(scene)), ["swept n1", "swept ses_2"]);
    assert.equal(await bindings.persist({ nonce: "n1", upstreamId: "ses_1", replaces: undefined }), false);
    assert.equal(await bindings.persist({ nonce: "n2", upstreamId: "ses_2", replaces: undefined }), false);
  });
}

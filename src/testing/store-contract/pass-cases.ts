/** The cases of passes: how long one is good, and for what, who gets one that is good once, and what goes. */
import assert from "node:assert/strict";
import type { PassKind, Store } from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface PassScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
  retain(given?: { maxPasses?: number }): Promise<unknown>;
}

type Case = (title: string, body: (scene: PassScene) => Promise<void>) => void;

const TTL_MS = 1_000;

const add = (
  { store, clock }: PassScene,
  hash: string,
  {
    kind = "login",
    principal = "alice",
    ttlMs = TTL_MS,
    most = 10,
  }: Partial<Parameters<Store["passes"]["add"]>[0]> = {},
) => store.passes.add({ kind, hash, principal, content: `of ${hash}`, ttlMs, most, now: clock.wall() });

const find = ({ store, clock }: PassScene, hash: string, kind: PassKind = "login") =>
  store.passes.find({ kind, hash, now: clock.wall() });

const take = ({ store, clock }: PassScene, hash: string, kind: PassKind = "login") =>
  store.passes.take({ kind, hash, now: clock.wall() });

export function passCases(it: Case): void {
  it("[SRV-21] a pass is found until its time, also by a store that was opened later", async (scene) => {
    await add(scene, "a");
    await scene.clock.advance(TTL_MS - 1);
    await scene.reopen();
    assert.equal(await find(scene, "a"), "of a");
    await scene.clock.advance(1);
    assert.deepEqual([await find(scene, "a"), await take(scene, "a")], [undefined, undefined]);
  });

  it("[SRV-27] a pass is of its kind, and of those who take it at once one gets it", async (scene) => {
    await add(scene, "a", { kind: "ticket" });
    for (const none of [find(scene, "a"), take(scene, "a"), find(scene, "b")]) assert.equal(await none, undefined);
    assert.equal(await find(scene, "a", "ticket"), "of a");
    const taken = await Promise.all([1, 2, 3].map(() => take(scene, "a", "ticket")));
    assert.deepEqual(
      taken.filter((content) => content !== undefined),
      ["of a"],
    );
    assert.equal(await find(scene, "a", "ticket"), undefined);
  });

  it("[SRV-21] with one more than a principal may have of a kind its oldest goes", async (scene) => {
    await add(scene, "ticket", { kind: "ticket", most: 1 });
    await add(scene, "bobs", { principal: "bob" });
    for (const hash of ["a", "b", "c"]) await add(scene, hash, { most: 2 });
    const left = await Promise.all(["a", "b", "c", "bobs"].map((hash) => find(scene, hash)));
    assert.deepEqual(left, [undefined, "of b", "of c", "of bobs"]);
    assert.equal(await find(scene, "ticket", "ticket"), "of ticket");
  });

  it("[SRV-21] the janitor removes passes that are over, and the oldest above their cap", async (scene) => {
    await add(scene, "over", { ttlMs: 1 });
    for (const hash of ["a", "b", "c"]) await add(scene, hash);
    await scene.clock.advance(1);
    await scene.retain({ maxPasses: 2 });
    // No two have the same hash, so the one that was over is gone.
    await add(scene, "over");
    const left = await Promise.all(["a", "b", "c", "over"].map((hash) => find(scene, hash)));
    assert.deepEqual(left, [undefined, "of b", "of c", "of over"]);
  });
}

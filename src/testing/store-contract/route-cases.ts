/** The cases of routes that nodes share: how long one is good, what is copied from where, and what goes. */
import assert from "node:assert/strict";
import type { RouteAnswer, Store } from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface RouteScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
  retain(given?: { maxRoutes?: number }): Promise<unknown>;
}

type Case = (title: string, body: (scene: RouteScene) => Promise<void>) => void;

const TTL_MS = 1_000;

const set = ({ store, clock }: RouteScene, routeId: string, to: string, ttlMs = TTL_MS) =>
  store.routes.set({ routeId, key: `key of ${routeId}`, route: `{"to":"${to}"}`, ttlMs, now: clock.wall() });

async function get({ store, clock }: RouteScene, routeId: string): Promise<string> {
  const found = await store.routes.get({ routeId, now: clock.wall() });
  return found.state === "fresh" ? found.route.route : found.state;
}

const resolve = ({ store, clock }: RouteScene, given: { roomId?: string; fallback?: string } = {}) =>
  store.routes.resolve({ routeId: "thread", key: "key of thread", ttlMs: TTL_MS, now: clock.wall(), ...given });

const told = (answer: RouteAnswer) => [
  answer.from,
  answer.stale,
  answer.from === "nowhere" ? undefined : answer.route.route,
];

const newest = async ({ store, clock }: RouteScene, limit = 10) =>
  (await store.routes.newest({ limit, now: clock.wall() })).map(({ key }) => key.replace("key of ", ""));

export function routeCases(it: Case): void {
  it("[RTE-6] a stored route is good until its time, then said once to have expired, then not found", async (scene) => {
    const written = scene.clock.wall();
    const route = await set(scene, "room", "C1");
    assert.deepEqual(route, {
      ...{ key: "key of room", route: '{"to":"C1"}', remainingMs: TTL_MS },
      ...{ updatedAt: written, expiresAt: written + TTL_MS },
    });
    await scene.clock.advance(TTL_MS - 1);
    await scene.reopen();
    const found = await scene.store.routes.get({ routeId: "room", now: scene.clock.wall() });
    assert.deepEqual(found, { state: "fresh", route: { ...route, remainingMs: 1 } });
    await scene.clock.advance(1);
    assert.deepEqual([await get(scene, "room"), await get(scene, "room")], ["expired", "none"]);
    await set(scene, "room", "C1");
    await scene.clock.advance(TTL_MS - 1);
    await set(scene, "room", "C2");
    await scene.clock.advance(TTL_MS - 1);
    assert.equal(await get(scene, "room"), '{"to":"C2"}');
  });

  it("[RTE-6] of all who find a route expired one is told so", async (scene) => {
    await set(scene, "room", "C1", 1);
    await scene.clock.advance(1);
    const answers = await Promise.all([get(scene, "room"), get(scene, "room"), get(scene, "room")]);
    assert.deepEqual(answers.sort(), ["expired", "none", "none"]);
  });

  it("[RTE-5] a key's own route is found before its room's, and that before the fallback", async (scene) => {
    const all = { roomId: "room", fallback: '{"to":"fallback"}' };
    await set(scene, "room", "room");
    await set(scene, "thread", "thread");
    assert.deepEqual(told(await resolve(scene, all)), ["own", false, '{"to":"thread"}']);
    await scene.clock.advance(TTL_MS);
    await set(scene, "room", "room");
    assert.deepEqual(told(await resolve(scene, all)), ["room", true, '{"to":"room"}']);
    assert.deepEqual(told(await resolve(scene)), ["own", false, '{"to":"room"}'], "a copy is the key's own");
    await scene.clock.advance(TTL_MS);
    assert.deepEqual(told(await resolve(scene, all)), ["fallback", true, '{"to":"fallback"}']);
    await scene.clock.advance(TTL_MS);
    assert.deepEqual(told(await resolve(scene, { roomId: "room" })), ["nowhere", true, undefined]);
    assert.deepEqual(told(await resolve(scene, { roomId: "room" })), ["nowhere", false, undefined]);
    assert.deepEqual(told(await resolve(scene, all)), ["fallback", false, '{"to":"fallback"}']);
  });

  it("[RTE-5] what is set while others resolve stands", async (scene) => {
    await set(scene, "room", "room");
    const resolving = Array.from({ length: 10 }, () => resolve(scene, { roomId: "room" }));
    await set(scene, "thread", "set");
    const answers = await Promise.all(resolving);
    assert.ok(answers.every(({ from }) => from === "own" || from === "room"));
    assert.equal(await get(scene, "thread"), '{"to":"set"}');
  });

  it("[RTE-13] the janitor removes what has expired, and above the cap what was written longest ago", async (scene) => {
    for (const [index, id] of ["a", "b", "c", "d"].entries()) await set(scene, id, id, index === 1 ? 5 : TTL_MS);
    await scene.clock.advance(1);
    await set(scene, "a", "anew");
    assert.deepEqual((await newest(scene, 1))[0], "a");
    await scene.clock.advance(10);
    await scene.retain();
    assert.deepEqual((await newest(scene)).sort(), ["a", "c", "d"]);
    await set(scene, "e", "e");
    await scene.retain({ maxRoutes: 2 });
    assert.deepEqual(await newest(scene), ["e", "a"]);
  });

  it("[RTE-13] keys and routes of any text are kept as they are", async (scene) => {
    const key = JSON.stringify(["slack", "\0\u2028", "😀'\"\\", "x".repeat(1024)]);
    const route = JSON.stringify({ externalRoomId: "\0", note: "é" });
    const now = scene.clock.wall();
    await scene.store.routes.set({ routeId: "f".repeat(64), key, route, ttlMs: TTL_MS, now });
    const [kept] = await scene.store.routes.newest({ limit: 1, now });
    assert.deepEqual([kept?.key, kept?.route], [key, route]);
  });
}

/** The table that nodes share: the rows of `resolve` over both stores, what is believed how long, and a store that fails. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { given, hit, ROOM, resolveCases, routeTo, THREAD, TTL_MS, told } from "../../../test/resolve-cases.ts";
import { sharedPostgres } from "../../../test/shared-postgres.ts";
import { temporaryFolder } from "../../../test/temporary-folder.ts";
import { emptyStore } from "../../../test/test-store.ts";
import { postgres } from "../../store/postgres/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { type RouteFacet, type Store, StoreUnavailable } from "../../store/store.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import type { Route, RouteKey } from "../index.ts";
import { StoredRoutes, type StoredRoutesOptions } from "./stored-routes.ts";

/** A facet that counts, and that fails while it is told to. */
function fragile(facet: RouteFacet) {
  const state = { down: false, asked: 0 };
  const through = async <T>(ask: () => Promise<T>): Promise<T> => {
    state.asked += 1;
    if (state.down) throw new StoreUnavailable("the store cannot be reached");
    return await ask();
  };
  const routes: RouteFacet = {
    set: (route) => through(() => facet.set(route)),
    get: (query) => through(() => facet.get(query)),
    resolve: (question) => through(() => facet.resolve(question)),
    newest: (query) => through(() => facet.newest(query)),
  };
  return { state, routes };
}

/** A store, with two nodes' tables on it. */
async function shared(
  stack: AsyncDisposableStack,
  options: Partial<StoredRoutesOptions> = {},
  open?: (clock: ManualClock) => Promise<Store>,
) {
  const clock = new ManualClock();
  const folder = stack.use(await temporaryFolder());
  const store = await (open?.(clock) ?? sqlite(`${folder.path}/test.db`, { clock }));
  await store.start();
  stack.defer(() => store.stop());
  const { state, routes: facet } = fragile(store.routes);
  const node = () => new StoredRoutes({ store: facet, clock, ttlMs: TTL_MS, ...options });
  return { clock, state, store, one: node(), other: node() };
}

async function fixture(open?: (clock: ManualClock) => Promise<Store>) {
  const stack = new AsyncDisposableStack();
  const { clock, state, one } = await shared(stack, { cacheMs: 0 }, open);
  return {
    ...{ clock, routes: one },
    down() {
      state.down = true;
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

// Before the first test: what is over would stop the server.
const server = await sharedPostgres();

resolveCases("in SQLite", () => fixture());
if ("reason" in server) {
  test("[RTE-13] the table of routes in PostgreSQL", { skip: server.reason }, () => undefined);
} else {
  resolveCases("in PostgreSQL", () =>
    fixture(async (clock) => postgres({ url: await emptyStore() }, { dangerouslyUseTime: () => clock.wall() })),
  );
}

test("[RTE-13] what one node sets, another finds, within the time that it believes what it knows", async () => {
  await using stack = new AsyncDisposableStack();
  const { clock, state, one, other } = await shared(stack);
  assert.deepEqual(await one.set(THREAD, routeTo("C1")), { ok: true });
  assert.deepEqual(told(await other.resolve(THREAD)), hit("C1"));
  const { asked } = state;
  for (let times = 0; times < 1_000; times += 1) await other.resolve(THREAD);
  assert.equal(state.asked, asked, "what was found is believed");
  await one.set(THREAD, routeTo("C2"));
  assert.deepEqual(told(await one.resolve(THREAD)), hit("C2"), "one's own write is seen at once");
  assert.deepEqual(told(await other.resolve(THREAD)), hit("C1"));
  await clock.advance(1_000);
  assert.deepEqual(told(await other.resolve(THREAD)), hit("C2"));
  assert.equal((await other.get(THREAD)).ok, true);
  const [row] = await other.newest(10);
  assert.deepEqual([row?.routeKey, row?.route, row?.partition], [THREAD, routeTo("C2"), 0]);
});

test("[RTE-13] what is believed is no longer good than the route", async () => {
  await using stack = new AsyncDisposableStack();
  const { clock, one, other } = await shared(stack);
  await one.set(THREAD, routeTo("C1"), { ttlMs: 300 });
  assert.deepEqual(told(await other.resolve(THREAD)), hit("C1"));
  await clock.advance(300);
  assert.deepEqual(told(await one.resolve(THREAD, routeTo("given"))), given("stale"));
  assert.deepEqual(told(await other.resolve(THREAD)), hit("given"));
});

test("[RTE-9] while the store is down the table says so, and it goes on by itself", async () => {
  await using stack = new AsyncDisposableStack();
  const { clock, state, one } = await shared(stack);
  await one.set(ROOM, routeTo("room"));
  await clock.advance(1_000);
  state.down = true;
  for (const answer of [await one.set(ROOM, routeTo("C2")), await one.get(ROOM), await one.resolve(ROOM)]) {
    assert.equal(!answer.ok && answer.reason, "partition_unavailable");
  }
  assert.deepEqual(told(await one.resolve(ROOM, routeTo("given"))), given("session_unavailable"));
  assert.deepEqual([one.counters()[0]?.running, one.counters()[0]?.failures], [false, 4]);
  state.down = false;
  assert.deepEqual(told(await one.resolve(ROOM, routeTo("given"))), hit("room"));
  assert.equal(one.counters()[0]?.running, true);
});

test("[RTE-13] a key or a route that cannot be, or that JSON has no word for, is refused, and changes nothing", async () => {
  await using stack = new AsyncDisposableStack();
  const { one, state } = await shared(stack);
  const loop: Record<string, unknown> = { externalRoomId: 7 };
  loop["self"] = loop;
  const bad = [
    {},
    null,
    { externalRoomId: 12n },
    loop,
    { externalRoomId: () => 1 },
    { externalRoomId: "x".repeat(17_000) },
  ];
  for (const route of bad as Route[]) {
    const answer = await one.set(ROOM, route);
    assert.ok(!answer.ok && answer.reason === "invalid_route" && answer.message.startsWith("route"), String(route));
  }
  for (const key of [null, {}, { ...ROOM, room: "" }] as unknown as RouteKey[]) {
    for (const answer of [await one.set(key, routeTo(1)), await one.get(key), await one.resolve(key, routeTo(1))]) {
      assert.equal(!answer.ok && answer.reason, "invalid_key");
    }
  }
  assert.equal(state.asked, 0);
  const list = [{}, { externalRoomId: 12n }, routeTo("good")] as Route[];
  await one.resolve(ROOM, list);
  assert.deepEqual(told(await one.resolve(ROOM)), hit("good"));
});

test("[RTE-12] what happens to shared routes is told", async () => {
  await using stack = new AsyncDisposableStack();
  const { clock, one } = await shared(stack);
  const events: string[] = [];
  for (const name of ["set", "resolved", "fallback", "stale"] as const) one.on(name, () => events.push(name));
  await one.set(ROOM, routeTo(1));
  await one.resolve(THREAD);
  await clock.advance(TTL_MS);
  await one.get(ROOM);
  assert.deepEqual(events, ["set", "resolved", "fallback", "stale"]);
  const [{ set, fallbacks, stale, misses } = assert.fail()] = one.counters();
  assert.deepEqual({ set, fallbacks, stale, misses }, { set: 1, fallbacks: 1, stale: 1, misses: 1 });
});

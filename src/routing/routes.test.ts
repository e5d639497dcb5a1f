/** The table: what is found, where it comes from, what goes, and what one partition's failure does to the others. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { given, hit, ROOM, resolveCases, routeTo, THREAD, TTL_MS, told } from "../../test/resolve-cases.ts";
import type { Logger } from "../logger.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import {
  configureRoutes,
  MemoryEntries,
  type PartitionEntries,
  type Route,
  type RouteKey,
  Routes,
  type RoutesOptions,
  roomKey,
} from "./index.ts";

function warnings(): { logger: Logger; said: string[] } {
  const said: string[] = [];
  const say = (_: object, message: string) => void said.push(message);
  return { logger: { debug() {}, info() {}, warn: say, error: say }, said };
}

function table(options: RoutesOptions = {}) {
  const clock = new ManualClock();
  const routes = new Routes({ partitions: 4, ttlMs: TTL_MS, clock, ...options });
  return { clock, routes };
}

resolveCases("in memory", async () => {
  const { clock, routes } = table();
  return {
    ...{ clock, routes },
    down: () => routes.partition(THREAD)?.fail(new Error("the store is gone")),
    [Symbol.asyncDispose]: async () => undefined,
  };
});

test("[RTE-5] of a list of fallbacks the first that is a route is taken", () => {
  const { routes } = table();
  const list = [{}, null, routeTo(undefined), { externalRoomId: 1, threadId: 7 }, routeTo("good"), routeTo("late")];
  const result = routes.resolve(THREAD, list as Route[]);
  assert.equal(result.ok && result.externalRoomId, "good");
  assert.equal(told(routes.resolve({ ...ROOM, room: "other" }, [{}, "x"] as unknown as Route[])), "no_route");
});

test("[RTE-5] a copy that was stored does not change with what it was copied from", async () => {
  const { clock, routes } = table();
  routes.set(ROOM, routeTo("room"));
  await clock.advance(TTL_MS - 1);
  routes.resolve(THREAD);
  routes.set(ROOM, routeTo("elsewhere"));
  await clock.advance(TTL_MS - 1);
  assert.deepEqual(told(routes.resolve(THREAD)), hit("room"));
});

test("[RTE-6] a route is good until its time, then said once to have expired, then not found", async () => {
  const { clock, routes } = table();
  assert.deepEqual(routes.set(THREAD, routeTo("C1"), { ttlMs: 50 }), { ok: true });
  const written = clock.wall();
  await clock.advance(49);
  assert.deepEqual(routes.get(THREAD), {
    ok: true,
    route: routeTo("C1"),
    updatedAtMs: written,
    expiresAtMs: written + 50,
  });
  await clock.advance(1);
  const answers = [routes.get(THREAD), routes.get(THREAD)];
  assert.deepEqual(
    answers.map((answer) => answer.ok || answer.reason),
    ["expired", "not_found"],
  );
  assert.equal(routes.counters()[routes.partitionOf(THREAD)]?.size, 0);
});

test("[RTE-6] a write anew starts the time again; a step of the wall clock changes nothing", async () => {
  const { clock, routes } = table();
  routes.set(THREAD, routeTo(1));
  await clock.advance(TTL_MS - 1);
  clock.stepWall(86_400_000);
  routes.set(THREAD, routeTo(2));
  clock.stepWall(-2 * 86_400_000);
  await clock.advance(TTL_MS - 1);
  const answer = routes.get(THREAD);
  assert.equal(answer.ok && answer.route.externalRoomId, 2);
  await clock.advance(1);
  assert.equal(routes.get(THREAD).ok, false);
});

test("[RTE-6] a time to live that cannot be is the table's own, with a warning", async () => {
  const { logger, said } = warnings();
  const { clock, routes } = table({ logger });
  const bad = [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e300, 366 * 86_400_000, "60", null];
  for (const ttlMs of bad) {
    routes.set(THREAD, routeTo("C1"), { ttlMs: ttlMs as number });
    const answer = routes.get(THREAD);
    assert.equal(answer.ok && answer.expiresAtMs - clock.wall(), TTL_MS, String(ttlMs));
  }
  assert.equal(said.length, bad.length);
  assert.match(said[1] ?? "", /^ttlMs: -1 is no whole number from 1 to 31536000000; the table's own is used$/);
});

test("[RTE-2] a key or a route that cannot be is refused, and changes nothing", () => {
  const { routes } = table();
  const bad = [
    undefined,
    null,
    "slack/T/C",
    {},
    { ...ROOM, room: "" },
    { ...ROOM, room: "\ud83d" },
    { ...ROOM, thread: 7 },
  ];
  for (const key of [...bad, { ...ROOM, room: "x".repeat(100_000_000) }] as unknown as RouteKey[]) {
    for (const answer of [routes.set(key, routeTo(1)), routes.get(key), routes.resolve(key, routeTo(1))]) {
      assert.ok(!answer.ok && answer.reason === "invalid_key" && answer.message.startsWith("routeKey"));
    }
  }
  const refused = routes.set(ROOM, {} as Route);
  assert.deepEqual([!refused.ok && refused.reason, routes.get(ROOM).ok], ["invalid_route", false]);
  const trap = new Proxy({}, { ownKeys: () => assert.fail("trapped") }) as Route;
  assert.ok(!routes.set(ROOM, trap).ok);
  assert.equal(routes.partition(ROOM)?.counters.failures, 0);
});

/** What every process and version gives; changing one moves rooms between nodes. */
const PINNED: readonly [RouteKey, number, number][] = [
  [{ channel: "slack", bridge: "T024", room: "C042" }, 6, 230],
  [{ channel: "slack", bridge: "T02", room: "4C042" }, 2, 194],
  [{ channel: "web", bridge: "alice", room: "notes/1%" }, 4, 204],
  [{ channel: "tg", bridge: "bot", room: "-1002003004005" }, 5, 205],
  [{ channel: "x", bridge: "é", room: "部屋😀" }, 5, 877],
];

test("[RTE-7] the partition of a room is the same in every process and version", () => {
  for (const [key, ofEight, ofThousand] of PINNED) {
    assert.deepEqual(
      [8, 1000].map((partitions) => new Routes({ partitions }).partitionOf(key)),
      [ofEight, ofThousand],
    );
  }
});

test("[RTE-7] a thread is in its room's partition, and rooms are spread evenly", () => {
  const routes = new Routes({ partitions: 16 });
  const counts = Array.from({ length: 16 }, () => 0);
  for (let index = 0; index < 16_000; index += 1) {
    const key = { channel: "slack", bridge: `T${index % 3}`, room: `C${index}`, thread: `${index}` };
    const partition = routes.partitionOf(key);
    assert.equal(partition, routes.partitionOf(roomKey(key)));
    counts[partition] = (counts[partition] ?? 0) + 1;
  }
  assert.ok(Math.min(...counts) > 800 && Math.max(...counts) < 1200, String(counts));
});

test("[RTE-8] over its capacity a partition lets go of what was written longest ago", () => {
  const { routes } = table({ partitions: 1, maxEntriesPerPartition: 3 });
  const gone: unknown[] = [];
  routes.on("evicted", ({ routeKey }) => gone.push(routeKey.thread));
  const key = (thread: string) => ({ ...ROOM, thread });
  for (const thread of ["1", "2", "3"]) routes.set(key(thread), routeTo(thread));
  // Reading keeps nothing alive; writing does.
  routes.get(key("2"));
  routes.set(key("1"), routeTo("1"));
  for (const thread of ["4", "5"]) routes.set(key(thread), routeTo(thread));
  assert.deepEqual(gone, ["2", "3"]);
  assert.deepEqual(
    routes
      .newest(10)
      .map(({ routeKey }) => routeKey.thread)
      .toSorted(),
    ["1", "4", "5"],
  );
});

/** Memory that fails when it is told to. */
function breakable(): { entries: () => PartitionEntries; broken: Set<string> } {
  const broken = new Set<string>();
  const entries = () => {
    if (broken.has("open")) throw new Error("open is broken");
    return new Proxy<PartitionEntries>(new MemoryEntries(10), {
      get(target, name: keyof PartitionEntries) {
        if (broken.has(name)) throw new Error(`${name} is broken`);
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };
  return { entries, broken };
}

for (const operation of ["find", "add", "renew", "remove"] as const) {
  test(`[RTE-9] a partition whose ${operation} fails harms no other, and starts anew by itself`, async () => {
    const { entries, broken } = breakable();
    const { logger, said } = warnings();
    const { clock, routes } = table({ partitions: 2, entries, logger });
    const events: string[] = [];
    routes.on("partition_down", ({ partition }) => events.push(`down ${partition}`));
    routes.on("partition_up", ({ partition }) => events.push(`up ${partition}`));
    const mine = routes.partitionOf(ROOM);
    const other = Array.from({ length: 50 }, (_, index) => ({ ...ROOM, room: `C${index}` })).find(
      (key) => routes.partitionOf(key) !== mine,
    ) as RouteKey;
    routes.set(other, routeTo("other"));
    routes.set(ROOM, routeTo("C1"), { ttlMs: 50 });
    await clock.advance(50);
    broken.add(operation);
    const answer =
      operation === "remove" ? routes.get(ROOM) : routes.set(operation === "add" ? THREAD : ROOM, routeTo("C2"));
    broken.clear();
    assert.equal(!answer.ok && answer.reason, "partition_unavailable");
    assert.deepEqual(events, [`down ${mine}`]);
    assert.match(said[0] ?? "", /^a partition of the routes failed/);
    assert.equal(routes.partition(mine), undefined);
    assert.equal(routes.counters()[mine]?.running, false);
    assert.equal(routes.get(other).ok, true);
    assert.deepEqual(told(routes.resolve(ROOM, routeTo("given"))), given("session_unavailable"));

    await clock.advance(100);
    assert.equal(routes.partition(mine)?.size, 0);
    assert.equal(routes.set(ROOM, routeTo("C1")).ok, true);
    assert.equal(routes.get(ROOM).ok, true);
    assert.deepEqual(events, [`down ${mine}`, `up ${mine}`]);
  });
}

test("[RTE-9] a partition that fails while it is asked for a fallback, or pruned, takes no caller with it", async () => {
  const { entries, broken } = breakable();
  const { clock, routes } = table({ partitions: 2, entries });
  routes.set(ROOM, routeTo("room"));
  broken.add("add");
  assert.deepEqual(told(routes.resolve(THREAD, routeTo("given"))), given("session_unavailable"));
  broken.clear();
  await clock.advance(100);
  broken.add("removeDue");
  assert.deepEqual(await routes.prune(), { pruned: 0, partitions: 2 });
  broken.clear();
  await clock.advance(200);
  assert.deepEqual(told(routes.resolve(THREAD, routeTo("given"))), given("miss"));
});

test("[RTE-9] a partition that cannot be opened is tried again, at ever longer pauses", async () => {
  const { entries, broken } = breakable();
  broken.add("open");
  const { clock, routes } = table({ partitions: 1, entries });
  const failures: number[] = [];
  for (let ms = 0; ms < 1_000; ms += 50) {
    assert.equal(routes.partition(0), undefined);
    failures.push(routes.counters()[0]?.failures ?? 0);
    await clock.advance(50);
  }
  assert.deepEqual(
    [failures[1], failures[2], failures[5], failures[6], failures[14], failures.at(-1)],
    [1, 2, 2, 3, 4, 4],
  );
  broken.clear();
  await clock.advance(30_000);
  assert.equal(routes.set(ROOM, routeTo(1)).ok, true);
});

test("[RTE-10] an instance's options go before the process's, those before the defaults; bad ones are warned of", () => {
  const { logger, said } = warnings();
  configureRoutes({ ttlMs: 5_000, pruneIntervalMs: 7_000, partitions: 0 });
  try {
    const routes = new Routes({ ttlMs: 9_000, maxEntriesPerPartition: -1, name: "main", logger });
    const { partitions, ...rest } = routes.config();
    assert.deepEqual(rest, { name: "main", ttlMs: 9_000, pruneIntervalMs: 7_000, maxEntriesPerPartition: 10_000 });
    assert.equal(partitions, new Routes({ partitions: Number.NaN }).config().partitions);
    assert.ok(partitions >= 2 && routes.partitionCount === partitions);
    assert.deepEqual(said, [
      "partitions: 0 is no whole number from 1 to 65536; the default is used",
      "maxEntriesPerPartition: -1 is no whole number from 1 to 16000000; the default is used",
    ]);
  } finally {
    configureRoutes({});
  }
  assert.equal(new Routes().config().ttlMs, 1_800_000);
});

test("[RTE-10] tables side by side share nothing", () => {
  const [one, other] = [table().routes, table().routes];
  one.set(ROOM, routeTo(1));
  assert.equal(other.get(ROOM).ok, false);
});

test("[RTE-11] pruning removes what has expired in all partitions, and tells how many", async () => {
  const { clock, routes } = table();
  for (let room = 0; room < 100; room += 1)
    routes.set({ ...ROOM, room: `C${room}` }, routeTo(room), { ttlMs: room + 1 });
  // Put off and brought forward: what counts is the last write.
  routes.set({ ...ROOM, room: "C0" }, routeTo(0), { ttlMs: 5_000 });
  routes.set({ ...ROOM, room: "C99" }, routeTo(0), { ttlMs: 5 });
  await clock.advance(50);
  assert.deepEqual(await routes.prune(), { pruned: 50, partitions: 4 });
  assert.deepEqual(await routes.prune(), { pruned: 0, partitions: 4 });
  await clock.advance(4_949);
  assert.deepEqual(await routes.prune(), { pruned: 49, partitions: 4 });
  await clock.advance(1);
  assert.deepEqual(await routes.prune(), { pruned: 1, partitions: 4 });
});

test("[RTE-11] a started table prunes by itself, a stopped one no more, and no timer is left", async () => {
  const { clock, routes } = table({ pruneIntervalMs: 100 });
  const pruned: number[] = [];
  routes.on("pruned", (event) => pruned.push(event.pruned));
  routes.set(ROOM, routeTo(1), { ttlMs: 150 });
  {
    await using started = routes.start();
    started.start();
    await clock.advance(100);
    await clock.advance(100);
    assert.deepEqual(pruned, [0, 1]);
    assert.equal(clock.pendingTimers, 1);
  }
  assert.equal(clock.pendingTimers, 0);
  await clock.advance(1_000);
  assert.equal(pruned.length, 2);
});

test("[RTE-11] others get their turn while a full table is pruned", async () => {
  const { clock, routes } = table({ partitions: 2, maxEntriesPerPartition: 20_000 });
  for (let room = 0; room < 20_000; room += 1) routes.set({ ...ROOM, room: `C${room}` }, routeTo(room), { ttlMs: 900 });
  await clock.advance(2_000);
  let turns = 0;
  let done = false;
  const count = () => {
    turns += 1;
    if (!done) setImmediate(count);
  };
  setImmediate(count);
  assert.equal((await routes.prune()).pruned, 20_000);
  done = true;
  assert.ok(turns >= 8, `${turns} turns`);
});

test("[RTE-12] each thing that happens is told, and a listener that fails harms nobody", async () => {
  const { logger, said } = warnings();
  const { clock, routes } = table({ logger });
  const events: string[] = [];
  for (const name of ["set", "resolved", "fallback", "stale", "evicted", "pruned"] as const) {
    routes.on(name, () => assert.fail("a listener's"));
    routes.on(name, (event) => {
      const { reason, source } = event as { reason?: string; source?: string };
      events.push([name, reason, source].filter(Boolean).join(" "));
    });
  }
  const off = routes.on("set", () => events.push("heard"));
  routes.set(ROOM, routeTo(1));
  off();
  routes.resolve(THREAD);
  await clock.advance(TTL_MS);
  routes.get(THREAD);
  await routes.prune();
  routes.set(ROOM, routeTo(1));
  assert.deepEqual(events, [
    ...["set", "heard", "resolved partition_fallback", "fallback thread_scope_miss partition_fallback"],
    ...["stale", "pruned", "set"],
  ]);
  assert.ok(said.every((message) => message === "a listener of the routes failed"));
});

test("[RTE-6] a table does what a plain model does, whatever the order of calls", async () => {
  const rooms = fc.nat(3).map((room) => ({ ...ROOM, room: `C${room}` }));
  const key = fc
    .tuple(rooms, fc.option(fc.nat(2)))
    .map(([room, thread]) => (thread === null ? room : { ...room, thread: `${thread}` }));
  const step = fc.oneof(
    fc.record({ do: fc.constant("set" as const), key, ttlMs: fc.integer({ min: 1, max: 4_000 }) }),
    fc.record({ do: fc.constant("get" as const), key }),
    fc.record({ do: fc.constant("wait" as const), ms: fc.integer({ min: 1, max: 3_000 }) }),
    fc.record({ do: fc.constant("prune" as const) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const max = 4;
      const { clock, routes } = table({ partitions: 1, maxEntriesPerPartition: max });
      const model = new Map<string, { value: number; dueAt: number }>();
      for (const [value, one] of steps.entries()) {
        if (one.do === "wait") await clock.advance(one.ms);
        if (one.do === "prune") {
          const due = [...model].filter(([, { dueAt }]) => dueAt <= clock.monotonic());
          for (const [name] of due) model.delete(name);
          assert.equal((await routes.prune()).pruned, due.length);
        }
        if (one.do === "set") {
          const name = JSON.stringify(one.key);
          model.delete(name);
          model.set(name, { value, dueAt: clock.monotonic() + one.ttlMs });
          if (model.size > max) model.delete(model.keys().next().value as string);
          routes.set(one.key, routeTo(value), { ttlMs: one.ttlMs });
        }
        if (one.do === "get") {
          const name = JSON.stringify(one.key);
          const expected = model.get(name);
          const answer = routes.get(one.key);
          if (expected === undefined) assert.equal(!answer.ok && answer.reason, "not_found");
          else if (expected.dueAt <= clock.monotonic()) {
            assert.equal(!answer.ok && answer.reason, "expired");
            model.delete(name);
          } else assert.equal(answer.ok && answer.route.externalRoomId, expected.value);
        }
        assert.equal(routes.partition(0)?.size, model.size);
      }
    }),
    { numRuns: 200 },
  );
});

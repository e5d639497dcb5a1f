/**
 * What `resolve` answers, row by row (RTE-5): what the key has, what its room has, what is given, whether the table can
 * be asked. The same for a table in memory and one in a store.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ResolveResult, Route, RouteKeeper, RouteKey } from "../src/routing/index.ts";
import type { ManualClock } from "../src/testing/manual-clock.ts";

export interface ResolveFixture {
  readonly clock: ManualClock;
  /** With a time to live of {@link TTL_MS}. */
  readonly routes: RouteKeeper;
  /** From now on the key's partition cannot be asked. */
  down(): void;
  [Symbol.asyncDispose](): Promise<void>;
}

export const ROOM: RouteKey = { channel: "slack", bridge: "T1", room: "C1" };
export const THREAD: RouteKey = { ...ROOM, thread: "1700.1" };
export const TTL_MS = 10_000;

export const routeTo = (externalRoomId: unknown): Route => ({ externalRoomId });

/** What a resolution says, without what every one repeats. */
export function told(result: ResolveResult) {
  if (!result.ok) return result.reason;
  const { source, fallback, stale, fallbackReason, externalRoomId } = result;
  return { source, fallback, stale, ...(fallbackReason === undefined ? {} : { fallbackReason }), to: externalRoomId };
}

type State = "none" | "fresh" | "expired";
export type Told = ReturnType<typeof told>;

export const hit = (to: string): Told => ({ source: "state_hit", fallback: false, stale: false, to });
export const fromRoom = (reason: "thread_scope_miss" | "stale"): Told => ({
  source: "partition_fallback",
  fallback: true,
  stale: reason === "stale",
  fallbackReason: reason,
  to: "room",
});
export const given = (reason: "miss" | "stale" | "session_unavailable"): Told => ({
  source: "provided_fallback",
  fallback: true,
  stale: reason === "stale",
  fallbackReason: reason,
  to: "given",
});

/** Every row: what the key has, what its room has, what is given; what comes, and what `get` finds afterwards. */
const ROWS: readonly {
  key: "thread" | "room";
  exact: State;
  room: State;
  fallback: boolean;
  down?: true;
  comes: Told;
  afterwards: "hit" | "not_found" | "partition_unavailable";
}[] = [
  ...(["none", "fresh", "expired"] as const).flatMap((room) =>
    [false, true].map((fallback) => ({
      ...{ key: "thread" as const, exact: "fresh" as const, room, fallback },
      ...{ comes: hit("thread"), afterwards: "hit" as const },
    })),
  ),
  {
    key: "thread",
    exact: "none",
    room: "fresh",
    fallback: false,
    comes: fromRoom("thread_scope_miss"),
    afterwards: "hit",
  },
  {
    key: "thread",
    exact: "none",
    room: "fresh",
    fallback: true,
    comes: fromRoom("thread_scope_miss"),
    afterwards: "hit",
  },
  { key: "thread", exact: "expired", room: "fresh", fallback: false, comes: fromRoom("stale"), afterwards: "hit" },
  { key: "thread", exact: "expired", room: "fresh", fallback: true, comes: fromRoom("stale"), afterwards: "hit" },
  { key: "thread", exact: "none", room: "none", fallback: true, comes: given("miss"), afterwards: "hit" },
  { key: "thread", exact: "expired", room: "none", fallback: true, comes: given("stale"), afterwards: "hit" },
  { key: "thread", exact: "none", room: "expired", fallback: true, comes: given("stale"), afterwards: "hit" },
  { key: "thread", exact: "expired", room: "expired", fallback: true, comes: given("stale"), afterwards: "hit" },
  { key: "thread", exact: "none", room: "none", fallback: false, comes: "no_route", afterwards: "not_found" },
  { key: "thread", exact: "expired", room: "none", fallback: false, comes: "no_route", afterwards: "not_found" },
  { key: "thread", exact: "none", room: "expired", fallback: false, comes: "no_route", afterwards: "not_found" },
  { key: "thread", exact: "expired", room: "expired", fallback: false, comes: "no_route", afterwards: "not_found" },
  ...[false, true].map((fallback) => ({
    ...{ key: "room" as const, exact: "none" as const, room: "fresh" as const, fallback },
    ...{ comes: hit("room"), afterwards: "hit" as const },
  })),
  { key: "room", exact: "none", room: "none", fallback: true, comes: given("miss"), afterwards: "hit" },
  { key: "room", exact: "none", room: "expired", fallback: true, comes: given("stale"), afterwards: "hit" },
  { key: "room", exact: "none", room: "none", fallback: false, comes: "no_route", afterwards: "not_found" },
  { key: "room", exact: "none", room: "expired", fallback: false, comes: "no_route", afterwards: "not_found" },
  // A thread's entry is of no account for its room.
  { key: "room", exact: "fresh", room: "none", fallback: false, comes: "no_route", afterwards: "not_found" },
  ...(["none", "fresh", "expired"] as const).flatMap((exact) =>
    [false, true].map((fallback) => ({
      ...{ key: "thread" as const, exact, room: "fresh" as const, fallback, down: true as const },
      ...{ comes: fallback ? given("session_unavailable") : ("partition_unavailable" as const) },
      ...{ afterwards: "partition_unavailable" as const },
    })),
  ),
];

/** @param name of the table, for the titles */
export function resolveCases(name: string, make: () => Promise<ResolveFixture>): void {
  for (const { key, exact, room, fallback, down, comes, afterwards } of ROWS) {
    const title = `exact ${exact}, room ${room}, ${fallback ? "a fallback" : "none"}${down ? ", partition down" : ""}`;
    test(`[RTE-5] resolve of a ${key} ${name}: ${title}`, async () => {
      await using fixture = await make();
      const { clock, routes } = fixture;
      if (exact === "expired") await routes.set(THREAD, routeTo("thread"), { ttlMs: 1 });
      if (room === "expired") await routes.set(ROOM, routeTo("room"), { ttlMs: 1 });
      await clock.advance(1);
      if (exact === "fresh") await routes.set(THREAD, routeTo("thread"));
      if (room === "fresh") await routes.set(ROOM, routeTo("room"));
      if (down) fixture.down();
      const asked = key === "thread" ? THREAD : ROOM;
      const partition = routes.partitionOf(ROOM);

      const result = await routes.resolve(asked, fallback ? routeTo("given") : []);
      assert.deepEqual(told(result), comes);
      if (result.ok) {
        assert.deepEqual([result.routeKey, result.partition], [asked, partition]);
        assert.equal(result.route.externalRoomId, result.externalRoomId);
      }
      const after = await routes.get(asked);
      assert.equal(after.ok ? "hit" : after.reason, afterwards);
      // What was stored has the whole time to live, and is the key's own from now on.
      if (!after.ok || !result.ok) return;
      assert.equal(after.route.externalRoomId, result.externalRoomId);
      assert.equal(after.expiresAtMs, clock.wall() + TTL_MS);
      assert.deepEqual(told(await routes.resolve(asked)), hit(String(result.externalRoomId)));
    });
  }
}

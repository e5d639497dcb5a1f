/** The table of routes over `/v1`. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Routes } from "../../routing/index.ts";
import { Runtime } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";

const DEADLINE = { timeout: 30_000 };
const KEY = { channel: "slack", bridge: "T1", room: "C1/x", thread: "1.1" };
const TEXT = "slack/T1/C1%2Fx/1.1";

async function newServer(stack: AsyncDisposableStack, withRoutes = true) {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-routes-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const auth = bearerTokens({ alices: "alice", olgas: { principal: "olga", operator: true } });
  const runtime = new Runtime({ store: sqlite(path.join(root, "test.db")), auth });
  const clock = new ManualClock();
  const routes = new Routes({ name: "main", partitions: 2, ttlMs: 60_000, clock });
  const server = await serve(runtime, { port: 0, ...(withRoutes ? { routes } : {}) });
  stack.defer(() => server.stop({ drainMs: 0 }));
  const ask = async (query: string, asking: { token?: string; method?: string; body?: object } = {}) => {
    const { token = "olgas", method = "GET", body } = asking;
    const response = await fetch(`http://127.0.0.1:${server.port}/v1/routes${query}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: body === undefined ? null : JSON.stringify(body),
    });
    return { status: response.status, json: (await response.json()) as Record<string, unknown> };
  };
  const put = (body: object) => ask("", { method: "PUT", body });
  return { ask, put, routes, clock };
}

const lookup = (text: string): string => `?${new URLSearchParams({ key: text })}`;

test("[SRV-34] an operator sets a route, looks it up and sees the table with its counters", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, put, routes, clock } = await newServer(stack);
  const route = { externalRoomId: "C1", note: { a: 1 } };
  const until = (ms: number) => new Date(clock.wall() + ms).toISOString();
  const partition = routes.partitionOf(KEY);
  const row = { key: TEXT, partition, route, updated_at: until(0), expires_at: until(5_000) };
  assert.deepEqual((await put({ key: TEXT, route, ttl_ms: 5_000 })).json, { ...row, outcome: "set" });
  assert.equal(routes.get(KEY).ok, true);
  assert.deepEqual((await ask(lookup(TEXT))).json, row);
  const { json } = await ask("");
  const { partitions, ...table } = json;
  assert.deepEqual(table, { name: "main", ttl_ms: 60_000, max_entries_per_partition: 10_000, routes: [row] });
  const counted = (partitions as { partition: number; set: number; hits: number; size: number; running: boolean }[])[
    partition
  ];
  assert.deepEqual([counted?.partition, counted?.running, counted?.size, counted?.set], [partition, true, 1, 1]);

  await clock.advance(5_000);
  for (const reason of ["expired", "not_found"]) {
    assert.deepEqual((await ask(lookup(TEXT))).json, { key: TEXT, partition, route: null, reason });
  }
  routes.partition(partition)?.fail(new Error("gone"));
  assert.equal((await ask(lookup(TEXT))).json["reason"], "partition_unavailable");
  assert.deepEqual((await put({ key: TEXT, route })).status, 503);
});

test("[SRV-34] what a route holds that JSON cannot say breaks no listing", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, routes } = await newServer(stack);
  const loop: Record<string, unknown> = { externalRoomId: 7 };
  loop["self"] = { loop };
  routes.set(KEY, { externalRoomId: 12n });
  routes.set({ ...KEY, thread: "2" }, loop as { externalRoomId: number });
  const { status, json } = await ask("");
  assert.equal(status, 200);
  assert.deepEqual(
    (json["routes"] as { route: { externalRoomId: unknown } }[]).map(({ route }) => route.externalRoomId).sort(),
    ["12", "7"],
  );
});

test("[SRV-34] others than operators are refused, and bad input is told by its field", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, put, routes } = await newServer(stack);
  const route = { externalRoomId: "C1" };
  for (const [query, token, status] of [
    ["", "alices", 403],
    [lookup(TEXT), "alices", 403],
    ["", "wrong", 401],
  ] as const) {
    assert.equal((await ask(query, { token })).status, status);
  }
  assert.equal((await ask("", { token: "alices", method: "PUT", body: { key: TEXT, route } })).status, 403);
  assert.equal((await ask("", { method: "POST", body: {} })).status, 405);
  for (const [asked, detail] of [
    [() => ask(lookup("slack/T1")), /^routeKey: "slack\/T1" has not 3 or 4 parts/],
    [() => ask("?limit=0"), /limit/],
    [() => ask("?other=1"), /other/],
    [() => put({ key: TEXT }), /^body\.route: /],
    [() => put({ key: TEXT, route: {} }), /^body\.route\.externalRoomId: undefined names no place/],
    [() => put({ key: "a/b", route }), /^routeKey: /],
    [() => put({ key: TEXT, route, ttl_ms: 0 }), /^body\.ttl_ms: 0 is no whole number from 1/],
    [() => put({ key: TEXT, route, ttl_ms: 1e300 }), /^body\.ttl_ms: /],
    [() => put({ key: TEXT, route, ttl: 5 }), /ttl/],
  ] as const) {
    const { status, json } = await asked();
    assert.deepEqual([status, json["code"]], [400, "INVALID_REQUEST"]);
    assert.match(String(json["detail"]), detail);
  }
  assert.equal(routes.get(KEY).ok, false);
});

test("[SRV-34] a server without a table serves none", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newServer(stack, false);
  assert.equal((await ask("")).status, 404);
});

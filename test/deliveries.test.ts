/** Answers of turns on their way out: where they go, what is shown before, and what is left when something fails. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversations, type StartTurn } from "../src/conversation/index.ts";
import { ArcpError } from "../src/protocol/index.ts";
import type { DeliveriesOptions, DeliveryEvents } from "../src/routing/deliveries/index.ts";
import type { Route } from "../src/routing/route.ts";
import type { RouteKey } from "../src/routing/route-key.ts";
import { Routes } from "../src/routing/routes.ts";
import { Runtime } from "../src/runtime/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { type Store, StoreUnavailable } from "../src/store/store.ts";
import { FakeChannel } from "../src/testing/fake-channel.ts";
import { FaultyStore } from "./faulty-store.ts";
import { eventually, type FixtureOptions, type RuntimeFixture, runtimeFixture, turns } from "./runtime-fixture.ts";

const THREAD = "1700.1";
const KEY: RouteKey = { channel: "fake", bridge: "T1", room: "C1", thread: THREAD };
const ROUTE: Route = { externalRoomId: "C1", threadId: THREAD };
const OTHER: Route = { externalRoomId: "C1", threadId: "1700.2" };
const ROOM: Route = { externalRoomId: "C1" };
const ALICE = { principal: "alice", operator: false };
const OLGA = { principal: "olga", operator: true };

interface Scene {
  fixture: RuntimeFixture;
  channel: FakeChannel;
  told: string[];
}

async function scene(
  stack: AsyncDisposableStack,
  options: Omit<Partial<DeliveriesOptions>, "channels"> & { channel?: FakeChannel; roomFallback?: boolean } = {},
  runtime: Omit<FixtureOptions, "conversations"> = {},
): Promise<Scene> {
  const { channel = new FakeChannel(), roomFallback, ...rest } = options;
  const channels = [roomFallback === undefined ? channel : { channel, roomFallback }];
  const fixture = stack.use(await runtimeFixture({ ...runtime, conversations: { deliveries: { channels, ...rest } } }));
  const told: string[] = [];
  const { deliveries } = fixture.conversations;
  for (const name of ["shown", "delivered", "retrying", "failed"] as const satisfies (keyof DeliveryEvents)[]) {
    deliveries.on(name, () => void told.push(name));
  }
  return { fixture, channel, told };
}

const threadKey = (thread = THREAD) => ({ source: "slack" as const, channel: "C1", thread });

function ask({ fixture }: Scene, given: Partial<StartTurn> = {}) {
  return fixture.conversations.startTurn({
    key: threadKey(),
    principal: "alice",
    agent: "puppet",
    replyTo: { routeKey: KEY, fallbacks: ROUTE },
    ...given,
  });
}

/** Says something, and answers with `result`. @returns the job's id */
async function answered(scene: Scene, result: unknown, given: Partial<StartTurn> = {}): Promise<string> {
  const { jobId } = await ask(scene, given);
  (await scene.fixture.puppet(jobId)).end(result);
  return jobId;
}

const isInvalid =
  (pattern: RegExp, reason?: string) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof ArcpError, String(error));
    assert.match(error.message, pattern);
    assert.equal(error.details?.["reason"], reason);
    return true;
  };

const deliveryOf = async ({ fixture }: Scene, jobId: string) => {
  const record = await fixture.store.deliveries.get({ jobId });
  assert.ok(record !== undefined, `${jobId} has no delivery`);
  return record;
};

async function untilState(scene: Scene, jobId: string, state: string): Promise<void> {
  let now = "";
  const look = async () => {
    now = (await deliveryOf(scene, jobId)).state;
  };
  await look();
  await eventually(() => {
    void look();
    return now === state;
  }, `the delivery of ${jobId} to be ${state}`);
}

/** A store that does something before each operation of a name. */
const before =
  (facet: "deliveries" | "jobs", name: string, work: () => Promise<void>) =>
  (store: Store): Store => {
    const inner = new Proxy(store[facet], {
      get: (target, operation) => {
        const known = Reflect.get(target, operation) as (...args: unknown[]) => Promise<unknown>;
        if (operation !== name) return known.bind(target);
        return (...args: unknown[]) => work().then(() => known.apply(target, args));
      },
    });
    return new Proxy(store, {
      get: (target, property) => {
        if (property === facet) return inner;
        const value: unknown = Reflect.get(target, property);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };

/** Until a try has come to nothing, and that is stored. */
const untilTriedAgain = (one: Scene) => eventually(() => one.told.includes("retrying"), "a try that came to nothing");

test("[DLV-1] an answer goes where the message came from, and its text is the job's result", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const jobId = await answered(one, "The answer.");
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer."]);
  const [shown] = one.channel.shown;
  const record = await deliveryOf(one, jobId);
  assert.deepEqual([shown?.deliveryId, shown?.part, shown?.status], [record.deliveryId, 1, "success"]);
  assert.match(record.deliveryId, /^dlv_[0-9A-Z]{26}$/);
  assert.equal(record.routeKey, "fake/T1/C1/1700.1");
  assert.deepEqual(one.told, ["delivered"]);
});

test("[DLV-1] what happens to the table of routes while a turn runs does not redirect its answer", async () => {
  await using stack = new AsyncDisposableStack();
  const routes = new Routes();
  routes.set(KEY, ROUTE);
  const one = await scene(stack, { routes });
  const { jobId } = await ask(one, { replyTo: { routeKey: KEY } });
  routes.set(KEY, { ...OTHER, threadId: THREAD, externalRoomId: "C_ELSEWHERE" });
  routes.set({ channel: "fake", bridge: "T1", room: "C1" }, ROOM);
  (await one.fixture.puppet(jobId)).end("The answer.");
  await untilState(one, jobId, "delivered");
  assert.deepEqual(
    one.channel.shown.map(({ route }) => route),
    [ROUTE],
  );
});

test("[DLV-2] a thread's answer is not shown to the whole room, however its route came into the table", async () => {
  await using stack = new AsyncDisposableStack();
  const routes = new Routes();
  routes.set({ channel: "fake", bridge: "T1", room: "C1" }, ROOM);
  const one = await scene(stack, { routes });
  const noRoute = isInvalid(/no route for "fake\/T1\/C1\/1700\.1".*roomFallback/, "no_route");
  await assert.rejects(ask(one, { replyTo: { routeKey: KEY } }), noRoute);
  // The table has copied it to the thread by now.
  assert.equal(routes.get(KEY).ok, true);
  await assert.rejects(ask(one, { replyTo: { routeKey: KEY } }), noRoute);
  await assert.rejects(ask(one, { replyTo: { routeKey: KEY, fallbacks: [ROOM, OTHER] } }), noRoute);
  assert.equal(one.fixture.puppets, 0);
  assert.equal(await one.fixture.conversations.lookup(threadKey(), ALICE), undefined, "nothing was stored");
  const jobId = await answered(one, "For the thread.", { replyTo: { routeKey: KEY, fallbacks: [ROOM, ROUTE] } });
  await untilState(one, jobId, "delivered");
  assert.deepEqual([one.channel.textsAt(ROUTE), one.channel.textsAt(ROOM)], [["For the thread."], []]);
});

test("[DLV-2] a channel that opts in answers to the room", async () => {
  await using stack = new AsyncDisposableStack();
  const routes = new Routes();
  routes.set({ channel: "fake", bridge: "T1", room: "C1" }, ROOM);
  const one = await scene(stack, { routes, roomFallback: true });
  const jobId = await answered(one, "For all.", { replyTo: { routeKey: KEY } });
  await untilState(one, jobId, "delivered");
  assert.deepEqual([one.channel.textsAt(ROUTE), one.channel.textsAt(ROOM)], [[], ["For all."]]);
});

test("[DLV-2] a place that cannot be is refused by its name", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, { routes: new Routes() });
  const cases: [StartTurn["replyTo"], RegExp, string?][] = [
    [{ routeKey: KEY }, /replyTo\.routeKey: there is no route for "fake\/T1\/C1\/1700\.1"; set one/, "no_route"],
    [{ routeKey: { ...KEY, room: "" }, fallbacks: ROUTE }, /replyTo: routeKey\.room/],
    [{ routeKey: KEY, fallbacks: { externalRoomId: null } }, /replyTo: route\.externalRoomId/],
    [{ routeKey: { ...KEY, channel: "fax" }, fallbacks: ROUTE }, /no channel "fax" is here; there is "fake"/],
    [{ routeKey: KEY, fallbacks: { ...ROUTE, channel: "fax" } }, /no channel "fax"/],
    [{ routeKey: KEY, fallbacks: { ...ROUTE, big: "x".repeat(17_000) } }, /more than 16384 bytes/],
    [{ routeKey: KEY, fallbacks: { ...ROUTE, odd: 1n } }, /not JSON/],
  ];
  for (const [replyTo, pattern, reason] of cases) {
    await assert.rejects(ask(one, { replyTo }), isInvalid(pattern, reason));
  }
});

test("[DLV-3] a message that comes again has one answer", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const { jobId } = await ask(one, { messageId: "m-1" });
  const again = await ask(one, { messageId: "m-1" });
  assert.deepEqual([again.jobId, again.state], [jobId, "repeated"]);
  (await one.fixture.puppet(jobId)).end("Once.");
  await untilState(one, jobId, "delivered");
  assert.equal((await ask(one, { messageId: "m-1" })).state, "repeated");
  await one.fixture.clock.advance(5_000);
  assert.deepEqual(one.channel.textsAt(ROUTE), ["Once."]);
});

test("[DLV-3] an error, a cancelled turn and one that was cancelled in the queue are told too", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const first = await ask(one);
  const second = await ask(one);
  const third = await ask(one);
  await one.fixture.runtime.jobs.cancel(second.jobId, "alice");
  (await one.fixture.puppet(first.jobId)).fail(new ArcpError("INVALID_REQUEST", "That makes no sense."));
  await untilState(one, first.jobId, "delivered");
  (await one.fixture.puppet(third.jobId)).end("Fine.");
  await untilState(one, third.jobId, "delivered");
  await one.fixture.clock.advance(1_000);
  await untilState(one, second.jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE).toSorted(), [
    "Fine.",
    "INVALID_REQUEST: That makes no sense.",
    "Stopped.",
  ]);
});

test("[DLV-5] the answers of a conversation arrive in order, and others do not wait for them", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const gate = Promise.withResolvers<void>();
  one.channel.fail("send", { until: gate.promise });
  const first = await answered(one, "first");
  await eventually(() => one.channel.count("send") === 1, "the first send");
  const second = await answered(one, "second");
  const replyTo = { routeKey: { ...KEY, thread: "1700.2" }, fallbacks: OTHER };
  const elsewhere = await answered(one, "elsewhere", { key: threadKey("1700.2"), replyTo });
  await untilState(one, elsewhere, "delivered");
  assert.equal((await deliveryOf(one, second)).state, "pending");
  assert.deepEqual(one.channel.textsAt(ROUTE), []);
  gate.resolve();
  for (const jobId of [first, second]) await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["first", "second"]);
});

test("[DLV-7] after an unclear send the channel is asked what has arrived, and that is not sent again", async () => {
  await using stack = new AsyncDisposableStack();
  const channel = new FakeChannel({ limits: { maxTextChars: 100 } });
  const one = await scene(stack, { channel });
  const text = ["a", "b", "c"].map((letter) => letter.repeat(90)).join("\n\n");
  channel.fail("send", {});
  channel.fail("send", { kind: "unclear", late: true });
  const jobId = await answered(one, text);
  await untilTriedAgain(one);
  assert.equal((await deliveryOf(one, jobId)).unclear, true);
  await one.fixture.clock.advance(1_000);
  await untilState(one, jobId, "delivered");
  assert.deepEqual(channel.textsAt(ROUTE), text.split("\n\n"));
  assert.deepEqual([channel.count("find"), channel.count("send")], [1, 3]);
  assert.deepEqual(one.told, ["retrying", "delivered"]);
});

test("[DLV-7] a call that is not answered in its time is unclear", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  one.channel.fail("send", { until: new Promise(() => undefined) });
  const jobId = await answered(one, "The answer.");
  await eventually(() => one.channel.count("send") === 1, "the send");
  await one.fixture.clock.advance(one.channel.limits.timeoutMs);
  await untilTriedAgain(one);
  const { unclear, lastError, failures } = await deliveryOf(one, jobId);
  assert.deepEqual([unclear, lastError, failures], [true, "no answer within 10000 ms", 1]);
  await one.fixture.clock.advance(2_000);
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer."]);
});

test("[DLV-7] a channel that cannot tell is sent to again: rather twice than not at all", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, { channel: new FakeChannel({ finds: false }) });
  one.channel.fail("send", { kind: "unclear", late: true });
  const jobId = await answered(one, "The answer.");
  await untilTriedAgain(one);
  await one.fixture.clock.advance(2_000);
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer.", "The answer."]);
});

test("[DLV-8] tries follow each other at growing distances, and after too many the answer is kept", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, { maxAttempts: 6 });
  const distances: number[] = [];
  one.fixture.conversations.deliveries.on("retrying", ({ dueAt }) => {
    distances.push(dueAt - one.fixture.clock.wall());
  });
  for (let i = 0; i < 6; i += 1) one.channel.fail("send", { kind: "retry" });
  const jobId = await answered(one, "The answer.");
  for (let steps = 0; steps < 100 && !one.told.includes("failed"); steps += 1) {
    await one.fixture.clock.advance(1_000);
    await turns();
  }
  assert.equal(distances.length, 5);
  for (const [index, distance] of distances.entries()) {
    const longest = 1_000 * 2 ** index;
    assert.ok(distance >= longest / 2 && distance <= longest, `try ${index + 2} came after ${distance} ms`);
  }
  await untilState(one, jobId, "failed");
  const failed = await deliveryOf(one, jobId);
  assert.deepEqual([failed.failures, failed.lastError], [6, "send fails, as the test wants it"]);
  assert.deepEqual(one.told, [...Array<string>(5).fill("retrying"), "failed"]);
  assert.ok(one.fixture.log.some(({ level, message }) => level === "error" && message.includes("is kept")));
  await one.fixture.clock.advance(1_000_000);
  assert.equal(one.channel.count("send"), 6);
});

test("[DLV-8] a rate limit is waited for as long as it says, and does not count", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, { maxAttempts: 1 });
  one.channel.fail("send", { kind: "rate_limited", retryAfterMs: 45_000 });
  const jobId = await answered(one, "The answer.");
  await untilTriedAgain(one);
  const { dueAt = 0, failures, unclear } = await deliveryOf(one, jobId);
  assert.deepEqual([dueAt - one.fixture.clock.wall(), failures, unclear], [45_000, 0, false]);
  await one.fixture.clock.advance(44_000);
  assert.equal(one.channel.count("send"), 1);
  await one.fixture.clock.advance(2_000);
  await untilState(one, jobId, "delivered");
});

test("[DLV-8] a place that refuses is not asked again, and those behind it go on", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  one.channel.fail("send", { kind: "refused" });
  const first = await answered(one, "first");
  await untilState(one, first, "failed");
  const second = await answered(one, "second");
  await untilState(one, second, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["second"]);
});

test("[DLV-9] an operator has what failed tried again, or discards it, with a line for the audit", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const { deliveries } = one.fixture.conversations;
  for (let i = 0; i < 2; i += 1) one.channel.fail("send", { kind: "refused" });
  const first = await answered(one, "first");
  await untilState(one, first, "failed");
  const second = await answered(one, "second");
  await untilState(one, second, "failed");
  const [{ deliveryId: again }, { deliveryId: gone }] = [await deliveryOf(one, first), await deliveryOf(one, second)];
  assert.equal((await deliveries.retry(again, OLGA)).state, "pending");
  await untilState(one, first, "delivered");
  assert.equal((await deliveries.discard(gone, ALICE)).state, "discarded");
  await one.fixture.clock.advance(5_000);
  assert.deepEqual(one.channel.textsAt(ROUTE), ["first"]);
  await assert.rejects(deliveries.retry(again, OLGA), isInvalid(/is delivered; only a failed one/, "wrong_state"));
  const audits = one.fixture.log.filter(({ fields }) => "audit" in fields).map(({ fields }) => fields);
  assert.deepEqual(
    audits.map((fields) => {
      const { audit, principal, delivery_id } = fields as Record<string, unknown>;
      return [audit, principal, delivery_id];
    }),
    [
      ["delivery.retry", "olga", again],
      ["delivery.discard", "alice", gone],
    ],
  );
});

test("[DLV-18] deliveries are their principal's and operators'", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const { deliveries } = one.fixture.conversations;
  one.channel.fail("send", { kind: "refused" });
  const jobId = await answered(one, "first");
  await untilState(one, jobId, "failed");
  const { deliveryId } = await deliveryOf(one, jobId);
  const bob = { principal: "bob", operator: false };
  for (const who of [ALICE, OLGA]) {
    assert.deepEqual((await deliveries.list(who, { state: "failed" })).deliveries.length, 1);
    assert.equal((await deliveries.get(deliveryId, who)).jobId, jobId);
  }
  assert.deepEqual((await deliveries.list(bob)).deliveries, []);
  const unknown = isInvalid(/there is no "dlv_/, "unknown_delivery");
  await assert.rejects(deliveries.get(deliveryId, bob), unknown);
  await assert.rejects(deliveries.retry(deliveryId, bob), unknown);
  await assert.rejects(deliveries.discard(deliveryId, bob), unknown);
  await assert.rejects(deliveries.get("dlv_none", OLGA), unknown);
  await assert.rejects(deliveries.list(OLGA, { cursor: "x" }), isInvalid(/^cursor: /));
  assert.equal((await deliveryOf(one, jobId)).state, "failed");
});

test("[DLV-10] while a turn runs one message shows what it does, in the channel's own time, and becomes the answer", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const { jobId } = await ask(one);
  const { job, end } = await one.fixture.puppet(jobId);
  const at = () => one.channel.textsAt(ROUTE);
  await job.progress({ current: 1, total: 3, message: "reading" });
  await job.flush();
  await one.fixture.clock.advance(999);
  assert.deepEqual(at(), [], "a turn that is over soon has no such message");
  await one.fixture.clock.advance(1);
  await eventually(() => at().length === 1, "the first message");
  assert.deepEqual([at(), one.channel.shown[0]?.status], [["reading (1/3)"], "working"]);
  for (const step of ["planning", "writing", "checking"]) await job.emit("status", { phase: step });
  await job.flush();
  await turns();
  assert.deepEqual(at(), ["reading (1/3)"]);
  await one.fixture.clock.advance(1_000);
  await eventually(() => one.channel.count("update") === 1, "the update");
  assert.deepEqual(at(), ["checking"], "what was in between is left out");
  await one.fixture.clock.advance(10_000);
  assert.equal(one.channel.count("update"), 1, "nothing new is not said");
  await job.emit("thought", { text: "almost" });
  await one.fixture.clock.advance(1_000);
  await eventually(() => at()[0] === "almost", "the thought");
  end("The answer.");
  await untilState(one, jobId, "delivered");
  assert.deepEqual([at(), one.channel.shown[0]?.status], [["The answer."], "success"]);
  assert.equal(one.channel.count("send"), 1);
  assert.equal(one.channel.count("typing"), 1);
  assert.deepEqual(one.told, ["shown", "shown", "shown", "delivered"]);
});

test("[DLV-10] an answer that comes in pieces is shown as far as it is there", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, { channel: new FakeChannel({ limits: { maxTextChars: 100 } }) });
  const { jobId } = await ask(one);
  const { job, end } = await one.fixture.puppet(jobId);
  await job.progress({ current: 1, message: "writing" });
  const pieces = ["One ", "two ", "x".repeat(150)];
  const seen = ["One", "One two", `One two ${"x".repeat(91)}…`];
  for (const [index, data] of pieces.entries()) {
    const more = index < pieces.length - 1;
    await job.emit("result_chunk", { result_id: "res_1", chunk_seq: index, data, encoding: "utf8", more });
    await one.fixture.clock.advance(1_000);
    await eventually(() => one.channel.textsAt(ROUTE)[0]?.trim() === seen[index], `${seen[index]}`);
  }
  end();
  await untilState(one, jobId, "delivered");
  const whole = pieces.join("");
  assert.equal(one.channel.textsAt(ROUTE).join("").replaceAll(" ", ""), whole.replaceAll(" ", ""));
});

test("[DLV-11] a channel that hangs, or fails, holds up neither the agent nor its answer", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  one.channel.fail("typing", { until: new Promise(() => undefined) });
  one.channel.fail("send", { kind: "retry" });
  one.channel.fail("send", { kind: "rate_limited", retryAfterMs: 5_000 });
  one.channel.fail("send", { until: new Promise(() => undefined) });
  const { jobId } = await ask(one);
  const { job, end } = await one.fixture.puppet(jobId);
  for (let step = 0; step < 10; step += 1) {
    await job.progress({ current: step });
    await job.flush();
    await one.fixture.clock.advance(1_000);
  }
  await eventually(() => one.channel.count("send") === 3, "three tries to show something");
  end("The answer.");
  await eventually(() => one.fixture.runtime.runningJobs === 0, "the job to end");
  assert.equal((await deliveryOf(one, jobId)).state, "pending");
  assert.equal(one.channel.count("find"), 0, "it waits for the call that is under way");
  await one.fixture.clock.advance(one.channel.limits.timeoutMs);
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer."]);
  assert.equal(one.channel.count("find"), 1, "what was unclear is asked for");
});

test("[DLV-11] a first message whose receipt is lost becomes the answer all the same", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  one.channel.fail("send", { kind: "unclear", late: true });
  const { jobId } = await ask(one);
  const { job, end } = await one.fixture.puppet(jobId);
  await job.progress({ current: 1 });
  await one.fixture.clock.advance(1_000);
  await eventually(() => one.channel.count("send") === 1, "the first message");
  await job.progress({ current: 2 });
  await one.fixture.clock.advance(5_000);
  assert.equal(one.channel.count("send"), 1, "it is not shown a second time");
  end("The answer.");
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer."]);
});

test("[DLV-11] nothing is shown without enough of the lock left for it", async () => {
  await using stack = new AsyncDisposableStack();
  const channel = new FakeChannel({ limits: { timeoutMs: 160_000 } });
  const one = await scene(stack, { channel });
  const { jobId } = await ask(one);
  const { job, end } = await one.fixture.puppet(jobId);
  await job.progress({ current: 1 });
  await one.fixture.clock.advance(5_000);
  assert.equal(channel.count("send"), 0);
  end("The answer.");
  await untilState(one, jobId, "delivered");
});

test("[DLV-11] a message that was deleted meanwhile is sent anew with the answer", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  const { jobId } = await ask(one);
  const { job, end } = await one.fixture.puppet(jobId);
  await job.progress({ current: 1 });
  await one.fixture.clock.advance(1_000);
  await eventually(() => one.channel.shown.length === 1, "the first message");
  one.channel.shown.pop();
  end("The answer.");
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer."]);
});

test("[DLV-12] the host may say answers in its own way; one that fails is said as always", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, {
    render: (ending, { jobId }) => {
      if (ending.status !== "success") return undefined;
      if (ending.result === "bad") throw new Error("no such template");
      return { text: ending.result === "empty" ? " " : `${jobId.slice(0, 4)}: ${String(ending.result)}` };
    },
  });
  for (const result of ["fine", "bad", "empty"]) await untilState(one, await answered(one, result), "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["job_: fine", "bad", "empty"]);
});

test("[DLV-13] a long answer goes in parts, its files with the last, and says so when it is too long", async () => {
  await using stack = new AsyncDisposableStack();
  const channel = new FakeChannel({ limits: { maxTextChars: 200 } });
  const one = await scene(stack, { channel, maxParts: 3 });
  const paragraphs = ["a", "b", "c"].map((letter) => letter.repeat(180));
  const files = [{ name: "a.txt", text: "A" }];
  const first = await answered(one, { text: paragraphs.join("\n\n"), files });
  await untilState(one, first, "delivered");
  assert.deepEqual(channel.textsAt(ROUTE), paragraphs);
  assert.deepEqual(
    channel.shown.map((shown) => [shown.part, shown.files.length]),
    [
      [1, 0],
      [2, 0],
      [3, 1],
    ],
  );
  const second = await answered(one, "word ".repeat(1_000));
  await untilState(one, second, "delivered");
  const parts = channel.shown.filter(({ deliveryId }) => deliveryId !== channel.shown[0]?.deliveryId);
  assert.equal(parts.length, 3);
  assert.match(parts[2]?.texts.at(-1) ?? "", new RegExp(`longer than 3 messages; the result of ${second} has all`));
  assert.ok(parts.every(({ texts }) => (texts[0] ?? "").length <= 200));
});

test("[DLV-13] a part that has arrived is not sent again when a later one fails", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, { channel: new FakeChannel({ limits: { maxTextChars: 100 }, finds: false }) });
  one.channel.fail("send", {});
  one.channel.fail("send", { kind: "rate_limited", retryAfterMs: 1_000 });
  const jobId = await answered(one, `${"a".repeat(90)}\n\n${"b".repeat(90)}`);
  await untilTriedAgain(one);
  assert.deepEqual((await deliveryOf(one, jobId)).parts.length, 1);
  await one.fixture.clock.advance(2_000);
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["a".repeat(90), "b".repeat(90)]);
  assert.deepEqual([one.channel.count("send"), one.channel.count("update")], [3, 0]);
});

test("[DLV-4] an answer to a place that this process does not reach is left to others", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  one.channel.reaching = ({ threadId }) => threadId !== THREAD;
  const away = await answered(one, "away");
  const replyTo = { routeKey: { ...KEY, thread: "1700.2" }, fallbacks: OTHER };
  const here = await answered(one, "here", { key: threadKey("1700.2"), replyTo });
  await untilState(one, here, "delivered");
  await one.fixture.clock.advance(5_000);
  const left = await deliveryOf(one, away);
  assert.deepEqual([left.state, left.attempt], ["pending", 0]);
  one.channel.reaching = () => true;
  await one.fixture.clock.advance(1_000);
  await untilState(one, away, "delivered");
});

test("[DLV-4] more answers than are sent at one time all arrive, also behind many that are not reached", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack, {}, { maxRunningJobsPerPrincipal: 1_000 });
  const places = Array.from({ length: 150 }, (_, i) => `t${i}`);
  one.channel.reaching = ({ threadId }) => Number(threadId?.slice(1)) >= 100;
  const jobs: string[] = [];
  for (const thread of places) {
    const replyTo = { routeKey: { ...KEY, thread }, fallbacks: { externalRoomId: "C1", threadId: thread } };
    jobs.push(await answered(one, thread, { key: threadKey(thread), replyTo }));
  }
  await one.fixture.clock.advance(3_000);
  for (const jobId of jobs.slice(100)) await untilState(one, jobId, "delivered");
  for (const thread of places.slice(100)) {
    assert.deepEqual(one.channel.textsAt({ externalRoomId: "C1", threadId: thread }), [thread]);
  }
  assert.equal(one.channel.shown.length, 50);
});

test("[DLV-6] a store that fails after a send makes no second message", async () => {
  await using stack = new AsyncDisposableStack();
  let failing = 0;
  const wrap = before("deliveries", "note", async () => {
    if (failing === 0) return;
    failing -= 1;
    throw new StoreUnavailable("as the test wants it");
  });
  const one = await scene(stack, {}, { wrap });
  failing = 3;
  const jobId = await answered(one, "The answer.");
  await eventually(() => failing === 2, "the first note");
  for (let i = 0; i < 5; i += 1) await one.fixture.clock.advance(500);
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer."]);
  assert.equal(one.channel.count("send"), 1);
});

test("[DLV-6] a claim that has become short is renewed before a call is made under it", async () => {
  await using stack = new AsyncDisposableStack();
  let slow: Promise<void> | undefined;
  const one = await scene(stack, {}, { wrap: before("jobs", "get", async () => await slow) });
  const [reading, sending] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  one.channel.fail("send", { until: sending.promise });
  const { jobId } = await ask(one);
  const { end } = await one.fixture.puppet(jobId);
  slow = reading.promise;
  end("The answer.");
  await untilState(one, jobId, "sending");
  await one.fixture.clock.advance(25_000);
  assert.equal(one.channel.count("send"), 0);
  slow = undefined;
  reading.resolve();
  await eventually(() => one.channel.count("send") === 1, "the send");
  const { dueAt = 0, attempt } = await deliveryOf(one, jobId);
  assert.deepEqual([dueAt - one.fixture.clock.wall(), attempt], [30_000, 1]);
  sending.resolve();
  await untilState(one, jobId, "delivered");
});

test("[DLV-6] a store that is down while answers are due delivers them when it is back", async () => {
  await using stack = new AsyncDisposableStack();
  let faulty: FaultyStore | undefined;
  const one = await scene(
    stack,
    {},
    {
      wrap: (store) => {
        faulty = new FaultyStore(store);
        return faulty;
      },
    },
  );
  const { jobId } = await ask(one);
  const { end } = await one.fixture.puppet(jobId);
  faulty?.goDown();
  end("The answer.");
  await one.fixture.clock.advance(5_000);
  assert.deepEqual(one.channel.textsAt(ROUTE), []);
  faulty?.recover();
  await one.fixture.clock.advance(5_000);
  await untilState(one, jobId, "delivered");
  assert.deepEqual(one.channel.textsAt(ROUTE), ["The answer."]);
});

test("[DLV-15] a runtime that stops sends what its last jobs came to, and leaves the rest to others", async () => {
  await using stack = new AsyncDisposableStack();
  const channel = new FakeChannel({ limits: { maxTextChars: 100 } });
  const one = await scene(stack, { channel });
  const { fixture } = one;
  const gate = Promise.withResolvers<void>();
  channel.fail("send", { until: gate.promise });
  await answered(one, `${"a".repeat(90)}\n\n${"b".repeat(90)}`);
  await eventually(() => channel.count("send") === 1, "the send");
  const replyTo = { routeKey: { ...KEY, thread: "1700.2" }, fallbacks: OTHER };
  const { jobId: running } = await ask(one, { key: threadKey("1700.2"), replyTo });
  await fixture.puppet(running);
  const ended: string[] = [];
  const stopping = fixture.runtime.stop({ drainMs: 0 }).then(() => ended.push("stopped"));
  for (let tries = 0; tries < 100 && channel.textsAt(OTHER).length === 0; tries += 1) await fixture.clock.advance(10);
  assert.match(channel.textsAt(OTHER)[0] ?? "", /The runtime was stopped/);
  assert.deepEqual(ended, [], "it waits for the call that is under way");
  gate.resolve();
  while (ended.length === 0) await fixture.clock.advance(100);
  await stopping;
  assert.deepEqual(channel.textsAt(ROUTE), ["a".repeat(90)], "the second part is for the next process");
});

test("[DLV-15] a call that is not answered holds up a stop for a few seconds at most", async () => {
  await using stack = new AsyncDisposableStack();
  const one = await scene(stack);
  one.channel.fail("send", { until: new Promise(() => undefined) });
  await answered(one, "The answer.");
  await eventually(() => one.channel.count("send") === 1, "the send");
  let stopped = false;
  const stopping = one.fixture.runtime.stop({ drainMs: 0 }).then(() => {
    stopped = true;
  });
  await one.fixture.clock.advance(2_900);
  assert.equal(stopped, false);
  await one.fixture.clock.advance(200);
  await eventually(() => stopped, "the stop");
  await stopping;
});

test("[DLV-16] channels whose limits cannot be, or that have one name, are refused by their names", () => {
  const given = (deliveries: DeliveriesOptions) => () => {
    const auth = { authenticate: () => Promise.resolve(undefined) };
    // A store that is not started has no file.
    return new Conversations(new Runtime({ store: sqlite("unused.db"), auth }), { deliveries });
  };
  for (const [channels, said] of [
    [[new FakeChannel(), new FakeChannel()], /two have the same name/],
    [[new FakeChannel({ limits: { timeoutMs: 0 } })], /timeoutMs of "fake": 0 is not/],
    [[new FakeChannel({ limits: { timeoutMs: Number.POSITIVE_INFINITY } })], /timeoutMs of "fake": Infinity/],
    [[new FakeChannel({ limits: { maxTextChars: 1.5 } })], /maxTextChars of "fake": 1.5 is not/],
    [[new FakeChannel({ limits: { minUpdateIntervalMs: Number.NaN } })], /minUpdateIntervalMs of "fake": NaN is not/],
  ] as const) {
    assert.throws(given({ channels }), said);
  }
  const channels = [new FakeChannel()];
  assert.throws(given({ channels, maxAttempts: 0 }), /maxAttempts: 0/);
});

test("[DLV-3] a runtime without channels delivers nothing, and says so to who asks for it", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const asking = fixture.conversations.startTurn({
    key: threadKey(),
    principal: "alice",
    agent: "puppet",
    replyTo: { routeKey: KEY, fallbacks: ROUTE },
  });
  await assert.rejects(asking, isInvalid(/no channel "fake" is here; there is none/));
  assert.deepEqual((await fixture.conversations.deliveries.list(OLGA)).deliveries, []);
});

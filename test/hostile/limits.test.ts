/** What one client may ask for and what it is told beyond (SPEC.md: SES-15 to SES-18, SES-20, JOB-19, ENV-12, ENV-13). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Envelope, IN_REPLY_TO } from "../../src/protocol/index.ts";
import type { Store } from "../../src/store/store.ts";
import { FaultyStore } from "../faulty-store.ts";
import { eventually, type FixtureOptions, runtimeFixture, type TestClient, turns } from "../runtime-fixture.ts";
import { heapInUse } from "./collect-garbage.ts";

const MIB = 1024 * 1024;

const detailsOf = (answer: Envelope | undefined) => (answer?.payload["details"] ?? {}) as Record<string, unknown>;

/** INTERNAL_ERROR, LIMIT_EXCEEDED under it, and when to come again. */
function assertLimited(answer: Envelope | undefined, type: string): void {
  assert.equal(answer?.type, type, JSON.stringify(answer));
  assert.equal(answer?.payload["code"], "INTERNAL_ERROR");
  assert.equal(answer?.payload["retryable"], true);
  assert.equal(detailsOf(answer)["code"], "LIMIT_EXCEEDED", JSON.stringify(answer));
  assert((detailsOf(answer)["retry_after_ms"] as number) > 0);
}

const isLimited = (answer: Envelope) => detailsOf(answer)["code"] === "LIMIT_EXCEEDED";

const repliesOf = (client: TestClient): Envelope[] =>
  client.received.map(({ envelope }) => envelope).filter(({ extensions }) => extensions?.[IN_REPLY_TO] !== undefined);

/** The same store with some operations of one facet replaced. */
function replacing<F extends "sessions" | "requests" | "jobs">(
  store: Store,
  name: F,
  replaced: Partial<Store[F]>,
): Store {
  const facet = { ...store[name], ...replaced };
  return new Proxy(store, {
    get(target, property) {
      if (property === name) return facet;
      const value: unknown = Reflect.get(target, property);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** A runtime whose store stops answering at a word. */
async function stallable(options: FixtureOptions = {}) {
  let store: FaultyStore | undefined;
  const fixture = await runtimeFixture({
    storeTimeoutMs: 1e9,
    ...options,
    wrap: (inner: Store) => {
      store = new FaultyStore(inner);
      return store;
    },
  });
  return {
    fixture,
    store: store as unknown as FaultyStore,
    async [Symbol.asyncDispose]() {
      store?.recover();
      await fixture[Symbol.asyncDispose]();
    },
  };
}

test("[SES-15] one more request in flight is refused in its turn, and can be sent again", async () => {
  await using stalled = await stallable({ maxRequestsInFlight: 4 });
  const { fixture, store } = stalled;
  const client = await fixture.connect();
  const other = await fixture.connect({ token: "bob" });
  store.stall();
  const ids = [1, 2, 3, 4, 5, 6].map((input) => client.send("job.submit", { agent: "echo", input }));
  const list = client.send("session.list_jobs", {});
  await client.alive();
  assert.deepEqual(repliesOf(client), [], "a refusal went ahead of the answers before it");
  store.recover();
  assertLimited(await client.reply(list), "session.error");
  assert.deepEqual(
    repliesOf(client).map(({ type, extensions }) => [type, extensions?.[IN_REPLY_TO]]),
    [...ids, list].map((id, index) => [
      ["job.accepted", "job.error", "session.error"][index < 4 ? 0 : index < 6 ? 1 : 2],
      id,
    ]),
  );
  assertLimited(await client.reply(ids[5] as string), "job.error");
  // It was not noted, so the same envelope is taken now, and runs.
  const before = client.received.length;
  client.send("job.submit", { agent: "echo", input: 6 }, { id: ids[5] as string });
  await client.until(
    () => client.received.slice(before).some(({ envelope }) => envelope.type === "job.accepted"),
    "it to run",
  );
  await other.alive();
});

test("[SES-15] twice as many requests as may be in flight end the connection", async () => {
  await using stalled = await stallable({ maxRequestsInFlight: 4 });
  const client = await stalled.fixture.connect();
  stalled.store.stall();
  for (let input = 0; input < 8; input += 1) client.send("job.submit", { agent: "echo", input });
  await client.alive();
  client.send("job.submit", { agent: "echo", input: 9 });
  assert.equal((await client.whenClosed()).code, 4500);
  assertLimited(client.received.at(-1)?.envelope, "session.error");
});

test("[SES-15] frames that are no requests count as well: each is answered in its turn", async () => {
  await using stalled = await stallable({ maxRequestsInFlight: 4 });
  const client = await stalled.fixture.connect();
  stalled.store.stall();
  client.send("job.submit", { agent: "echo", input: 1 });
  for (let count = 0; count < 8; count += 1) client.sendRaw("nonsense");
  await client.whenClosed();
  assertLimited(client.received.at(-1)?.envelope, "session.error");
});

test("[SES-15] refusals of messages that come too fast wait in the same line, and no more of them", async () => {
  await using stalled = await stallable({ maxRequestsInFlight: 4, maxMessagesPerSecond: 6 });
  const client = await stalled.fixture.connect();
  stalled.store.stall();
  for (let input = 0; input < 8; input += 1) client.send("job.submit", { agent: "echo", input });
  await turns();
  assert.equal(client.closed, undefined);
  client.send("job.submit", { agent: "echo", input: 8 });
  await client.whenClosed();
  const last = client.received.at(-1)?.envelope;
  assertLimited(last, "session.error");
  assert.equal(detailsOf(last)["limit"], 4);
});

test("[SES-15] what the requests in flight hold is counted, too", async () => {
  await using stalled = await stallable({ maxCharsInFlight: 2_500 });
  const { fixture, store } = stalled;
  const client = await fixture.connect();
  store.stall();
  const input = "x".repeat(1_000);
  const ids = [1, 2, 3, 4].map(() => client.send("job.submit", { agent: "echo", input }));
  await client.alive();
  store.recover();
  assertLimited(await client.reply(ids[3] as string), "job.error");
  assert.deepEqual(
    repliesOf(client).map(({ type }) => type),
    ["job.accepted", "job.accepted", "job.accepted", "job.error"],
  );
  // All of it was given back with the answers.
  for (let count = 0; count < 10; count += 1) await client.start("echo", input);
});

test("[SES-15] lists are made one at a time: their pages do not pile up behind a store that is slow", async () => {
  let running = 0;
  let most = 0;
  await using fixture = await runtimeFixture({
    wrap: (store) => {
      const list: Store["jobs"]["list"] = async (query) => {
        running += 1;
        most = Math.max(most, running);
        await turns(2);
        running -= 1;
        return store.jobs.list(query);
      };
      return replacing(store, "jobs", { list });
    },
  });
  const client = await fixture.connect();
  const ids = Array.from({ length: 20 }, () => client.send("session.list_jobs", { limit: 1000 }));
  await client.reply(ids.at(-1) as string);
  assert.equal(most, 1);
});

test("[SES-16] messages that come too fast are refused until time has passed, and acks and pongs are dropped", async () => {
  await using fixture = await runtimeFixture({ maxMessagesPerSecond: 10 });
  const client = await fixture.connect();
  const other = await fixture.connect();
  for (let nonce = 0; nonce < 10; nonce += 1) client.send("session.ping", { nonce: String(nonce) });
  const ping = client.send("session.ping", { nonce: "over" });
  const submitted = client.send("job.submit", { agent: "echo", input: 1 });
  const list = client.send("session.list_jobs", {});
  client.send("session.ack", { last_processed_seq: 0 });
  client.send("session.pong", { ping_nonce: "x" });
  assertLimited(await client.reply(ping), "session.error");
  assertLimited(await client.reply(submitted), "job.error");
  const last = await client.reply(list);
  assertLimited(last, "session.error");
  assert.equal(client.received.filter(({ envelope }) => isLimited(envelope)).length, 3);
  // Each principal's session has its own measure.
  await other.alive();
  const retryAfterMs = detailsOf(last)["retry_after_ms"] as number;
  assert(retryAfterMs >= 300 && retryAfterMs <= 700, `${retryAfterMs} ms`);
  await fixture.clock.advance(retryAfterMs + 500);
  await client.alive();
  const again = client.send("job.submit", { agent: "echo", input: 1 }, { id: submitted });
  await client.until(
    () => client.received.some(({ envelope }) => envelope.type === "job.accepted"),
    "the same envelope",
  );
  assert.equal(again, submitted);
});

test("[SES-16] a client that goes on regardless is cut off, and a close is carried out even then", async () => {
  await using fixture = await runtimeFixture({ maxMessagesPerSecond: 10 });
  const flood = await fixture.connect();
  for (let nonce = 0; nonce < 20; nonce += 1) flood.send("session.ping", { nonce: String(nonce) });
  await flood.until(() => flood.received.filter(({ envelope }) => isLimited(envelope)).length === 10, "ten refusals");
  assert.equal(flood.closed, undefined);
  flood.send("session.ping", { nonce: "one too many" });
  assert.equal((await flood.whenClosed()).code, 4500);
  assertLimited(flood.received.at(-1)?.envelope, "session.error");

  const polite = await fixture.connect();
  for (let nonce = 0; nonce < 15; nonce += 1) polite.send("session.ping", { nonce: String(nonce) });
  polite.send("session.close", {});
  assert.equal((await polite.whenClosed()).code, 1000);
});

test("[SES-16] the measure is 20,000 a second by default", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const ack = JSON.stringify({ arcp: "1.1", id: "a", type: "session.pong", payload: { ping_nonce: "" } });
  for (let count = 0; count < 19_999; count += 1) client.sendRaw(ack);
  await client.alive();
  assertLimited(await client.reply(client.send("session.ping", { nonce: "over" })), "session.error");
});

test("[SES-17] a client that asks and does not read is cut off, and nobody else notices", async () => {
  await using fixture = await runtimeFixture({ maxUnreadBytes: MIB, maxMessagesPerSecond: 1e6 });
  const client = await fixture.connect();
  const other = await fixture.connect();
  client.pair.stall("toA");
  const nonce = "x".repeat(250);
  let sent = 0;
  for (; client.pair.b.open && sent < 20_000; sent += 1) {
    client.send("session.ping", { nonce });
    if (sent % 100 === 0) await turns(1);
  }
  assert(!client.pair.b.open, "it was never cut off");
  assert(client.pair.b.bufferedBytes < 2 * MIB);
  await other.alive();
  // What it was sent, and why, is there when it reads after all.
  client.pair.unstall("toA");
  await client.whenClosed();
  assertLimited(client.received.at(-1)?.envelope, "session.error");
});

test("[SES-17] a client that reads slowly, or whose events wait, is not cut off", async () => {
  await using fixture = await runtimeFixture({ maxUnreadBytes: 100_000, maxMessagesPerSecond: 1e6 });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  client.pair.stall("toA");
  for (let index = 0; index < 300; index += 1) await job.log("x".repeat(2_000));
  await eventually(() => client.pair.b.bufferedBytes > 200_000, "events to wait");
  for (let count = 0; count < 100; count += 1) client.send("session.ping", { nonce: String(count) });
  await turns();
  assert(client.pair.b.open, "events that wait are no fault of the client's");
  client.pair.unstall("toA");
  // More than the measure in all, and each time it has read.
  for (let round = 0; round < 10; round += 1) {
    client.pair.stall("toA");
    for (let count = 0; count < 100; count += 1) client.send("session.ping", { nonce: "y".repeat(200) });
    await turns();
    client.pair.unstall("toA");
    await client.alive();
  }
  client.pair.stall("toA");
  for (let index = 0; index < 300; index += 1) await job.log("x".repeat(2_000));
  await eventually(() => client.pair.b.bufferedBytes > 300_000, "events to wait again");
  client.send("session.ping", { nonce: "still here" });
  await turns();
  assert(client.pair.b.open, "what it has read long ago is held against it");
  client.pair.unstall("toA");
  end();
  await client.terminal(jobId);
});

test("[SES-18] a session follows so many jobs and no more; what it follows already takes no room", async () => {
  await using fixture = await runtimeFixture({ maxFollowsPerSession: 2 });
  const owner = await fixture.connect();
  const reader = await fixture.connect();
  const [first, second] = [await owner.start("puppet"), await owner.start("puppet")];
  assertLimited(await owner.submit("puppet"), "job.error");
  const third = await (await fixture.connect()).start("puppet");
  for (const job_id of [first, second]) {
    assert.equal((await reader.ask("job.subscribe", { job_id })).type, "job.subscribed");
  }
  assertLimited(await reader.ask("job.subscribe", { job_id: third }), "session.error");
  assert.equal((await reader.ask("job.subscribe", { job_id: first })).type, "job.subscribed");
  reader.send("job.unsubscribe", { job_id: first });
  assert.equal((await reader.ask("job.subscribe", { job_id: third })).type, "job.subscribed");
  for (const job_id of [first, second, third]) (await fixture.puppet(job_id)).end();
  // Ends leave room again.
  await owner.terminal(first);
  await owner.terminal(second);
  await owner.terminal(await owner.start("echo"));
});

test("[SES-20] before the welcome so many frames are read and no more", async () => {
  await using fixture = await runtimeFixture();
  const patient = fixture.line();
  for (let count = 0; count < 99; count += 1) patient.send("session.ping", { nonce: "early" });
  patient.hello({ token: "alice" });
  await patient.message("session.welcome");

  const many = fixture.line();
  for (let count = 0; count < 101; count += 1) many.send("session.ping", { nonce: "early" });
  assert.equal((await many.whenClosed()).code, 4400);
  assert.equal(many.received.length, 1);

  const large = fixture.line();
  large.send("session.ping", { nonce: "x".repeat(260 * 1024) });
  large.hello({ token: "alice" });
  assert.equal((await large.whenClosed()).code, 4400);
});

test("[SES-20] while a hello is looked at no more is read than before it", async () => {
  const answer = Promise.withResolvers<undefined>();
  await using fixture = await runtimeFixture({ auth: { authenticate: () => answer.promise } });
  const client = fixture.line();
  client.hello({ token: "slow" });
  for (let count = 0; count < 100; count += 1) client.sendRaw("nonsense");
  assert.equal((await client.whenClosed()).code, 4400);
  answer.resolve(undefined);
});

test("[SES-8] of acks that come while one is being stored the newest is stored, and no other", async () => {
  const acks: number[] = [];
  const go = Promise.withResolvers<void>();
  await using fixture = await runtimeFixture({
    wrap: (store) => {
      const ack: Store["sessions"]["ack"] = async (ref, seq) => {
        acks.push(seq);
        if (acks.length === 1) await go.promise;
        return store.sessions.ack(ref, seq);
      };
      return replacing(store, "sessions", { ack });
    },
  });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  for (let index = 0; index < 50; index += 1) await job.log(String(index));
  end();
  await client.terminal(jobId);
  for (let seq = 1; seq <= 50; seq += 1) client.send("session.ack", { last_processed_seq: seq });
  await client.alive();
  assert.deepEqual(acks, [1]);
  go.resolve();
  await eventually(() => acks.length === 2, "the newest to be stored");
  await client.alive();
  assert.deepEqual(acks, [1, 50]);
});

test("[JOB-19] an input that is too large for the store is refused, measured as it is stored", async () => {
  await using fixture = await runtimeFixture({ maxInputBytes: 1_000 });
  const client = await fixture.connect();
  // Two bytes each in UTF-8, and two quotes.
  assert.equal((await client.submit("echo", "é".repeat(499))).type, "job.accepted");
  const answer = await client.submit("echo", "é".repeat(500));
  assert.equal(answer.type, "job.error");
  assert.equal(answer.payload["code"], "INVALID_REQUEST");
  assert.equal(detailsOf(answer)["limit"], 1_000);
  assert.match(answer.payload["message"] as string, /payload\.input/);
  // Short on the wire, long in the store: 4 characters become 21.
  client.sendRaw(
    `{"arcp":"1.1","id":"wide","type":"job.submit","payload":{"agent":"echo","input":[${"1e20,".repeat(60)}0]}}`,
  );
  assert.equal((await client.reply("wide")).payload["code"], "INVALID_REQUEST");
});

test("[JOB-19] the largest input is 1 MiB by default", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  assert.equal((await client.submit("echo", "x".repeat(MIB - 2))).type, "job.accepted");
  assert.equal((await client.submit("echo", "x".repeat(MIB - 1))).payload["code"], "INVALID_REQUEST");
});

test("[ENV-12] half a surrogate pair is no name: two ids that a store cannot tell apart are not taken for one", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const bad = "\ud800";
  const cases: [field: string, type: string, payload: object, rest?: Partial<Envelope>][] = [
    ["id", "session.ping", { nonce: "n" }, { id: bad }],
    ["job_id", "job.cancel", {}, { job_id: bad }],
    ["payload.idempotency_key", "job.submit", { agent: "echo", input: 1, idempotency_key: bad }],
    ["payload.agent", "job.submit", { agent: bad, input: 1 }],
    ["payload.lease_request", "job.submit", { agent: "echo", input: 1, lease_request: { [bad]: [] } }],
    ["payload.reason", "job.cancel", { job_id: "job_1", reason: bad }],
    ["payload.cursor", "session.list_jobs", { cursor: bad }],
  ];
  for (const [field, type, payload, rest] of cases) {
    const before = client.received.length;
    client.send(type, payload, rest);
    await client.until(() => client.received.length > before, `an answer about ${field}`);
    const { code, message } = client.received[before]?.envelope.payload ?? {};
    assert.equal(code, "INVALID_REQUEST", field);
    assert(String(message).includes(field), String(message));
  }
  // In data it is data.
  const jobId = await client.start("echo", { [bad]: bad });
  assert.deepEqual((await client.terminal(jobId)).payload["result"], { [bad]: bad });
});

test("[ENV-12] names that only look alike are different names", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const alike = ["\u00e9", "e\u0301", "e", "\u0435", "e\u200b", "e\u0000", "e\u202e"];
  for (const id of alike) client.send("job.submit", { agent: "echo", input: id, idempotency_key: id }, { id });
  for (const id of alike) {
    const answer = await client.reply(id);
    assert.equal((await client.terminal(answer.job_id as string)).payload["result"], id);
  }
});

test("[ENV-12] an input nests at most 256 levels, and a key `__proto__` in it is data", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const nested = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;
  const ask = (id: string, rest: string) => {
    client.sendRaw(`{"arcp":"1.1","id":"${id}","type":"job.submit","payload":{"agent":"echo",${rest}}}`);
    return client.reply(id);
  };
  assert.equal((await ask("256", `"input":${nested(256)},"idempotency_key":"k"`)).type, "job.accepted");
  for (const depth of [257, 100_000]) {
    const answer = await ask(String(depth), `"input":${nested(depth)},"idempotency_key":"k${depth}"`);
    assert.equal(answer.type, "job.error");
    assert.equal(answer.payload["code"], "INVALID_REQUEST", JSON.stringify(answer));
    assert.match(answer.payload["message"] as string, /payload\.input.*256/);
  }
  const odd = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}';
  const accepted = await ask("odd", `"input":${odd}`);
  assert.equal(JSON.stringify((await client.terminal(accepted.job_id as string)).payload["result"]), odd);
  assert.equal(({} as { polluted?: number }).polluted, undefined);
  const asked = await ask("lease", '"input":1,"lease_request":{"__proto__":["**"]}');
  assert.equal(asked.payload["code"], "INVALID_REQUEST");
  assert.match(asked.payload["message"] as string, /__proto__/);
});

test("[ENV-13] what is wrong with a large frame is said in a small answer", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const long = "x".repeat(MIB);
  const frames = [
    JSON.stringify({ arcp: "1.1", id: long, type: "session.ping", payload: {} }),
    JSON.stringify({ arcp: "1.1", id: "i", type: long, payload: {} }),
    JSON.stringify({ arcp: "1.1", id: "i", type: "session.ping", payload: {}, extensions: { [long]: 1 } }),
    JSON.stringify({ arcp: "1.1", id: "i", type: "session.ping", payload: {}, session_id: long }),
    JSON.stringify({ arcp: "1.1", id: "i", type: "job.submit", payload: { agent: long } }),
    JSON.stringify({
      arcp: "1.1",
      id: "i2",
      type: "job.submit",
      payload: { agent: "echo", lease_request: { [long]: [] } },
    }),
    JSON.stringify({
      arcp: "1.1",
      id: "i3",
      type: "job.submit",
      payload: { agent: "echo", lease_request: { [`x-vendor.a.${long}`]: [] } },
    }),
    JSON.stringify({ arcp: "1.1", id: "i4", type: "session.list_jobs", payload: { filter: { status: [long] } } }),
    long,
  ];
  for (const frame of frames) {
    const before = client.received.length;
    client.sendRaw(frame);
    await client.until(() => client.received.length > before, "an answer");
    const answer = client.received[before]?.frame ?? "";
    assert(answer.length < 2_048, `${answer.length} characters: ${answer.slice(0, 300)}`);
    assert.equal((JSON.parse(answer) as Envelope).payload["code"], "INVALID_REQUEST", answer);
  }
  await client.alive();
});

test("[ENV-14] a session that sends a lot leaves nothing in memory once it has gone", async () => {
  await using fixture = await runtimeFixture({ maxMessagesPerSecond: 1e9 });
  const round = async () => {
    const client = await fixture.connect();
    for (let count = 0; count < 300; count += 1) {
      client.send("session.ping", { nonce: "n" });
      client.sendRaw("nonsense".repeat(500));
      client.send("job.subscribe", { job_id: `job_${count}` });
    }
    await client.ask("session.list_jobs", {});
    client.pair.cut();
    fixture.log.length = 0;
  };
  await round();
  const before = heapInUse();
  for (let rounds = 0; rounds < 5; rounds += 1) await round();
  await turns(50);
  const grown = (heapInUse() - before) / MIB;
  assert(grown < 2, `${grown.toFixed(1)} MiB stayed`);
});

test("[SES-12] one session whose requests the store does not answer keeps no other from what needs no store", async () => {
  await using stalled = await stallable();
  const { fixture, store } = stalled;
  const [greedy, modest] = [await fixture.connect(), await fixture.connect({ token: "bob" })];
  store.stall();
  for (let input = 0; input < 1_000; input += 1) greedy.send("job.submit", { agent: "echo", input });
  await modest.alive();
  await greedy.alive();
  store.recover();
  await modest.terminal(await modest.start("echo", 1));
});

test("[STO-12] an operation that hangs for one session holds up that session's answers alone, and only for its time", async () => {
  const { promise: over, resolve: end } = Promise.withResolvers<void>();
  let victim: string | undefined;
  await using fixture = await runtimeFixture({
    storeTimeoutMs: 3_000,
    wrap: (store) =>
      replacing(store, "requests", {
        follow: async (request) => {
          if (request.sessionId === victim) await over;
          return store.requests.follow(request);
        },
      }),
  });
  const [unlucky, other] = [await fixture.connect(), await fixture.connect()];
  victim = unlucky.sessionId;
  const job_id = await other.start("puppet");
  const { job, end: finish } = await fixture.puppet(job_id);
  const subscribed = unlucky.send("job.subscribe", { job_id });
  const submitted = unlucky.send("job.submit", { agent: "echo", input: 1 });
  const listed = unlucky.send("session.list_jobs", {});
  await unlucky.alive();
  // The other one's requests, and the job that both are about, go on.
  await job.log("meanwhile");
  assert.equal((await (await fixture.connect()).ask("job.subscribe", { job_id })).type, "job.subscribed");
  await other.terminal(await other.start("echo", 2));
  assert.deepEqual(repliesOf(unlucky), []);
  await fixture.clock.advance(3_000);
  assert.equal(detailsOf(await unlucky.reply(subscribed))["code"], "STORE_UNAVAILABLE");
  assert.equal((await unlucky.reply(submitted)).type, "job.accepted");
  await unlucky.reply(listed);
  end();
  finish();
  await other.terminal(job_id);
});

/** Messages and event kinds that the host adds to the wire (SPEC.md, EXT). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { ArcpError, type Envelope } from "../src/protocol/index.ts";
import { type ExtensionContext, Runtime } from "../src/runtime/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { memoryRuntime, resumeOf, settled } from "./memory-runtime.ts";
import { eventually, runtimeFixture, turns } from "./runtime-fixture.ts";

const THING = "x-vendor.acme.thing";
const DONE = "x-vendor.acme.thing_done";

const codeOf = ({ payload }: Envelope): unknown => payload["code"];
const messageOf = ({ payload }: Envelope): string => payload["message"] as string;

test("[EXT-1] a registered message is checked, carried out and answered with its type, in its turn", async () => {
  await using fixture = await runtimeFixture();
  const slow = Promise.withResolvers<object>();
  fixture.runtime.extension(THING, {
    schema: z.object({ n: z.int(), wait: z.boolean().default(false) }),
    handle: ({ n, wait }) => (wait ? slow.promise : { twice: 2 * n }),
    reply: DONE,
  });
  const client = await fixture.connect();
  const first = client.send(THING, { n: 1, wait: true });
  const second = client.send(THING, { n: 21 }, { extensions: { optional: true } });
  await client.alive();
  await turns();
  assert.equal(client.received.filter(({ envelope }) => envelope.type === DONE).length, 0);
  slow.resolve({ at: "last" });
  const answer = await client.reply(second);
  assert.deepEqual([answer.type, answer.payload, answer.event_seq], [DONE, { twice: 42 }, undefined]);
  assert.deepEqual(
    client.received.filter(({ envelope }) => envelope.type === DONE).map(({ envelope }) => envelope.payload),
    [(await client.reply(first)).payload, answer.payload],
  );
});

test("[EXT-1] without a type for it, or with nothing to say, a message is not answered", async () => {
  await using fixture = await runtimeFixture();
  const seen: unknown[] = [];
  fixture.runtime.extension("x-vendor.acme.note", { handle: (payload) => seen.push(payload) });
  fixture.runtime.extension(THING, { handle: () => undefined, reply: DONE });
  const client = await fixture.connect();
  const before = client.received.length;
  client.send("x-vendor.acme.note", { text: "hello" });
  client.send(THING, {});
  assert.equal((await client.submit("echo")).type, "job.accepted");
  await eventually(() => seen.length === 1, "the note");
  assert.deepEqual(seen, [{ text: "hello" }]);
  const types = client.received.slice(before).map(({ envelope }) => envelope.type);
  assert.deepEqual(
    types.filter((type) => !type.startsWith("job.")),
    [],
  );
  // What nobody has registered is still what it was.
  assert.equal(codeOf(await client.ask("x-vendor.acme.other", {})), "INVALID_REQUEST");
});

test("[EXT-2] a payload that the schema does not take is INVALID_REQUEST naming the field", async () => {
  await using fixture = await runtimeFixture();
  let calls = 0;
  const handle = () => {
    calls += 1;
    return {};
  };
  const schema = z.object({ deep: z.object({ n: z.int() }) });
  const plain = {
    parse(value: unknown): unknown {
      throw new TypeError(`cannot take ${JSON.stringify(value)}\n    at /srv/secret/place.ts`);
    },
  };
  fixture.runtime.extension(THING, { schema, handle, reply: DONE });
  fixture.runtime.extension("x-vendor.acme.plain", { schema: plain, handle });
  const client = await fixture.connect();
  const refused = await client.ask(THING, { deep: { n: "1" } }, { id: "again" });
  assert.deepEqual(
    [refused.type, codeOf(refused), refused.payload["request_id"]],
    ["session.error", "INVALID_REQUEST", "again"],
  );
  assert.match(messageOf(refused), /^Invalid x-vendor\.acme\.thing: payload\.deep\.n: /);
  const other = await client.ask("x-vendor.acme.plain", { text: "x".repeat(10_000) });
  assert.match(messageOf(other), /^Invalid x-vendor\.acme\.plain: payload: cannot take /);
  assert.ok(messageOf(other).length < 300 && !messageOf(other).includes("/srv"));
  assert.equal(calls, 0);
  // It has not used up its id (ENV-8).
  client.received.length = 0;
  assert.equal((await client.ask(THING, { deep: { n: 1 } }, { id: "again" })).type, DONE);
});

test("[EXT-2] a handler's ArcpError is answered as it is, anything else is neutral, and the session lives on", async () => {
  await using fixture = await runtimeFixture();
  const failures: Record<string, () => unknown> = {
    denied: () => {
      throw new ArcpError("PERMISSION_DENIED", "Not on a Friday.", { details: { day: 5 } });
    },
    wrong: () => {
      throw new ArcpError("INVALID_REQUEST", "payload.how: unheard of.");
    },
    broken: () => {
      throw new Error("the password is hunter2");
    },
    rejected: () => Promise.reject(new TypeError("at /srv/place.ts")),
    text: () => "no object",
    large: () => ({ text: "x".repeat(1024 * 1024) }),
    cyclic: () => {
      const cyclic: { self?: object } = {};
      cyclic.self = cyclic;
      return cyclic;
    },
  };
  const schema = z.object({ how: z.string() });
  fixture.runtime.extension(THING, { schema, handle: ({ how }) => failures[how]?.(), reply: DONE });
  const client = await fixture.connect();
  const denied = await client.ask(THING, { how: "denied" }, { id: "m-1" });
  assert.deepEqual(denied.payload, {
    code: "PERMISSION_DENIED",
    message: "Not on a Friday.",
    retryable: false,
    details: { day: 5 },
    request_id: "m-1",
  });
  assert.equal(messageOf(await client.ask(THING, { how: "wrong" })), "payload.how: unheard of.");
  for (const how of ["broken", "rejected", "text", "large", "cyclic"]) {
    const failed = await client.ask(THING, { how });
    assert.deepEqual(
      [failed.type, codeOf(failed), failed.payload["retryable"]],
      ["session.error", "INTERNAL_ERROR", true],
    );
    assert.equal(messageOf(failed), "The runtime failed on this request; its log says why.");
  }
  assert.ok(fixture.log.some(({ fields }) => /hunter2/.test(String((fields as { err?: unknown }).err))));
  await client.alive();
});

test("[EXT-3] a message that comes again is given the stored answer, refusals too", async () => {
  await using fixture = await runtimeFixture();
  let calls = 0;
  fixture.runtime.extension(THING, {
    schema: z.object({ fail: z.boolean() }),
    handle({ fail }) {
      calls += 1;
      if (fail) throw new ArcpError("PERMISSION_DENIED", `No, ${calls}.`);
      return { calls };
    },
    reply: DONE,
  });
  const client = await fixture.connect();
  for (const fail of [false, true]) {
    client.received.length = 0;
    const id = `m-${fail}`;
    client.send(THING, { fail }, { id });
    client.send(THING, { fail }, { id });
    await client.until(() => client.received.length === 2, "two answers");
    client.send(THING, { fail }, { id });
    await client.until(() => client.received.length === 3, "a third answer");
    const [first, ...others] = client.received.map(({ frame }) => frame);
    for (const other of others) assert.equal(other, first);
  }
  assert.equal(calls, 2);
});

test("[EXT-3] a message that comes again over a resume, while it is being carried out, is not carried out twice", async () => {
  await using runtime = await memoryRuntime();
  const work = Promise.withResolvers<object>();
  const ids: string[] = [];
  runtime.runtime.extension(THING, {
    handle(_, { requestId }) {
      ids.push(requestId);
      return work.promise;
    },
    reply: DONE,
  });
  const { client, pair } = await runtime.connect();
  client.send(THING, {}, { id: "m-1" });
  await eventually(() => ids.length === 1, "the handler");
  pair.cut();
  const again = (await runtime.connect({ resume: resumeOf(client) })).client;
  again.send(THING, {}, { id: "m-1" });
  await settled(again);
  work.resolve({ done: 1 });
  assert.deepEqual((await again.reply("m-1")).payload, { done: 1 });
  again.received.length = 0;
  again.send(THING, {}, { id: "m-1" });
  assert.deepEqual((await again.reply("m-1")).payload, { done: 1 });
  assert.deepEqual(ids, ["m-1"]);
});

test("[EXT-3] what was carried out while a newer connection took over is answered there when it is asked for", async () => {
  await using runtime = await memoryRuntime();
  const work = Promise.withResolvers<object>();
  let calls = 0;
  runtime.runtime.extension(THING, {
    handle() {
      calls += 1;
      return work.promise;
    },
    reply: DONE,
  });
  const { client } = await runtime.connect();
  client.send(THING, {}, { id: "m-1" });
  await eventually(() => calls === 1, "the handler");
  const newer = (await runtime.connect({ resume: resumeOf(client) })).client;
  work.resolve({ done: 1 });
  await turns();
  // What the older connection wanted to store was refused before this is answered.
  await newer.reply(newer.send("session.list_jobs", {}));
  newer.send(THING, {}, { id: "m-1" });
  assert.deepEqual((await newer.reply("m-1")).payload, { done: 1 });
  assert.equal(calls, 1);
});

test("[EXT-4] names that are no vendor's, are Holdfast's, or are taken are refused", () => {
  const runtime = new Runtime({ store: sqlite(":memory:"), auth: { authenticate: async () => undefined } });
  const handle = () => ({});
  for (const name of [
    "job.submit",
    "acme.thing",
    "x-vendor.",
    "x-vendor.acme",
    "x-vendor.Acme.thing",
    "x-vendor.acme.th ing",
    "x-vendor.acme.thing.",
    `x-vendor.acme.${"x".repeat(120)}`,
    "x-vendor.holdfast.answer",
    "x-vendor.holdfast.mine",
  ] as `x-vendor.${string}`[]) {
    assert.throws(() => runtime.extension(name, { handle }), { name: "RangeError", message: /^type: / });
    assert.throws(() => runtime.extension(THING, { handle, reply: name }), { name: "RangeError", message: /^reply: / });
    assert.throws(() => runtime.eventKind(name, { schema: z.any() }), { name: "RangeError", message: /^kind: / });
  }
  runtime.extension(THING, { handle, reply: DONE }).eventKind(THING, { schema: z.unknown() });
  assert.throws(() => runtime.extension(THING, { handle }), /registered already/);
  assert.throws(() => runtime.extension(DONE, { handle }), /is the answer to another message/);
  assert.throws(() => runtime.extension("x-vendor.acme.b", { handle, reply: THING }), /registered already/);
  assert.throws(() => runtime.extension("x-vendor.acme.b", { handle, reply: "x-vendor.acme.b" }), /the message itself/);
  assert.throws(() => runtime.eventKind(THING, { schema: z.unknown() }), /registered already/);
});

test("[EXT-5] bodies of a registered kind are checked before they are logged; other kinds pass as they are", async () => {
  await using fixture = await runtimeFixture();
  fixture.runtime.eventKind("x-vendor.acme.price", { schema: z.object({ cents: z.int() }) });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  await job.emit("x-vendor.acme.price", { cents: 5, and: "more" });
  await assert.rejects(
    job.emit("x-vendor.acme.price", { cents: "5" }),
    (error: ArcpError) =>
      error.code === "INVALID_REQUEST" && /x-vendor\.acme\.price event: body\.cents: /.test(error.message),
  );
  await job.emit("x-vendor.acme.weight", { cents: "5" });
  end();
  await client.terminal(jobId);
  assert.deepEqual(
    client
      .of(jobId)
      .flatMap(({ payload }) => (payload["kind"] === undefined ? [] : [[payload["kind"], payload["body"]]])),
    [
      ["x-vendor.acme.price", { cents: 5, and: "more" }],
      ["x-vendor.acme.weight", { cents: "5" }],
    ],
  );
});

test("[EXT-6] a handler that takes too long holds up nobody; its answer is there for a repeat", async () => {
  await using fixture = await runtimeFixture();
  const work = Promise.withResolvers<object>();
  let calls = 0;
  fixture.runtime.extension(THING, {
    handle() {
      calls += 1;
      return work.promise;
    },
    reply: DONE,
  });
  const client = await fixture.connect();
  client.send(THING, {}, { id: "m-1" });
  const submitted = client.send("job.submit", { agent: "echo", input: 1 });
  await eventually(() => calls === 1, "the handler");
  await fixture.clock.advance(5_000);
  const late = await client.reply("m-1");
  assert.deepEqual([late.type, codeOf(late), late.payload["retryable"]], ["session.error", "TIMEOUT", true]);
  assert.equal((await client.reply(submitted)).type, "job.accepted");
  work.resolve({ done: 1 });
  await turns();
  client.received.length = 0;
  const answer = await client.ask(THING, {}, { id: "m-1" });
  assert.deepEqual([answer.type, answer.payload, calls], [DONE, { done: 1 }, 1]);
});

test("[EXT-7] a handler knows whose session it is and sees what its principal may see", async () => {
  await using fixture = await runtimeFixture();
  const contexts: ExtensionContext[] = [];
  fixture.runtime.extension(THING, {
    schema: z.object({ job_id: z.string() }),
    async handle({ job_id }, context) {
      contexts.push(context);
      return { agent: (await context.job(job_id)).agent };
    },
    reply: DONE,
  });
  const alice = await fixture.connect();
  const bob = await fixture.connect({ token: "bob" });
  const jobId = await alice.start("sleeper");
  assert.deepEqual((await alice.ask(THING, { job_id: jobId }, { id: "m-1" })).payload, { agent: "sleeper@1.0.0" });
  assert.equal(codeOf(await bob.ask(THING, { job_id: jobId })), "JOB_NOT_FOUND");
  const [first, second] = contexts;
  assert.deepEqual([first?.principal, first?.sessionId, first?.requestId], ["alice", alice.sessionId, "m-1"]);
  assert.equal(second?.principal, "bob");
});

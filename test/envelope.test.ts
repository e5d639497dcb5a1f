/** The envelope's rules over the wire (SPEC.md, ENV): what a runtime makes of good and bad frames. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError, type Envelope, ERROR_TABLE, IN_REPLY_TO } from "../src/protocol/index.ts";
import { runtimeFixture, turns } from "./runtime-fixture.ts";

const VENDOR = "x-vendor.acme.thing";

const errorsOf = (envelopes: readonly { envelope: Envelope }[]) =>
  envelopes.map(({ envelope }) => envelope).filter(({ type }) => type === "session.error");

test("[ENV-1] unknown top-level fields are ignored", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  client.sendRaw(
    JSON.stringify({ arcp: "1.1", id: "p", type: "session.ping", payload: { nonce: "n" }, colour: "red", "": [] }),
  );
  const pong = await client.message("session.pong");
  assert.equal(pong.payload["ping_nonce"], "n");
});

test("[ENV-1] every field of the envelope is checked, and the answer names it", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const good = { arcp: "1.1", id: "the-id", type: "session.ping", payload: { nonce: "n" } };
  const cases: [field: string, change: object][] = [
    ["arcp", { arcp: undefined }],
    ["arcp", { arcp: "1.0" }],
    ["arcp", { arcp: 1.1 }],
    ["id", { id: undefined }],
    ["id", { id: "" }],
    ["id", { id: 7 }],
    ["id", { id: "x".repeat(257) }],
    ["type", { type: undefined }],
    ["type", { type: "" }],
    ["type", { type: ["session.ping"] }],
    ["type", { type: "x".repeat(129) }],
    ["payload", { payload: undefined }],
    ["payload", { payload: null }],
    ["payload", { payload: [] }],
    ["payload", { payload: "text" }],
    ["session_id", { session_id: 1 }],
    ["session_id", { session_id: "" }],
    ["session_id", { session_id: "x".repeat(257) }],
    ["job_id", { job_id: {} }],
    ["job_id", { job_id: "" }],
    ["job_id", { job_id: "x".repeat(257) }],
    ["trace_id", { trace_id: 1 }],
    ["event_seq", { event_seq: 0 }],
    ["event_seq", { event_seq: 1.5 }],
    ["event_seq", { event_seq: "1" }],
    ["extensions", { extensions: [] }],
    ["extensions", { extensions: "x" }],
    ["extensions.mine", { extensions: { mine: 1 } }],
    ["extensions.optional", { extensions: { optional: "yes" } }],
  ];
  for (const [field, change] of cases) {
    const before = client.received.length;
    client.sendRaw(JSON.stringify({ ...good, ...change }));
    await client.until(() => client.received.length > before, `an answer to ${JSON.stringify(change).slice(0, 80)}`);
    const answer = client.received[before]?.envelope as Envelope;
    const what = `${JSON.stringify(change).slice(0, 80)} → ${JSON.stringify(answer)}`;
    assert.equal(answer.type, "session.error", what);
    assert.equal(answer.payload["code"], "INVALID_REQUEST", what);
    assert.match(answer.payload["message"] as string, new RegExp(`\\b${field}\\b`), what);
    assert.equal(answer.payload["retryable"], false);
  }
  await client.alive();
});

test("[ENV-2] what is not a JSON object is answered INVALID_REQUEST, and the session lives on", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const frames = ["", "{", "nonsense", "[]", "[{}]", "null", "true", "12", '"text"', "\u0000", '{"arcp":"1.1"', "{}"];
  for (const frame of frames) {
    const before = client.received.length;
    client.sendRaw(frame);
    await client.until(() => client.received.length > before, `an answer to ${JSON.stringify(frame)}`);
    const answer = client.received[before]?.envelope as Envelope;
    assert.equal(answer.type, "session.error");
    assert.equal(answer.payload["code"], "INVALID_REQUEST");
    assert.equal(answer.payload["request_id"], undefined);
    assert.equal(answer.session_id, client.sessionId);
    await client.alive();
  }
  assert.equal(client.closed, undefined);
});

test("[ENV-2] a frame of hostile depth or size disturbs nothing", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const depth = 200_000;
  const deep = `${"[".repeat(depth)}${"]".repeat(depth)}`;
  client.sendRaw(`{"arcp":"1.1","id":"deep","type":"job.submit","payload":{"agent":"echo","input":${deep}}}`);
  const answer = await client.reply("deep");
  assert.equal(answer.type, "job.error");
  assert.equal(answer.event_seq, undefined);
  assert.doesNotMatch(JSON.stringify(answer), /call stack|\bat \//);
  client.sendRaw(`{"arcp":"1.1","id":"deep-2","type":"job.submit","payload":{"agent":${deep},"input":1}}`);
  assert.equal((await client.reply("deep-2")).payload["code"], "INVALID_REQUEST");
  await client.alive();
});

/** For every message that a client may send once it is attached: what is wrong, and which field must be named. */
const long = "x".repeat(20_000);
const BAD_PAYLOADS: Record<string, [field: string, payload: object][]> = {
  "session.ping": [
    ["nonce", {}],
    ["nonce", { nonce: 1 }],
    ["nonce", { nonce: long }],
    ["sent_at", { nonce: "n", sent_at: 1 }],
    ["sent_at", { nonce: "n", sent_at: long }],
  ],
  "session.pong": [
    ["ping_nonce", {}],
    ["ping_nonce", { ping_nonce: null }],
    ["ping_nonce", { ping_nonce: long }],
    ["received_at", { ping_nonce: "n", received_at: {} }],
  ],
  "session.ack": [
    ["last_processed_seq", {}],
    ["last_processed_seq", { last_processed_seq: "1" }],
    ["last_processed_seq", { last_processed_seq: -1 }],
    ["last_processed_seq", { last_processed_seq: 0.5 }],
    ["last_processed_seq", { last_processed_seq: 1e300 }],
  ],
  "session.list_jobs": [
    ["filter", { filter: "all" }],
    ["filter.status", { filter: { status: "running" } }],
    ["filter.status.0", { filter: { status: ["asleep"] } }],
    ["filter.agent", { filter: { agent: 1 } }],
    ["filter.agent", { filter: { agent: long } }],
    ["filter.created_after", { filter: { created_after: "yesterday" } }],
    ["filter.created_after", { filter: { created_after: "2026-01-01T00:00:00+01:00" } }],
    ["filter.created_before", { filter: { created_before: 5 } }],
    ["limit", { limit: 0 }],
    ["limit", { limit: 1001 }],
    ["limit", { limit: "10" }],
    ["cursor", { cursor: 5 }],
    ["cursor", { cursor: long }],
  ],
  "session.close": [
    ["reason", { reason: 1 }],
    ["reason", { reason: long }],
  ],
  "session.bye": [
    ["reason", { reason: [] }],
    ["reason", { reason: long }],
  ],
  "job.submit": [
    ["agent", { input: 1 }],
    ["agent", { agent: "", input: 1 }],
    ["agent", { agent: 5, input: 1 }],
    ["agent", { agent: long, input: 1 }],
    ["lease_request", { agent: "echo", input: 1, lease_request: [] }],
    ["lease_request", { agent: "echo", input: 1, lease_request: { "made.up": ["x"] } }],
    ["lease_request.fs.read", { agent: "echo", input: 1, lease_request: { "fs.read": "/" } }],
    ["lease_request.fs.read.0", { agent: "echo", input: 1, lease_request: { "fs.read": [1] } }],
    ["lease_constraints", { agent: "echo", input: 1, lease_constraints: 5 }],
    ["lease_constraints.expires_at", { agent: "echo", input: 1, lease_constraints: { expires_at: "soon" } }],
    ["lease_constraints.expires_at", { agent: "echo", input: 1, lease_constraints: { expires_at: 1e12 } }],
    [
      "lease_constraints.expires_at",
      { agent: "echo", input: 1, lease_constraints: { expires_at: "2026-02-01T00:00:00" } },
    ],
    [
      "lease_constraints.expires_at",
      { agent: "echo", input: 1, lease_constraints: { expires_at: "2020-01-01T00:00:00Z" } },
    ],
    ["idempotency_key", { agent: "echo", input: 1, idempotency_key: "" }],
    ["idempotency_key", { agent: "echo", input: 1, idempotency_key: 5 }],
    ["idempotency_key", { agent: "echo", input: 1, idempotency_key: long }],
    ["max_runtime_sec", { agent: "echo", input: 1, max_runtime_sec: 0 }],
    ["max_runtime_sec", { agent: "echo", input: 1, max_runtime_sec: -1 }],
    ["max_runtime_sec", { agent: "echo", input: 1, max_runtime_sec: "10" }],
    ["max_runtime_sec", { agent: "echo", input: 1, max_runtime_sec: 1e12 }],
  ],
  "job.cancel": [
    ["job_id", {}],
    ["job_id", { job_id: 5 }],
    ["job_id", { job_id: "" }],
    ["job_id", { job_id: long }],
    ["reason", { job_id: "job_x", reason: 5 }],
    ["reason", { job_id: "job_x", reason: long }],
  ],
  "job.subscribe": [
    ["job_id", {}],
    ["job_id", { job_id: null }],
    ["job_id", { job_id: long }],
    ["from_event_seq", { job_id: "job_x", from_event_seq: -1 }],
    ["from_event_seq", { job_id: "job_x", from_event_seq: "1" }],
    ["history", { job_id: "job_x", history: "yes" }],
  ],
  "job.unsubscribe": [
    ["job_id", {}],
    ["job_id", { job_id: 1 }],
    ["job_id", { job_id: long }],
  ],
};

for (const [type, cases] of Object.entries(BAD_PAYLOADS)) {
  test(`[ENV-3] a bad ${type} is answered with the name of the field and of the request`, async () => {
    await using fixture = await runtimeFixture();
    const client = await fixture.connect();
    for (const [field, payload] of cases) {
      const id = client.send(type, payload);
      const answer = await client.reply(id);
      const what = `${JSON.stringify(payload).slice(0, 100)} → ${JSON.stringify(answer)}`;
      const expected = type === "job.submit" || type === "job.cancel" ? "job.error" : "session.error";
      assert.equal(answer.type, expected, what);
      assert.equal(answer.event_seq, undefined, what);
      assert.equal(answer.payload["code"], "INVALID_REQUEST", what);
      assert.equal(answer.payload["retryable"], false, what);
      assert((answer.payload["message"] as string).includes(field), what);
      assert.equal((answer.payload["details"] as { request_id?: string }).request_id, id, what);
      assert.equal(answer.extensions?.[IN_REPLY_TO], id, what);
      if (expected === "session.error") assert.equal(answer.payload["request_id"], id, what);
      await client.alive();
    }
  });
}

const HELLO = {
  client: { name: "c", version: "1" },
  auth: { scheme: "bearer", token: "alice" },
  capabilities: { features: [] },
};
const RESUME = { session_id: "s", resume_token: "t", last_event_seq: 0 };
const BAD_GREETINGS: Record<string, [field: string, payload: object][]> = {
  "session.hello": [
    ["client", { ...HELLO, client: undefined }],
    ["client.name", { ...HELLO, client: { version: "1" } }],
    ["client.name", { ...HELLO, client: { name: long, version: "1" } }],
    ["client.version", { ...HELLO, client: { name: "c", version: 1 } }],
    ["client.fingerprint", { ...HELLO, client: { name: "c", version: "1", fingerprint: 1 } }],
    ["client.principal", { ...HELLO, client: { name: "c", version: "1", principal: long } }],
    ["auth", { ...HELLO, auth: undefined }],
    ["auth.scheme", { ...HELLO, auth: { scheme: "basic", token: "alice" } }],
    ["auth.token", { ...HELLO, auth: { scheme: "bearer" } }],
    ["auth.token", { ...HELLO, auth: { scheme: "bearer", token: "" } }],
    ["auth.token", { ...HELLO, auth: { scheme: "bearer", token: long } }],
    ["capabilities", { ...HELLO, capabilities: [] }],
    ["capabilities.features", { ...HELLO, capabilities: { features: "all" } }],
    ["capabilities.features.0", { ...HELLO, capabilities: { features: [1] } }],
    ["capabilities.encodings", { ...HELLO, capabilities: { encodings: "json" } }],
    ["resume", { ...HELLO, resume: "s" }],
    ["resume.session_id", { ...HELLO, resume: { ...RESUME, session_id: "" } }],
    ["resume.resume_token", { ...HELLO, resume: { ...RESUME, resume_token: long } }],
    ["resume.last_event_seq", { ...HELLO, resume: { ...RESUME, last_event_seq: -1 } }],
    ["resume.last_event_seq", { ...HELLO, resume: { ...RESUME, last_event_seq: "0" } }],
  ],
  "session.resume": [
    ["session_id", { auth: HELLO.auth, ...RESUME, session_id: undefined }],
    ["resume_token", { auth: HELLO.auth, ...RESUME, resume_token: 1 }],
    ["last_event_seq", { auth: HELLO.auth, ...RESUME, last_event_seq: 0.5 }],
    ["auth", RESUME],
    ["auth.token", { ...RESUME, auth: { scheme: "bearer", token: 1 } }],
    ["client.name", { auth: HELLO.auth, ...RESUME, client: { version: "1" } }],
  ],
};

for (const [type, cases] of Object.entries(BAD_GREETINGS)) {
  test(`[ENV-3] a bad ${type} names the field, and a good hello after it is welcome`, async () => {
    await using fixture = await runtimeFixture();
    const client = fixture.line();
    for (const [field, payload] of cases) {
      const id = client.send(type, payload);
      const answer = await client.reply(id);
      const what = `${JSON.stringify(payload).slice(0, 100)} → ${JSON.stringify(answer)}`;
      assert.equal(answer.type, "session.error", what);
      assert.equal(answer.payload["code"], "INVALID_REQUEST", what);
      assert((answer.payload["message"] as string).includes(`payload.${field}`), what);
      assert.equal(answer.payload["request_id"], id, what);
      assert.equal(answer.session_id, undefined);
      assert.doesNotMatch(JSON.stringify(answer), /alice/, "the token came back");
    }
    client.hello({ token: "alice" });
    await client.message("session.welcome");
  });
}

test("[ENV-3] an envelope that fails with an id is answered under that id", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  client.sendRaw(JSON.stringify({ arcp: "1.1", id: "mine", type: "job.submit", payload: 5 }));
  const answer = await client.reply("mine");
  assert.equal(answer.payload["request_id"], "mine");
  assert.equal((answer.payload["details"] as { request_id: string }).request_id, "mine");
});

test("[ENV-4] unknown types and those that only runtimes send are INVALID_REQUEST with details.type", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const types = [
    "session.nonsense",
    "job.nonsense",
    "tool.call",
    "nonsense",
    "toString",
    "__proto__",
    "session.welcome",
    "session.error",
    "session.jobs",
    "session.closed",
    "job.accepted",
    "job.event",
    "job.result",
    "job.error",
    "job.cancelled",
    "job.subscribed",
  ];
  for (const type of types) {
    const id = client.send(type, {}, { extensions: { optional: true } });
    const answer = await client.reply(id);
    assert.equal(answer.type, "session.error", type);
    assert.equal(answer.payload["code"], "INVALID_REQUEST", type);
    assert.equal((answer.payload["details"] as { type: string }).type, type);
    assert((answer.payload["message"] as string).includes(type));
  }
  await client.alive();
});

test("[ENV-5] an unknown vendor type is dropped when optional, and refused otherwise", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  client.send(VENDOR, {}, { extensions: { optional: true } });
  const refused = [
    client.send(VENDOR, {}),
    client.send(VENDOR, {}, { extensions: { optional: false } }),
    client.send(VENDOR, {}, { extensions: { "x-vendor.acme.note": 1 } }),
  ];
  for (const id of refused) {
    const answer = await client.reply(id);
    assert.equal(answer.payload["code"], "INVALID_REQUEST");
    assert.equal((answer.payload["details"] as { type: string }).type, VENDOR);
  }
  await client.alive();
  assert.equal(errorsOf(client.received).length, refused.length, "the optional one was answered");
});

test("[ENV-6] a numbered event's id tells session and number, and every sending is the same to the byte", async () => {
  await using fixture = await runtimeFixture();
  const first = await fixture.connect();
  const jobId = await first.start("puppet", 'ünïcode \u2028 "quotes"');
  const puppet = await fixture.puppet(jobId);
  await puppet.job.log('line\nbreak "and" \\ \u{1f600} \ud800');
  await puppet.job.progress({ current: 1 });
  await puppet.job.emit("x-vendor.acme.odd", { "": [null, 1e21, -0] });
  puppet.end({ done: true });
  await first.terminal(jobId);
  const frames = first.received.filter(({ envelope }) => envelope.event_seq !== undefined).map(({ frame }) => frame);
  for (const { id, event_seq } of first.numbered()) assert.equal(id, `${first.sessionId}.${event_seq}`);
  assert.deepEqual(first.seqs(), [1, 2, 3, 4]);

  const again = await fixture.connect({ resume: first.resume(0) });
  await again.terminal(jobId);
  assert.deepEqual(
    again.received.filter(({ envelope }) => envelope.event_seq !== undefined).map(({ frame }) => frame),
    frames,
  );
  const part = await fixture.connect({ resume: again.resume(2) });
  await part.terminal(jobId);
  assert.deepEqual(
    part.received.filter(({ envelope }) => envelope.event_seq !== undefined).map(({ frame }) => frame),
    frames.slice(2),
  );
});

test("[ENV-7] every reply names the request that it answers", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const other = await fixture.connect();
  const replies: [string, string][] = [];
  const sent = (type: string, payload: object, answer: string) => replies.push([client.send(type, payload), answer]);
  const jobId = await client.start("puppet");
  sent("job.submit", { agent: "echo", input: 1 }, "job.accepted");
  sent("job.submit", { agent: "nobody", input: 1 }, "job.error");
  sent("job.submit", { agent: "echo", input: 1, max_runtime_sec: 0 }, "job.error");
  sent("job.subscribe", { job_id: await other.start("puppet") }, "job.subscribed");
  sent("job.subscribe", { job_id: "job_none" }, "session.error");
  sent("job.cancel", { job_id: jobId }, "job.cancelled");
  sent("job.cancel", { job_id: "job_none" }, "job.error");
  sent("session.list_jobs", {}, "session.jobs");
  sent("session.list_jobs", { limit: 0 }, "session.error");
  sent("session.close", {}, "session.closed");
  for (const [id, type] of replies) {
    const { envelope } = client.received.find(({ envelope }) => envelope.extensions?.[IN_REPLY_TO] === id) ?? {
      envelope: await client.reply(id),
    };
    assert.equal(envelope.type, type);
    assert.equal(envelope.extensions?.[IN_REPLY_TO], id);
    assert.equal(envelope.session_id, client.sessionId);
    assert.equal(envelope.event_seq, undefined);
  }
});

test("[ENV-7] a submit's trace_id is echoed on its answer and its events; without one the runtime makes one", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const trace = "0123456789abcdef0123456789abcdef";
  const accepted = await client.submit("echo", 1, {}, { trace_id: trace });
  assert.equal(accepted.trace_id, trace);
  assert.equal(accepted.payload["trace_id"], trace);
  assert.equal((await client.terminal(accepted.job_id as string)).trace_id, trace);
  assert.equal((await client.submit("nobody", 1, {}, { trace_id: trace })).trace_id, trace);
  assert.equal((await client.submit("echo", 1, { max_runtime_sec: -1 }, { trace_id: trace })).trace_id, trace);

  const made = [await client.submit("echo"), await client.submit("echo"), await client.submit("nobody")];
  for (const { trace_id } of made) assert.match(trace_id ?? "", /^[0-9a-f]{32}$/);
  assert.equal(new Set(made.map(({ trace_id }) => trace_id)).size, 3);
});

test("[ENV-8] the same submit twice runs once and is answered with the same frame", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const submit = () => client.send("job.submit", { agent: "puppet", input: 1 }, { id: "same" });
  submit();
  submit();
  await client.until(
    () => client.received.filter(({ envelope }) => envelope.type === "job.accepted").length === 2,
    "both answers",
  );
  submit();
  await client.until(
    () => client.received.filter(({ envelope }) => envelope.type === "job.accepted").length === 3,
    "all answers",
  );
  const frames = client.received.filter(({ envelope }) => envelope.type === "job.accepted").map(({ frame }) => frame);
  assert.equal(new Set(frames).size, 1);
  assert.equal(fixture.puppets, 1);

  // Also after a resume, whatever the repeat says by now.
  const again = await fixture.connect({ resume: client.resume(0) });
  again.send("job.submit", { agent: "echo", input: "else" }, { id: "same" });
  await again.alive();
  await turns();
  const repeats = again.received.filter(({ envelope }) => envelope.extensions?.[IN_REPLY_TO] === "same");
  assert(repeats.length > 0);
  for (const { frame } of repeats) assert.equal(frame, frames[0]);
  assert.equal(fixture.puppets, 1);
});

test("[ENV-8] another session may use the same id", async () => {
  await using fixture = await runtimeFixture();
  const ids = new Set<string | undefined>();
  for (const client of [await fixture.connect(), await fixture.connect(), await fixture.connect({ token: "bob" })]) {
    ids.add((await client.submit("puppet", null, {}, { id: "same" })).job_id);
  }
  assert.equal(ids.size, 3);
});

test("[ENV-8] refusals are stored replies too", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const requests: [type: string, payload: object][] = [
    ["job.submit", { agent: "nobody", input: 1 }],
    ["job.cancel", { job_id: "job_none" }],
    ["job.subscribe", { job_id: "job_none" }],
  ];
  for (const [index, [type, payload]] of requests.entries()) {
    const id = `refused-${index}`;
    const replies = () => client.received.filter(({ envelope }) => envelope.extensions?.[IN_REPLY_TO] === id);
    client.send(type, payload, { id });
    await client.until(() => replies().length === 1, "the refusal");
    // The id is used up: what comes under it now is a repeat, whatever it says.
    client.send("job.submit", { agent: "puppet", input: 1 }, { id });
    await client.until(() => replies().length === 2, "the repeated refusal");
    assert.equal(replies()[1]?.frame, replies()[0]?.frame, type);
  }
  await turns();
  assert.equal(fixture.puppets, 0);
});

test("[ENV-8] an invalid envelope does not use up its id", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  client.sendRaw(JSON.stringify({ arcp: "1.1", id: "a", type: "job.submit", payload: [] }));
  client.send("job.submit", { agent: 5 }, { id: "a" });
  client.send("job.unheard_of", {}, { id: "a" });
  client.send("job.submit", { agent: "echo", input: 1 }, { id: "a", session_id: "sess_other" });
  client.send("job.submit", { agent: "echo", input: 1 }, { id: "a" });
  const accepted = await client.waitFor(
    ({ type }) => type === "job.accepted",
    "the submit under the id to be accepted",
  );
  assert.equal(accepted.extensions?.[IN_REPLY_TO], "a");
});

test("[ENV-8] pings, pongs and acks are exempt", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("echo");
  await client.terminal(jobId);
  client.send("session.ping", { nonce: "1" }, { id: "same" });
  client.send("session.ping", { nonce: "2" }, { id: "same" });
  client.send("session.pong", { ping_nonce: "x" }, { id: "same" });
  client.send("session.ack", { last_processed_seq: 0 }, { id: "same" });
  client.send("session.ack", { last_processed_seq: 1 }, { id: "same" });
  await client.waitFor(
    ({ type, payload }) => type === "session.pong" && payload["ping_nonce"] === "2",
    "the second pong",
  );
  // And none of them used the id up.
  assert.equal((await client.submit("echo", 1, {}, { id: "same" })).type, "job.accepted");
});

test("[ENV-9] an agent's error keeps the wire's rules on retryable, whatever it says", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const said: [ConstructorParameters<typeof ArcpError>[0], boolean | undefined, boolean][] = [
    ["INTERNAL_ERROR", false, true],
    ["LEASE_EXPIRED", true, false],
    ["BUDGET_EXHAUSTED", true, false],
    ["TIMEOUT", undefined, true],
    ["TIMEOUT", false, false],
    ["PERMISSION_DENIED", undefined, false],
    ["AGENT_NOT_AVAILABLE", true, true],
  ];
  for (const [code, retryable, expected] of said) {
    const jobId = await client.start("puppet");
    const error = new ArcpError(code, "As it is.", retryable === undefined ? {} : { retryable });
    (await fixture.puppet(jobId)).fail(error);
    const { payload } = await client.terminal(jobId);
    assert.equal(payload["code"], code);
    assert.equal(payload["retryable"], expected, code);
    assert.equal(payload["message"], "As it is.");
  }
});

test("[ENV-9] only the table's codes travel, ours are in details, and no message holds a path or a stack", async () => {
  await using fixture = await runtimeFixture({ maxRunningJobsPerPrincipal: 1 });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const answers = [
    await client.submit("puppet"),
    await client.submit("nobody"),
    await client.submit("echo@9"),
    await client.ask("job.cancel", { job_id: "job_none" }),
    await client.ask("job.subscribe", { job_id: "job_none" }),
    await client.ask("session.list_jobs", { limit: 0 }),
    await client.ask("nonsense", {}),
  ];
  (await fixture.puppet(jobId)).fail(new Error(`ENOENT: ${import.meta.filename}`));
  answers.push(await client.terminal(jobId));
  for (const { payload } of answers) {
    assert(Object.hasOwn(ERROR_TABLE, payload["code"] as string), JSON.stringify(payload));
    assert.doesNotMatch(JSON.stringify(payload), /ENOENT|node_modules|\.ts\b|\n {4}at /);
  }
  assert.equal((answers[0]?.payload["details"] as { code?: string } | undefined)?.code, "LIMIT_EXCEEDED");
  assert.equal(answers[0]?.payload["code"], "INTERNAL_ERROR");
});

test("[ENV-10] a trace_id is 32 lowercase hex digits, or a traceparent that holds one", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const accepted = await client.submit("echo", 1, {}, { trace_id: `00-${trace}-00f067aa0ba902b7-01` });
  assert.equal(accepted.trace_id, trace);
  assert.equal(accepted.payload["trace_id"], trace);
  const bad = [
    trace.toUpperCase(),
    trace.slice(1),
    `${trace}0`,
    "0".repeat(32),
    `00-${"0".repeat(32)}-00f067aa0ba902b7-01`,
    `00-${trace}-00f067aa0ba902b7`,
    `${trace}\n`,
    "",
  ];
  for (const trace_id of bad) {
    const answer = await client.submit("echo", 1, {}, { trace_id });
    assert.equal(answer.payload["code"], "INVALID_REQUEST", trace_id);
    assert.match(answer.payload["message"] as string, /trace_id/);
  }
  await client.alive();
});

test("[ENV-11] a foreign session_id is INVALID_REQUEST, and nothing is done", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const other = await fixture.connect();
  for (const session_id of ["sess_none", other.sessionId as string, `${client.sessionId}x`]) {
    for (const type of ["job.submit", "session.list_jobs", "session.ack", "session.close"]) {
      const answer = await client.ask(type, { agent: "puppet", input: 1, last_processed_seq: 0 }, { session_id });
      assert.equal(answer.type, "session.error");
      assert.equal(answer.payload["code"], "INVALID_REQUEST");
      assert.match(answer.payload["message"] as string, /session_id/);
    }
  }
  await client.alive();
  await other.alive();
  assert.equal(fixture.puppets, 0);
  // Absent is fine: there is only one session on a connection.
  client.sendRaw(JSON.stringify({ arcp: "1.1", id: "bare", type: "session.list_jobs", payload: {} }));
  assert.equal((await client.reply("bare")).type, "session.jobs");
});

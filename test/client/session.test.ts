import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ArcpError,
  connect,
  type JobEvent,
  type JobHandle,
  questionOf,
  SessionClosedError,
  type SessionStatus,
} from "../../src/client/index.ts";
import { CLIENT_INSTANCE, eventEncoder } from "../../src/protocol/index.ts";
import { memoryPair } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { accepted, ScriptedRuntime, SESSION, settled, subscribed, until } from "./scripted-runtime.ts";

const code = (expected: string, detail?: string) => (error: unknown) => {
  assert.ok(error instanceof ArcpError, `an ArcpError, not ${String(error)}`);
  assert.equal(error.code, expected);
  if (detail !== undefined) assert.equal(error.details?.["code"], detail);
  return true;
};

/** Reads a job in the background. */
function reading(job: JobHandle) {
  const seqs: number[] = [];
  const done = (async () => {
    for await (const event of job) seqs.push(event.seq);
  })();
  done.catch(() => undefined);
  return { seqs, done };
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

// ------------------------------------------------------------------------------------------- connect

test("[CLT-1] connect resolves at the welcome and knows what it said", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, hello } = await runtime.open(
    { client: { name: "test", version: "1" }, features: ["ack", "subscribe"] },
    { features: ["subscribe", "list_jobs", "x-future"] },
  );
  assert.deepEqual(hello.payload.client, { name: "test", version: "1" });
  assert.deepEqual(hello.payload.auth, { scheme: "bearer", token: "secret" });
  assert.deepEqual(hello.payload.capabilities.features, ["ack", "subscribe"]);
  assert.equal(hello.payload.resume, undefined);
  assert.equal(session.id, SESSION);
  assert.deepEqual(session.features, ["subscribe"]);
  assert.deepEqual(session.agents, [{ name: "echo", versions: ["1.0.0"] }]);
  assert.deepEqual(session.runtime, { name: "holdfast", version: "1.0.0" });
  assert.deepEqual(session.status, { state: "connected" });
});

test("[CLT-1] a refused token, an unreachable runtime, silence and an abort each reject with their cause", async () => {
  await using runtime = new ScriptedRuntime();
  const refused = runtime.connect();
  const { connection } = await runtime.next();
  connection.error({ code: "UNAUTHENTICATED" });
  await assert.rejects(refused, code("UNAUTHENTICATED"));
  await settled();
  assert.equal(connection.closed, true);

  runtime.down = true;
  await assert.rejects(runtime.connect(), /connection refused/);
  runtime.down = false;

  const silent = assert.rejects(runtime.connect({ timeoutMs: 700 }), /no welcome within 700 ms/);
  await runtime.next();
  await runtime.clock.advance(700);
  await silent;

  const abort = new AbortController();
  const aborted = assert.rejects(runtime.connect({ signal: abort.signal }), /never mind/);
  const late = (await runtime.next()).connection;
  abort.abort(new Error("never mind"));
  await aborted;
  await settled();
  assert.equal(late.closed, true);
  await assert.rejects(runtime.connect({ signal: abort.signal }), /never mind/);

  const opened = Promise.withResolvers<Transport>();
  const slow = assert.rejects(
    connect(() => opened.promise, { token: "secret", clock: runtime.clock, timeoutMs: 700 }),
    /no welcome within 700 ms/,
  );
  await runtime.clock.advance(700);
  await slow;
  const tooLate = memoryPair({ auto: true }).a;
  opened.resolve(tooLate);
  await settled();
  assert.equal(tooLate.open, false);

  await assert.rejects(runtime.connect({ token: () => Promise.reject(new Error("no token today")) }), /no token today/);
  const dropped = assert.rejects(runtime.connect(), /closed \(4401, who are you/);
  (await runtime.next()).connection.pair.b.close(4401, "who are you");
  await dropped;
});

// ------------------------------------------------------------------------------------------ healing

test("[CLT-2] a lost connection is resumed and a handle goes on", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const { seqs, done } = reading(job);
  connection.events("job_1", 1, 3);
  await settled();
  connection.cut();
  await settled();
  assert.deepEqual(session.status, { state: "reconnecting", attempt: 1, delayMs: 100 });
  const { connection: second, hello } = await runtime.resume();
  assert.deepEqual(hello.payload.resume, { session_id: SESSION, resume_token: "resume-1", last_event_seq: 3 });
  assert.deepEqual(session.status, { state: "connected" });
  second.events("job_1", 4, 5);
  second.end("job_1", 6, { final_status: "success", result: { pages: 12 } });
  await done;
  assert.deepEqual(seqs, range(1, 5));
  assert.deepEqual(await job.result, { pages: 12 });
});

test("[CLT-2] each hello has the same instance, a higher attempt, and the newest token", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, hello: first } = await runtime.open();
  connection.cut();
  await settled();
  const { connection: second, hello: next } = await runtime.resume({ token: "fresh" });
  second.cut();
  await settled();
  const { hello: last } = await runtime.resume({}, 200);
  const instances = [first, next, last].map((hello) => hello.extensions?.[CLIENT_INSTANCE]);
  const { instance } = instances[0] as { instance: string };
  assert.deepEqual(instances, [
    { instance, attempt: 1 },
    { instance, attempt: 2 },
    { instance, attempt: 3 },
  ]);
  assert.equal(last.payload.resume.resume_token, "fresh");
});

test("[CLT-2] attempts back off with jitter up to a limit, and are told as statuses", async () => {
  await using runtime = new ScriptedRuntime();
  const rolls = [0.5, 1, 0, 1, 1];
  const { session, connection } = await runtime.open({
    reconnect: { initialMs: 100, maxMs: 400, random: () => rolls.shift() ?? 1 },
  });
  const statuses: SessionStatus[] = [];
  const watched = (async () => {
    for await (const status of session.statuses()) statuses.push(status);
  })();
  runtime.down = true;
  connection.cut();
  await runtime.clock.advance(50 + 200 + 0 + 400);
  runtime.down = false;
  await runtime.resume({}, 400);
  const closing = session.close();
  await runtime.clock.advance(2_000);
  await Promise.all([closing, watched]);
  assert.deepEqual(statuses, [
    { state: "connected" },
    { state: "reconnecting", attempt: 1, delayMs: 50 },
    { state: "reconnecting", attempt: 2, delayMs: 200 },
    { state: "reconnecting", attempt: 3, delayMs: 0 },
    { state: "reconnecting", attempt: 4, delayMs: 400 },
    { state: "reconnecting", attempt: 5, delayMs: 400 },
    { state: "connected" },
    { state: "closed", reason: "closed" },
  ]);
});

test("[CLT-2] a welcome that is followed by nothing does not reset the backoff", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.cut();
  await settled();
  const { connection: second } = await runtime.resume();
  second.cut();
  await settled();
  assert.deepEqual(session.status, { state: "reconnecting", attempt: 2, delayMs: 200 });
  const { connection: third } = await runtime.resume({}, 200);
  third.send("session.pong", { ping_nonce: "any" });
  await settled();
  third.cut();
  await settled();
  assert.deepEqual(session.status, { state: "reconnecting", attempt: 1, delayMs: 100 });
});

test("[CLT-2] a retryable refusal is tried again, no sooner than it asks", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.cut();
  await runtime.clock.advance(100);
  const busy = (await runtime.next()).connection;
  busy.error({ code: "INTERNAL_ERROR", details: { code: "STORE_UNAVAILABLE", retry_after_ms: 3_000 } });
  await settled();
  assert.deepEqual(session.status, { state: "reconnecting", attempt: 2, delayMs: 3_000 });
  await runtime.resume({}, 3_000);
  assert.equal(session.status.state, "connected");
});

test("[CLT-2] when nobody can be reached for the resume window, the session gives up and says so", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob({}, { windowSec: 5 });
  runtime.down = true;
  connection.cut();
  await runtime.clock.advance(16_000);
  const closed = await session.closed;
  assert.equal(closed.reason, "gave_up");
  assert.match(closed.error?.message ?? "", /No connection for \d+ ms/);
  assert.match(String(closed.error?.cause), /connection refused/);
  await assert.rejects(job.terminal, code("INTERNAL_ERROR", "OUTCOME_UNKNOWN"));
});

test("[SES-7] an idle client pings, and drops a connection that is silent for more than two intervals", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open({}, { heartbeatSec: 30 });
  await runtime.clock.advance(29_999);
  assert.equal(connection.ofType("session.ping").length, 0);
  await runtime.clock.advance(1);
  const ping = await connection.expect("session.ping");
  connection.send("session.pong", { ping_nonce: ping.payload.nonce });
  await runtime.clock.advance(60_000);
  assert.equal(session.status.state, "connected");
  await runtime.clock.advance(1);
  assert.equal(session.status.state, "reconnecting");
  assert.equal(connection.closed, true);
});

test("[SES-7] without the feature there is no heartbeat", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open({ features: ["ack"] }, { heartbeatSec: 30 });
  await runtime.clock.advance(300_000);
  assert.equal(session.status.state, "connected");
  assert.deepEqual(
    connection.received.map((message) => message.type),
    ["session.hello"],
  );
});

test("[SES-6] the client answers pings, and measures its own", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.send("session.ping", { nonce: "n1" });
  assert.equal((await connection.expect("session.pong")).payload.ping_nonce, "n1");
  const roundTrip = session.ping();
  const { payload } = await connection.expect("session.ping");
  await runtime.clock.advance(40);
  connection.send("session.pong", { ping_nonce: payload.nonce });
  assert.equal(await roundTrip, 40);
  const lost = assert.rejects(session.ping(), /connection was lost/);
  connection.cut();
  await lost;
  await assert.rejects(session.ping(), /the session is reconnecting/);
});

// -------------------------------------------------------------------------------------- sequencing

test("[CLT-3] a gap drops the connection and resumes below it", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, job } = await runtime.openWithJob();
  const { seqs, done } = reading(job);
  connection.events("job_1", 1, 2);
  connection.events("job_1", 4, 6);
  await settled();
  assert.equal(connection.closed, true);
  assert.deepEqual(seqs, [1, 2]);
  const { connection: second, hello } = await runtime.resume();
  assert.equal(hello.payload.resume.last_event_seq, 2);
  second.events("job_1", 3, 6);
  second.end("job_1", 7);
  await done;
  assert.deepEqual(seqs, range(1, 6));
});

test("[CLT-3] a number that was seen before is ignored, a terminal one too", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, session, job } = await runtime.openWithJob();
  const { seqs, done } = reading(job);
  connection.events("job_1", 1, 3);
  connection.events("job_1", 2, 4);
  connection.end("job_1", 4, { final_status: "error", code: "INTERNAL_ERROR", message: "stale", retryable: true });
  connection.end("job_1", 5);
  connection.end("job_1", 5);
  await done;
  assert.deepEqual(seqs, range(1, 4));
  assert.equal(await job.result, "done");
  assert.equal(session.status.state, "connected");
});

test("[CLT-3] a gap that stays is asked for again at growing distances, not in a loop", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection } = await runtime.openWithJob();
  connection.events("job_1", 1);
  await settled();
  const delays: number[] = [];
  let current = connection;
  for (const delayMs of [100, 200, 400]) {
    current.events("job_1", 3);
    await settled();
    current = (await runtime.resume({}, delayMs)).connection;
    delays.push(delayMs);
  }
  assert.equal(runtime.connections.length, 4);
});

test("[CLT-3] what is no message, or another session's, disturbs nothing", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, session, job } = await runtime.openWithJob();
  const kinds: string[] = [];
  const done = (async () => {
    for await (const event of job) kinds.push(event.kind);
  })();
  connection.pair.b.send(["{", "[]", "null", '{"type":"job.event"}', '{"type":"x-vendor.a.b","payload":{}}']);
  const foreign = { kind: "log", ts: "2026-01-01T00:00:00Z", body: {} };
  connection.pair.b.send([eventEncoder("sess_2", "job_1", "0".repeat(32))("job.event", 1, JSON.stringify(foreign))]);
  connection.events("job_1", 1);
  connection.send("job.unheard_of", {}, { job_id: "job_1" });
  connection.end("job_1", 2);
  await done;
  assert.deepEqual(kinds, ["thought"]);
  assert.equal(session.status.state, "connected");
});

// ---------------------------------------------------------------------------------------- requests

test("[CLT-4] requests made while disconnected go out once after the resume, in order", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.cut();
  await settled();
  const first = session.submit("echo", "a");
  const listing = session.listJobs();
  const last = session.submit("echo", "b");
  const { connection: second } = await runtime.resume();
  assert.deepEqual(
    second.received.map((message) => message.payload.input ?? message.type),
    ["session.hello", "a", "session.list_jobs", "b"],
  );
  const [a, b] = second.ofType("job.submit");
  assert.ok(a !== undefined && b !== undefined);
  second.accept(a, "job_a");
  second.reply(await second.expect("session.list_jobs"), "session.jobs", { jobs: [], next_cursor: "c" });
  second.accept(b, "job_b");
  assert.deepEqual([(await first).id, (await last).id], ["job_a", "job_b"]);
  assert.deepEqual(await listing, { jobs: [], nextCursor: "c" });
});

test("[CLT-4] an unanswered request is sent again, the same to the byte; an answered one is not", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.openWithJob();
  const submitting = session.submit("echo", { n: 2 });
  const sent = await connection.expect("job.submit");
  connection.accept(sent, "job_2");
  connection.cut(); // the answer is lost with it
  await settled();
  const { connection: second } = await runtime.resume();
  const again = second.ofType("job.submit");
  assert.deepEqual(
    again.map((message) => message.frame),
    [sent.frame],
  );
  second.accept(sent, "job_2");
  assert.equal((await submitting).id, "job_2");
});

test("[CLT-4] a repeated answer is ignored", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const first = session.submit("echo", 1);
  const second = session.submit("echo", 2);
  const one = await connection.expect("job.submit");
  const two = await connection.expect("job.submit");
  connection.accept(one, "job_1");
  connection.accept(one, "job_1");
  connection.reply(one, "job.error", { code: "INTERNAL_ERROR", message: "late", retryable: true });
  connection.accept(two, "job_2");
  assert.deepEqual([(await first).id, (await second).id], ["job_1", "job_2"]);
});

test("[CLT-12] an answer resolves when it counts, and rejects with what the runtime says", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, job, connection } = await runtime.openWithJob();
  const answering = job.answer("q_1", { approve: true });
  const sent = await connection.expect("x-vendor.holdfast.answer");
  assert.deepEqual(sent.payload, { job_id: job.id, question_id: "q_1", answer: { approve: true } });
  connection.reply(sent, "x-vendor.holdfast.answered", { job_id: job.id, question_id: "q_1", outcome: "accepted" });
  assert.equal(await answering, undefined);
  const late = session.answer(job.id, "q_1", null);
  const again = await connection.expect("x-vendor.holdfast.answer");
  const details = { code: "ALREADY_ANSWERED", question_id: "q_1" };
  connection.reply(again, "session.error", { code: "INVALID_REQUEST", message: "no", retryable: false, details });
  await assert.rejects(late, code("INVALID_REQUEST", "ALREADY_ANSWERED"));
  assert.equal(session.status.state, "connected");
});

test("[CLT-12] an answer that was not told to count is sent again after the resume, the same to the byte", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, job, connection } = await runtime.openWithJob();
  const answering = session.answer(job.id, "q_1", 7);
  const sent = await connection.expect("x-vendor.holdfast.answer");
  connection.cut();
  await settled();
  const { connection: second } = await runtime.resume();
  const again = await second.expect("x-vendor.holdfast.answer");
  assert.equal(again.frame, sent.frame);
  second.reply(again, "x-vendor.holdfast.answered", { job_id: job.id, question_id: "q_1", outcome: "accepted" });
  await answering;
});

test("[CLT-12] a question is read from the event that asks it, and from no other", () => {
  const event = (kind: string, body: unknown): JobEvent => ({ seq: 1, kind, body, ts: "" });
  const body = { phase: "input_required", question_id: "q_1", message: "?", schema: { type: "null" }, to: "bob" };
  assert.deepEqual(questionOf(event("status", body)), {
    questionId: "q_1",
    message: "?",
    schema: { type: "null" },
    to: "bob",
  });
  const bare = { phase: "input_required", question_id: "q_2", message: 7 };
  assert.deepEqual(questionOf(event("status", bare)), {
    questionId: "q_2",
    message: "",
    schema: undefined,
    to: undefined,
  });
  for (const other of [null, "input_required", {}, { phase: "input_received", question_id: "q_1" }]) {
    assert.equal(questionOf(event("status", other)), undefined);
  }
  assert.equal(questionOf(event("log", body)), undefined);
  assert.equal(questionOf(event("status", { phase: "input_required", message: "?" })), undefined);
});

test("[CLT-11] a submit that is longer than a message may be is refused at once, and the session goes on", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  await assert.rejects(
    session.submit("echo", "é".repeat(600_000)),
    /takes 12\d{5} bytes; a message has at most 1114112/,
  );
  const submitting = session.submit("echo", 1);
  connection.accept(await connection.expect("job.submit"), "job_1");
  assert.equal((await submitting).id, "job_1");
  assert.equal(connection.ofType("job.submit").length, 1);
});

test("[CLT-4] an aborted request that never went out is not sent", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.cut();
  await settled();
  const abort = new AbortController();
  const submitting = assert.rejects(session.submit("echo", 1, { signal: abort.signal }), /not any more/);
  abort.abort(new Error("not any more"));
  await submitting;
  const { connection: second } = await runtime.resume();
  assert.equal(second.ofType("job.submit").length, 0);
});

test("[CLT-4] too many waiting requests are refused with a clear error", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open({ maxPendingRequests: 2 });
  const [one, two] = [session.submit("echo", 1), session.submit("echo", 2)];
  await assert.rejects(session.submit("echo", 3), code("INTERNAL_ERROR", "LIMIT_EXCEEDED"));
  connection.accept(await connection.expect("job.submit"), "job_1");
  connection.accept(await connection.expect("job.submit"), "job_2");
  await Promise.all([one, two]);
  assert.equal(connection.ofType("job.submit").length, 2);
});

test("[ENV-7] answers are matched by the request that they name, in any order", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const submitting = session.submit("echo", 1, {
    idempotencyKey: "k",
    leaseRequest: { "fs.read": ["/srv/**"] },
    leaseConstraints: { expiresAt: new Date(0) },
    maxRuntimeSec: 5,
    traceId: "a".repeat(32),
  });
  const rejecting = assert.rejects(session.submit("echo", 2), code("AGENT_NOT_AVAILABLE"));
  const [one, two] = [await connection.expect("job.submit"), await connection.expect("job.submit")];
  assert.equal(one.trace_id, "a".repeat(32));
  assert.deepEqual(one.payload, {
    agent: "echo",
    input: 1,
    lease_request: { "fs.read": ["/srv/**"] },
    lease_constraints: { expires_at: "1970-01-01T00:00:00.000Z" },
    idempotency_key: "k",
    max_runtime_sec: 5,
  });
  connection.reply(two, "job.error", {
    final_status: "error",
    code: "AGENT_NOT_AVAILABLE",
    message: "no",
    retryable: false,
  });
  connection.accept(one, "job_1");
  const job = await submitting;
  assert.equal(job.agent, "echo@1.0.0");
  assert.deepEqual(job.accepted, accepted("job_1"));
  await rejecting;
});

test("[ENV-7] with a runtime that names no request, answers are matched by trace, then by order", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open({}, { name: "other" });
  const [first, second, third] = [session.submit("echo", 1), session.submit("echo", 2), session.submit("echo", 3)];
  await connection.expect("job.submit");
  const two = await connection.expect("job.submit");
  await connection.expect("job.submit");
  connection.send("job.accepted", { ...accepted("job_child"), parent_job_id: "job_0" }, { job_id: "job_child" });
  connection.send("job.accepted", accepted("job_2"), {
    job_id: "job_2",
    ...(two.trace_id && { trace_id: two.trace_id }),
  });
  connection.send("job.accepted", accepted("job_1"), { job_id: "job_1" });
  connection.send("job.error", { code: "DUPLICATE_KEY", message: "no", retryable: false }, { job_id: "job_9" });
  assert.deepEqual([(await first).id, (await second).id], ["job_1", "job_2"]);
  await assert.rejects(third, code("DUPLICATE_KEY"));
});

test("[ENV-7] an error that names no request ends the oldest query of a runtime that is not ours", async () => {
  await using runtime = new ScriptedRuntime();
  for (const name of ["other", "holdfast"]) {
    const connecting = runtime.connect();
    const { connection } = await runtime.next();
    connection.welcome({ name });
    await using session = await connecting;
    const subscribing = session.subscribe("job_x");
    let outcome = "waits";
    subscribing.catch((error: ArcpError) => {
      outcome = error.code;
    });
    await connection.expect("job.subscribe");
    connection.error({ code: "JOB_NOT_FOUND", request_id: "of another request" });
    await settled();
    assert.equal(outcome, "waits");
    connection.error({ code: "JOB_NOT_FOUND" });
    await settled();
    assert.equal(outcome, name === "other" ? "JOB_NOT_FOUND" : "waits");
    const closing = session.close();
    await runtime.clock.advance(2_000);
    await closing;
  }
});

test("[JOB-13] a refused subscribe rejects by its request id", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const refused = assert.rejects(session.subscribe("job_x", { history: true, fromEventSeq: 7 }), code("JOB_NOT_FOUND"));
  const request = await connection.expect("job.subscribe");
  assert.deepEqual(request.payload, { job_id: "job_x", history: true, from_event_seq: 7 });
  connection.send("session.error", { code: "JOB_NOT_FOUND", message: "no", retryable: false, request_id: request.id });
  await refused;
});

test("[JOB-12] subscribing to a followed job gives the same handle; after its end, a new one", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const again = session.subscribe("job_1");
  connection.reply(await connection.expect("job.subscribe"), "job.subscribed", subscribed("job_1"), {
    job_id: "job_1",
  });
  assert.equal(await again, job);
  assert.deepEqual(job.accepted, accepted("job_1"));
  connection.end("job_1", 1);
  await job.terminal;
  const replaying = session.subscribe("job_1", { history: true });
  connection.reply(await connection.expect("job.subscribe"), "job.subscribed", subscribed("job_1"), {
    job_id: "job_1",
  });
  const replay = await replaying;
  assert.notEqual(replay, job);
  const { seqs, done } = reading(replay);
  connection.events("job_1", 2);
  connection.end("job_1", 3);
  await done;
  assert.deepEqual(seqs, [2]);
});

test("[JOB-12] unsubscribe ends the iteration, and is sent again when its arrival is in doubt", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const { seqs, done } = reading(job);
  connection.events("job_1", 1);
  const leaving = session.unsubscribe("job_1");
  await connection.expect("job.unsubscribe");
  connection.cut();
  await settled();
  const { connection: second } = await runtime.resume();
  assert.equal(second.ofType("job.unsubscribe").length, 1);
  const ping = await second.expect("session.ping");
  second.send("session.pong", { ping_nonce: ping.payload.nonce });
  await leaving;
  await done;
  second.events("job_1", 2); // was under way
  await settled();
  assert.deepEqual(seqs, [1]);
  await assert.rejects(job.result, /no longer follows job_1/);
});

test("[JOB-10] listing passes the filter and the cursor on", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const listing = session.listJobs({
    status: ["running"],
    agent: "echo",
    createdAfter: new Date(0),
    createdBefore: "2026-01-01T00:00:00Z",
    limit: 10,
    cursor: "c1",
  });
  const request = await connection.expect("session.list_jobs");
  assert.deepEqual(request.payload, {
    filter: {
      status: ["running"],
      agent: "echo",
      created_after: "1970-01-01T00:00:00.000Z",
      created_before: "2026-01-01T00:00:00Z",
    },
    limit: 10,
    cursor: "c1",
  });
  connection.send("session.jobs", { request_id: request.id, jobs: [{ job_id: "job_1" }], next_cursor: null });
  assert.deepEqual(await listing, { jobs: [{ job_id: "job_1" }], nextCursor: null });
});

test("[SES-4] what needs a feature that the session lacks is refused without a word to the runtime", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open({ features: ["ack"] });
  await assert.rejects(session.listJobs(), code("INVALID_REQUEST"));
  await assert.rejects(session.subscribe("job_1"), code("INVALID_REQUEST"));
  await settled();
  assert.equal(connection.received.length, 1);
});

// -------------------------------------------------------------------------------------------- acks

test("[CLT-5] events that nobody iterates count as consumed at once; acks are coalesced", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection } = await runtime.openWithJob();
  connection.events("job_1", 1, 100);
  await settled();
  assert.equal(connection.ofType("session.ack").length, 0);
  await runtime.clock.advance(200);
  connection.events("job_1", 101, 356);
  await settled();
  assert.deepEqual(
    connection.ofType("session.ack").map((ack) => ack.payload.last_processed_seq),
    [100, 356],
  );
  await runtime.clock.advance(1_000);
  assert.equal(connection.ofType("session.ack").length, 2);
  connection.events("job_of_nobody", 357);
  connection.end("job_1", 358);
  await settled();
  await runtime.clock.advance(200);
  assert.equal(connection.ofType("session.ack").at(-1)?.payload.last_processed_seq, 358);
});

test("[CLT-5] an iterated job is acked as far as its events were handed out", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const iterator = job[Symbol.asyncIterator]();
  connection.events("job_1", 1, 5);
  await settled();
  await runtime.clock.advance(200);
  assert.equal(connection.ofType("session.ack").length, 0);
  await iterator.next();
  await iterator.next();
  await runtime.clock.advance(200);
  assert.equal((await connection.expect("session.ack")).payload.last_processed_seq, 2);
  assert.equal(session.resumeState.lastEventSeq, 2);
  await iterator.return?.();
  await runtime.clock.advance(200);
  assert.equal((await connection.expect("session.ack")).payload.last_processed_seq, 5);
});

test("[CLT-5] a long burst is handed out whole and in order while it is acked", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const { seqs, done } = reading(job);
  await settled();
  connection.events("job_1", 1, 5_000);
  connection.end("job_1", 5_001);
  await done;
  assert.deepEqual(seqs, range(1, 5_000));
  assert.equal(session.resumeState.lastEventSeq, 5_001);
  assert.ok(connection.ofType("session.ack").length <= 20);
});

test("[CLT-5] a reader that lags holds the ack back for the jobs beside it", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const slow = job[Symbol.asyncIterator]();
  const fast = reading(await runtime.submitted(session, connection, "job_2"));
  connection.events("job_1", 1);
  connection.events("job_2", 2, 9);
  connection.events("job_1", 10);
  await settled();
  await runtime.clock.advance(200);
  assert.deepEqual(fast.seqs, range(2, 9));
  assert.equal(connection.ofType("session.ack").length, 0);
  await slow.next();
  await runtime.clock.advance(200);
  assert.equal((await connection.expect("session.ack")).payload.last_processed_seq, 9);
});

test("[CLT-5] an ack that could not be sent follows the resume; without the feature there is none", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection } = await runtime.openWithJob();
  connection.events("job_1", 1, 4);
  await settled();
  connection.cut();
  const { connection: second } = await runtime.resume();
  assert.equal((await second.expect("session.ack")).payload.last_processed_seq, 4);

  const plain = await runtime.openWithJob({ features: [] });
  plain.connection.events("job_1", 1, 600);
  await runtime.clock.advance(1_000);
  assert.equal(plain.connection.ofType("session.ack").length, 0);
});

test("[CLT-5] another process goes on from what was consumed, and gets what was not", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const iterator = job[Symbol.asyncIterator]();
  connection.events("job_1", 1, 3);
  await settled();
  await iterator.next();
  const state = session.resumeState;
  assert.deepEqual(state, { sessionId: SESSION, resumeToken: "resume-1", lastEventSeq: 1 });

  const { session: successor, connection: second, hello } = await runtime.open({ resume: state });
  assert.deepEqual(hello.payload.resume, { session_id: SESSION, resume_token: "resume-1", last_event_seq: 1 });
  second.events("job_1", 2, 3);
  await settled();
  const subscribing = successor.subscribe("job_1");
  second.reply(await second.expect("job.subscribe"), "job.subscribed", subscribed("job_1"), { job_id: "job_1" });
  const { seqs, done } = reading(await subscribing);
  second.events("job_1", 4);
  second.end("job_1", 5);
  await done;
  assert.deepEqual(seqs, [2, 3, 4]);
});

// --------------------------------------------------------------------------------------------- end

test("[CLT-6] a superseded client closes and does not come back", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  connection.error({ code: "INVALID_REQUEST", details: { reason: "superseded" } });
  connection.pair.b.close(4400, "INVALID_REQUEST");
  const closed = await session.closed;
  assert.equal(closed.reason, "superseded");
  await runtime.clock.advance(3_600_000);
  assert.equal(runtime.connections.length, 1);
  await assert.rejects(job.result, code("INTERNAL_ERROR", "OUTCOME_UNKNOWN"));
  await assert.rejects(session.submit("echo"), SessionClosedError);
});

test("[CLT-6] a resume that a later attempt has overtaken ends likewise", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.cut();
  await runtime.clock.advance(100);
  (await runtime.next()).connection.error({ code: "INVALID_REQUEST", details: { reason: "superseded" } });
  assert.equal((await session.closed).reason, "superseded");
  await runtime.clock.advance(3_600_000);
  assert.equal(runtime.connections.length, 2);
});

test("[CLT-7] a refused resume fails what was in flight and closes the session", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const { seqs, done } = reading(job);
  connection.events("job_1", 1);
  const plain = session.submit("echo", 1);
  const keyed = session.submit("echo", 2, { idempotencyKey: "k" });
  await connection.expect("job.submit");
  await connection.expect("job.submit");
  connection.cut();
  await settled();
  const queued = session.submit("echo", 3);
  const outcomes = Promise.allSettled([plain, keyed, queued, job.result, job.terminal, done]);
  await runtime.clock.advance(100);
  const refusing = (await runtime.next()).connection;
  refusing.error({ code: "RESUME_WINDOW_EXPIRED" });
  const closed = await session.closed;
  assert.equal(closed.reason, "resume_refused");
  code("RESUME_WINDOW_EXPIRED")(closed.error);
  const errors = (await outcomes).map((outcome) => (outcome as PromiseRejectedResult).reason as Error);
  for (const error of [errors[0], errors[3], errors[4], errors[5]]) {
    code("INTERNAL_ERROR", "OUTCOME_UNKNOWN")(error);
    assert.equal(error?.cause, closed.error);
  }
  for (const error of [errors[1], errors[2]]) assert.ok(error instanceof SessionClosedError, String(error));
  assert.match(errors[2]?.message ?? "", /before this was sent/);
  assert.deepEqual(seqs, [1]);
  await runtime.clock.advance(3_600_000);
  assert.equal(runtime.connections.length, 2);
  assert.equal(refusing.ofType("job.submit").length, 0);
});

test("[CLT-7] a submit that went out after a resume counts as sent", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.cut();
  await settled();
  const unknown = assert.rejects(session.submit("echo"), code("INTERNAL_ERROR", "OUTCOME_UNKNOWN"));
  const { connection: second } = await runtime.resume();
  await second.expect("job.submit");
  second.error({ code: "INVALID_REQUEST", details: { reason: "superseded" } });
  await unknown;
});

test("[CLT-7] a runtime that opens another session instead of resuming has refused", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.cut();
  await settled();
  await runtime.resume({ sessionId: "sess_2" });
  assert.equal((await session.closed).reason, "resume_refused");
  await assert.rejects(
    (async () => {
      const connecting = runtime.connect({ resume: { sessionId: "sess_3", resumeToken: "t", lastEventSeq: 0 } });
      connecting.catch(() => undefined);
      (await runtime.next()).connection.error({ code: "RESUME_WINDOW_EXPIRED" });
      await connecting;
    })(),
    code("RESUME_WINDOW_EXPIRED"),
  );
});

test("[SES-11] an expired token closes the session; a token from a function is renewed", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.error({ code: "UNAUTHENTICATED" });
  connection.pair.b.close(4401, "UNAUTHENTICATED");
  const closed = await session.closed;
  assert.equal(closed.reason, "unauthenticated");
  code("UNAUTHENTICATED")(closed.error);

  let issued = 0;
  const token = async () => {
    issued += 1;
    return `token-${issued}`;
  };
  const renewing = await runtime.open({ token });
  renewing.connection.error({ code: "UNAUTHENTICATED" });
  await settled();
  const { hello } = await runtime.resume();
  assert.equal(hello.payload.auth.token, "token-2");
  assert.equal(renewing.session.status.state, "connected");
});

test("[SES-9] close says goodbye, sends the last ack, and waits for the answer", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  connection.events("job_1", 1);
  await settled();
  const closing = session.close({ reason: "done here" });
  const goodbye = await connection.expect("session.close");
  assert.equal(goodbye.payload.reason, "done here");
  assert.deepEqual(
    connection.received.slice(-2).map((message) => message.type),
    ["session.ack", "session.close"],
  );
  await settled();
  assert.equal(connection.closed, false);
  await assert.rejects(session.submit("echo"), SessionClosedError);
  connection.reply(goodbye, "session.closed", {});
  await closing;
  assert.deepEqual(session.status, { state: "closed", reason: "done here" });
  await settled();
  assert.equal(connection.closed, true);
  await assert.rejects(job.terminal, SessionClosedError);
  await session.close();
});

test("[SES-9] close does not wait for long, nor for a connection that is gone", async () => {
  await using runtime = new ScriptedRuntime();
  const { session } = await runtime.open();
  const closing = session.close({ timeoutMs: 300 });
  await runtime.clock.advance(300);
  await closing;

  const other = await runtime.open();
  other.connection.cut();
  await settled();
  await other.session.close();
  await runtime.clock.advance(60_000);
  assert.equal(runtime.connections.length, 2);

  const third = await runtime.open();
  const leaving = third.session.close();
  await third.connection.expect("session.close");
  third.connection.error({ code: "INVALID_REQUEST", details: { type: "session.close" } });
  await leaving;
});

test("[SES-9] a runtime that says goodbye is asked again", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  connection.send("session.bye", { reason: "restarting" });
  await settled();
  assert.equal(session.status.state, "reconnecting");
  await runtime.resume();
  assert.equal(session.status.state, "connected");
});

// -------------------------------------------------------------------------------------------- jobs

test("[CLT-9] a refused cancel rejects and is not the job's end", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, job } = await runtime.openWithJob();
  const refusal = { final_status: "error", code: "PERMISSION_DENIED", message: "not yours", retryable: false };
  const named = assert.rejects(job.cancel("please"), code("PERMISSION_DENIED"));
  const request = await connection.expect("job.cancel");
  assert.equal(request.job_id, "job_1");
  assert.deepEqual(request.payload, { reason: "please" });
  connection.reply(request, "job.error", refusal, { job_id: "job_1" });
  await named;
  const unnamed = assert.rejects(job.cancel(), code("PERMISSION_DENIED"));
  await connection.expect("job.cancel");
  connection.send("job.error", refusal, { job_id: "job_1" });
  connection.send("job.error", refusal, { job_id: "job_1" });
  await unnamed;
  const { seqs, done } = reading(job);
  connection.events("job_1", 1);
  connection.end("job_1", 2);
  await done;
  assert.deepEqual(seqs, [1]);
  assert.equal((await job.terminal).final_status, "success");
  await job.cancel();
  assert.equal(connection.ofType("job.cancel").length, 2);
});

test("[JOB-6] a cancel resolves at job.cancelled, and the end follows", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, job } = await runtime.openWithJob();
  const cancelling = job.cancel();
  connection.reply(await connection.expect("job.cancel"), "job.cancelled", { job_id: "job_1" }, { job_id: "job_1" });
  await cancelling;
  connection.end("job_1", 1, { final_status: "cancelled", code: "CANCELLED", message: "as asked", retryable: false });
  assert.equal((await job.terminal).final_status, "cancelled");
  await assert.rejects(job.result, code("CANCELLED"));
});

test("[JOB-6] a submit that was aborted while unanswered is cancelled when it is accepted", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const abort = new AbortController();
  const aborted = assert.rejects(session.submit("echo", 1, { signal: abort.signal }), /changed my mind/);
  const submit = await connection.expect("job.submit");
  abort.abort(new Error("changed my mind"));
  await aborted;
  connection.accept(submit, "job_1");
  assert.equal((await connection.expect("job.cancel")).job_id, "job_1");
  connection.send("job.cancelled", { job_id: "job_1" }, { job_id: "job_1" });

  const later = new AbortController();
  const submitting = session.submit("echo", 2, { signal: later.signal });
  connection.accept(await connection.expect("job.submit"), "job_2");
  const job = await submitting;
  later.abort();
  assert.equal((await connection.expect("job.cancel")).job_id, job.id);
});

test("[JOB-12] a subscribe that was aborted while unanswered is taken back when it comes about", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const abort = new AbortController();
  const aborted = assert.rejects(session.subscribe("job_1", { signal: abort.signal }), /AbortError|aborted/);
  const request = await connection.expect("job.subscribe");
  abort.abort();
  await aborted;
  connection.reply(request, "job.subscribed", subscribed("job_1"), { job_id: "job_1" });
  assert.equal((await connection.expect("job.unsubscribe")).payload.job_id, "job_1");
});

test("[JOB-15] a job's failure rejects its result, and nobody need look at it", async () => {
  await using runtime = new ScriptedRuntime();
  const unhandled: unknown[] = [];
  const note = (reason: unknown) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  const { session, connection, job } = await runtime.openWithJob();
  const other = await runtime.submitted(session, connection, "job_2");
  connection.end("job_1", 1, {
    final_status: "error",
    code: "BUDGET_EXHAUSTED",
    message: "spent",
    retryable: false,
    details: { unit: "USD" },
  });
  connection.end("job_2", 2, { final_status: "error", code: "MADE_UP", message: "odd", retryable: true });
  await until(() => session.resumeState.lastEventSeq === 2, "both ends");
  await settled();
  process.off("unhandledRejection", note);
  assert.deepEqual(unhandled, []);
  await assert.rejects(job.result, (error: ArcpError) => {
    assert.deepEqual([error.code, error.message, error.details], ["BUDGET_EXHAUSTED", "spent", { unit: "USD" }]);
    return true;
  });
  assert.equal((await job.terminal).code, "BUDGET_EXHAUSTED");
  await assert.rejects(other.result, (error: ArcpError) => {
    assert.deepEqual([error.code, error.details], ["INTERNAL_ERROR", { wire_code: "MADE_UP" }]);
    return true;
  });
});

test("[SES-5] a chunked result is put together, as text or as bytes", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const bytes = await runtime.submitted(session, connection, "job_2");
  const broken = await runtime.submitted(session, connection, "job_3");
  connection.chunk("job_1", 1, { result_id: "r", chunk_seq: 0, data: "kůň ", encoding: "utf8", more: true });
  connection.chunk("job_2", 2, { result_id: "r", chunk_seq: 0, data: "AP8=", encoding: "base64", more: true });
  connection.chunk("job_3", 3, { result_id: "r", chunk_seq: 1, data: "tail", encoding: "utf8", more: false });
  connection.cut();
  await settled();
  // What was on its way is lost; the resume brings it again.
  const { connection: second } = await runtime.resume();
  second.chunk("job_1", 1, { result_id: "r", chunk_seq: 0, data: "kůň ", encoding: "utf8", more: true });
  second.chunk("job_2", 2, { result_id: "r", chunk_seq: 0, data: "AP8=", encoding: "base64", more: true });
  second.chunk("job_3", 3, { result_id: "r", chunk_seq: 1, data: "tail", encoding: "utf8", more: false });
  second.chunk("job_1", 4, { result_id: "r", chunk_seq: 1, data: "úpěl", encoding: "utf8", more: false });
  second.chunk("job_2", 5, { result_id: "r", chunk_seq: 1, data: "gA==", encoding: "base64", more: false });
  second.end("job_1", 6, { final_status: "success", result_id: "r" });
  second.end("job_2", 7, { final_status: "success", result_id: "r", result_size: 3 });
  second.end("job_3", 8, { final_status: "success", result_id: "r" });
  assert.equal(await job.result, "kůň úpěl");
  assert.deepEqual(await bytes.result, Uint8Array.of(0, 255, 128));
  await assert.rejects(broken.result, /result r is not complete: chunk 1 came where 0 was due.*history: true/);
  assert.equal((await broken.terminal).final_status, "success");
});

// ----------------------------------------------------------------------------------- late iteration

test("[CLT-10] events that come before anybody iterates are held", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const submitting = session.submit("echo");
  connection.accept(await connection.expect("job.submit"), "job_1");
  connection.events("job_1", 1, 255);
  connection.end("job_1", 256);
  const job = await submitting;
  await job.result;
  const { seqs, done } = reading(job);
  assert.equal(session.resumeState.lastEventSeq, 256);
  await done;
  assert.deepEqual(seqs, range(1, 255));
});

test("[CLT-10] a late iteration after a drop is an error that says how many and what to do", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection, job } = await runtime.openWithJob();
  const large = await runtime.submitted(session, connection, "job_2");
  connection.events("job_1", 1, 257);
  connection.events("job_1", 258, 300);
  connection.events("job_2", 301, 303, () => ({ text: "x".repeat(100_000) }));
  await until(() => session.resumeState.lastEventSeq === 303, "all events");
  const says = (count: number) => new RegExp(`^Error: ${count} events of job_\\d were dropped.*history: true`);
  assert.throws(() => job[Symbol.asyncIterator](), says(300));
  await assert.rejects(reading(job).done, says(300));
  assert.throws(() => large[Symbol.asyncIterator](), says(3));
  connection.end("job_1", 304);
  assert.equal(await job.result, "done");
});

test("[CLT-10] a handle has one reader; the next goes on where it left", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, job } = await runtime.openWithJob();
  const seen: JobEvent[] = [];
  connection.events("job_1", 1, 4);
  for await (const event of job) {
    assert.throws(() => job[Symbol.asyncIterator](), /iterated already/);
    seen.push(event);
    if (event.seq === 2) break;
  }
  connection.events("job_1", 5);
  connection.end("job_1", 6);
  for await (const event of job) seen.push(event);
  for await (const event of job) seen.push(event);
  assert.deepEqual(
    seen.map((event) => event.seq),
    range(1, 5),
  );
  assert.deepEqual(seen[0], { seq: 1, kind: "thought", body: { text: "e1" }, ts: "2026-01-01T00:00:00Z" });
});

test("[CLT-10] a reader that left too much behind is told when it comes back", async () => {
  await using runtime = new ScriptedRuntime();
  const { connection, job } = await runtime.openWithJob();
  const iterator = job[Symbol.asyncIterator]();
  connection.events("job_1", 1, 2_000);
  await settled();
  await iterator.next();
  await iterator.return?.();
  assert.deepEqual(await iterator.next(), { done: true, value: undefined });
  assert.throws(() => job[Symbol.asyncIterator](), /1999 events of job_1 were dropped/);
  await runtime.clock.advance(200);
  assert.equal(connection.ofType("session.ack").at(-1)?.payload.last_processed_seq, 2_000);
});

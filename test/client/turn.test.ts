import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError, SessionClosedError } from "../../src/client/index.ts";
import { IN_REPLY_TO, TURN } from "../../src/protocol/index.ts";
import { accepted, type Connection, type Message, ScriptedRuntime, settled } from "./scripted-runtime.ts";

const CONVERSATION = "cli_abc";

/** Accepts a submit as a turn. */
function accept(connection: Connection, submit: Message, jobId: string, turn: object): void {
  connection.send("job.accepted", accepted(jobId), {
    job_id: jobId,
    extensions: { [IN_REPLY_TO]: submit.id, [TURN]: { conversation_id: CONVERSATION, created: false, ...turn } },
  });
}

test("[CLT-16] a turn says where, how and for whom, and its handle where it stands", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const running = session.turn("cli:notes", "echo", { n: 1 });
  const first = await connection.expect("job.submit");
  assert.deepEqual(first.payload, { agent: "echo", input: { n: 1 } });
  assert.deepEqual(first.extensions?.[TURN], { key: "cli:notes" });
  accept(connection, first, "job_1", { state: "running", created: true });
  assert.deepEqual((await running).turn, { conversationId: CONVERSATION, created: true, state: "running" });

  const key = { source: "slack", channel: "C1", thread: "1700.1" };
  const waiting = session.turn(key, "echo", 2, {
    onBusy: "interrupt",
    messageId: "m-1",
    userId: "U1",
    maxRuntimeSec: 5,
    leaseRequest: { "fs.read": ["/srv/**"] },
  });
  const second = await connection.expect("job.submit");
  assert.deepEqual(second.payload, {
    agent: "echo",
    input: 2,
    lease_request: { "fs.read": ["/srv/**"] },
    max_runtime_sec: 5,
  });
  assert.deepEqual(second.extensions?.[TURN], { key, onBusy: "interrupt", messageId: "m-1", user_id: "U1" });
  accept(connection, second, "job_2", { state: "queued", place: 3 });
  const queued = await waiting;
  assert.deepEqual([queued.id, queued.agent], ["job_2", "echo@1.0.0"]);
  assert.deepEqual(queued.turn, { conversationId: CONVERSATION, created: false, state: "queued", place: 3 });

  const again = session.turn(key, "echo", 2, { messageId: "m-1" });
  accept(connection, await connection.expect("job.submit"), "job_2", { state: "repeated" });
  assert.equal(await again, queued);

  connection.events("job_2", 1);
  connection.end("job_2", 2, { final_status: "success", result: "answer" });
  assert.equal(await queued.result, "answer");
  const plain = await runtime.submitted(session, connection, "job_3");
  assert.equal(plain.turn, undefined);
});

test("[CLT-16] a turn that is not taken rejects with what the runtime says", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const refused = session.turn("cli:notes", "echo", null, { onBusy: "reject" });
  const details = { code: "CONVERSATION_BUSY", conversation_id: CONVERSATION, job_id: "job_0" };
  const payload = { final_status: "error", code: "AGENT_NOT_AVAILABLE", message: "busy", retryable: false, details };
  connection.reply(await connection.expect("job.submit"), "job.error", payload, { job_id: "job_x" });
  await assert.rejects(refused, (error) => {
    assert.ok(error instanceof ArcpError);
    assert.deepEqual([error.code, error.details], ["AGENT_NOT_AVAILABLE", details]);
    return true;
  });
});

test("[CLT-16] a turn that was not answered is asked again after the resume, the same to the byte", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const speaking = session.turn("cli:notes", "echo", 1, { messageId: "m-1" });
  const sent = await connection.expect("job.submit");
  connection.cut();
  await settled();
  const { connection: second } = await runtime.resume();
  const again = second.ofType("job.submit");
  assert.deepEqual(
    again.map((message) => message.frame),
    [sent.frame],
  );
  accept(second, sent, "job_1", { state: "queued", place: 1 });
  const job = await speaking;
  second.cut();
  await settled();
  const { connection: third } = await runtime.resume();
  third.events("job_1", 1, 2);
  third.end("job_1", 3);
  const seqs: number[] = [];
  for await (const event of job) seqs.push(event.seq);
  assert.deepEqual([seqs, job.turn?.place], [[1, 2], 1]);
});

test("[CLT-16] when the session ends, a turn with a messageId can be submitted again, one without may run", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const named = session.turn("cli:notes", "echo", 1, { messageId: "m-1" });
  const plain = session.turn("cli:notes", "echo", 2);
  await connection.expect("job.submit");
  await connection.expect("job.submit");
  const outcomes = Promise.allSettled([named, plain]);
  connection.cut();
  await settled();
  await runtime.clock.advance(100);
  (await runtime.next()).connection.error({ code: "RESUME_WINDOW_EXPIRED" });
  const [one, two] = await outcomes;
  assert.ok(one.status === "rejected" && one.reason instanceof SessionClosedError);
  assert.ok(two.status === "rejected" && two.reason instanceof ArcpError);
  assert.equal(two.reason.details?.["code"], "OUTCOME_UNKNOWN");
});

test("[CLT-16] a runtime that takes a turn for a job is told to cancel it, and the caller that it knows none", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const speaking = assert.rejects(session.turn("cli:notes", "echo"), /keeps no conversations/);
  connection.accept(await connection.expect("job.submit"), "job_1");
  await speaking;
  const cancel = await connection.expect("job.cancel");
  assert.equal(cancel.job_id, "job_1");
  connection.reply(cancel, "job.cancelled", {}, { job_id: "job_1" });
});

test("[CLT-16] an abort cancels a turn that waits", async () => {
  await using runtime = new ScriptedRuntime();
  const { session, connection } = await runtime.open();
  const abort = new AbortController();
  const speaking = session.turn("cli:notes", "echo", 1, { signal: abort.signal });
  accept(connection, await connection.expect("job.submit"), "job_1", { state: "queued", place: 1 });
  await speaking;
  abort.abort();
  const cancel = await connection.expect("job.cancel");
  assert.equal(cancel.job_id, "job_1");
  connection.reply(cancel, "job.cancelled", {}, { job_id: "job_1" });
});

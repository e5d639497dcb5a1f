/** What is told and what goes: back-pressure, the janitor's work as clients see it, and hints between processes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Envelope } from "../src/protocol/index.ts";
import { type MemoryRuntime, memoryRuntime, resumeOf, settled, submit } from "./memory-runtime.ts";
import type { WireClient } from "./wire-client.ts";

const phases = (client: WireClient): string[] =>
  client
    .numbered()
    .filter(({ payload }) => payload["kind"] === "status")
    .map(({ payload }) => (payload["body"] as { phase: string }).phase);

const notice = (client: WireClient, phase: string): Promise<Envelope> =>
  client.waitFor(
    ({ payload }) => (payload["body"] as { phase?: string } | undefined)?.phase === phase,
    `the notice ${phase}`,
  );

const range = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, index) => first + index);

/** Time goes on until `done` holds. */
async function pass(fixture: MemoryRuntime, stepMs: number, done: () => boolean, what: string): Promise<void> {
  for (let round = 0; !done(); round += 1) {
    assert(round < 1_000, `waited in vain for ${what}`);
    await fixture.clock.advance(stepMs);
  }
}

test("[SES-19] a session that does not ack is told once per crossing, by itself and in order", async () => {
  await using fixture = await memoryRuntime({ settings: { backPressureThreshold: 100 } });
  const puppet = fixture.puppet("puppet");
  const { client } = await fixture.connect();
  const acking = await fixture.connect();
  const plain = await fixture.connect({ features: ["subscribe"] });
  const jobId = await submit(client, "puppet");
  for (const other of [acking.client, plain.client]) {
    await other.reply(other.send("job.subscribe", { job_id: jobId, history: true }));
  }
  await puppet.log(0, 50);
  await settled(acking.client);
  acking.client.send("session.ack", { last_processed_seq: 50 });
  await settled(acking.client);
  await puppet.log(50, 100);
  await client.until(() => client.seqs().length === 100, "all events");
  await settled(client);
  assert.deepEqual(phases(client), [], "a lag of exactly the threshold is none");
  await puppet.log(100, 140);
  const told = await notice(client, "back_pressure");
  assert.equal(told.job_id, jobId);
  assert.equal(told.type, "job.event");
  await puppet.log(140, 200);
  await client.until(() => client.seqs().length === 201, "all events");
  assert.deepEqual(phases(client), ["back_pressure"], "once per crossing");
  assert.deepEqual(client.seqs(), range(1, 201));

  // Above half of the threshold nothing is armed again; at half it is.
  client.send("session.ack", { last_processed_seq: 130 });
  await puppet.log(200, 260);
  await client.until(() => client.seqs().length === 261, "all events");
  assert.deepEqual(phases(client), ["back_pressure"]);
  client.send("session.ack", { last_processed_seq: 261 });
  await settled(client);
  await puppet.log(260, 300);
  await puppet.log(300, 400);
  await client.until(() => phases(client).length === 2, "the second notice");

  await plain.client.until(() => plain.client.seqs().length === 400, "all events");
  assert.deepEqual(phases(plain.client), [], "nobody without ack is told");
  assert.deepEqual(plain.client.seqs(), range(1, 400), "another session's notice takes no number here");
  puppet.end();
});

test("[SES-19] a notice is replayed like any other number", async () => {
  await using fixture = await memoryRuntime({ settings: { backPressureThreshold: 10 } });
  const puppet = fixture.puppet("puppet");
  const line = await fixture.connect();
  await submit(line.client, "puppet");
  await puppet.log(0, 30);
  await notice(line.client, "back_pressure");
  await settled(line.client);
  line.pair.cut();
  const again = await fixture.connect({ resume: resumeOf(line.client, 0) });
  await again.client.until(() => again.client.seqs().length >= 31, "the replay");
  await settled(again.client);
  const frames = (client: WireClient) =>
    client.received.filter(({ envelope }) => envelope.event_seq !== undefined).map(({ frame }) => frame);
  assert.deepEqual(frames(again.client), frames(line.client));
  puppet.end();
});

test("[STO-15] events that went before they had a number become one notice, and delivery goes on behind them", async () => {
  await using fixture = await memoryRuntime({
    settings: { caps: { maxBufferedEvents: 100 }, janitorIntervalMs: 1_000 },
  });
  const puppet = fixture.puppet("puppet");
  const line = await fixture.connect();
  const jobId = await submit(line.client, "puppet");
  await puppet.log(0, 10);
  await line.client.until(() => line.client.seqs().length === 10, "the first events");
  const from = resumeOf(line.client);
  assert.equal(from.seq, 10);
  line.pair.cut();
  await puppet.log(10, 3_000);
  await fixture.clock.advance(1_000);
  await pass(fixture, 100, () => fixture.clock.monotonic() > 5_000, "the janitor");

  const { client } = await fixture.connect({ resume: from });
  const told = await notice(client, "history_trimmed");
  const { count } = told.payload["body"] as { count: number };
  assert.equal(told.event_seq, 11);
  puppet.end("done");
  await client.waitFor(({ type, event_seq }) => type === "job.result" && event_seq !== undefined, "the result");
  const messages = client
    .numbered()
    .filter(({ payload }) => payload["kind"] === "log")
    .map(({ payload }) => Number((payload["body"] as { message: string }).message));
  assert.deepEqual(
    messages,
    range(10 + count, 2_999),
    "what is left comes whole, right behind what was said to be gone",
  );
  assert.deepEqual(client.seqs(), range(11, 11 + messages.length + 1));
  assert.equal(client.numbered().at(-1)?.job_id, jobId);
});

test("[STO-15] a resume from below what is kept is RESUME_WINDOW_EXPIRED", async () => {
  await using fixture = await memoryRuntime({
    settings: { caps: { maxBufferedEvents: 100 }, janitorIntervalMs: 1_000 },
  });
  const puppet = fixture.puppet("puppet");
  const line = await fixture.connect();
  await submit(line.client, "puppet");
  await puppet.log(0, 1_000);
  await line.client.until(() => line.client.seqs().length === 1_000, "all events");
  await fixture.clock.advance(1_000);
  await pass(fixture, 100, () => fixture.clock.monotonic() > 4_000, "the janitor");
  line.pair.cut();
  const late = fixture.hello({ resume: resumeOf(line.client, 500) });
  assert.equal((await late.client.message("session.error")).payload["code"], "RESUME_WINDOW_EXPIRED");
  const good = await fixture.connect({ resume: resumeOf(line.client, 950) });
  await good.client.until(() => good.client.seqs().length === 50, "the rest");
  assert.deepEqual(good.client.seqs(), range(951, 1_000));
  puppet.end();
});

test("[STO-13] an ended job goes after its retention, and is not found from then on", async () => {
  await using fixture = await memoryRuntime({ settings: { jobRetentionMs: 10_000, heartbeatIntervalSec: 1e6 } });
  const puppet = fixture.puppet("puppet");
  const { client } = await fixture.connect();
  const jobId = await submit(client, "puppet");
  await puppet.log(0, 5);
  puppet.end();
  await client.waitFor(({ type, event_seq }) => type === "job.result" && event_seq !== undefined, "the result");
  const list = async () => (await client.reply(client.send("session.list_jobs", {}))).payload["jobs"] as unknown[];
  await fixture.clock.advance(30_000);
  assert.equal((await list()).length, 1, "an ack is owed");
  client.send("session.ack", { last_processed_seq: 6 });
  await settled(client);
  await fixture.clock.advance(30_000);
  await fixture.clock.advance(0);
  assert.deepEqual(await list(), []);
  const answer = await client.reply(client.send("job.subscribe", { job_id: jobId, history: true }));
  assert.equal(answer.payload["code"], "JOB_NOT_FOUND");
});

test("[STO-16] what one runtime does on a file, another one looks at by a hint, long before its sweep", async () => {
  const settings = { sweepIntervalMs: 1e9, nodeHeartbeatMs: 100, heartbeatIntervalSec: 1e6 };
  await using one = await memoryRuntime({ settings });
  await using other = await memoryRuntime({ settings, file: one.file });
  const puppet = one.puppet("puppet");
  const owner = await one.connect();
  const jobId = await submit(owner.client, "puppet");
  // Both have looked around since the other one came.
  for (const fixture of [one, other, one, other]) await fixture.clock.advance(200);

  const watcher = await other.connect();
  await watcher.client.reply(watcher.client.send("job.subscribe", { job_id: jobId, history: true }));
  await puppet.log(0, 20);
  await pass(other, 25, () => watcher.client.seqs().length === 20, "the events of the other process");

  // The session goes over to the other process, which may cancel; the old connection is told by itself.
  const moved = await other.connect({ resume: resumeOf(owner.client, 20) });
  await pass(one, 25, () => owner.client.closed !== undefined, "the takeover");
  const superseded = await owner.client.message("session.error");
  assert.deepEqual(superseded.payload["details"], { reason: "superseded" });
  const { signal } = await puppet.job;
  assert.equal((await moved.client.reply(moved.client.send("job.cancel", { job_id: jobId }))).type, "job.cancelled");
  await pass(one, 25, () => signal.aborted, "the cancel");
  await pass(other, 25, () => moved.client.numbered().some(({ type }) => type === "job.error"), "the end");
});

/** Jobs asked for without a session, where it takes a clock that stands still or a log that was shortened. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryRuntime, submit } from "./memory-runtime.ts";

test("[STO-14] a chunked result is whole when the log before it is gone: over the API and for a session without chunks", async () => {
  await using fixture = await memoryRuntime({
    settings: { caps: { maxBufferedEvents: 10 }, janitorIntervalMs: 1_000 },
  });
  const puppet = fixture.puppet("puppet");
  const line = await fixture.connect({ features: ["subscribe"] });
  const jobId = await submit(line.client, "puppet");
  line.pair.cut();
  await puppet.log(0, 1_000);
  const job = await puppet.job;
  const parts = Array.from({ length: 20 }, (_, index) => `part ${index};`);
  for (const [index, data] of parts.entries()) {
    const more = index < parts.length - 1;
    await job.emit("result_chunk", { result_id: "r", chunk_seq: index, data, encoding: "utf8", more });
  }
  puppet.end();
  const { jobs } = fixture.runtime;
  for (let round = 0; (await jobs.get(jobId, "alice")).status === "running"; round += 1) {
    assert(round < 100, "waited in vain for the job's end");
    await fixture.clock.advance(0);
  }
  for (let second = 0; second < 5; second += 1) await fixture.clock.advance(1_000);

  const outcome = await jobs.result(jobId, "alice");
  assert.deepEqual(outcome, {
    status: "success",
    final_status: "success",
    result: parts.join(""),
    result_encoding: "utf8",
  });
  // What the process still had in memory is gone with it.
  await fixture.restart();
  const { client } = await fixture.connect({ features: ["subscribe"] });
  client.send("job.subscribe", { job_id: jobId, history: true });
  const end = await client.waitFor(({ type }) => type === "job.result", "the result");
  assert.equal(end.payload["result"], parts.join(""));
  const kept = client.numbered().filter(({ payload }) => payload["kind"] === "log");
  assert.ok(kept.length < 100, `the log was not shortened: ${kept.length} events`);
  await assert.rejects(fixture.runtime.jobs.result(jobId, "bob"), { code: "JOB_NOT_FOUND" });
});

test("[SRV-12] an operator cancels anybody's job; others do not know of it", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const { client } = await fixture.connect();
  const jobId = await submit(client, "puppet");
  const job = await puppet.job;
  const { jobs } = fixture.runtime;
  const boss = { principal: "boss", operator: true };
  await assert.rejects(jobs.cancel(jobId, "bob", "stuck"), { code: "JOB_NOT_FOUND" });
  await assert.rejects(jobs.cancel("job_none", boss, "stuck"), { code: "JOB_NOT_FOUND" });
  assert.deepEqual(await jobs.cancel(jobId, boss, "stuck"), { outcome: "requested" });
  assert.equal(job.signal.aborted, true);
  puppet.end();
});

test("[SRV-12] a job of this process is told to stop at once, not at the next look at the store", async () => {
  await using fixture = await memoryRuntime();
  const stopped = Promise.withResolvers<string>();
  fixture.agent("obedient", async (_, job) => {
    const aborted = Promise.withResolvers<void>();
    job.signal.addEventListener("abort", () => aborted.resolve(), { once: true });
    await aborted.promise;
    stopped.resolve((job.signal.reason as Error).message);
    job.signal.throwIfAborted();
  });
  const { client } = await fixture.connect();
  const jobId = await submit(client, "obedient");
  // The clock stands still: nothing that waits for it can have brought the wish.
  assert.deepEqual(await fixture.runtime.jobs.cancel(jobId, "alice", "enough"), { outcome: "requested" });
  assert.match(await stopped.promise, /enough/);
  const end = await client.waitFor(({ type }) => type === "job.error", "the job's end");
  assert.equal(end.payload["code"], "CANCELLED");
});

/** Jobs that outlive the process that runs them (SPEC.md, CLU): two processes, here two runtimes, on one file. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversations } from "../src/conversation/index.ts";
import { type AgentHandler, ArcpError } from "../src/index.ts";
import type { Envelope } from "../src/protocol/index.ts";
import type { JobContext } from "../src/runtime/index.ts";
import { MemoryRuntime, memoryRuntime, resumeOf, settled, submit, terminalOf } from "./memory-runtime.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { storeMaker } from "./test-store.ts";
import type { WireClient } from "./wire-client.ts";

/** Longer than a node may stand still. */
const LOST_MS = 20_000;

/** Works through four pages, keeps how far it came, and stands still after the second until it is let go. */
class Reader {
  readonly began: { attempt: number; from: unknown }[] = [];
  readonly jobs: JobContext[] = [];
  #go = Promise.withResolvers<void>();

  readonly handler: AgentHandler = async (_input, job) => {
    const done = (job.lastCheckpoint as number | undefined) ?? 0;
    this.began.push({ attempt: job.attempt, from: job.lastCheckpoint });
    this.jobs.push(job);
    for (let page = done + 1; page <= 4; page += 1) {
      await job.log(`page ${page}`);
      await job.checkpoint(page);
      if (page === 2) await Promise.race([this.#go.promise, aborted(job.signal)]);
    }
    return { pages: 4, attempt: job.attempt };
  };

  go(): void {
    this.#go.resolve();
  }
}

const aborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });

/** What a job's stream says, in a word each. */
const told = (client: WireClient, jobId: string): string[] =>
  client
    .numbered()
    .filter((envelope: Envelope) => envelope.job_id === jobId)
    .map(({ type, payload }) => {
      const body = payload["body"] as { message?: string; phase?: string } | undefined;
      return type === "job.event" ? (body?.phase ?? body?.message ?? String(payload["kind"])) : type;
    });

const read = async (client: WireClient, jobId: string): Promise<void> => {
  await client.waitFor(
    ({ job_id, payload }) => job_id === jobId && (payload["body"] as { message?: string })?.message === "page 2",
    "page 2",
  );
};

/**
 * The end of a job that another process takes up. That takes a few rounds of the store, which take as long as they
 * take: no second passes before the store has answered once more.
 */
async function endOf(runtime: MemoryRuntime, client: WireClient, jobId: string): Promise<Envelope> {
  let over = false;
  const end = terminalOf(client, jobId).finally(() => {
    over = true;
  });
  // It is looked at below, however it comes.
  end.catch(() => undefined);
  while (!over) {
    await runtime.clock.advance(1_000);
    await client.reply(client.send("session.list_jobs", {}));
  }
  return await end;
}

test("[CLU-1] a job whose process is lost goes on in another one, in the same stream", async () => {
  await using lost = await memoryRuntime();
  const first = new Reader();
  lost.agent("reader", first.handler, { restartable: true });
  const { client } = await lost.connect();
  const jobId = await submit(client, "reader");
  await read(client, jobId);

  await using other = await memoryRuntime({ file: lost.file });
  const second = new Reader();
  second.go();
  other.agent("reader", second.handler, { restartable: true });
  await other.clock.advance(LOST_MS);
  const again = await other.connect({ resume: resumeOf(client, 0) });
  const terminal = await endOf(other, again.client, jobId);
  assert.deepEqual(terminal.payload["result"], { pages: 4, attempt: 2 });
  assert.deepEqual(told(again.client, jobId), [
    "page 1",
    "page 2",
    "node_lost",
    "restarted",
    "page 3",
    "page 4",
    "job.result",
  ]);
  assert.deepEqual(again.client.seqs(), [1, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual(second.began, [{ attempt: 2, from: 2 }]);

  // What the lost one still does goes nowhere.
  first.go();
  await assert.rejects(first.jobs[0]?.checkpoint(99) ?? Promise.resolve(), { code: "CANCELLED" });
  await lost.clock.advance(10_000);
  assert.equal(first.jobs[0]?.signal.aborted, true);
  await settled(again.client);
  assert.deepEqual(again.client.seqs(), [1, 2, 3, 4, 5, 6, 7]);
});

test("[CLU-2] a checkpoint is JSON of at most 256 KiB, and is there only when it resolved", async () => {
  await using fixture = await memoryRuntime();
  const tried = Promise.withResolvers<unknown>();
  fixture.agent(
    "keeper",
    async (_input, job) => {
      assert.equal(job.attempt, 1);
      assert.equal(job.lastCheckpoint, undefined);
      await job.checkpoint({ at: 1 });
      tried.resolve(await job.checkpoint("x".repeat(256 * 1024)).catch((error: unknown) => error));
    },
    { restartable: true },
  );
  const { client } = await fixture.connect();
  const jobId = await submit(client, "keeper");
  await terminalOf(client, jobId);
  const refusal = await tried.promise;
  assert(refusal instanceof ArcpError && refusal.code === "INVALID_REQUEST", String(refusal));
});

test("[CLU-4] a job that was delegated ends with its node, and its parent's next attempt delegates anew", async () => {
  await using lost = await memoryRuntime();
  const parent: AgentHandler = async (_input, job) => {
    const child = await job.delegate("child", job.attempt);
    return await child.result;
  };
  const lease = { lease: { "agent.delegate": ["child"] }, restartable: true };
  const waiting = Promise.withResolvers<void>();
  lost.agent(
    "child",
    async (_input, job) => {
      waiting.resolve();
      await aborted(job.signal);
    },
    { restartable: true },
  );
  lost.agent("parent", parent, lease);
  const { client } = await lost.connect();
  const jobId = await submit(client, "parent");
  await waiting.promise;
  await using other = await memoryRuntime({ file: lost.file });
  other.agent("child", (input) => ({ child: input }), { restartable: true }).agent("parent", parent, lease);
  await other.clock.advance(LOST_MS);
  const again = await other.connect({ resume: resumeOf(client, 0) });
  const terminal = await endOf(other, again.client, jobId);
  assert.deepEqual(terminal.payload["result"], { child: 2 });
  assert.equal(again.client.numbered().filter(({ type }) => type === "job.error").length, 1, "the first child's end");
});

test("[CLU-5] a process that stops gives its jobs to another, and no client sees an error", async () => {
  await using leaving = await memoryRuntime();
  await using other = await memoryRuntime({ file: leaving.file });
  const first = new Reader();
  const second = new Reader();
  second.go();
  leaving.agent("reader", first.handler, { restartable: true });
  other.agent("reader", second.handler, { restartable: true });
  const { client } = await leaving.connect();
  const jobId = await submit(client, "reader");
  await read(client, jobId);
  await leaving.stop();
  await client.whenClosed();
  await other.clock.advance(2_000);
  const again = await other.connect({ resume: resumeOf(client) });
  const terminal = await endOf(other, again.client, jobId);
  assert.deepEqual(terminal.payload["result"], { pages: 4, attempt: 2 });
  const all = [...told(client, jobId), ...told(again.client, jobId)];
  assert.deepEqual(all, ["page 1", "page 2", "handed_over", "restarted", "page 3", "page 4", "job.result"]);
  await leaving.restart();
});

test("[CLU-5] a process that starts anew goes on with the jobs that it gave back", async () => {
  await using fixture = await memoryRuntime();
  const reader = new Reader();
  fixture.agent("reader", reader.handler, { restartable: true });
  const { client } = await fixture.connect();
  const jobId = await submit(client, "reader");
  await read(client, jobId);
  await fixture.stop();
  reader.go();
  await fixture.restart();
  const again = await fixture.connect({ resume: resumeOf(client) });
  assert.deepEqual((await terminalOf(again.client, jobId)).payload["result"], { pages: 4, attempt: 2 });
});

test("[CLU-6] a turn goes on in another process, with its conversation's lock under a new epoch", async () => {
  await using folder = await temporaryFolder();
  const file = `${folder.path}/shared.db`;
  const make = async (reader: Reader) => {
    const store = { file, make: await storeMaker(file) };
    const fixture = new MemoryRuntime(await temporaryFolder(), store, { file });
    const conversations = new Conversations(fixture.runtime);
    fixture.agent("reader", reader.handler, { restartable: true });
    await fixture.start();
    return { fixture, conversations };
  };
  const first = new Reader();
  const lost = await make(first);
  await using _lost = lost.fixture;
  const key = { source: "slack", channel: "C1", thread: "1700.1" } as const;
  const say = { key, principal: "alice", agent: "reader" };
  const started = await lost.conversations.startTurn(say);
  const waiting = await lost.conversations.startTurn(say);
  assert.deepEqual([started.state, waiting.state], ["running", "queued"]);
  const second = new Reader();
  second.go();
  const other = await make(second);
  await using _other = other.fixture;
  const { client } = await other.fixture.connect();
  await client.reply(client.send("job.subscribe", { job_id: waiting.jobId, history: true }));
  await other.fixture.clock.advance(LOST_MS);
  await endOf(other.fixture, client, waiting.jobId);
  const jobs = second.jobs.map((job) => [job.id, job.attempt, job.turn?.lockEpoch]);
  assert.deepEqual(jobs, [
    [started.jobId, 2, 2],
    [waiting.jobId, 1, 3],
  ]);
});

test("[CLU-7] what the attempt before has spent, its delegated jobs included, is gone from the budget", async () => {
  await using lost = await memoryRuntime();
  const spent = Promise.withResolvers<void>();
  const spend = (job: JobContext, value: number) => job.metric({ name: "cost.tokens", unit: "USD", value });
  const child: AgentHandler = async (_input, job) => {
    await spend(job, 0.3);
  };
  const worker: AgentHandler = async (_input, job) => {
    if (job.attempt > 1) {
      job.authorize("tool.call", "search");
      await spend(job, 0.2);
      job.authorize("tool.call", "search");
      return "there was more than there was";
    }
    await spend(job, 0.5);
    await (await job.delegate("child", null)).result;
    await job.flush();
    spent.resolve();
    return await aborted(job.signal);
  };
  const options = {
    lease: { "cost.budget": ["USD:1.00"], "tool.call": ["search"], "agent.delegate": ["child"] },
    restartable: true,
  };
  lost.agent("child", child).agent("worker", worker, options);
  const { client } = await lost.connect();
  const jobId = await submit(client, "worker");
  await spent.promise;
  await using other = await memoryRuntime({ file: lost.file });
  other.agent("child", child).agent("worker", worker, options);
  await other.clock.advance(LOST_MS);
  const again = await other.connect({ resume: resumeOf(client, 0) });
  const terminal = await endOf(other, again.client, jobId);
  assert.equal(terminal.type, "job.error");
  assert.equal(terminal.payload["code"], "BUDGET_EXHAUSTED");
});

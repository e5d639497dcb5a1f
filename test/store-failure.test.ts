/**
 * What is left of the promises while the store fails (STO-12), and what a node leaves behind that dies, as
 * seen by a client (STO-9, STO-11): stores that are down or silent, and real processes on one file.
 */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { test } from "node:test";
import type { NodeFacet, NodeRecord, Store } from "../src/store/store.ts";
import { FaultyStore } from "./faulty-store.ts";
import {
  count,
  type Line,
  logsOf,
  type MemoryRuntime,
  type MemoryRuntimeOptions,
  memoryRuntime,
  resumeOf,
  settled,
  submit,
  terminalOf,
  upTo,
} from "./memory-runtime.ts";
import { greet, openLine, type SocketLine } from "./socket-server.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import type { WireClient } from "./wire-client.ts";

const STORE_TIMEOUT_MS = 3_000;

/** A runtime whose store fails at a word. */
async function faultyRuntime(options: MemoryRuntimeOptions = {}): Promise<{
  fixture: MemoryRuntime;
  store: () => FaultyStore;
  [Symbol.asyncDispose](): Promise<void>;
}> {
  let store: FaultyStore | undefined;
  const fixture = await memoryRuntime({
    ...options,
    settings: { storeTimeoutMs: STORE_TIMEOUT_MS, ...options.settings },
    wrap: (inner) => {
      store = new FaultyStore(inner);
      return store;
    },
  });
  return {
    fixture,
    store: () => store as FaultyStore,
    async [Symbol.asyncDispose]() {
      store?.recover();
      await fixture[Symbol.asyncDispose]();
    },
  };
}

/** Time goes on until `done` holds. */
async function pass(fixture: MemoryRuntime, done: () => boolean): Promise<void> {
  for (let round = 0; !done(); round += 1) {
    assert(round < 10_000, "waited in vain");
    await fixture.clock.advance(10);
  }
}

const answersTo = (client: WireClient, id: string) =>
  client.received
    .map(({ envelope }) => envelope)
    .filter(({ extensions }) => extensions?.["x-vendor.holdfast.in_reply_to"] === id);

for (const failure of ["down", "stalled"] as const) {
  const fail = (store: FaultyStore) => (failure === "down" ? store.goDown() : store.stall());

  test(`[STO-12] with a store that is ${failure}, a submit fails with a retryable error and pings are answered`, async () => {
    await using faulty = await faultyRuntime();
    const { fixture } = faulty;
    fixture.agent("echo", (input) => input);
    const { client } = await fixture.connect();
    fail(faulty.store());
    const ids = [1, 2, 3].map((input) => client.send("job.submit", { agent: "echo", input }));
    if (failure === "stalled") await fixture.clock.advance(STORE_TIMEOUT_MS);
    for (const id of ids) {
      const answer = await client.reply(id);
      assert.equal(answer.type, "job.error");
      assert.equal(answer.event_seq, undefined);
      assert.equal(answer.payload["code"], "INTERNAL_ERROR");
      assert.equal(answer.payload["retryable"], true);
      assert.deepEqual(answer.payload["details"], { code: "STORE_UNAVAILABLE" });
    }
    await settled(client);
    assert.equal(client.closed, undefined);

    // The session works again as soon as the store does.
    faulty.store().recover();
    const jobId = await submit(client, "echo", "back");
    assert.equal((await terminalOf(client, jobId)).payload["result"], "back");
  });

  test(`[STO-12] with a store that is ${failure}, every kind of request is answered`, async () => {
    await using faulty = await faultyRuntime();
    const { fixture } = faulty;
    fixture.agent("echo", (input) => input);
    const { client } = await fixture.connect();
    const jobId = await submit(client, "echo", 1);
    await terminalOf(client, jobId);
    fail(faulty.store());
    const ids = [
      client.send("job.subscribe", { job_id: jobId, history: true }),
      client.send("job.unsubscribe", { job_id: jobId }),
      client.send("job.cancel", {}, { job_id: jobId }),
      client.send("session.list_jobs", {}),
    ];
    if (failure === "stalled") await fixture.clock.advance(STORE_TIMEOUT_MS);
    for (const id of ids) {
      const { payload } = await client.reply(id);
      assert.equal(payload["code"], "INTERNAL_ERROR");
      assert.deepEqual(payload["details"], { code: "STORE_UNAVAILABLE" });
    }
  });

  test(`[STO-12] with a store that is ${failure}, a hello is refused with a retryable error, and the session waits`, async () => {
    await using faulty = await faultyRuntime();
    const { fixture } = faulty;
    const first = await fixture.connect();
    first.pair.cut();
    await fixture.clock.advance(0);
    fail(faulty.store());
    const attempts = [fixture.hello(), fixture.hello({ resume: resumeOf(first.client) })];
    if (failure === "stalled") await fixture.clock.advance(STORE_TIMEOUT_MS);
    for (const { client } of attempts) {
      const { payload } = await client.message("session.error");
      assert.deepEqual([payload["code"], payload["retryable"]], ["INTERNAL_ERROR", true]);
      assert.deepEqual(payload["details"], { code: "STORE_UNAVAILABLE" });
      await client.whenClosed();
    }
    faulty.store().recover();
    const again = await fixture.connect({ resume: resumeOf(first.client) });
    assert.equal(again.client.sessionId, first.client.sessionId);
  });

  test(`[STO-12] with a store that is ${failure}, a running job waits, and all of it arrives once the store is back`, async () => {
    await using faulty = await faultyRuntime();
    const { fixture } = faulty;
    const n = 2_000;
    let emitted = 0;
    const halfway = Promise.withResolvers<void>();
    fixture.agent("counter", async (_input, job) => {
      for (; emitted < n; emitted += 1) {
        if (emitted === n / 2) halfway.resolve();
        await job.log(String(emitted));
      }
      return "all of it";
    });
    const { client } = await fixture.connect();
    const jobId = await submit(client, "counter");
    await halfway.promise;
    fail(faulty.store());
    await fixture.clock.advance(20_000);
    assert(emitted >= n / 2 && emitted < n, `${emitted}: what cannot be stored makes the agent wait`);
    assert(client.seqs().length < n);
    await settled(client);

    faulty.store().recover();
    await pass(fixture, () => client.seqs().at(-1) === n + 1);
    assert.equal((await terminalOf(client, jobId)).payload["result"], "all of it");
    await settled(client);
    assert.deepEqual(client.seqs(), count(1, n + 1));
    assert.deepEqual(logsOf(client), count(0, n - 1).map(String));
  });

  test(`[STO-12] with a store that is ${failure}, a cancel fires the signal, and its terminal event is stored later`, async () => {
    await using faulty = await faultyRuntime();
    const { fixture } = faulty;
    const puppet = fixture.puppet("puppet");
    const owner = await fixture.connect();
    const follower = await fixture.connect();
    const jobId = await submit(owner.client, "puppet");
    await follower.client.reply(follower.client.send("job.subscribe", { job_id: jobId }));
    const { signal } = await puppet.job;
    fail(faulty.store());

    // Whoever merely follows may not, whatever the store does.
    const notMine = follower.client.send("job.cancel", {}, { job_id: jobId });
    if (failure === "stalled") await fixture.clock.advance(STORE_TIMEOUT_MS);
    assert.deepEqual((await follower.client.reply(notMine)).payload["details"], { code: "STORE_UNAVAILABLE" });
    assert.equal(signal.aborted, false);

    const id = owner.client.send("job.cancel", { reason: "now" }, { job_id: jobId });
    if (failure === "stalled") await fixture.clock.advance(STORE_TIMEOUT_MS);
    const answer = await owner.client.reply(id);
    assert.equal(answer.type, "job.cancelled");
    assert.equal(signal.aborted, true);
    await settled(owner.client);
    assert.deepEqual(owner.client.seqs(), [], "no end before it is stored");

    faulty.store().recover();
    await pass(fixture, () => owner.client.seqs().length > 0 && follower.client.seqs().length > 0);
    for (const { client } of [owner, follower]) {
      assert.equal((await terminalOf(client, jobId)).payload["code"], "CANCELLED");
      assert.deepEqual(client.seqs(), [1]);
    }
    assert.equal(answersTo(owner.client, id).length, 1);
  });

  test(`[STO-12] with a store that is ${failure}, events that were numbered by then still arrive once`, async () => {
    await using faulty = await faultyRuntime();
    const { fixture } = faulty;
    const puppet = fixture.puppet("puppet");
    const first = await fixture.connect();
    const jobId = await submit(first.client, "puppet");
    await puppet.log(0, 100);
    await upTo(first.client, 100);
    first.pair.cut();
    await fixture.clock.advance(0);
    await puppet.log(100, 1_500);
    const second = await fixture.connect({ resume: resumeOf(first.client, 10) });
    // In the middle of the replay, or right behind it.
    fail(faulty.store());
    await fixture.clock.advance(2_000);
    faulty.store().recover();
    puppet.end();
    await pass(fixture, () => second.client.seqs().at(-1) === 1_501);
    await terminalOf(second.client, jobId);
    assert.deepEqual(second.client.seqs(), count(11, 1_501));
  });

  test(`[STO-12] with a store that is ${failure}, the runtime can be stopped all the same`, async () => {
    await using faulty = await faultyRuntime();
    const { fixture } = faulty;
    const puppet = fixture.puppet("puppet");
    const { client } = await fixture.connect();
    const jobId = await submit(client, "puppet");
    await puppet.log(0, 2);
    await upTo(client, 2);
    fail(faulty.store());
    await fixture.clock.advance(5_000);
    await fixture.stop();
    assert.equal((await client.whenClosed()).code, 1001);
    assert.equal((await puppet.job).signal.aborted, true);

    // What could not be stored then is found by the next one.
    await fixture.restart();
    const again = await fixture.connect({ resume: resumeOf(client) });
    const terminal = await terminalOf(again.client, jobId);
    assert.equal((terminal.payload["details"] as { reason: string }).reason, "node_lost");
    assert.deepEqual(again.client.seqs(), [3]);
  });
}

test("[STO-12] a submit that was answered as failed is not carried out when the store goes on, and sends no event", async () => {
  await using faulty = await faultyRuntime();
  const { fixture } = faulty;
  let runs = 0;
  fixture.agent("counted", () => {
    runs += 1;
  });
  const { client } = await fixture.connect();
  faulty.store().stall();
  const submits = [{}, { idempotency_key: "k" }].map((rest) =>
    client.send("job.submit", { agent: "counted", input: null, ...rest }),
  );
  await fixture.clock.advance(STORE_TIMEOUT_MS);
  for (const id of submits) assert.equal((await client.reply(id)).type, "job.error");
  faulty.store().recover();
  await settled(client);
  const listed = await client.reply(client.send("session.list_jobs", {}));
  assert.deepEqual(listed.payload["jobs"], []);
  assert.equal(runs, 0);
  for (const id of submits) assert.equal(answersTo(client, id).length, 1, "one request, one answer");
  // Another connection of the session is told of no job that its client does not know.
  const again = await fixture.connect({ resume: resumeOf(client, 0) });
  await settled(again.client);
  assert.deepEqual(again.client.seqs(), []);
});

test("[STO-12] a subscription that was answered as failed is not opened when the store goes on", async () => {
  await using faulty = await faultyRuntime();
  const { fixture } = faulty;
  const puppet = fixture.puppet("puppet");
  const submitter = await fixture.connect();
  const jobId = await submit(submitter.client, "puppet");
  const { client } = await fixture.connect();
  // The job is looked up before the store is asked to open the follow.
  await puppet.log(0, 3);
  faulty.store().stall();
  const id = client.send("job.subscribe", { job_id: jobId, history: true });
  await fixture.clock.advance(STORE_TIMEOUT_MS);
  assert.equal((await client.reply(id)).type, "session.error");
  faulty.store().recover();
  puppet.end("over");
  await terminalOf(submitter.client, jobId);
  const again = await fixture.connect({ resume: resumeOf(client, 0) });
  await settled(again.client);
  assert.deepEqual(again.client.seqs(), []);
});

test("[STO-12] with a key, the repeat of a submit that was answered as failed runs, once", async () => {
  await using faulty = await faultyRuntime();
  const { fixture } = faulty;
  let runs = 0;
  fixture.agent("counted", () => {
    runs += 1;
    return runs;
  });
  const { client } = await fixture.connect();
  const payload = { agent: "counted", input: null, idempotency_key: "k" };
  faulty.store().stall();
  const first = client.send("job.submit", payload);
  await fixture.clock.advance(STORE_TIMEOUT_MS);
  assert.equal((await client.reply(first)).type, "job.error");
  faulty.store().recover();
  const repeat = await client.reply(client.send("job.submit", payload));
  assert.equal(repeat.type, "job.accepted");
  assert.equal((await terminalOf(client, repeat.job_id as string)).payload["result"], 1);
  assert.equal(runs, 1);
});

test("[STO-12] a node whose store was away for long is not dead, and buries nobody", async () => {
  await using faulty = await faultyRuntime();
  const { fixture } = faulty;
  const puppet = fixture.puppet("puppet");
  const { client } = await fixture.connect({ features: [] });
  const jobId = await submit(client, "puppet");
  await puppet.job;
  faulty.store().goDown();
  await fixture.clock.advance(60_000);
  faulty.store().recover();
  await fixture.clock.advance(10_000);
  await puppet.log(0, 3);
  puppet.end("alive");
  await pass(fixture, () => client.seqs().length === 4);
  assert.equal((await terminalOf(client, jobId)).payload["result"], "alive");
});

test("[JOB-12] a repeated submit that meets the end of its follow in the store is followed anew", async () => {
  let onEnd: (() => void) | undefined;
  const wrap = (store: Store): Store => ({
    ...store,
    sessions: {
      ...store.sessions,
      storeRuns: (ref, runs, frameChild) => {
        const stored = store.sessions.storeRuns(ref, runs, frameChild);
        if (runs.some(({ endsFollow }) => endsFollow)) {
          const react = onEnd;
          onEnd = undefined;
          react?.();
        }
        return stored;
      },
    },
  });
  await using fixture = await memoryRuntime({ wrap, manual: true });
  fixture.agent("echo", async (input, job) => {
    await job.log("hello");
    return input;
  });
  const line: Line = fixture.hello();
  const { client, pair } = line;
  const pump = async (done: () => boolean) => {
    for (let round = 0; round < 500 && !done(); round += 1) {
      pair.flush();
      await fixture.clock.advance(0);
    }
    assert(done(), "waited in vain");
  };
  await pump(() => client.sessionId !== undefined);
  const key = { idempotency_key: "k" };
  client.send("job.submit", { agent: "echo", input: 1, ...key });
  // The same key again, in the same breath as the run that ends the follow.
  onEnd = () => {
    client.send("job.submit", { agent: "echo", input: 1, ...key });
    while (pair.flushOne("toB"));
  };
  await pump(() => client.seqs().length === 4);
  assert.deepEqual(client.seqs(), [1, 2, 3, 4]);
  assert.deepEqual(
    client.numbered().map(({ type }) => type),
    ["job.event", "job.result", "job.event", "job.result"],
  );
});

// ------------------------------------------------------------------------------------ nodes that die

/** A store whose list of nodes has one more, of which the engine has no proof either way. */
function withStranger(
  store: Store,
  stranger: { heartbeat: number; listed: boolean; buried: number[]; fails: boolean },
): Store {
  const record = (): NodeRecord => ({
    nodeId: "node_stranger",
    pid: 1,
    host: "elsewhere",
    startedAt: 0,
    heartbeat: stranger.heartbeat,
    state: "alive",
    provenDead: undefined,
  });
  const nodes: NodeFacet = {
    ...store.nodes,
    list: async () => {
      if (stranger.fails) throw new Error("no answer");
      const known = await store.nodes.list();
      return stranger.listed ? [...known, record()] : known;
    },
    bury: async (burial) => {
      if (burial.nodeId !== "node_stranger") return store.nodes.bury(burial);
      stranger.buried.push(burial.heartbeat);
      stranger.listed = false;
      return { endedJobIds: [], givenBackJobIds: [], more: false };
    },
  };
  return { ...store, nodes };
}

test("[STO-11] a node without proof is dead once one heartbeat has stood still for a whole timeout, and not before", async () => {
  const stranger = { heartbeat: 7, listed: true, buried: [] as number[], fails: false };
  await using fixture = await memoryRuntime({ wrap: (store) => withStranger(store, stranger) });
  // It beats, slowly: each new value starts the watch anew.
  for (let round = 0; round < 5; round += 1) {
    await fixture.clock.advance(14_000);
    stranger.heartbeat += 1;
  }
  assert.deepEqual(stranger.buried, []);
  // A read that failed starts it anew as well: an outage of the store makes nobody look dead.
  await fixture.clock.advance(12_000);
  stranger.fails = true;
  await fixture.clock.advance(2_000);
  stranger.fails = false;
  await fixture.clock.advance(12_000);
  assert.deepEqual(stranger.buried, []);
  await fixture.clock.advance(10_000);
  assert.deepEqual(stranger.buried, [12]);
});

test("[STO-11] a process that stood still is buried by another, and when it goes on it says nothing more", async () => {
  await using stopped = await memoryRuntime();
  const puppet = stopped.puppet("puppet");
  const first = await stopped.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 4);
  await upTo(first.client, 4);

  // Its clock stands still, the other one's does not; its lock is held all the while.
  await using other = await memoryRuntime({ file: stopped.file });
  await other.clock.advance(20_000);
  const second = await other.connect({ resume: resumeOf(first.client, 2) });
  const terminal = await terminalOf(second.client, jobId);
  assert.equal(terminal.payload["code"], "INTERNAL_ERROR");
  assert.equal(terminal.payload["retryable"], true);
  assert.equal((terminal.payload["details"] as { reason: string }).reason, "node_lost");
  assert.deepEqual(second.client.seqs(), [3, 4, 5]);

  // What it still emits goes nowhere, its agent is told, and its connections end.
  const { signal } = await puppet.job;
  await assert.rejects(puppet.log(4, 600).then(() => Promise.reject(signal.reason)));
  await stopped.clock.advance(10_000);
  assert.equal(signal.aborted, true);
  assert.equal(stopped.runtime.runningJobs, 0);
  await first.client.whenClosed();
  await settled(second.client);
  assert.deepEqual(second.client.seqs(), [3, 4, 5]);

  // As a node of a new name it serves the session again, to the very end of the log.
  const third = await stopped.connect({ resume: resumeOf(second.client, 1) });
  await terminalOf(third.client, jobId);
  assert.deepEqual(third.client.seqs(), [2, 3, 4, 5]);
  await submit(third.client, "puppet");
});

test("[STO-11] the end that somebody else gave to a job is delivered by the job's own former node, too", async () => {
  await using stopped = await memoryRuntime();
  const puppet = stopped.puppet("puppet");
  const owner = await stopped.connect();
  const jobId = await submit(owner.client, "puppet");
  await puppet.log(0, 4);
  await upTo(owner.client, 4);
  owner.pair.cut();
  await using other = await memoryRuntime({ file: stopped.file });
  await other.clock.advance(20_000);
  // The client comes back to the former node and nowhere else, once that has found out by itself.
  await stopped.clock.advance(10_000);
  const again = await stopped.connect({ resume: resumeOf(owner.client) });
  const terminal = await terminalOf(again.client, jobId);
  assert.equal((terminal.payload["details"] as { reason: string }).reason, "node_lost");
  assert.deepEqual(again.client.seqs(), [5]);
});

/** A real process that serves a file. */
class NodeProcess {
  readonly #child: ChildProcessByStdio<null, Readable, null>;
  readonly #lines: SocketLine[] = [];
  #url = "";

  constructor(file: string) {
    this.#child = spawn(process.execPath, [join(import.meta.dirname, "node-process.ts"), file], {
      stdio: ["ignore", "pipe", "inherit"],
    });
  }

  async start(): Promise<this> {
    const [line] = (await once(this.#child.stdout, "data")) as [Buffer];
    this.#url = line.toString().trim();
    return this;
  }

  async connect(options: Parameters<typeof greet>[1] = {}): Promise<SocketLine> {
    const line = await openLine(this.#url);
    this.#lines.push(line);
    return greet(line, options);
  }

  /** No goodbye: the kernel takes it. */
  async kill(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const exited = once(this.#child, "exit");
      this.#child.kill("SIGKILL");
      await exited;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { ws } of this.#lines) ws.terminate();
    await this.kill();
  }
}

const ticks = (client: WireClient, jobId: string, n: number): void =>
  assert.deepEqual(
    logsOf(client, jobId).slice(0, n),
    Array.from({ length: n }, (_, index) => `tick ${index}`),
  );

test("[STO-9] a second process on the file disturbs no job of the first, and serves it as well", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  await using one = await new NodeProcess(file).start();
  const owner = await one.connect();
  const jobId = await submit(owner.client, "ticker", { n: 100_000, every_ms: 2 });
  await upTo(owner.client, 5);

  await using two = await new NodeProcess(file).start();
  const reader = await two.connect();
  const reply = await reader.client.reply(reader.client.send("job.subscribe", { job_id: jobId, history: true }));
  assert.equal(reply.payload["current_status"], "running");
  const seen = owner.client.seqs().length;
  await upTo(owner.client, seen + 100);
  await upTo(reader.client, seen + 50);
  ticks(owner.client, jobId, seen + 100);
  ticks(reader.client, jobId, seen + 50);

  // The session moves to the second process; the first one's connection hears of it by the poll.
  const moved = await two.connect({ resume: resumeOf(owner.client, seen) });
  await owner.client.whenClosed();
  assert.deepEqual(owner.client.received.at(-1)?.envelope.payload["details"], { reason: "superseded" });
  await upTo(moved.client, seen + 20);
  // It may cancel from there what runs in the first.
  assert.equal(
    (await moved.client.reply(moved.client.send("job.cancel", {}, { job_id: jobId }))).type,
    "job.cancelled",
  );
  for (const { client } of [moved, reader])
    assert.equal((await terminalOf(client, jobId)).payload["code"], "CANCELLED");
  assert.deepEqual(moved.client.seqs(), count(seen + 1, seen + moved.client.seqs().length));
});

test("[STO-11] the jobs of a killed process end in the stream of a client that resumes at another", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  await using one = await new NodeProcess(file).start();
  await using two = await new NodeProcess(file).start();
  const bystander = await two.connect();
  const other = await submit(bystander.client, "ticker", { n: 100_000, every_ms: 2 });
  const owner = await one.connect();
  const jobs = [];
  for (let index = 0; index < 3; index += 1)
    jobs.push(await submit(owner.client, "ticker", { n: 100_000, every_ms: 1 }));
  await upTo(owner.client, 60);
  await one.kill();
  await owner.client.whenClosed();

  const before = owner.client.numbered();
  const resumed = await two.connect({ resume: resumeOf(owner.client, before.length) });
  for (const jobId of jobs) {
    const { payload } = await terminalOf(resumed.client, jobId);
    assert.deepEqual([payload["code"], payload["retryable"]], ["INTERNAL_ERROR", true]);
    assert.equal((payload["details"] as { reason: string }).reason, "node_lost");
  }
  await settled(resumed.client);
  const after = resumed.client.numbered();
  const all = [...before, ...after];
  assert.deepEqual(
    all.map(({ event_seq }) => event_seq),
    count(1, all.length),
  );
  for (const jobId of jobs) {
    const messages = all.filter(({ job_id }) => job_id === jobId);
    assert.equal(messages.filter(({ type }) => type !== "job.event").length, 1);
    assert.deepEqual(
      messages.slice(0, -1).map(({ payload }) => (payload["body"] as { message: string }).message),
      messages.slice(0, -1).map((_, index) => `tick ${index}`),
    );
  }
  // The survivor's own job did not notice.
  const seen = bystander.client.seqs().length;
  await upTo(bystander.client, seen + 20);
  ticks(bystander.client, other, seen + 20);
});

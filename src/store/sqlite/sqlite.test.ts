/**
 * What is SQLite's own: several processes on one file, sudden death, locks, checkpoints, migrations. The
 * other processes are real ones; they report on standard output and are waited for, never slept for.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, statSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";
import { systemClock } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { type ConnectionRef, type Store, StoreUnavailable } from "../store.ts";
import { Checkpointer } from "./checkpointer.ts";
import { Database } from "./database.ts";
import { type SqliteOptions, sqlite } from "./index.ts";

/** How long another process may take for anything here. */
const DEADLINE_MS = 30_000;

const STORE_MODULE = JSON.stringify(new URL("./index.ts", import.meta.url).href);

/** A directory with a store file, the stores opened on it and the processes started over it. */
class Place {
  readonly directory: string;
  readonly file: string;
  readonly #stores: Store[] = [];
  readonly #children: ChildProcess[] = [];

  constructor(directory: string) {
    this.directory = directory;
    this.file = join(directory, "store.db");
  }

  static async make(): Promise<Place> {
    return new Place(await mkdtemp(join(tmpdir(), "holdfast-sqlite-")));
  }

  async open(options: SqliteOptions = {}): Promise<Store> {
    const store = sqlite(this.file, options);
    this.#stores.push(store);
    await store.start();
    return store;
  }

  /** Another process that runs `body` with `store`, started on the file, `say(line)` and `now`. */
  spawn(body: string): Other {
    const script = `
      import { sqlite } from ${STORE_MODULE};
      const store = sqlite(${JSON.stringify(this.file)});
      await store.start();
      const say = (line) => process.stdout.write(line + "\\n");
      const now = Date.now();
      ${body}`;
    const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#children.push(child);
    return new Other(child);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode === null && child.signalCode === null) {
        const exit = once(child, "exit");
        child.kill("SIGKILL");
        await exit;
      }
    }
    for (const store of this.#stores) {
      await store.stop();
    }
    await rm(this.directory, { recursive: true });
  }
}

class Other {
  readonly child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(child: ChildProcess) {
    assert.ok(child.stdout !== null);
    this.child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  /** The next line that it prints; `undefined` after its last. */
  async line(): Promise<string | undefined> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = systemClock.after(DEADLINE_MS, () => reject(new Error("the other process says nothing")), {
      keepAlive: true,
    });
    try {
      const next = await Promise.race([this.#lines.next(), late]);
      return next.done ? undefined : next.value;
    } finally {
      timer.cancel();
    }
  }

  async kill(): Promise<void> {
    const exit = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exit;
  }
}

const SESSION: ConnectionRef = { sessionId: "sess_1", connectionEpoch: 1 };

/** One node, one session, one job. */
async function populate(store: Store, now = 0): Promise<void> {
  await store.nodes.register({ nodeId: "node_a", pid: process.pid, host: "host", now });
  await store.sessions.create({
    ...SESSION,
    principal: "alice",
    clientName: "client",
    clientVersion: "1",
    features: [],
    tokenHash: new Uint8Array(32),
    nodeId: "node_a",
    resumeWindowMs: 1_000,
    now,
    maxSessionsPerPrincipal: 10,
  });
  await submit(store, "job_1", now);
}

function submit(store: Store, jobId: string, now = 0) {
  return store.requests.submit({
    ...SESSION,
    messageId: `msg_${jobId}`,
    now,
    principal: "alice",
    nodeId: "node_a",
    job: { jobId, agent: "a", input: "null", lease: {}, traceId: "t" },
    acceptedPayload: "{}",
    maxRunningJobsPerPrincipal: 1_000,
    reply: (outcome) => ({ frame: outcome.outcome }),
  });
}

function append(store: Store, n: number, payload = "{}") {
  return store.jobs.append([{ jobId: "job_1", runEpoch: 1, events: [{ n, kind: "log", payload }], now: 0 }]);
}

/** Keeps what is logged at warn and above. */
function memoryLogger(lines: string[]): Logger {
  const note = (_fields: object, message: string) => void lines.push(message);
  return { debug() {}, info() {}, warn: note, error: note };
}

test("[STO-8] what was acknowledged is there after SIGKILL", async () => {
  await using place = await Place.make();
  const store = await place.open();
  await populate(store);
  const other = place.spawn(`
    for (let n = 1; ; n += 8) {
      const events = Array.from({ length: 8 }, (_, i) => ({ n: n + i, kind: "log", payload: '{"n":' + (n + i) + '}' }));
      const [result] = await store.jobs.append([{ jobId: "job_1", runEpoch: 1, events, now }]);
      if (!result.ok) throw result.refusal;
      say(String(n + 7));
    }`);
  let acknowledged = 0;
  while (acknowledged < 400) {
    acknowledged = Number(await other.line());
  }
  await other.kill();
  for (let line = await other.line(); line !== undefined; line = await other.line()) {
    acknowledged = Number(line);
  }
  let lastN = 0;
  for (;;) {
    const { events } = await store.jobs.read("job_1", lastN);
    if (events.length === 0) {
      break;
    }
    for (const event of events) {
      lastN++;
      assert.deepEqual([event.n, event.payload], [lastN, `{"n":${lastN}}`]);
    }
  }
  assert.ok(lastN >= acknowledged, `${acknowledged} were acknowledged, ${lastN} are stored`);
});

test("[STO-9] two processes write to one file at once, and nothing is lost", async () => {
  await using place = await Place.make();
  const store = await place.open();
  await populate(store);
  await submit(store, "job_2");
  const other = place.spawn(`
    for (let n = 1; n <= 400; n++) {
      const [result] = await store.jobs.append([
        { jobId: "job_2", runEpoch: 1, events: [{ n, kind: "log", payload: "{}" }], now }]);
      if (!result.ok) throw result.refusal;
      if (n === 1) say("writing");
    }
    await store.stop();
    say("done");`);
  assert.equal(await other.line(), "writing");
  for (let n = 1; n <= 400; n++) {
    assert.deepEqual(await append(store, n), [{ ok: true }]);
  }
  assert.equal(await other.line(), "done");
  assert.equal((await store.jobs.get("job_1"))?.lastN, 400);
  assert.equal((await store.jobs.get("job_2"))?.lastN, 400);
});

test("[STO-9] a write that finds the file busy is tried again and goes through", async () => {
  await using place = await Place.make();
  const clock = new ManualClock();
  const store = await place.open({ clock, busyTimeoutMs: 1_000 });
  await populate(store);
  using holder = new DatabaseSync(place.file);
  holder.exec("BEGIN IMMEDIATE");
  const first = append(store, 1);
  const second = append(store, 2);
  await clock.advance(500);
  assert.equal(clock.pendingTimers, 1, "the store is not waiting to try again");
  // Readers are not held up.
  assert.equal((await store.jobs.get("job_1"))?.lastN, 0);
  holder.exec("COMMIT");
  await clock.advance(20);
  assert.deepEqual([await first, await second], [[{ ok: true }], [{ ok: true }]]);
  assert.equal(clock.pendingTimers, 0);
});

test("[STO-12] a file that stays busy makes writes reject, and is used again when it is free", async () => {
  await using place = await Place.make();
  const clock = new ManualClock();
  const store = await place.open({ clock, busyTimeoutMs: 1_000 });
  await populate(store);
  using holder = new DatabaseSync(place.file);
  holder.exec("BEGIN IMMEDIATE");
  const settled = Promise.allSettled([append(store, 1), append(store, 2)]);
  await clock.advance(1_100);
  for (const result of await settled) {
    assert.ok(result.status === "rejected" && result.reason instanceof StoreUnavailable);
    assert.match(result.reason.message, /held by another process for 1000 ms/);
  }
  holder.exec("ROLLBACK");
  assert.deepEqual(await append(store, 1), [{ ok: true }]);
  assert.equal(clock.pendingTimers, 0);
});

for (const severity of ["FAIL", "ROLLBACK"]) {
  // ROLLBACK is what a full disk does: SQLite ends the transaction by itself.
  test(`[STO-12] a failing write fails alone, with the engine's error as its cause (${severity})`, async () => {
    await using place = await Place.make();
    const store = await place.open();
    await populate(store);
    {
      using saboteur = new DatabaseSync(place.file);
      saboteur.exec(`CREATE TRIGGER no_job_3 AFTER INSERT ON job_heads WHEN NEW.job_key = 3
        BEGIN SELECT raise(${severity}, 'the disk is on fire'); END`);
    }
    const submits = Promise.allSettled(["job_2", "job_3"].map((jobId) => submit(store, jobId)));
    const appended = append(store, 1);
    const results = await submits;
    assert.deepEqual(
      results.map((result) => result.status),
      ["fulfilled", "rejected"],
    );
    const failed = results[1];
    assert.ok(failed?.status === "rejected" && failed.reason instanceof StoreUnavailable);
    assert.match(String((failed.reason.cause as Error).message), /on fire/);
    assert.deepEqual(await appended, [{ ok: true }]);
    assert.equal((await store.jobs.get("job_2"))?.status, "running");
    assert.equal(await store.jobs.get("job_3"), undefined);
    assert.equal((await store.jobs.get("job_1"))?.lastN, 1);
  });
}

test("[STO-12] when the checkpoint worker fails it is told, and SQLite checkpoints by itself", async () => {
  await using place = await Place.make();
  await (await place.open()).stop();
  const warnings: string[] = [];
  const { promise: told, resolve } = Promise.withResolvers<string>();
  const logger: Logger = {
    ...memoryLogger(warnings),
    error: (_fields, message) => resolve(message),
  };
  const checkpointer = new Checkpointer(join(place.directory, "missing", "store.db"), logger);
  const db = new Database(place.file);
  db.script("PRAGMA wal_autocheckpoint = 0");
  checkpointer.committed(db, 1, 8 * 1024 * 1024);
  assert.match(await told, /checkpoint worker failed/);
  assert.deepEqual({ ...db.get<object>("PRAGMA wal_autocheckpoint") }, { wal_autocheckpoint: 1_000 });
  await checkpointer.stop();
  db.close();
  assert.deepEqual(warnings, []);
});

test("[STO-10] a file with a newer breaking migration is refused, with one that breaks nothing it is taken", async () => {
  await using place = await Place.make();
  await (await place.open()).stop();
  const migrate = (number: number, name: string, breaking: number) => {
    using file = new DatabaseSync(place.file);
    file.prepare("INSERT INTO migrations VALUES (?, ?, ?, 0)").run(number, name, breaking);
  };
  migrate(1_000, "an-index", 0);
  await (await place.open()).stop();
  migrate(1_001, "another-shape", 1);
  await assert.rejects(
    sqlite(place.file).start(),
    /up to migration \d+ \([a-z-]+\).*breaking migration 1001 \(another-shape\)/,
  );
});

test("[STO-9] a start on a file that cannot be opened says which", async () => {
  await using place = await Place.make();
  const store = sqlite(join(place.directory, "missing", "store.db"));
  await assert.rejects(store.start(), (error: unknown) => {
    assert.ok(error instanceof StoreUnavailable);
    assert.match(error.message, /missing.*store\.db/);
    return true;
  });
  await assert.rejects(store.jobs.get("job_1"), StoreUnavailable);
  await store.stop();
});

test("[STO-12] a node whose lock cannot be taken is refused as by a store that is down", async () => {
  await using place = await Place.make();
  const store = await place.open();
  // A folder in its place fails as a full disk does: SQLite cannot write there.
  await mkdir(`${place.file}.node-node_1.lock`);
  await assert.rejects(
    store.nodes.register({ nodeId: "node_1", pid: 1, host: "host", now: 0 }),
    (error) => error instanceof StoreUnavailable && /the lock of node_1/.test(error.message),
  );
});

test("[STO-11] the kernel's proof: a node is dead as soon as its process is, and not before", async () => {
  await using place = await Place.make();
  const store = await place.open();
  await store.nodes.register({ nodeId: "node_a", pid: process.pid, host: "host", now: 0 });
  const other = place.spawn(`
    await store.nodes.register({ nodeId: "node_b", pid: process.pid, host: "host", now });
    say("registered");
    process.stdin.resume();`);
  assert.equal(await other.line(), "registered");
  const proofs = async () =>
    Object.fromEntries((await store.nodes.list()).map((node) => [node.nodeId, node.provenDead]));
  assert.deepEqual(await proofs(), { node_a: false, node_b: false });
  await other.kill();
  assert.deepEqual(await proofs(), { node_a: false, node_b: true });
  assert.ok(existsSync(`${place.file}.node-node_b.lock`));
  await store.nodes.bury({ nodeId: "node_b", heartbeat: 0, jobErrorPayload: "{}", now: 1 });
  assert.deepEqual(await proofs(), { node_a: false });
  assert.ok(!existsSync(`${place.file}.node-node_b.lock`));
});

test("[STO-11] looking at each other's locks, from one process too, frees none of them", async () => {
  await using place = await Place.make();
  const [a, b] = [await place.open(), await place.open()];
  await a.nodes.register({ nodeId: "node_a", pid: 1, host: "host", now: 0 });
  await b.nodes.register({ nodeId: "node_b", pid: 1, host: "host", now: 0 });
  const proofs = async (store: Store) => (await store.nodes.list()).map((node) => [node.nodeId, node.provenDead]);
  const alive = [
    ["node_a", false],
    ["node_b", false],
  ];
  for (const store of [a, b, a, b]) {
    assert.deepEqual(await proofs(store), alive);
  }
  // Another process sees it alike.
  const other = place.spawn(`say(JSON.stringify((await store.nodes.list()).map((n) => [n.nodeId, n.provenDead])));`);
  assert.deepEqual(JSON.parse((await other.line()) ?? "null"), alive);
  await a.nodes.leave("node_a", 0);
  assert.deepEqual(await proofs(b), [["node_b", false]]);
  // A stop without leaving is a death.
  await b.stop();
  assert.deepEqual(await proofs(a), [["node_b", true]]);
});

test("[STO-9] steady writing does not let the write-ahead log grow, and nothing of it is lost", async () => {
  await using place = await Place.make();
  const warnings: string[] = [];
  const store = await place.open({ logger: memoryLogger(warnings) });
  await populate(store);
  const payload = JSON.stringify("x".repeat(256 * 1024));
  let peak = 0;
  let lowest = Number.POSITIVE_INFINITY;
  const count = 640;
  for (let n = 1; n <= count; n++) {
    await append(store, n, payload);
    const { size } = statSync(`${place.file}-wal`);
    peak = Math.max(peak, size);
    if (peak > 64 * 1024 * 1024) lowest = Math.min(lowest, size);
  }
  assert.ok(lowest > 60 * 1024 * 1024, `the log's file was made anew, from ${lowest} bytes, not written over`);
  assert.ok(peak < 144 * 1024 * 1024, `160 MiB were written and the log reached ${Math.round(peak / 1024 / 1024)} MiB`);
  assert.deepEqual(warnings, []);
  assert.equal((await store.jobs.get("job_1"))?.lastN, count);
  await store.stop();
  const left = (await readdir(place.directory)).sort();
  assert.deepEqual(left, ["store.db", "store.db.node-node_a.lock"]);
  const again = await place.open();
  assert.equal((await again.jobs.read("job_1", count - 1)).events[0]?.payload, payload);
});

test("[STO-9] a log that grew because somebody read for long is cut when the reader is gone", async () => {
  await using place = await Place.make();
  const store = await place.open();
  await populate(store);
  const walBytes = () => statSync(`${place.file}-wal`).size;
  const payload = JSON.stringify("x".repeat(512 * 1024));
  let n = 0;
  {
    using reader = new DatabaseSync(place.file);
    reader.exec("BEGIN");
    reader.prepare("SELECT count(*) FROM jobs").get();
    while (walBytes() < 100 * 1024 * 1024) {
      await append(store, ++n, payload);
    }
  }
  // Merely starting over would leave the file as long as it was.
  const grown = n;
  while (walBytes() > 70 * 1024 * 1024) {
    await append(store, ++n, payload);
    assert.ok(n < grown + 400, "200 MiB later the log is still as long");
  }
  assert.equal((await store.jobs.get("job_1"))?.lastN, n);
});

test("[SES-13] a backlog of writes is worked off in steps that let the loop turn", async () => {
  await using place = await Place.make();
  const store = await place.open();
  await populate(store);
  const batches = Array.from({ length: 100 }, (_, b) => ({
    jobId: "job_1",
    runEpoch: 1,
    events: Array.from({ length: 200 }, (_, i) => ({ n: b * 200 + i + 1, kind: "log", payload: "{}" })),
    now: 0,
  }));
  let turns = 0;
  let done = false;
  const count = () => {
    turns++;
    if (!done) {
      setImmediate(count);
    }
  };
  setImmediate(count);
  const results = await store.jobs.append(batches);
  done = true;
  assert.ok(results.every((result) => result.ok));
  assert.ok(turns >= 8, `20,000 events were stored within ${turns} turns of the event loop`);
});

test("[DEL-2] what told of a child goes from the file when something proves that it arrived", async () => {
  await using place = await Place.make();
  const store = await place.open();
  await populate(store);
  const owed = () => {
    const db = new Database(place.file, { readOnly: true });
    try {
      return db.all<{ frame: string; owed: number }>("SELECT frame, owed FROM requests ORDER BY ordinal");
    } finally {
      db.close();
    }
  };
  for (const [index, jobId] of ["job_2", "job_3"].entries()) {
    const n = index + 1;
    await store.jobs.spawn({
      parentJobId: "job_1",
      runEpoch: 1,
      delegateId: jobId,
      job: { jobId, agent: "a", input: "null", lease: {}, traceId: "t" },
      acceptedPayload: "{}",
      maxRunningJobsPerPrincipal: 1_000,
      now: 0,
    });
    await append(store, n);
    const run = { jobId: "job_1", firstSeq: n, count: 1, firstN: n, lastN: n, endsFollow: false, delegateIds: [jobId] };
    await store.sessions.storeRuns(SESSION, [run], (child) => child.jobId);
  }
  await append(store, 3);
  const last = { jobId: "job_1", firstSeq: 3, count: 1, firstN: 3, lastN: 3, endsFollow: false };
  await store.sessions.storeRuns(SESSION, [last], (child) => child.jobId);
  assert.deepEqual(
    owed().map(({ frame }) => frame),
    ["created", "job_2", "job_3"],
  );
  await store.sessions.ack(SESSION, 2);
  // The answer to the submit stays: the submit may come again.
  assert.deepEqual(
    owed().map((row) => [row.frame, row.owed]),
    [
      ["created", 0],
      ["job_3", 1],
    ],
  );
  await store.sessions.ack(SESSION, 3);
  assert.deepEqual(
    owed().map(({ frame }) => frame),
    ["created"],
  );
});

/**
 * What is PostgreSQL's own: round trips, restarts, lost connections, hints between processes, migrations, poolers,
 * roles. The server is a real one; what has to go wrong between it and a store goes wrong in a pool that is handed in.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { after, describe, test } from "node:test";
import pg from "pg";
import { type PostgresServer, postgresServer, queryOnce } from "../../../test/postgres.ts";
import { sleep, systemClock } from "../../clock.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import {
  type Abandonable,
  type AppendBatch,
  type ConnectionRef,
  type Hint,
  type Store,
  StoreRefusal,
  StoreUnavailable,
} from "../store.ts";
import { type PooledClient, type PostgresOptions, type PostgresPool, postgres } from "./index.ts";

/** How long anything here may take. */
const DEADLINE_MS = 30_000;

const NODE = "node_a";
const now = () => systemClock.wall();
const range = (length: number) => Array.from({ length }, (_, i) => i);

const server = await postgresServer();
const started = "reason" in server ? undefined : server;
const skip = "reason" in server ? server.reason : false;
after(async () => {
  await started?.[Symbol.asyncDispose]();
});

/** A database with the stores and pools on it. */
class Place {
  readonly url: string;
  readonly #stores: Store[] = [];
  readonly #pools: pg.Pool[] = [];

  constructor(url: string) {
    this.url = url;
  }

  static async make(): Promise<Place> {
    return new Place((await (started as PostgresServer).createDatabase()).url);
  }

  async open(options: PostgresOptions = {}): Promise<Store> {
    return await this.#start(postgres({ url: this.url }, options));
  }

  async openOver(pool: PostgresPool, options: PostgresOptions = {}): Promise<Store> {
    return await this.#start(postgres({ pool }, options));
  }

  pool(options: pg.PoolConfig = {}): pg.Pool {
    const pool = new pg.Pool({ connectionString: this.url, max: 10, ...options });
    this.#pools.push(pool);
    return pool;
  }

  query(sql: string): Promise<Record<string, unknown>[]> {
    return queryOnce(this.url, sql);
  }

  async #start(store: Store): Promise<Store> {
    await store.start();
    this.#stores.push(store);
    return store;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const store of this.#stores) await store.stop();
    for (const pool of this.#pools) await pool.end();
  }
}

/** A pool whose connections do what `query` makes of each of their queries. */
function tampered(pool: pg.Pool, query: (client: pg.PoolClient, text: string, run: () => unknown) => unknown) {
  return {
    async connect() {
      const client = await pool.connect();
      return new Proxy<PooledClient>(client, {
        get(target, name) {
          if (name === "query") {
            return (given: { text: string }) => query(client, given.text, () => client.query(given));
          }
          const value: unknown = Reflect.get(target, name);
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
    },
    on: pool.on.bind(pool) as PostgresPool["on"],
    off: pool.off.bind(pool) as PostgresPool["off"],
  } satisfies PostgresPool;
}

async function scene(store: Store, jobs: number, sessionId = "sess_1", nodeId = NODE): Promise<ConnectionRef> {
  await store.nodes.register({ nodeId, pid: 1, host: "host", now: now() });
  const session = await store.sessions.create({
    sessionId,
    principal: "alice",
    clientName: "client",
    clientVersion: "1",
    features: ["ack", "subscribe"],
    tokenHash: Buffer.alloc(32, 1),
    nodeId,
    resumeWindowMs: 600_000,
    now: now(),
    maxSessionsPerPrincipal: 1_000,
  });
  for (const i of range(jobs)) await submit(store, session, `job_${i}`, nodeId);
  return session;
}

const submit = (store: Store, session: ConnectionRef, jobId: string, nodeId = NODE, given: Abandonable = {}) =>
  store.requests.submit({
    ...given,
    sessionId: session.sessionId,
    connectionEpoch: session.connectionEpoch,
    messageId: `submit ${jobId}`,
    now: now(),
    principal: "alice",
    nodeId,
    job: { jobId, agent: "report@2", input: "{}", lease: {}, traceId: jobId },
    acceptedPayload: "{}",
    maxRunningJobsPerPrincipal: 1_000,
    reply: ({ outcome }) => ({ frame: outcome }),
  });

const batch = (jobId: string, firstN: number, count = 1, given: Partial<AppendBatch> = {}): AppendBatch => ({
  jobId,
  runEpoch: 1,
  events: range(count).map((i) => ({ n: firstN + i, kind: "log", payload: `{"n":${firstN + i},"ü":"\\u0000"}` })),
  now: now(),
  ...given,
});

/** Asks until the answer is there. */
async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
  const deadline = systemClock.monotonic() + DEADLINE_MS;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    assert.ok(systemClock.monotonic() < deadline, `${what} within ${DEADLINE_MS} ms`);
    await sleep(systemClock, 5);
  }
}

/** What is there by now, or in a moment. */
const orNothing = <T>(promise: Promise<T>): Promise<T | undefined> =>
  Promise.race([promise, sleep(systemClock, 50).then(() => undefined)]);

/** Resolves with the first hint that fits. */
function heard(store: Store, wanted: (hint: Hint) => boolean): { hint: Promise<Hint>; stop: () => void } {
  const { promise, resolve, reject } = Promise.withResolvers<Hint>();
  const timer = systemClock.after(DEADLINE_MS, () => reject(new Error("no hint came")), { keepAlive: true });
  const stop = store.onHint((hint) => {
    if (wanted(hint)) resolve(hint);
  });
  const hint = promise.finally(() => timer.cancel());
  return { hint, stop };
}

describe("PostgreSQL", { skip }, () => {
  // ------------------------------------------------------------------------------------ round trips

  test("[STO-17] an append to 64 logs is one round trip, and so are the runs of 64 sessions", async () => {
    await using place = await Place.make();
    let queries: string[] = [];
    const counting = tampered(place.pool(), (_client, text, run) => {
      queries.push(text);
      return run();
    });
    const store = await place.openOver(counting, { listenUrl: false });
    const session = await scene(store, 64);
    const others: ConnectionRef[] = [];
    for (const i of range(64)) {
      const other = await store.sessions.create({
        sessionId: `other_${i}`,
        principal: "alice",
        clientName: "client",
        clientVersion: "1",
        features: [],
        tokenHash: Buffer.alloc(32, 1),
        nodeId: NODE,
        resumeWindowMs: 600_000,
        now: now(),
        maxSessionsPerPrincipal: 1_000,
      });
      await store.requests.follow({
        sessionId: other.sessionId,
        connectionEpoch: 1,
        messageId: "follow",
        now: now(),
        jobId: "job_0",
        history: true,
        reply: () => ({ frame: "followed" }),
      });
      others.push(other);
    }
    await store.nodes.list();

    queries = [];
    const appended = await store.jobs.append(range(64).map((i) => batch(`job_${i}`, 1, 5)));
    assert.deepEqual(new Set(appended.map((result) => result.ok)), new Set([true]));
    assert.equal(queries.length, 1, queries.join("\n"));

    // Ends and appends of several callers within one turn of the loop as well.
    queries = [];
    await Promise.all(
      range(64).map((i) => store.jobs.append([batch(`job_${i}`, 6, 1, { end: "success", now: 4_711 })])),
    );
    assert.equal(queries.length, 1, queries.join("\n"));
    const ended = await store.jobs.get("job_63");
    assert.deepEqual([ended?.status, ended?.runEpoch, ended?.endedAt, ended?.lastN], ["success", 2, 4_711, 6]);
    assert.deepEqual((await store.jobs.read("job_63", 4)).events, [
      { n: 5, runEpoch: 1, kind: "log", payload: '{"n":5,"ü":"\\u0000"}' },
      { n: 6, runEpoch: 1, kind: "log", payload: '{"n":6,"ü":"\\u0000"}' },
    ]);

    queries = [];
    const run = { firstSeq: 1, count: 5, jobId: "job_0", firstN: 1, lastN: 5, endsFollow: false };
    await Promise.all(others.map((other) => store.sessions.storeRuns(other, [run], () => "")));
    assert.equal(queries.length, 1, queries.join("\n"));
    const [stored] = await store.sessions.readRuns(others[63] as ConnectionRef, 0, 10);
    assert.deepEqual(stored, {
      firstSeq: 1,
      count: 5,
      jobId: "job_0",
      traceId: "job_0",
      firstN: 1,
      lastN: 5,
      notice: undefined,
    });

    queries = [];
    assert.equal(await store.sessions.ack(others[0] as ConnectionRef, 5), true);
    await store.sweep({ sessionIds: [session.sessionId], jobIds: ["job_1"], complete: true });
    assert.equal(queries.length, 2, queries.join("\n"));
  });

  for (const known of ["nothing", "that it is small"]) {
    test(`[STO-17] a plan that knew ${known} of each table reads no more when all are large`, async () => {
      await using place = await Place.make();
      await scene(await place.open(), 3);
      const client = new pg.Client({ connectionString: place.url });
      await client.connect();
      const append = (n: number) =>
        `holdfast.append_events(ARRAY['job_0'], '{1}', '{${n}}', '{${n}}', '{2}', '{NULL}', '{NULL}', '{0}',
         '{1}', '{${n}}', '{log}', '{1}', '{2}', '{}'::text::bytea)`;
      const storeRuns = (n: number) =>
        `holdfast.store_runs('{sess_1}', '{1}', '{${n}}', '{${n}}', '{1}', '{job_0}', '{${n}}', '{${n}}', '{${n}}', '{f}',
         '{1}', '{${n}}', '{1}', '{${n}}', '{${n}}')`;
      const blocksOf = async (call: string): Promise<number> => {
        const { rows } = await client.query(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT ${call}`);
        const [{ Plan: plan }] = rows[0]["QUERY PLAN"];
        return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"];
      };
      /** So many copies of one row, each with other values for some columns. */
      const multiply = (table: string, where: string, values: string) =>
        client.query(
          `INSERT INTO holdfast.${table} OVERRIDING SYSTEM VALUE
         SELECT (jsonb_populate_record(NULL::holdfast.${table}, to_jsonb(t) || jsonb_build_object(${values}))).*
         FROM (SELECT * FROM holdfast.${table} t WHERE ${where} LIMIT 1) AS t, generate_series(1000, 5999) AS i`,
        );
      try {
        const tables = ["jobs", "job_heads", "sessions", "follows"];
        for (const table of tables)
          await client.query(`ALTER TABLE holdfast.${table} SET (autovacuum_enabled = false)`);
        if (known !== "nothing") await client.query("ANALYZE");
        // A plan is kept from the sixth call on.
        for (let n = 1; n <= 10; n += 1) {
          assert.deepEqual((await client.query(`SELECT ${append(n)} AS taken`)).rows, [{ taken: [1] }]);
          assert.deepEqual((await client.query(`SELECT ${storeRuns(n)} AS taken`)).rows, [{ taken: [1] }]);
        }
        await multiply("jobs", "job_id = 'job_1'", "'job_key', i, 'job_id', 'many ' || i");
        await multiply("job_heads", "job_key = 2", "'job_key', i");
        await multiply("sessions", "true", "'session_key', i, 'session_id', 'many ' || i");
        // All of them follow the one job.
        await multiply("follows", "job_key = 1", "'session_key', i");
        const blocks = [await blocksOf(append(11)), await blocksOf(storeRuns(11))];
        assert.ok(Math.max(...blocks) < 100, `${blocks} blocks were read`);
      } finally {
        await client.end();
      }
    });
  }

  test("[STO-3] of one call, what is stale, repeated, unknown or no text fails or succeeds alone", async () => {
    await using place = await Place.make();
    const store = await place.open();
    await scene(store, 6);
    await store.jobs.append([batch("job_1", 1, 2)]);
    const results = await Promise.all([
      store.jobs.append([batch("job_0", 1, 2), batch("job_1", 1, 2), batch("job_2", 1, 2, { runEpoch: 7 })]),
      store.jobs.append([batch("job_3", 2), batch("nobody", 1), batch("job_4", 1, 600)]),
    ]);
    assert.deepEqual(
      results.flat().map((result) => (result.ok ? "ok" : result.refusal.reason)),
      ["ok", "ok", "stale_run", "wrong_number", "unknown_job", "ok"],
    );
    assert.equal((await store.jobs.read("job_4", 0)).events.length, 512);
    // PostgreSQL takes no NUL in a text.
    const [poisoned, sound] = await Promise.allSettled([
      store.jobs.append([{ ...batch("job_5", 1), events: [{ n: 1, kind: "log", payload: '"\0"' }] }]),
      store.jobs.append([batch("job_3", 1)]),
    ]);
    assert.ok(poisoned.status === "rejected" && poisoned.reason instanceof StoreUnavailable);
    assert.deepEqual(sound, { status: "fulfilled", value: [{ ok: true }] });
    assert.equal((await store.jobs.get("job_5"))?.lastN, 0);
  });

  // ------------------------------------------------------------------------------ lost connections

  test("[STO-19] a server that restarts is connected to again, and what was promised is there", async () => {
    const own = await postgresServer();
    assert.ok("url" in own);
    await using _ = own;
    const place = new Place(own.url);
    await using __ = place;
    const store = await place.open();
    const other = await place.open();
    await scene(store, 1);
    await scene(other, 0, "sess_2", "node_b");
    await store.nodes.list();
    const first = heard(other, (hint) => "jobId" in hint && hint.jobId === "job_0");
    await until("a first hint", async () => {
      await store.jobs.append([batch("job_0", (await lastN(store, "job_0")) + 1)]);
      return await orNothing(first.hint);
    });
    first.stop();
    const before = await lastN(store, "job_0");
    // Something listens all the while, and has to find its way back.
    const second = heard(other, (hint) => "jobId" in hint && hint.jobId === "job_0");

    let refused = 0;
    let acknowledged = before;
    let stopped = false;
    const writing = (async () => {
      while (!stopped) {
        try {
          const [result] = await store.jobs.append([batch("job_0", acknowledged + 1)]);
          assert.equal(result?.ok, true);
          acknowledged += 1;
        } catch (error) {
          assert.ok(error instanceof StoreUnavailable, String(error));
          refused += 1;
        }
        await sleep(systemClock, 5);
      }
    })();
    await own.restart();
    const atRestart = acknowledged;
    await until("appends after the restart", async () => (acknowledged > atRestart + 3 ? true : undefined));
    stopped = true;
    await writing;
    assert.ok(refused > 0, "the restart went unnoticed");
    const { events } = await store.jobs.read("job_0", 0);
    assert.deepEqual(
      events.map((event) => event.n),
      range(acknowledged).map((i) => i + 1),
    );
    // The listener heals as well: hints of new appends are heard.
    await until("a hint after the restart", async () => {
      await store.jobs.append([batch("job_0", (await lastN(store, "job_0")) + 1)]);
      return await orNothing(second.hint);
    });
    second.stop();
  });

  test("[STO-19] an idle connection that was cut is noticed by nobody but the pool", async () => {
    await using place = await Place.make();
    const store = await place.open({ poolSize: 3 });
    await scene(store, 1);
    await Promise.all(range(3).map(() => store.jobs.get("job_0")));
    await place.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    assert.equal((await submit(store, { sessionId: "sess_1", connectionEpoch: 1 }, "job_1")).outcome, "created");
  });

  test("[STO-19] a commit that nobody answered is unclear, and its repeat does no harm", async () => {
    await using place = await Place.make();
    let cut = false;
    const pool = tampered(place.pool(), async (client, text, run) => {
      const result = await run();
      const commits = text === "COMMIT" || text.includes("append_events");
      if (!cut || !commits) return result;
      cut = false;
      throw Object.assign(new Error("Connection terminated unexpectedly"), { client });
    });
    const store = await place.openOver(pool);
    const session = await scene(store, 1);
    cut = true;
    await assert.rejects(submit(store, session, "job_1"), StoreUnavailable);
    assert.equal(cut, false);
    assert.deepEqual(await submit(store, session, "job_1"), { outcome: "duplicate", frame: "created" });
    cut = true;
    await assert.rejects(store.jobs.append([batch("job_0", 1)]), StoreUnavailable);
    assert.deepEqual(await store.jobs.append([batch("job_0", 1)]), [{ ok: true }]);
    assert.equal(await lastN(store, "job_0"), 1);
  });

  test("[STO-19] a transaction that lost its connection before its commit, or to a deadlock, runs again", async () => {
    await using place = await Place.make();
    const failures: Error[] = [];
    const pool = tampered(place.pool(), async (_client, text, run) => {
      const failure = text.includes('INSERT INTO "holdfast".jobs') ? failures.shift() : undefined;
      if (failure !== undefined) throw failure;
      return await run();
    });
    const store = await place.openOver(pool);
    const session = await scene(store, 0);
    const deadlock = () => Object.assign(new Error("deadlock detected"), { code: "40P01" });
    failures.push(new Error("Connection terminated"), deadlock(), deadlock(), deadlock());
    assert.equal((await submit(store, session, "job_1")).outcome, "created");
    assert.equal(failures.length, 0);
    // Not for ever.
    failures.push(...range(20).map(() => deadlock()));
    await assert.rejects(submit(store, session, "job_2"), StoreUnavailable);
    assert.ok(failures.length > 0);
    failures.length = 0;
    assert.equal(await store.jobs.get("job_2"), undefined);
  });

  test("[STO-12] a server that cannot be reached fails its callers at once, after the first", async () => {
    await using place = await Place.make();
    let down = false;
    let tries = 0;
    const real = place.pool();
    const pool: PostgresPool = {
      ...tampered(real, (_client, _text, run) => run()),
      async connect() {
        if (!down) return await real.connect();
        tries += 1;
        throw Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" });
      },
    };
    const store = await place.openOver(pool, { listenUrl: false });
    await scene(store, 1);
    down = true;
    for (const _ of range(200)) await assert.rejects(store.jobs.get("job_0"), StoreUnavailable);
    assert.ok(tries < 20, `it tried to connect ${tries} times`);
    down = false;
    await until("the store to come back", async () => store.jobs.get("job_0").catch(() => undefined));
  });

  test("[STO-19] a process that stops within a transaction does not keep its locks", async () => {
    await using place = await Place.make();
    let stall = false;
    const stalled = Promise.withResolvers<void>();
    const woken = Promise.withResolvers<void>();
    const pool = tampered(place.pool(), async (_client, text, run) => {
      if (stall && text.includes('INSERT INTO "holdfast".jobs')) {
        stall = false;
        stalled.resolve();
        // As one that was sent SIGSTOP: no word, no end of the connection, and no timer of its own.
        await woken.promise;
      }
      return await run();
    });
    const stopping = await place.openOver(pool, { statementTimeoutMs: 200, clock: new ManualClock() });
    const session = await scene(stopping, 1);
    const store = await place.open();
    stall = true;
    const begun = submit(stopping, session, "job_1").catch((error: unknown) => error);
    await stalled.promise;
    // The session's row is locked until the server has had enough of waiting.
    assert.equal((await submit(store, session, "job_2")).outcome, "created");
    woken.resolve();
    assert.deepEqual(await begun, { outcome: "created", frame: "created" });
  });

  // ------------------------------------------------------------------------------------------ hints

  test("[STO-16] what one process changes another one hears of, in few messages, and itself does not", async () => {
    await using place = await Place.make();
    const store = await place.open();
    const other = await place.open({ listenUrl: place.url });
    await scene(store, 200);
    await scene(other, 0, "sess_2", "node_b");
    await store.nodes.list();
    const own: Hint[] = [];
    store.onHint((hint) => void own.push(hint));
    const jobs = new Set(range(200).map((i) => `job_${i}`));
    const { promise, resolve } = Promise.withResolvers<void>();
    other.onHint((hint) => {
      if ("jobId" in hint) jobs.delete(hint.jobId);
      if (jobs.size === 0) resolve();
    });
    const listening = `SELECT 1 AS one FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`;
    await until("both to listen", async () => ((await place.query(listening)).length === 2 ? true : undefined));
    await store.jobs.append([...jobs].map((jobId) => batch(jobId, 1)));
    await promise;
    assert.deepEqual(own, []);
  });

  test("[STO-16] hints that are too many for one message are told in several", async () => {
    await using place = await Place.make();
    const store = await place.open();
    const names = range(64).map((i) => `job_${String(i).padStart(3, "0")}${"x".repeat(300)}`);
    const session = await scene(store, 0);
    for (const name of names) await submit(store, session, name);
    const client = new pg.Client({ connectionString: place.url });
    await client.connect();
    const heardOf = new Set<string>();
    const sizes: number[] = [];
    client.on("notification", ({ payload = "" }) => {
      sizes.push(Buffer.byteLength(payload));
      for (const hint of payload.split(" ").slice(1)) heardOf.add(hint.slice(1));
    });
    await client.query("LISTEN holdfast");
    await store.jobs.append(names.map((name) => batch(name, 1)));
    await until("all of them", async () => (heardOf.size === names.length ? true : undefined));
    assert.ok(sizes.length >= 3 && sizes.every((size) => size < 8_000), sizes.join());
    await client.end();
  });

  // ---------------------------------------------------------------------------------- time and locks

  test("[LCK-5] whether a lock has expired is judged by the server's clock, whatever the caller's says", async () => {
    await using place = await Place.make();
    const store = await place.open();
    await scene(store, 0);
    const hour = 3_600_000;
    await store.conversations.resolve({
      conversationId: "c_1",
      source: "web",
      key: undefined,
      principal: undefined,
      userId: "u",
      now: now(),
    });
    const claim = { conversationId: "c_1", nodeId: NODE, ttlMs: hour, lostPayload: "{}" };
    const held = await store.conversations.acquire({ ...claim, holder: "me", now: now() - 10 * hour });
    assert.ok(held !== undefined && Math.abs(held.lock.expiresAt - (now() + hour)) < hour / 2);
    assert.equal(await store.conversations.acquire({ ...claim, holder: "other", now: now() + 10 * hour }), undefined);
  });

  test("[STO-12] a submit that is given up while it is being stored leaves nothing", async () => {
    await using place = await Place.make();
    const store = await place.open();
    const session = await scene(store, 0);
    let asked = 0;
    const abandoned = () => {
      asked += 1;
      return asked > 1;
    };
    const given = submit(store, session, "job_1", NODE, { abandoned });
    await assert.rejects(given, (error) => error instanceof StoreRefusal && error.reason === "abandoned");
    assert.equal(await store.jobs.get("job_1"), undefined);
    assert.equal((await submit(store, session, "job_1")).outcome, "created");
  });

  // ------------------------------------------------------------------------------------- the schema

  test("[STO-21] processes that start at once migrate once", async () => {
    await using place = await Place.make();
    const script = `
      import { postgres } from ${JSON.stringify(new URL("./index.ts", import.meta.url).href)};
      const store = postgres({ url: ${JSON.stringify(place.url)} });
      process.stdin.once("data", async () => {
        try {
          await store.start();
          await store.nodes.register({ nodeId: "node_" + process.pid, pid: process.pid, host: "host", now: Date.now() });
          await store.stop();
          process.exit(0);
        } catch (error) {
          console.error(error);
          process.exit(1);
        }
      });
      process.stdout.write("ready");`;
    const children = range(3).map(() =>
      spawn(process.execPath, ["--input-type=module", "--eval", script], { stdio: ["pipe", "pipe", "inherit"] }),
    );
    await Promise.all(children.map((child) => once(child.stdout, "data")));
    const exits = children.map((child: ChildProcess) => once(child, "exit"));
    for (const child of children) child.stdin.write("go");
    assert.deepEqual(
      (await Promise.all(exits)).map(([code]) => code),
      [0, 0, 0],
    );
    const applied = await place.query("SELECT number::int FROM holdfast.migrations ORDER BY number");
    assert.deepEqual(
      applied,
      applied.map((_, i) => ({ number: i + 1 })),
    );
    assert.notEqual(applied.length, 0);
    assert.equal((await place.query("SELECT node_id FROM holdfast.nodes")).length, 3);
  });

  test("[STO-10] a schema with a newer breaking migration is refused, with one that breaks nothing it is taken", async () => {
    await using place = await Place.make();
    await place.open();
    await place.query("INSERT INTO holdfast.migrations VALUES (1000, 'more', FALSE, 0)");
    await place.open();
    await place.query("INSERT INTO holdfast.migrations VALUES (1001, 'other', TRUE, 0)");
    await assert.rejects(place.open(), /"holdfast" has the breaking migration 1001 \(other\) of a newer one/);
  });

  test("[STO-18] stores share a database under names of their own, however odd", async () => {
    await using place = await Place.make();
    const names = ["holdfast", 'Other "Place"; --'];
    const stores = await Promise.all(names.map((schema) => place.open({ schema })));
    for (const [i, store] of stores.entries()) {
      await scene(store, 1 + i);
      assert.deepEqual(await store.jobs.append([batch("job_0", 1)]), [{ ok: true }]);
    }
    assert.equal(await stores[0]?.jobs.get("job_1"), undefined);
    assert.equal((await stores[1]?.jobs.get("job_1"))?.lastN, 0);
    assert.throws(() => postgres({ url: place.url }, { schema: "" }), /schema must be a name/);
    assert.throws(() => postgres({ url: place.url }, { schema: "ü".repeat(32) }), /schema must be a name/);
    assert.throws(() => postgres({ url: place.url }, { poolSize: 0 }), /poolSize must be/);
  });

  test("[STO-18] a role that may only read and write rows will do, once another has migrated", async () => {
    await using place = await Place.make();
    await place.query("CREATE ROLE holdfast_app LOGIN PASSWORD 'app'");
    const url = place.url.replace("holdfast:holdfast@", "holdfast_app:app@");
    const app = postgres({ url }, { migrate: false });
    await assert.rejects(app.start(), /lacks the migrations 1 \(spine\), .*and `migrate` is false/);
    await place.open();
    await place.query(`GRANT USAGE ON SCHEMA holdfast TO holdfast_app;
      GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA holdfast TO holdfast_app`);
    const store = postgres({ url }, { migrate: false });
    await store.start();
    await scene(store, 1);
    assert.deepEqual(await store.jobs.append([batch("job_0", 1)]), [{ ok: true }]);
    await store.retain({
      jobRetentionMs: 0,
      maxEventsPerJob: 1,
      maxBytesPerJob: 1,
      maxBytesPerStore: 1,
      conversationRetentionMs: 0,
      now: now(),
    });
    await store.stop();
  });

  test("[STO-18] behind a pooler in transaction mode nothing is lost with a connection's session", async () => {
    await using place = await Place.make();
    const pool = place.pool({ max: 4 });
    const store = await place.openOver(transactionPooler(pool), { preparedStatements: false, listenUrl: place.url });
    const other = await place.open();
    const session = await scene(store, 20);
    await scene(other, 0, "sess_2", "node_b");
    await store.nodes.list();
    await other.nodes.list();
    const told = heard(store, (hint) => "jobId" in hint && hint.jobId === "job_7");
    await Promise.all(
      range(20).map(async (i) => {
        for (const n of range(10)) {
          assert.deepEqual(await store.jobs.append([batch(`job_${i}`, n + 1)]), [{ ok: true }]);
        }
        const run = { firstSeq: 1, count: 10, jobId: "job_7", firstN: 1, lastN: 10, endsFollow: false };
        if (i === 7) await store.sessions.storeRuns(session, [run], () => "");
      }),
    );
    assert.equal((await store.sessions.readRuns(session, 0, 10)).length, 1);
    await until("a hint", async () => {
      await other.jobs.append([batch("job_7", (await lastN(store, "job_7")) + 1)]);
      return await orNothing(told.hint);
    });
    told.stop();
  });
});

const lastN = async (store: Store, jobId: string): Promise<number> => (await store.jobs.get(jobId))?.lastN ?? -1;

/**
 * As PgBouncer in transaction mode: whoever is connected has a server connection for the length of a transaction, then
 * perhaps another one, on which nothing is left of anybody.
 */
function transactionPooler(pool: pg.Pool): PostgresPool {
  return {
    ...tampered(pool, (_client, _text, run) => run()),
    async connect() {
      let held: pg.PoolClient | undefined;
      return {
        async query(query) {
          const client = held ?? (await pool.connect());
          held = client;
          try {
            return await client.query(query);
          } finally {
            // What the server says of the connection besides each answer: "I" for one without a transaction.
            if (client.getTransactionStatus() === "I") {
              held = undefined;
              await client.query("DISCARD ALL");
              client.release();
            }
          }
        },
        on: () => undefined,
        off: () => undefined,
        release: () => held?.release(true),
      };
    },
  };
}

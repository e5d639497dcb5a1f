/**
 * Two nodes on one PostgreSQL that tell each other nothing (law 4): all works, within a sweep rather than at once; and
 * what a node asks of the database while nothing happens. Clients and agents are real-time; only counting is not.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import pg from "pg";
import { Conversations } from "../src/conversation/index.ts";
import type { Envelope } from "../src/protocol/index.ts";
import type { Route, RouteKey } from "../src/routing/index.ts";
import { Runtime, type RuntimeOptions } from "../src/runtime/index.ts";
import { type PooledClient, type PostgresPool, postgres } from "../src/store/postgres/index.ts";
import { FakeChannel, ManualClock } from "../src/testing/index.ts";
import { memoryPair } from "../src/transport/memory.ts";
import { logsOf, Puppet, resumeOf, submit, TOKENS, terminalOf } from "./memory-runtime.ts";
import { eventually, turns } from "./runtime-fixture.ts";
import { sharedPostgres } from "./shared-postgres.ts";
import { emptyStore } from "./test-store.ts";
import { WireClient } from "./wire-client.ts";

const LIMIT = { timeout: 60_000 };
const SWEEP_MS = 50;
const ROUTE_KEY: RouteKey = { channel: "fake", bridge: "T1", room: "C1" };
const ROUTE: Route = { externalRoomId: "C1" };
const KEY = { source: "slack" as const, channel: "C1", thread: "1.1" };

/** A pool that keeps the text of each query. */
function counted(pool: pg.Pool, queries: string[], running: { count: number }): PostgresPool {
  return {
    async connect() {
      const client = await pool.connect();
      return new Proxy<PooledClient>(client, {
        get(target, name) {
          if (name === "query") {
            return async (query: { text: string }) => {
              queries.push(query.text);
              running.count += 1;
              try {
                return await client.query(query);
              } finally {
                running.count -= 1;
              }
            };
          }
          const value: unknown = Reflect.get(target, name);
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
    },
    on: pool.on.bind(pool) as PostgresPool["on"],
    off: pool.off.bind(pool) as PostgresPool["off"],
  };
}

/** A node without a bus. */
class Node implements AsyncDisposable {
  readonly runtime: Runtime;
  readonly conversations: Conversations;
  readonly queries: string[] = [];
  readonly running = { count: 0 };
  readonly #pool: pg.Pool;

  constructor(url: string, given: { channel?: FakeChannel; settings?: Partial<RuntimeOptions> } = {}) {
    this.#pool = new pg.Pool({ connectionString: url, max: 5 });
    this.runtime = new Runtime({
      store: postgres({ pool: counted(this.#pool, this.queries, this.running) }, { bus: null }),
      auth: {
        authenticate: async (token) => {
          const principal = TOKENS[token];
          return principal === undefined ? undefined : { principal };
        },
      },
      sweepIntervalMs: SWEEP_MS,
      ...given.settings,
    });
    this.conversations = new Conversations(this.runtime, {
      deliveries: { channels: given.channel === undefined ? [] : [given.channel] },
    });
  }

  puppet(name: string): Puppet {
    const puppet = new Puppet();
    this.runtime.agent(name, puppet.handler);
    return puppet;
  }

  async connect(resume?: ReturnType<typeof resumeOf>): Promise<WireClient> {
    const pair = memoryPair({ auto: true });
    const client = new WireClient(pair.a);
    this.runtime.accept(pair.b);
    const rest =
      resume === undefined
        ? {}
        : { resume: { session_id: resume.sessionId, resume_token: resume.token, last_event_seq: resume.seq } };
    client.hello({ token: "alice", rest });
    await client.message("session.welcome");
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.runtime.stop({ drainMs: 0 });
    await this.#pool.end();
  }
}

const server = await sharedPostgres();

describe("without a bus", { skip: "reason" in server ? server.reason : false }, () => {
  test("[CLU-9] a session goes on at another node, with what its job emits at the first one", LIMIT, async () => {
    const url = await emptyStore();
    await using one = new Node(url);
    await using other = new Node(url);
    const puppet = one.puppet("report");
    await Promise.all([one.runtime.start(), other.runtime.start()]);
    const first = await one.connect();
    const jobId = await submit(first, "report");
    await puppet.log(0, 3);
    await first.until(() => logsOf(first, jobId).length === 3, "three events");
    const second = await other.connect(resumeOf(first));
    assert.equal((await first.whenClosed()).code, 4400, "the sweep of the first node finds the takeover");
    await puppet.log(3, 6);
    puppet.end({ pages: 6 });
    await terminalOf(second, jobId);
    assert.deepEqual(logsOf(second, jobId), ["3", "4", "5"]);
  });

  test("[CLU-9] a job is followed, and cancelled, from another node than its own", LIMIT, async () => {
    const url = await emptyStore();
    await using one = new Node(url);
    await using other = new Node(url);
    const puppet = one.puppet("report");
    await Promise.all([one.runtime.start(), other.runtime.start()]);
    const submitter = await one.connect();
    const jobId = await submit(submitter, "report");
    const watcher = await other.connect();
    await watcher.reply(watcher.send("job.subscribe", { job_id: jobId, history: true }));
    await puppet.log(0, 4);
    await watcher.until(() => logsOf(watcher, jobId).length === 4, "four events at the other node");
    const elsewhere = await other.connect(resumeOf(submitter));
    elsewhere.send("job.cancel", { job_id: jobId, reason: "enough" });
    for (const client of [elsewhere, watcher]) {
      const end: Envelope = await terminalOf(client, jobId);
      assert.equal(end.payload["final_status"], "cancelled");
    }
    assert.equal((await puppet.job).signal.aborted, true);
  });

  test(
    "[CLU-9] a turn that waits runs where its agent is, and its answer goes where its channel is",
    LIMIT,
    async () => {
      const url = await emptyStore();
      const channel = new FakeChannel();
      await using one = new Node(url);
      await using other = new Node(url, { channel });
      const [first, second] = [one.puppet("first"), other.puppet("second")];
      // Each may start what the other runs.
      one.puppet("second-elsewhere");
      other.runtime.agent("first", () => assert.fail("it is the first node's"));
      await Promise.all([one.runtime.start(), other.runtime.start()]);
      const who = { principal: "alice", key: KEY };
      const running = await one.conversations.startTurn({ ...who, agent: "first" });
      assert.equal(running.state, "running");
      const waiting = await other.conversations.startTurn({
        ...{ ...who, agent: "second", onBusy: "enqueue" },
        replyTo: { routeKey: ROUTE_KEY, fallbacks: ROUTE },
      });
      assert.equal(waiting.state, "queued");
      await first.job;
      first.end();
      // The first node does not offer the agent, so nobody was handed the lock.
      await second.job;
      second.end({ text: "done" });
      await eventually(() => channel.textsAt(ROUTE).length === 1, "the answer");
    },
  );

  test(
    "[CLU-10] a node with nothing to do asks one thing a second, beside its heartbeat and its janitor",
    LIMIT,
    async () => {
      const url = await emptyStore();
      const clock = new ManualClock();
      await using busy = new Node(url);
      // Its time goes by faster than the other one's heart beats; and the janitor has its own rules.
      const settings = { clock, sweepIntervalMs: 1_000, nodeTimeoutMs: 1e9, janitorIntervalMs: 1e9 };
      await using idle = new Node(url, { channel: new FakeChannel(), settings });
      const puppet = busy.puppet("report");
      idle.puppet("other");
      await Promise.all([busy.runtime.start(), idle.runtime.start()]);
      const quiet = async () => {
        for (let looks = 0; looks < 20; looks = idle.running.count > 0 ? 0 : looks + 1) await turns(1);
      };
      // What it has in hand costs nothing more: somebody follows a job of the other node here.
      const jobId = await submit(await busy.connect(), "report");
      const watcher = await idle.connect();
      await watcher.reply(watcher.send("job.subscribe", { job_id: jobId }));
      await puppet.job;
      await quiet();
      // The first sweep that sees a job looks into its log.
      await clock.advance(1_000);
      await quiet();
      await clock.advance(1_000);
      await quiet();
      idle.queries.length = 0;
      const seconds = 20;
      for (let second = 0; second < seconds; second += 1) {
        await clock.advance(1_000);
        await quiet();
      }
      const asked = (text: RegExp) => idle.queries.filter((query) => text.test(query)).length;
      const [beats, looks] = [asked(/^UPDATE .*nodes SET heartbeat/), asked(/^SELECT node_id, pid/)];
      assert.deepEqual([beats, looks], [seconds / 2, seconds / 2]);
      const rest = idle.queries.length - beats - looks;
      assert.ok(rest > 0 && rest <= seconds, `${rest} in ${seconds} s:\n${[...new Set(idle.queries)].join("\n")}`);
    },
  );
});

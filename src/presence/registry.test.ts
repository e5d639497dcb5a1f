import assert from "node:assert/strict";
import { test } from "node:test";
import { ManualClock } from "../testing/manual-clock.ts";
import type { ProcessLook, ProcessTable } from "./process-table.ts";
import { MAX_RECORD_BYTES, MAX_SESSIONS, Registry } from "./registry.ts";

const START = Date.UTC(2026, 0, 1) / 1_000;

/** Processes that start and end when a test says so. */
class Processes implements ProcessTable {
  readonly running = new Map<number, string | undefined>();
  readonly foreign = new Set<number>();

  constructor(...pids: number[]) {
    for (const pid of pids) this.running.set(pid, "1");
  }

  look(pid: number): ProcessLook {
    if (this.foreign.has(pid)) return { state: "foreign" };
    return this.running.has(pid) ? { state: "alive", startTime: this.running.get(pid) } : { state: "gone" };
  }

  inUse(pid: number): boolean {
    return this.foreign.has(pid) || this.running.has(pid);
  }
}

function newRegistry(...pids: number[]) {
  const clock = new ManualClock();
  const processes = new Processes(...pids);
  return { clock, processes, registry: new Registry({ clock, processes, trustMs: 4_000 }) };
}

const pidsOf = (registry: Registry): number[] => registry.snapshot().sessions.map(({ pid }) => pid);

test("[PRS-10] a record keeps what an update leaves out, and its first started_at whatever comes", async () => {
  const { registry, clock } = newRegistry(7);
  registry.upsert({ pid: 7, session_name: "one", role: "headless", frontend: "web", started_at: START - 60, jobs: 1 });
  await clock.advance(5_000);
  registry.upsert({ pid: 7, connected: true, game_code: "GC", started_at: START, jobs: 2 });
  assert.deepEqual(registry.snapshot().sessions, [
    {
      pid: 7,
      session_name: "one",
      role: "headless",
      frontend: "web",
      game_code: "GC",
      started_at: START - 60,
      last_seen_at: START + 5,
      uptime_seconds: 65,
      connected: true,
      hidden: false,
      listener: null,
      jobs: 2,
    },
  ]);
});

test("[PRS-10] a session that tells its pid alone is there, with what is usual for the rest", () => {
  const { registry } = newRegistry(7);
  assert.deepEqual(registry.upsert({ pid: 7 }), { ok: true, payload: { pid: 7, started_at: START } });
  assert.deepEqual(registry.snapshot().sessions, [
    {
      pid: 7,
      session_name: "process 7",
      role: "session",
      started_at: START,
      last_seen_at: START,
      uptime_seconds: 0,
      connected: false,
      hidden: false,
      listener: null,
    },
  ]);
});

test("[PRS-10] null takes the listener away, and nothing else", () => {
  const { registry } = newRegistry(7);
  const listener = () => registry.snapshot().sessions[0]?.listener;
  registry.upsert({ pid: 7, session_name: "one", frontend: "web", jobs: 1, listener_host: "::1", listener_port: 80 });
  assert.deepEqual(listener(), { host: "::1", port: 80 });
  registry.upsert({
    pid: 7,
    session_name: null,
    frontend: null,
    role: null,
    connected: null,
    started_at: null,
    jobs: null,
  });
  const [kept] = registry.snapshot().sessions;
  assert.deepEqual([kept?.session_name, kept?.frontend, kept?.["jobs"]], ["one", "web", 1]);
  assert.deepEqual(listener(), { host: "::1", port: 80 });
  registry.upsert({ pid: 7, listener_host: null, listener_port: null });
  assert.equal(listener(), null);
  assert.ok(!("listener_host" in (registry.snapshot().sessions[0] ?? {})));
  registry.upsert({ pid: 7, listener_port: 81 });
  assert.deepEqual(listener(), { host: "127.0.0.1", port: 81 });
  registry.upsert({ pid: 7, listener_host: null });
  assert.equal(listener(), null);
  registry.upsert({ pid: 7, listener_host: "127.0.0.1", listener_port: 82 });
  registry.upsert({ pid: 7, listener_port: null });
  assert.equal(listener(), null);
});

test("[PRS-11] a snapshot counts all, the connected and those with a listener, and lists them by pid", () => {
  const { registry } = newRegistry(30, 4, 100);
  registry.upsert({ pid: 30, connected: true });
  registry.upsert({ pid: 4, listener_port: 80, hidden: true });
  registry.upsert({ pid: 100, connected: true, listener_port: 81 });
  const { sessions, ...counts } = registry.snapshot();
  assert.deepEqual(counts, { source: "ActiveSessionsAPI", total: 3, connected: 2, detachable: 2 });
  assert.deepEqual(
    sessions.map(({ pid }) => pid),
    [4, 30, 100],
  );
});

test("[PRS-11] a step of the wall clock makes no session older or younger, and drops none", async () => {
  const { registry, clock } = newRegistry(7);
  registry.upsert({ pid: 7 });
  const uptime = () => registry.snapshot().sessions[0]?.uptime_seconds;
  await clock.advance(10_000);
  clock.stepWall(-3_600_000);
  assert.equal(uptime(), 10);
  registry.upsert({ pid: 7 });
  assert.equal(uptime(), 10);
  clock.stepWall(7_200_000);
  await clock.advance(1_000);
  assert.equal(uptime(), 11);
  registry.upsert({ pid: 7, started_at: START + 100_000 });
  assert.equal(registry.snapshot().sessions[0]?.started_at, START);
});

test("[PRS-11] a session that says that it started in the future has no negative uptime", () => {
  const { registry } = newRegistry(7);
  registry.upsert({ pid: 7, started_at: START + 500 });
  assert.equal(registry.snapshot().sessions[0]?.uptime_seconds, 0);
});

test("[PRS-12] a session whose process is gone is not listed, one that is only silent is", async () => {
  const { registry, processes, clock } = newRegistry(7, 8);
  registry.upsert({ pid: 7 });
  registry.upsert({ pid: 8 });
  await clock.advance(3_600_000);
  assert.deepEqual(pidsOf(registry), [7, 8]);
  processes.running.delete(7);
  assert.deepEqual(pidsOf(registry), [8]);
  assert.equal(registry.size, 1);
});

test("[PRS-12] a pid that another process got is not the session that had it", async () => {
  const { registry, processes, clock } = newRegistry(7, 8, 9);
  for (const pid of [7, 8, 9]) registry.upsert({ pid, session_name: "first", started_at: START - 100 });
  processes.running.set(7, "2");
  processes.running.set(8, "2");
  processes.running.delete(9);
  processes.foreign.add(9);
  await clock.advance(4_000);
  // Whoever registers under it is new.
  registry.upsert({ pid: 8 });
  const sessions = registry.snapshot().sessions;
  assert.deepEqual(
    sessions.map(({ pid, session_name, started_at }) => [pid, session_name, started_at]),
    [[8, "process 8", START + 4]],
  );
});

test("[PRS-12] where the system does not tell when a process started, its pid alone counts", async () => {
  const { registry, processes, clock } = newRegistry();
  processes.running.set(7, undefined);
  registry.upsert({ pid: 7 });
  await clock.advance(10_000);
  assert.deepEqual(pidsOf(registry), [7]);
});

test("[PRS-8] what was sent before a removal and arrives after it is refused; a new start is not", () => {
  const { registry } = newRegistry(7);
  registry.upsert({ pid: 7, generation: 1 });
  assert.deepEqual(registry.remove({ pid: 7, generation: 1 }), { ok: true, payload: { pid: 7, removed: true } });
  assert.deepEqual(registry.upsert({ pid: 7, generation: 1 }), { ok: false, error: "the session was stopped" });
  assert.deepEqual(pidsOf(registry), []);
  assert.equal(registry.upsert({ pid: 7, generation: 2 }).ok, true);
  assert.deepEqual(registry.upsert({ pid: 7, generation: 1 }), { ok: false, error: "the session was stopped" });
  assert.deepEqual(registry.remove({ pid: 7, generation: 1 }), { ok: true, payload: { pid: 7, removed: false } });
  assert.deepEqual(pidsOf(registry), [7]);
  registry.upsert({ pid: 7, generation: 3 });
  assert.deepEqual(registry.upsert({ pid: 7, generation: 2 }), { ok: false, error: "the session was started anew" });
});

test("[PRS-8] another process with the same pid is not held to what was removed before", () => {
  const { registry, processes } = newRegistry(7);
  registry.remove({ pid: 7, generation: 5 });
  processes.running.set(7, "2");
  assert.equal(registry.upsert({ pid: 7, generation: 1 }).ok, true);
});

test("[PRS-13] a payload that cannot be is refused with a reason, and changes nothing", () => {
  const { registry, processes } = newRegistry(7);
  processes.foreign.add(9);
  const deep = JSON.parse(`${'{"a":'.repeat(20_000)}1${"}".repeat(20_000)}`);
  for (const [payload, error] of [
    [undefined, "pid required"],
    [null, "pid required"],
    ["7", "pid required"],
    [[7], "pid required"],
    [{}, "pid required"],
    [{ pid: null }, "pid required"],
    [{ pid: 0 }, "pid required"],
    [{ pid: "7" }, 'pid must be a process id, not "7"'],
    [{ pid: -1 }, "pid must be a process id, not -1"],
    [{ pid: 7.5 }, "pid must be a process id, not 7.5"],
    [{ pid: 2 ** 40 }, `pid must be a process id, not ${2 ** 40}`],
    [{ pid: 8 }, "no process 8 runs"],
    [{ pid: 9 }, "process 9 is another user's"],
    [{ pid: 7, session_name: 5 }, "session_name must be text of at most 256 characters, not 5"],
    [{ pid: 7, session_name: "x".repeat(257) }, /^session_name must be text of at most 256 characters, not "x{62}…$/],
    [{ pid: 7, role: "boss" }, 'role must be session, detachable, headless, not "boss"'],
    [{ pid: 7, frontend: {} }, "frontend must be text of at most 256 characters, not object"],
    [{ pid: 7, game_code: true }, "game_code must be text of at most 256 characters, not true"],
    [{ pid: 7, connected: "yes" }, 'connected must be true or false, not "yes"'],
    [{ pid: 7, hidden: 1 }, "hidden must be true or false, not 1"],
    [{ pid: 7, started_at: 1.5 }, "started_at must be whole epoch seconds, not 1.5"],
    [{ pid: 7, listener_port: 65_536 }, "listener_port must be a port from 1 to 65535, not 65536"],
    [{ pid: 7, listener_host: 1 }, "listener_host must be text of at most 256 characters, not 1"],
    [{ pid: 7, generation: -1 }, "generation must be a whole number from 0, not -1"],
    [{ pid: 7, a: deep }, "a field is nested more than 16 levels deep"],
    [{ pid: 7, a: "x".repeat(MAX_RECORD_BYTES) }, /^a record is at most 4096 bytes, not \d+$/],
  ] as const) {
    const answer = registry.upsert(payload);
    assert.ok(!answer.ok, `it was taken where it should be: ${error}`);
    if (typeof error === "string") assert.equal(answer.error, error);
    else assert.match(answer.error, error);
  }
  assert.deepEqual(registry.remove({}), { ok: false, error: "pid required" });
  assert.equal(registry.remove({ pid: 7, generation: "x" }).ok, false);
  assert.equal(registry.size, 0);
});

test("[PRS-13] metadata may have any name, and what the registry works out by itself nobody sets", () => {
  const { registry } = newRegistry(7);
  const payload =
    '{"pid":7,"__proto__":{"hidden":true},"constructor":1,"uptime_seconds":9,"listener":1,"last_seen_at":1}';
  registry.upsert(JSON.parse(payload));
  const [session] = registry.snapshot().sessions;
  assert.equal(session?.uptime_seconds, 0);
  assert.equal(session.listener, null);
  assert.equal(session.last_seen_at, START);
  assert.equal(session.hidden, false);
  assert.match(JSON.stringify(session), /"__proto__":\{"hidden":true\}/);
  assert.equal(({} as { hidden?: boolean }).hidden, undefined);
});

test("[PRS-13] there are at most 4,096 sessions; the dead make room", () => {
  const pids = Array.from({ length: MAX_SESSIONS }, (_, index) => index + 1);
  const { registry, processes } = newRegistry(...pids, 9_000);
  for (const pid of pids) assert.equal(registry.upsert({ pid }).ok, true);
  assert.deepEqual(registry.upsert({ pid: 9_000 }), { ok: false, error: "there are 4096 sessions already" });
  assert.equal(registry.upsert({ pid: 1 }).ok, true);
  processes.running.delete(5);
  assert.equal(registry.upsert({ pid: 9_000 }).ok, true);
});

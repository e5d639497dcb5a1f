/** The presence service among real processes that start at once, are killed, stopped and started anew. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { test } from "node:test";
import { sleep, systemClock } from "../../src/clock.ts";
import type { ActiveSessions } from "../../src/presence/index.ts";
import { found, Machine, type SessionProcess } from "./machine.ts";

/** Short, so that many failovers take seconds; long against what a loaded machine adds. */
const HEARTBEAT_MS = 500;
/** Owners that are killed in a row. */
const KILLS = Number(process.env["PRESENCE_KILLS"] ?? 50);

/** Others who ask, one after the other and almost as fast as they are answered, until it is disposed of. */
function askingAllTheWhile(sessions: ActiveSessions): AsyncDisposable {
  let asking = true;
  const asked = (async () => {
    while (asking) await Promise.all([sessions.querySnapshot(), sleep(systemClock, 2)]);
  })();
  return {
    [Symbol.asyncDispose]: async () => {
      asking = false;
      await asked;
    },
  };
}

test("[PRS-2] of 30 processes that start at once one becomes the owner, and it knows them all", async () => {
  await using machine = new Machine({ heartbeatMs: HEARTBEAT_MS });
  const children = machine.spawnMany(30);
  const sessions = machine.here();
  await machine.whole(sessions, children);
  const owner = await machine.owner(sessions, children);
  assert.deepEqual(
    children.filter(({ reigns }) => reigns > 0).map(({ pid }) => pid),
    [owner.pid],
  );
  assert.equal(owner.reigns, 1);
});

test("[PRS-4] an owner that is killed is followed by another, and another, and nobody is lost or resurrected", async () => {
  await using machine = new Machine({ heartbeatMs: HEARTBEAT_MS });
  const sessions = machine.here();
  let living = await Promise.all(machine.spawnMany(6).map((child) => child.ready()));
  await machine.whole(sessions, living);
  const owners = new Set<number>();
  await using _load = askingAllTheWhile(sessions);
  for (let round = 0; round < KILLS; round += 1) {
    const owner = await machine.owner(sessions, living);
    owners.add(owner.pid);
    const newcomer = machine.spawn();
    living = living.filter((child) => child !== owner);
    await owner.kill();
    const since = systemClock.monotonic();
    const survivors: readonly SessionProcess[] = living;
    const pids = survivors.map(({ pid }) => pid);
    // The newcomer may be there or not; nobody else may.
    const snapshot = await found("all survivors", async () => {
      const now = await sessions.querySnapshot();
      return pids.every((pid) => now.sessions.some((session) => session.pid === pid)) && now;
    });
    const tookMs = systemClock.monotonic() - since;
    assert.ok(tookMs <= 2 * HEARTBEAT_MS, `round ${round}: whole after ${Math.round(tookMs)} ms`);
    const strangers = snapshot.sessions.filter(({ pid }) => pid !== newcomer.pid && !pids.includes(pid));
    assert.deepEqual(strangers, []);
    assert.notEqual(machine.discovery().owner_pid, owner.pid);
    living = [...survivors, await newcomer.ready()];
    await machine.whole(sessions, living);
  }
  assert.equal(owners.size, KILLS);
});

test("[PRS-4] with the heartbeat that everybody has, the snapshot is whole 4 s after the owner's death", async () => {
  await using machine = new Machine();
  const sessions = machine.here();
  const children = machine.spawnMany(4);
  const before = await machine.whole(sessions, children);
  const owner = await machine.owner(sessions, children);
  await owner.kill();
  const survivors = children.filter((child) => child !== owner);
  const after = await machine.whole(sessions, survivors, 4_000);
  const startOf = (snapshot: typeof before, pid: number) => snapshot.sessions.find((s) => s.pid === pid)?.started_at;
  for (const { pid } of survivors) assert.equal(startOf(after, pid), startOf(before, pid));
});

test("[PRS-4] an owner that ends in peace leaves no file when it was the last, and a successor when it was not", async () => {
  await using machine = new Machine({ heartbeatMs: HEARTBEAT_MS });
  const sessions = machine.here();
  const first = await machine.spawn().ready();
  await machine.whole(sessions, [first]);
  const second = machine.spawn();
  await machine.whole(sessions, [first, second]);
  assert.equal(machine.discovery().owner_pid, first.pid);
  await first.end();
  await machine.whole(sessions, [second]);
  assert.equal(machine.discovery().owner_pid, second.pid);
  await second.end();
  assert.deepEqual(await sessions.serviceInfo(), { source: "ActiveSessionsAPI", service_available: false });
});

test("[PRS-6] a stranger on the port blocks nobody: another one is published", async () => {
  const stranger = createServer((socket) => socket.end("who are you?\n")).listen(0, "127.0.0.1");
  await once(stranger, "listening");
  const { port } = stranger.address() as { port: number };
  try {
    await using machine = new Machine({ port, heartbeatMs: HEARTBEAT_MS });
    const sessions = machine.here();
    const children = machine.spawnMany(3);
    await machine.whole(sessions, children);
    assert.notEqual(machine.discovery().port, port);
  } finally {
    stranger.close();
  }
});

test("[PRS-14] while the owner is stopped, calls end at their limit; afterwards it goes on", async () => {
  await using machine = new Machine({ heartbeatMs: HEARTBEAT_MS });
  const sessions = machine.here();
  const children = await Promise.all(machine.spawnMany(3).map((child) => child.ready()));
  await machine.whole(sessions, children);
  const owner = await machine.owner(sessions, children);
  const other = children.find((child) => child !== owner) ?? assert.fail();
  owner.signal("SIGSTOP");
  for (const command of ["snapshot", "querySnapshot"] as const) {
    const { value, tookMs } = await other.ask(command);
    assert.equal((value as { error: string }).error, "active sessions service unavailable");
    assert.ok(tookMs < 2_000, `${command} took ${tookMs} ms`);
  }
  owner.signal("SIGCONT");
  await machine.whole(sessions, children);
  assert.equal((await machine.owner(sessions, children)).pid, owner.pid);
  assert.equal(owner.reigns, 1);
});

test("[PRS-14] a session that is stopped stays listed; a stopped owner that is killed is followed by another", async () => {
  await using machine = new Machine({ heartbeatMs: HEARTBEAT_MS });
  const sessions = machine.here();
  const children = await Promise.all(machine.spawnMany(4).map((child) => child.ready()));
  await machine.whole(sessions, children);
  const owner = await machine.owner(sessions, children);
  const asleep = children.find((child) => child !== owner) ?? assert.fail();
  const seenAt = async () =>
    (await sessions.querySnapshot()).sessions.find(({ pid }) => pid === owner.pid)?.last_seen_at;
  asleep.signal("SIGSTOP");
  const before = (await seenAt()) ?? assert.fail();
  await found("several heartbeats", async () => ((await seenAt()) ?? 0) > before + 1);
  await machine.whole(sessions, children);
  owner.signal("SIGSTOP");
  await owner.kill();
  asleep.signal("SIGCONT");
  await machine.whole(
    sessions,
    children.filter((child) => child !== owner),
  );
});

test("[PRS-8] a session that was stopped while the owner slept does not come back with its last heartbeats", async () => {
  await using machine = new Machine({ heartbeatMs: HEARTBEAT_MS });
  const sessions = machine.here();
  const children = await Promise.all(machine.spawnMany(3).map((child) => child.ready()));
  await machine.whole(sessions, children);
  const owner = await machine.owner(sessions, children);
  const leaving = children.find((child) => child !== owner) ?? assert.fail();
  owner.signal("SIGSTOP");
  await leaving.ask("stop");
  owner.signal("SIGCONT");
  const rest = children.filter((child) => child !== leaving);
  await machine.whole(sessions, rest);
  await leaving.ask("restart");
  await machine.whole(sessions, children);
});

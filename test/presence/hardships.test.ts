/** What else may happen to the presence service: a full disk, a fork, a pid that is given out again, a plain shell. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { systemClock } from "../../src/clock.ts";
import type { Snapshot } from "../../src/presence/index.ts";
import { found, Machine } from "./machine.ts";

const ROOT = path.join(import.meta.dirname, "../..");
const ENTRY = path.join(ROOT, "src/presence/index.ts");
const UNAVAILABLE = "active sessions service unavailable";
const BLOCK = Buffer.alloc(4_096);

/** A disk of its own, 64 KiB large; only root can have one, and only on Linux. */
function mountedDisk(folder: string): boolean {
  mkdirSync(folder);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", folder], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

test("[PRS-14] on a full disk there is no service and no error, and with room there is one at the next heartbeat", async (t) => {
  await using machine = new Machine();
  const folder = path.join(machine.directory, "disk");
  if (!mountedDisk(folder)) {
    t.skip("a disk that can be filled takes root, and a system that lets it mount one");
    return;
  }
  const filler = path.join(folder, "filler");
  const sessions = machine.here({ directory: folder });
  try {
    const file = openSync(filler, "w");
    assert.throws(() => {
      for (;;) writeSync(file, BLOCK);
    }, /ENOSPC/);
    closeSync(file);
    assert.equal(await sessions.registerSession({ pid: process.pid }), false);
    assert.equal((await sessions.snapshot()).error, UNAVAILABLE);
    rmSync(filler);
    assert.equal(await sessions.registerSession({ pid: process.pid }), true);
    assert.equal((await machine.here({ directory: folder }).querySnapshot()).total, 1);
    await sessions.stopService();
  } finally {
    execFileSync("umount", ["-l", folder]);
  }
});

test("[PRS-4] a forked child has no part in its parent's lock, and takes over like anybody else", async () => {
  await using machine = new Machine({ heartbeatMs: 200 });
  const here = machine.here({ enabled: false });
  const parent = await machine.spawn().ready();
  await machine.whole(here, [parent]);
  const child = Number((await parent.ask("fork")).value);
  try {
    await machine.whole(here, [parent, { pid: child }]);
    assert.equal(machine.discovery().owner_pid, parent.pid);
    await parent.kill();
    await machine.whole(here, [{ pid: child }]);
    assert.equal(machine.discovery().owner_pid, child);
  } finally {
    process.kill(child, "SIGKILL");
  }
});

test("[PRS-12] an owner whose pid another process has now is not asked, and not waited for", async () => {
  await using machine = new Machine();
  const first = machine.here();
  await first.registerSession({ pid: process.pid });
  const published = machine.discovery();
  const starts = new Map([[process.pid, "1"]]);
  const processes = {
    look: (pid: number) => ({ state: "alive" as const, startTime: starts.get(pid) }),
    inUse: () => true,
  };
  const client = machine.here({ processes });
  assert.equal((await client.querySnapshot()).total, 1);
  starts.set(process.pid, "2");
  assert.equal((await client.querySnapshot()).error, UNAVAILABLE);
  assert.equal(machine.discovery().auth_token, published.auth_token);
});

test("[PRS-12] a process that has ended and that nobody has collected is not listed", async (t) => {
  if (process.platform !== "linux") {
    t.skip("only Linux tells");
    return;
  }
  await using machine = new Machine();
  const here = machine.here({ heartbeatMs: 1 });
  // A shell that never collects its child, which ends when it is told to.
  const shell = spawn("sh", ["-c", 'sh -c "read line" <&3 & echo $!; exec sleep 600'], {
    stdio: ["ignore", "pipe", "ignore", "pipe"],
  });
  try {
    assert.ok(shell.stdout !== null);
    const [line] = await once(createInterface({ input: shell.stdout }), "line");
    const pid = Number(line);
    assert.equal(await here.registerSession({ pid }), true);
    (shell.stdio[3] as NodeJS.WritableStream).end("\n");
    await found("the child's end", () => / Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8")));
    await found("an empty list", async () => (await here.snapshot()).total === 0);
  } finally {
    shell.kill("SIGKILL");
  }
});

test("[PRS-13] a process of another user is refused", async (t) => {
  const isRoot = process.getuid?.() === 0;
  if (process.platform === "win32") {
    t.skip("there are no users to tell apart");
    return;
  }
  await using machine = new Machine();
  const here = machine.here();
  const other = isRoot ? spawn("sleep", ["600"], { uid: 65_534, stdio: "ignore" }) : undefined;
  try {
    if (other !== undefined) await once(other, "spawn");
    assert.equal(await here.registerSession({ pid: other?.pid ?? 1 }), false);
    assert.equal((await here.snapshot()).total, 0);
  } finally {
    other?.kill("SIGKILL");
  }
});

/** The command as it is printed, from its `f=` on. */
function shownCommand(): string {
  const command = /^f=.*dev\/tcp.*$/m.exec(readFileSync(path.join(ROOT, "docs/presence.md"), "utf8"));
  return command?.[0] ?? assert.fail("docs/presence.md shows no command");
}

test("[PRS-18] the shell command of docs/presence.md prints a snapshot", {
  skip: !existsSync("/bin/bash"),
}, async () => {
  await using machine = new Machine();
  await machine.here().registerSession({ pid: process.pid, session_name: "for a shell" });
  const shell = spawn("/bin/bash", ["-c", shownCommand()], {
    env: { PATH: process.env["PATH"], XDG_RUNTIME_DIR: machine.directory },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const answer = JSON.parse(await text(shell.stdout)) as { ok: boolean; payload: Snapshot };
  assert.equal(answer.ok, true);
  assert.equal(answer.payload.sessions[0]?.session_name, "for a shell");
});

test("[PRS-19] it loads nothing of Holdfast but itself, clock and logger, and no package", async () => {
  const script = `
    import { registerHooks } from "node:module";
    registerHooks({ load(url, context, next) { console.log(url); return next(url, context); } });
    await import(${JSON.stringify(ENTRY)});
  `;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const loaded = (await text(child.stdout)).trim().split("\n");
  assert.ok(loaded.some((url) => url.endsWith("/src/presence/index.ts")));
  for (const url of loaded) assert.match(url, /^node:|\/src\/presence\/[a-z-]+\.ts$|\/src\/(clock|logger)\.ts$/);
});

test("[PRS-19] a host with a session, as owner or as client, ends by itself when it is done", async () => {
  await using machine = new Machine();
  const script = `
    import { ActiveSessions, Lifecycle } from ${JSON.stringify(ENTRY)};
    const sessions = new ActiveSessions({ enabled: true, directory: ${JSON.stringify(machine.directory)}, port: 0 });
    new Lifecycle(sessions).start({ sessionName: "short", role: "session" });
    console.log((await sessions.snapshot()).error ?? "listed");
  `;
  const run = async () => {
    const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [out, [status]] = await Promise.all([text(child.stdout), once(child, "exit")]);
    assert.deepEqual([out, status], ["listed\n", 0]);
  };
  await run();
  await machine.here().ensureService();
  await run();
  // It was killed by nothing but its own end: what it left is swept.
  assert.equal((await machine.here().querySnapshot()).total, 0);
});

test("[PRS-14] while the owner's disk is gone from under it, calls end in time, and it starts anew", async () => {
  await using machine = new Machine();
  const folder = path.join(machine.directory, "gone");
  const sessions = machine.here({ directory: folder, heartbeatMs: 50 });
  assert.equal(await sessions.registerSession({ pid: process.pid }), true);
  rmSync(folder, { recursive: true });
  writeFileSync(folder, "");
  const began = systemClock.monotonic();
  assert.equal(await sessions.registerSession({ pid: process.pid }), false);
  assert.ok(systemClock.monotonic() - began < 5_000);
  rmSync(folder);
  await found("a service", () => sessions.registerSession({ pid: process.pid }));
});

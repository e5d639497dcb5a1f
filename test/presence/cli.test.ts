/** `holdfast ps`, and the commands that it lists: real processes, in a folder of their own. */
import assert from "node:assert/strict";
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { createInterface } from "node:readline";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { terminalOn } from "../../src/cli/terminal.ts";
import { systemClock } from "../../src/clock.ts";
import type { ListedSession, Snapshot } from "../../src/presence/index.ts";
import { found, Machine } from "./machine.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
const ENDLESS = '{"n":2,"every_ms":3600000}';

/** A user of a machine, with a home. */
class User implements AsyncDisposable {
  readonly machine = new Machine();
  readonly #children: ChildProcess[] = [];

  run(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcessWithoutNullStreams {
    const child = spawn(process.execPath, [MAIN, ...args], {
      env: {
        PATH: process.env["PATH"],
        HOLDFAST_HOME: path.join(this.machine.directory, "home"),
        HOLDFAST_PRESENCE_DIR: this.machine.directory,
        ...env,
      },
      stdio: ["pipe", "pipe", "pipe"],
    });
    child.stderr.resume();
    this.#children.push(child);
    return child;
  }

  async ended(
    args: readonly string[],
    env?: NodeJS.ProcessEnv,
  ): Promise<{ out: string; err: string; status: unknown }> {
    const child = this.run(args, env);
    child.stderr.pause();
    const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
    return { out, err, status };
  }

  /** Resolves once it serves. */
  async serve(...flags: string[]): Promise<ChildProcess> {
    const server = this.run(["serve", "--demo", "--port", "0", "--json", "--drain", "0", ...flags]);
    await once(createInterface({ input: server.stdout }), "line");
    return server;
  }

  async listed(
    wanted: (sessions: readonly ListedSession[]) => ListedSession | undefined | false,
  ): Promise<ListedSession> {
    const here = this.machine.here({ enabled: false });
    return await found("a session", async () => wanted((await here.querySnapshot()).sessions));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) {
      child.kill("SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    }
    await this.machine[Symbol.asyncDispose]();
  }
}

test("[SRV-37] `holdfast serve` tells operators what `holdfast ps` lists, unless that is switched off", async () => {
  await using user = new User();
  const serve = async (env?: NodeJS.ProcessEnv) => {
    const flags = ["--token", "a-good-token=ada", "--operator", "ada"];
    const server = user.run(["serve", "--port", "0", "--json", ...flags], env);
    const [line] = await once(createInterface({ input: server.stdout }), "line");
    const url = new URL("/v1/active-sessions", String(JSON.parse(String(line)).url).replace("ws", "http"));
    return { server, ask: () => fetch(url, { headers: { authorization: "Bearer a-good-token" } }) };
  };
  const { server, ask } = await serve();
  const listed = await found("the server itself", async () =>
    ((await (await ask()).json()) as Snapshot).sessions.find(({ connected }) => connected),
  );
  assert.deepEqual([listed.pid, listed.session_name], [server.pid, "serve"]);
  const silent = await serve({ HOLDFAST_ACTIVE_SESSIONS: "0" });
  assert.equal((await silent.ask()).status, 404);
});

test("[CLI-23] a server is listed with its listener and what it works on, as long as it serves", async () => {
  await using user = new User();
  const server = await user.serve();
  const idle = await user.listed((all) => all.find(({ connected }) => connected));
  assert.deepEqual([idle.pid, idle.session_name, idle.role], [server.pid, "serve", "headless"]);
  assert.equal(idle.listener?.host, "127.0.0.1");
  assert.match(String(idle["url"]), new RegExp(`:${idle.listener?.port}/arcp$`));
  assert.deepEqual([idle["jobs"], idle["conversations"]], [0, 0]);
  await user.ended(["submit", "ticker", ENDLESS]);
  await user.ended(["turn", "--key", "cli:here", "--agent", "ticker", ENDLESS]);
  await user.listed((all) => all.find((session) => session["jobs"] === 2 && session["conversations"] === 1));
  const { out } = await user.ended(["ps"]);
  assert.match(out, /│ name +│ role +│ pid +│ up +│ connected │ listener +│ conversations │ jobs │/);
  assert.match(
    out,
    new RegExp(`│ serve │ headless │ ${server.pid} *│ \\d+ s *│ yes +│ 127\\.0\\.0\\.1:\\d+ │ 1 +│ 2 +│`),
  );
  const gone = once(server, "exit");
  server.kill("SIGTERM");
  await gone;
  const { out: none, err, status } = await user.ended(["ps"]);
  assert.deepEqual([none, err, status], ["", "No sessions.\n", 0]);
});

test("[CLI-23] whatever follows a job is listed while it does, and says truthfully whether it is connected", async () => {
  await using user = new User();
  await user.serve();
  const submit = user.run(["submit", "ticker", ENDLESS, "--follow"]);
  const first = await user.listed((all) => all.find((session) => session.session_name === "submit ticker"));
  assert.deepEqual([first.pid, first.role, first.listener], [submit.pid, "session", null]);
  const jobId = String(first["job_id"]);
  assert.match(jobId, /^job_/);
  const watch = user.run(["watch", jobId]);
  await user.listed((all) => all.find((session) => session.session_name === `watch ${jobId}` && session.connected));
  const turn = user.run(["turn", "--key", "cli:here", "--agent", "ticker", ENDLESS, "--follow"]);
  await user.listed((all) => all.find((session) => session.session_name === "turn cli:here" && session.connected));
  const left = Promise.all([once(watch, "exit"), once(turn, "exit")]);
  watch.kill("SIGINT");
  turn.kill("SIGINT");
  await left;
  await user.listed((all) => all.length === 2 && all[0]);
});

test("[CLI-23] a session whose server is gone is told to be without connection", async () => {
  await using user = new User();
  const server = await user.serve();
  user.run(["submit", "ticker", ENDLESS, "--follow"]);
  await user.listed((all) => all.find(({ session_name, connected }) => session_name === "submit ticker" && connected));
  server.kill("SIGKILL");
  await user.listed((all) => all.find(({ session_name, connected }) => session_name === "submit ticker" && !connected));
});

test("[CLI-23] HOLDFAST_ACTIVE_SESSIONS=0 keeps a command off the list, and the list off its machine", async () => {
  await using user = new User();
  const off = { HOLDFAST_ACTIVE_SESSIONS: "0" };
  const server = user.run(["serve", "--demo", "--port", "0", "--json"], off);
  await once(createInterface({ input: server.stdout }), "line");
  assert.equal((await user.ended(["submit", "echo", "1", "--follow"], off)).status, 0);
  assert.deepEqual(await user.machine.here({ enabled: false }).serviceInfo(), {
    source: "ActiveSessionsAPI",
    service_available: false,
  });
  assert.equal((await user.ended(["ps"], off)).err, "No sessions.\n");
});

test("[CLI-23] a service that hangs delays neither the start nor the end of a command", async () => {
  await using user = new User();
  await user.serve();
  await user.listed((all) => all[0]);
  // The owner is the server, which is needed: what hangs is what the discovery file names instead.
  const stranger = createServer(() => undefined).listen(0, "127.0.0.1");
  await once(stranger, "listening");
  const { port } = stranger.address() as { port: number };
  const endedAfterMs: number[] = [];
  for (let attempt = 0; attempt < 3; attempt += 1) {
    writeFileSync(user.machine.discoveryFile, JSON.stringify({ ...user.machine.discovery(), port }), { mode: 0o600 });
    const child = user.run(["submit", "echo", "1", "--follow"]);
    const exited = once(child, "exit");
    let saidAt = Number.NaN;
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.includes("succeeded")) saidAt = systemClock.monotonic();
    }
    assert.deepEqual(await exited, [0, null]);
    endedAfterMs.push(systemClock.monotonic() - saidAt);
  }
  stranger.close();
  // The quickest of them: how busy the machine is shows in the others.
  assert.ok(
    Math.min(...endedAfterMs) < 900,
    `the command ended ${endedAfterMs.map(Math.round)} ms after its last word`,
  );
});

test("[CLI-24] ps --json is the snapshot on one line; names that strangers chose reach a terminal without control characters", async () => {
  await using user = new User();
  const here = user.machine.here();
  const name = "evil\u001b]0;title\u0007\u202e\nname";
  await here.registerSession({
    pid: process.pid,
    session_name: name,
    connected: true,
    jobs: "\u001b[2J",
    listener_host: "h\u001b[31m",
    listener_port: 5,
  });
  const { out, status } = await user.ended(["ps", "--json"]);
  assert.equal(status, 0);
  assert.equal(out.trimEnd().split("\n").length, 1);
  const snapshot = JSON.parse(out) as Snapshot;
  assert.equal(snapshot.total, 1);
  assert.equal(snapshot.sessions[0]?.session_name, name);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
  const controls = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e]/;
  assert.doesNotMatch(out, controls);
  const table = await user.ended(["ps"]);
  assert.doesNotMatch(table.out, controls);
  assert.match(table.out, /│ evil\]0;title name │/);
});

test("[CLI-24] hidden sessions are in the JSON, and not in the table", async () => {
  await using user = new User();
  const here = user.machine.here();
  await here.registerSession({ pid: process.pid, hidden: true });
  assert.equal((await user.ended(["ps"])).err, "No sessions.\n");
  assert.equal((JSON.parse((await user.ended(["ps", "--json"])).out) as Snapshot).total, 1);
});

test("[CLI-24] ps waits for the sessions of an owner that was killed, and cleans up after one that was alone", async () => {
  await using user = new User();
  const [owner, other] = await Promise.all([user.machine.spawn().ready(), user.machine.spawn().ready()]);
  const here = user.machine.here({ enabled: false });
  await user.machine.whole(here, [owner, other]);
  const first = await user.machine.owner(here, [owner, other]);
  const second = first === owner ? other : owner;
  await first.kill();
  const survivors = await user.ended(["ps", "--json"]);
  assert.deepEqual(
    (JSON.parse(survivors.out) as Snapshot).sessions.map(({ pid }) => pid),
    [second.pid],
  );
  await second.kill();
  assert.equal((await user.ended(["ps"])).err.trimEnd().split("\n").at(-1), "No sessions.");
  assert.throws(() => user.machine.discovery(), /ENOENT/);
});

test("[CLI-24] ps --watch shows every change until Ctrl-C, which ends it well", async () => {
  await using user = new User();
  const here = user.machine.here();
  await here.ensureService();
  const watch = user.run(["ps", "--watch"]);
  let seen = "";
  watch.stdout.on("data", (chunk: Buffer) => {
    seen += chunk.toString();
  });
  const shown = (pattern: RegExp) => {
    seen = "";
    return found(String(pattern), () => pattern.test(seen));
  };
  await shown(/^No sessions\.$/m);
  await here.registerSession({ pid: process.pid, session_name: "newcomer" });
  await shown(/newcomer/);
  await here.unregisterSession(process.pid);
  await shown(/^No sessions\.$/m);
  const exited = once(watch, "exit");
  watch.kill("SIGINT");
  assert.deepEqual(await exited, [0, null]);
});

test("[CLI-24] on a terminal the table is drawn in its own place", () => {
  const out = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
  terminalOn(out, out).screen("one\u001b[2J\ntwo");
  assert.equal(String(out.read()), "\u001b[Hone[2J\u001b[K\ntwo\u001b[K\n\u001b[J");
});

test("[CLI-24] ps needs no server, and says no more than that there is nothing", async () => {
  await using user = new User();
  rmSync(user.machine.directory, { recursive: true });
  const { out, err, status } = await user.ended(["ps"]);
  assert.deepEqual([out, err, status], ["", "No sessions.\n", 0]);
  const { out: json } = await user.ended(["ps", "--json"]);
  assert.equal((JSON.parse(json) as Snapshot).total, 0);
});

/** OpenCode's process: a stand-in for the program shows what the real one does only at times. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import {
  connectionFile,
  OpencodeServer,
  type OpencodeServerOptions,
  opencode,
} from "../src/adapters/opencode/index.ts";
import { systemClock } from "../src/clock.ts";
import { BackendError } from "../src/conversation/index.ts";
import { eventually } from "./runtime-fixture.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const ON_WINDOWS = process.platform === "win32" && "the stand-in is a script with a first line that names its program";

const CONFIG = { model: "local/stand-in" };

/** Its socket is open before it says so, and what is asked until then is never answered, as with the real one. */
const PROGRAM = `#!${process.execPath}
const { createServer } = require("node:http");
const { spawn } = require("node:child_process");
const { appendFileSync, writeFileSync } = require("node:fs");
const [mode] = (process.env.STAND_IN ?? "").split(" ");
let open = false;
let early = 0;
if (mode === "die") { console.error("no such provider"); process.exit(3); }
const server = createServer((request, response) => {
  if (!open) { early += 1; return; }
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ healthy: true, version: "1." + early, env: process.env }));
});
server.listen(0, "127.0.0.1", () => {
  const url = "http://127.0.0.1:" + server.address().port;
  const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  writeFileSync("pids", process.pid + " " + child.pid);
  appendFileSync("starts", url + "\\n");
  if (mode === "mute") return;
  console.log("opencode will listen on " + url);
  setTimeout(() => {
    open = true;
    console.log("opencode server listening on " + url);
    if (mode === "once") setTimeout(() => process.exit(4), 50);
  }, 100);
});
`;

async function scene() {
  const folder = await temporaryFolder();
  const command = path.join(folder.path, "opencode");
  await writeFile(command, PROGRAM);
  await chmod(command, 0o700);
  const options = (mode = "", more: Partial<OpencodeServerOptions> = {}): OpencodeServerOptions => ({
    home: path.join(folder.path, "home"),
    directory: folder.path,
    config: CONFIG,
    command,
    env: { ...process.env, STAND_IN: mode, HOLDFAST_TOKENS: "secret=alice" },
    ...more,
  });
  const pids = async (): Promise<number[]> =>
    (await readFile(path.join(folder.path, "pids"), "utf8")).split(" ").map(Number);
  return { folder: folder.path, options, pids, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

const allGone = (pids: number[]) => eventually(() => !pids.some(alive), "its processes to be gone");

test("[UPS-41] nothing is asked before the server says that it listens, and then it answers", {
  skip: ON_WINDOWS,
}, async () => {
  await using given = await scene();
  await using server = await OpencodeServer.start(given.options());
  assert.equal(await opencode(server.connection).health(), "1.0", "something was asked too early");
});

test("[UPS-41] it has a home of its own and a password, and none of Holdfast's variables", {
  skip: ON_WINDOWS,
}, async () => {
  await using given = await scene();
  await using server = await OpencodeServer.start(given.options());
  const answer = (await (await fetch(server.url)).json()) as { env: Record<string, string> };
  const { env } = answer;
  const home = path.join(given.folder, "home");
  assert.equal(env["HOME"], home);
  for (const name of ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"]) {
    assert.equal(path.dirname(env[name] ?? ""), home, name);
  }
  assert.equal(env["HOLDFAST_TOKENS"], undefined);
  assert.deepEqual(JSON.parse(env["OPENCODE_CONFIG_CONTENT"] ?? ""), CONFIG);
  const { password } = server.connection;
  assert((password ?? "").length >= 32);
  assert.equal(env["OPENCODE_SERVER_PASSWORD"], password);
  const file = connectionFile(home);
  assert.deepEqual(JSON.parse(await readFile(file, "utf8")), { url: server.url, password });
  assert.equal((await stat(file)).mode & 0o077, 0);
});

test("[UPS-41] settings without a model are refused before anything is started", async () => {
  for (const config of [{}, { model: "" }, { model: 7 }, { model: "gpt" }]) {
    await assert.rejects(OpencodeServer.start({ home: "/nowhere", directory: "/", config }), /config\.model/);
  }
  await assert.rejects(OpencodeServer.start({ home: "here", directory: "/", config: CONFIG }), /home: here/);
});

test("[UPS-41] a start that fails tells why, and one that says nothing ends in time", {
  skip: ON_WINDOWS,
}, async () => {
  await using given = await scene();
  const unavailable = (message: RegExp) => (error: unknown) =>
    error instanceof BackendError && error.kind === "unavailable" && message.test(error.message);
  await assert.rejects(OpencodeServer.start(given.options("die")), unavailable(/no such provider/));
  await assert.rejects(
    OpencodeServer.start(given.options("", { command: "/no/such/opencode" })),
    unavailable(/ENOENT/),
  );
  await assert.rejects(OpencodeServer.start(given.options("mute", { startMs: 500 })), unavailable(/did not start/));
  await allGone(await given.pids());
});

test("[UPS-42] a server that dies is started again, and given up when it keeps dying", {
  skip: ON_WINDOWS,
}, async () => {
  await using given = await scene();
  const delays: unknown[] = [];
  const log = (fields: object) => {
    if ("delay_ms" in fields) delays.push(fields.delay_ms);
  };
  const logger = { debug: log, info: log, warn: log, error: log };
  await using server = await OpencodeServer.start(given.options("once", { maxRestarts: 3, logger }));
  await eventually(() => {
    try {
      assert.match(server.url, /^http:/);
      return false;
    } catch (error) {
      return error instanceof BackendError && /does not start/.test(error.message);
    }
  }, "it to be given up");
  assert.deepEqual(delays, [250, 500, 1_000]);
  assert.equal((await readFile(path.join(given.folder, "starts"), "utf8")).trim().split("\n").length, 4);
});

test("[UPS-42] stopping ends the server and what it has started", { skip: ON_WINDOWS }, async () => {
  await using given = await scene();
  const server = await OpencodeServer.start(given.options());
  const pids = await given.pids();
  assert(pids.length === 2 && pids.every(alive));
  const since = systemClock.monotonic();
  await server.stop();
  await server.stop();
  assert(systemClock.monotonic() - since < 3_000);
  await allGone(pids);
  assert.throws(() => server.url, /was stopped/);
  await assert.rejects(stat(connectionFile(path.join(given.folder, "home"))), { code: "ENOENT" });
});

test("[UPS-42] a Holdfast that is killed leaves no server behind", { skip: ON_WINDOWS }, async () => {
  await using given = await scene();
  const { home, directory, config, command } = given.options();
  const module = new URL("../src/adapters/opencode/index.ts", import.meta.url).href;
  const code = `import { OpencodeServer } from ${JSON.stringify(module)};
    await OpencodeServer.start(${JSON.stringify({ home, directory, config, command })});
    console.log("up"); setInterval(() => {}, 1000);`;
  const holdfast = spawn(process.execPath, ["--input-type=module", "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(createInterface({ input: holdfast.stdout }), "line");
  const pids = await given.pids();
  assert(pids.every(alive));
  holdfast.kill("SIGKILL");
  await allGone(pids);
});

test("[UPS-42] stopping a server that was given up signals nobody: its number may be another's by then", {
  skip: ON_WINDOWS,
}, async (t) => {
  await using given = await scene();
  const server = await OpencodeServer.start(given.options("", { maxRestarts: 0 }));
  const [main = 0] = await given.pids();
  process.kill(main, "SIGKILL");
  await eventually(() => {
    try {
      assert.match(server.url, /^http:/);
      return false;
    } catch {
      return true;
    }
  }, "it to be given up");
  const kill = t.mock.method(process, "kill", () => true);
  await server.stop();
  assert.deepEqual(
    kill.mock.calls.map(({ arguments: signalled }) => signalled),
    [],
  );
  kill.mock.restore();
});

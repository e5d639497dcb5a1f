/** The whole way, as a user goes it: `serve --opencode`, `turn` and `doctor` in processes of their own. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ModelServer } from "./opencode/model-server.ts";
import { NO_OPENCODE, OPENCODE } from "./opencode/real-server.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE_MS = 30_000;

async function machine() {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder());
  const start = (args: readonly string[]): ChildProcess =>
    spawn(process.execPath, [MAIN, ...args], {
      cwd: folder.path,
      env: { PATH: process.env["PATH"], HOLDFAST_ACTIVE_SESSIONS: "0", HOLDFAST_HOME: path.join(folder.path, "home") },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: DEADLINE_MS,
      killSignal: "SIGKILL",
    });
  const holdfast = async (...args: readonly string[]) => {
    const child = start(args);
    assert(child.stdout !== null && child.stderr !== null);
    const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
    return { out, err, status: status as number | null };
  };
  const serve = async (...args: readonly string[]) => {
    const child = start(["serve", "--port", "0", "--json", "--log-level", "error", ...args]);
    assert(child.stdout !== null && child.stderr !== null);
    child.stderr.resume();
    await once(createInterface({ input: child.stdout }), "line");
    const ended = once(child, "exit");
    const end = async (signal: NodeJS.Signals): Promise<void> => {
      child.kill(signal);
      await ended;
    };
    return { end, [Symbol.asyncDispose]: () => end("SIGTERM") };
  };
  const all = stack.move();
  return { folder: folder.path, holdfast, serve, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

const TURN = ["turn", "--key", "slack:C1/1700.1", "--agent", "opencode", "--follow"];

describe("opencode on the command line", { skip: NO_OPENCODE }, () => {
  test("[CLI-20] turns of one key go on in one session, though the server is killed in between", async () => {
    await using model = await ModelServer.start();
    await using user = await machine();
    await writeFile(path.join(user.folder, "opencode.json"), JSON.stringify(model.config));
    const options = ["--opencode", "spawn", "--opencode-config", "opencode.json", "--opencode-command", OPENCODE ?? ""];
    {
      await using server = await user.serve(...options);
      const first = await user.holdfast(...TURN, '{"text":"say hello"}');
      assert.equal(first.status, 0, first.err);
      assert.match(first.out, /^hello$/m);
      const doctor = await user.holdfast("doctor", "--json");
      const findings = doctor.out
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Record<string, unknown>);
      assert.deepEqual(
        findings.map(({ what, ok }) => [what, ok]),
        [
          ["server", true],
          ["store", true],
          ["nodes", true],
          ["work", true],
          ["opencode", true],
        ],
      );
      assert.deepEqual([findings[1]?.["bound"], findings[1]?.["lost"], findings[1]?.["debts"]], [1, 0, 0]);
      assert.deepEqual([findings[4]?.["sessions"], findings[4]?.["ours"]], [1, 1]);
      await server.end("SIGKILL");
    }
    const doctor = await user.holdfast("doctor");
    assert.equal(doctor.status, 1, "[CLI-21] the OpenCode that it knew is gone");
    assert.match(doctor.out, /^BAD {3}opencode .*not reached/m);
    await using _again = await user.serve(...options);
    const second = await user.holdfast(...TURN, '{"text":"say more"}');
    assert.equal(second.status, 0, second.err);
    assert.deepEqual(model.asked.at(-1), ["user: say hello", "assistant: hello", "user: say more"]);
  });
});

test("[CLI-21] doctor tells what is there, and what of it is amiss", async () => {
  await using user = await machine();
  const fresh = await user.holdfast("doctor");
  assert.equal(fresh.status, 0, fresh.out + fresh.err);
  assert.match(fresh.out, /^ok {4}server .*none of yours runs/m);
  assert.match(fresh.out, /^ok {4}store .*none at/m);
  const gone = await user.holdfast("doctor", "--opencode", "http://127.0.0.1:1");
  assert.equal(gone.status, 1);
  assert.match(gone.out, /^BAD {3}opencode +http:\/\/127\.0\.0\.1:1 /m);
});

test("[CLI-20] a server that is not there yet is no reason not to serve, and a turn is told so", async () => {
  await using user = await machine();
  await using _server = await user.serve("--opencode", "http://127.0.0.1:1");
  const turn = await user.holdfast(...TURN, '{"text":"say hello"}');
  assert.equal(turn.status, 1);
  assert.match(turn.out + turn.err, /backend opencode is not available; try again later/);
});

test("[CLI-20] wrong settings are told in one line, before anything is started", async () => {
  await using user = await machine();
  await writeFile(path.join(user.folder, "empty.json"), "{}");
  await writeFile(path.join(user.folder, "broken.json"), "{");
  const cases: [string[], RegExp][] = [
    [["spawn"], /needs --opencode-config FILE/],
    [["spawn", "--opencode-config", "empty.json"], /config\.model/],
    [["spawn", "--opencode-config", "broken.json"], /--opencode-config broken\.json: /],
    [["spawn", "--opencode-config", "none.json"], /--opencode-config none\.json: /],
    [["localhost"], /baseUrl: localhost/],
    [["http://127.0.0.1:1", "--opencode-command", "x"], /go with --opencode spawn/],
  ];
  for (const [args, complaint] of cases) {
    const { status, out, err } = await user.holdfast("serve", "--port", "0", "--opencode", ...args);
    assert.equal(status, 2, err);
    assert.match(err, complaint);
    assert.equal(err.trimEnd().split("\n").length, 1, err);
    assert.equal(out, "");
  }
});

/** The command as a user has it: real processes, one server, a home of their own. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE_MS = 30_000;
/** The server that all of them share lives as long as this file takes, also where much else runs. */
const WHOLE_FILE_MS = 300_000;

interface Outcome {
  status: number | null;
  out: string;
  err: string;
  /** Each line of standard output as JSON. */
  lines: () => Record<string, unknown>[];
}

let home = "";
let server: ChildProcess;
let url = "";

function start(args: readonly string[], options: { env?: NodeJS.ProcessEnv; timeout?: number } = {}): ChildProcess {
  return spawn(process.execPath, [main, ...args], {
    env: {
      PATH: process.env["PATH"],
      HOLDFAST_HOME: home,
      HOLDFAST_PRESENCE_DIR: path.join(home, "run"),
      ...options.env,
    },
    stdio: ["pipe", "pipe", "pipe"],
    timeout: options.timeout ?? DEADLINE_MS,
    killSignal: "SIGKILL",
  });
}

async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  assert.ok(child.stdout !== null && child.stderr !== null);
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  const lines = () =>
    out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { status: status as number | null, out, err, lines };
}

async function holdfast(
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; stdin?: string } = {},
): Promise<Outcome> {
  const child = start(args, options);
  child.stdin?.end(options.stdin ?? "");
  return await outcomeOf(child);
}

async function firstLine(child: ChildProcess, matching: RegExp): Promise<string> {
  assert.ok(child.stdout !== null);
  for await (const line of createInterface({ input: child.stdout })) {
    if (matching.test(line)) return line;
  }
  throw new Error(`the process ended without a line that matches ${matching}`);
}

/** One complaint, nothing else, and no trace of our insides. */
function assertOneLine(outcome: Outcome, status: number, complaint: RegExp): void {
  assert.match(outcome.err, complaint);
  assert.equal(outcome.err.trimEnd().split("\n").length, 1, outcome.err);
  assert.equal(outcome.out, "");
  assert.equal(outcome.status, status);
}

before(async () => {
  home = await mkdtemp(path.join(tmpdir(), "holdfast-cli-"));
  server = start(["serve", "--demo", "--port", "0", "--json", "--token", "carols-token=carol"], {
    timeout: WHOLE_FILE_MS,
  });
  server.stderr?.resume();
  url = (JSON.parse(await firstLine(server, /url/)) as { url: string }).url;
});

after(async () => {
  server.kill("SIGKILL");
  await rm(home, { recursive: true, force: true });
});

test("[CLI-1] serve writes a discovery file that only its user can read, and other commands find it", async () => {
  const file = path.join(home, "server.json");
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  const found = JSON.parse(await readFile(file, "utf8")) as { url: string; pid: number; token: string };
  assert.equal(found.url, url);
  assert.equal(found.pid, server.pid);
  assert.equal(found.token, "carols-token");
  const { status, out } = await holdfast(["submit", "echo", '{"a":1}', "--follow"]);
  assert.equal(status, 0);
  assert.match(out, /echo@1\.0\.0 succeeded/);
});

test("[CLI-1] the first SIGTERM drains and removes the file, and the server says that it is gone", async () => {
  const own = path.join(home, "second");
  const second = start(["serve", "--port", "0", "--json", "--drain", "0"], { env: { HOLDFAST_HOME: own } });
  const ended = once(second, "exit");
  second.stderr?.resume();
  await firstLine(second, /url/);
  assert.ok(existsSync(path.join(own, "server.json")));
  assert.ok(existsSync(path.join(own, "holdfast.db")));
  second.kill("SIGTERM");
  assert.deepEqual(await ended, [0, null]);
  assert.ok(!existsSync(path.join(own, "server.json")));
  assertOneLine(
    await holdfast(["jobs"], { env: { HOLDFAST_HOME: own } }),
    1,
    /No server is running here; start one with/,
  );
});

test("[SRV-3] without a token one is made and printed", async () => {
  const own = path.join(home, "third");
  const third = start(["serve", "--port", "0", "--drain", "0"], { env: { HOLDFAST_HOME: own } });
  const ended = once(third, "exit");
  third.stderr?.resume();
  const line = await firstLine(third, /token/);
  const { token } = JSON.parse(await readFile(path.join(own, "server.json"), "utf8")) as { token: string };
  assert.ok(line.includes(token) && token.length >= 32);
  third.kill("SIGINT");
  await ended;
});

test("[SRV-5] the second signal does not wait for the jobs that drain", async () => {
  const own = path.join(home, "fifth");
  const env = { HOLDFAST_HOME: own };
  const fifth = start(["serve", "--demo", "--port", "0", "--json", "--drain", "3600"], { env });
  const ended = once(fifth, "exit");
  await firstLine(fifth, /url/);
  assert.equal((await holdfast(["submit", "ticker", '{"n":2,"every_ms":3600000}'], { env })).status, 0);
  fifth.kill("SIGTERM");
  for await (const line of createInterface({ input: fifth.stderr ?? assert.fail() })) {
    if (line.includes("once more stops at once")) break;
  }
  fifth.kill("SIGTERM");
  assert.deepEqual(await ended, [1, null]);
});

test("[SRV-3] where tokens are known by their hashes only, this user's commands get one of their own", async () => {
  const own = path.join(home, "sixth");
  const env = { HOLDFAST_HOME: own };
  const tokenFile = path.join(home, "tokens.json");
  const sha256 = createHash("sha256").update("daves-token").digest("hex");
  await writeFile(tokenFile, JSON.stringify({ tokens: [{ sha256, principal: "dave" }] }), { mode: 0o600 });
  const sixth = start(["serve", "--demo", "--port", "0", "--json", "--drain", "0", "--token-file", tokenFile], { env });
  const ended = once(sixth, "exit");
  sixth.stderr?.resume();
  const { url: address } = JSON.parse(await firstLine(sixth, /url/)) as { url: string };
  assert.equal((await holdfast(["jobs"], { env })).status, 0);
  assert.equal((await holdfast(["jobs", "--url", address, "--token", "daves-token"], { env })).status, 0);
  sixth.kill("SIGTERM");
  await ended;
});

test("[CLI-2] --json prints one object per line: accepted, the events in order, the end", async () => {
  const { status, lines } = await holdfast(["submit", "ticker", '{"n":3,"every_ms":1}', "--follow", "--json"]);
  assert.equal(status, 0);
  const [accepted, ...rest] = lines();
  const end = rest.pop();
  assert.equal(accepted?.["type"], "accepted");
  assert.deepEqual(
    rest.map(({ type, kind, body }) => [type, kind, (body as { message: string }).message]),
    [0, 1, 2].map((tick) => ["event", "log", `tick ${tick}`]),
  );
  assert.equal(end?.["type"], "end");
  assert.deepEqual(end?.["result"], { n: 3 });

  const watched = await holdfast(["watch", String(accepted?.["job_id"]), "--json"]);
  assert.equal(watched.status, 0);
  assert.deepEqual(
    watched
      .lines()
      .filter(({ type }) => type === "event")
      .map(({ body }) => (body as { message: string }).message),
    ["tick 0", "tick 1", "tick 2"],
  );
  const listed = await holdfast(["jobs", "--json", "--agent", "ticker", "--status", "success"]);
  assert.ok(listed.lines().some(({ job_id }) => job_id === accepted?.["job_id"]));
});

test("[CLI-3] follow shows events and the result; a failed job exits 1; standard input is taken", async () => {
  const good = await holdfast(["submit", "burst", "-", "--follow"], { stdin: '{"n":2,"bytes":20}' });
  assert.equal(good.status, 0);
  assert.match(good.out, /log +00000001\.{12}\n/);
  assert.match(good.out, /"n": 2/);
  const table = await holdfast(["jobs"]);
  assert.equal(table.status, 0);
  assert.match(table.out, /│ burst@1\.0\.0 +│ success/);
  const bad = await holdfast(["submit", "burst", '{"n":-1,"bytes":20}', "--follow"]);
  assert.equal(bad.status, 1);
  assert.match(bad.err, /INVALID_REQUEST: .*input\.n/);
});

test("[CLI-3] Ctrl-C cancels the job that is followed", async () => {
  const child = start(["submit", "ticker", '{"n":100000,"every_ms":10}', "--follow"]);
  const stderr = text(child.stderr ?? assert.fail());
  const ended = once(child, "exit");
  await firstLine(child, /tick 2/);
  child.stdout?.resume();
  child.kill("SIGINT");
  const [status] = await ended;
  assert.match(await stderr, /ended cancelled: CANCELLED/);
  assert.equal(status, 1);
});

test("[CLI-3] wrong use exits 2: no agent, an unknown option or command, input that is no JSON, a bad limit", async () => {
  assertOneLine(await holdfast(["submit"]), 2, /missing required argument 'agent'.*--help/);
  assertOneLine(await holdfast(["jobs", "--colour"]), 2, /unknown option '--colour'/);
  assertOneLine(await holdfast(["dance"]), 2, /unknown command 'dance'/);
  assertOneLine(await holdfast(["submit", "echo", "{a}"]), 2, /not JSON/);
  assertOneLine(await holdfast(["jobs", "--limit", "0"]), 2, /1 to 1000/);
  assertOneLine(await holdfast(["serve", "--port", "many"]), 2, /0 \(any free one\) to 65535/);
});

test("[CLI-6] a wrong token, an unreachable server, an unknown agent and job are told in one line", async () => {
  assertOneLine(await holdfast(["jobs", "--url", url, "--token", "wrong"]), 1, /refuses the token.*HOLDFAST_TOKEN/);
  assertOneLine(
    await holdfast(["jobs", "--url", "ws://127.0.0.1:1/arcp", "--token", "t"]),
    1,
    /cannot be reached.*ECONNREFUSED.*holdfast serve/,
  );
  const bare = url.replace("/arcp", "");
  assertOneLine(
    await holdfast(["jobs", "--url", bare, "--token", "t"]),
    1,
    /cannot be reached.*404.*that of `holdfast serve` is \/arcp/,
  );
  assertOneLine(
    await holdfast(["submit", "dance"]),
    1,
    /AGENT_NOT_AVAILABLE: .*available: echo, burst, ticker, .*survey/,
  );
  assertOneLine(await holdfast(["watch", "job_x"]), 1, /No job job_x of yours.*holdfast jobs/);
});

test("[CLI-6] serve tells a taken port, an open address without TLS and a token file that is not there", async () => {
  const port = new URL(url).port;
  const env = { HOLDFAST_HOME: path.join(home, "fourth") };
  assertOneLine(await holdfast(["serve", "--port", port], { env }), 1, /taken.*--port/);
  assertOneLine(
    await holdfast(["serve", "--host", "0.0.0.0", "--port", "0"], { env }),
    2,
    /--tls-cert and --tls-key, or --insecure-plaintext/,
  );
  assertOneLine(await holdfast(["serve", "--token-file", "/not/there"], { env }), 2, /--token-file: ENOENT/);
});

test("[SRV-4] a token in an address is refused before anything is sent", async () => {
  assertOneLine(await holdfast(["jobs", "--url", `${url}?token=x`]), 2, /never travels in an address/);
  assertOneLine(
    await holdfast(["jobs", "--url", url.replace("ws://", "ws://me:secret@")]),
    2,
    /never travels in an address/,
  );
});

test("[CLI-6] the token of this machine's server is told to no other address", async () => {
  assertOneLine(await holdfast(["jobs", "--url", "ws://127.0.0.1:1/arcp"]), 2, /No token for/);
  assert.equal((await holdfast(["jobs", "--url", url])).status, 0);
});

test("[CLI-4] what an agent says reaches the terminal without control characters", async () => {
  const { out, status } = await holdfast(["submit", "echo", JSON.stringify("a\u001b[31mb\u009bc\u202ed"), "--follow"]);
  assert.equal(status, 0);
  assert.match(out, /a\[31mbcd/);
});

test("[CLI-7] an older Node is told which one is needed, a newer one is not", () => {
  const { complaint } = createRequire(import.meta.url)("../bin/node-version.cjs") as {
    complaint: (version: string) => string | undefined;
  };
  for (const old of ["14.21.3", "20.20.2", "22.12.0"]) {
    assert.match(
      complaint(old) ?? "",
      new RegExp(`needs Node 22\\.13 or newer; this is Node ${old.replaceAll(".", "\\.")}`),
    );
  }
  for (const good of ["22.13.0", "22.21.1", "24.0.0", "100.1.0"]) assert.equal(complaint(good), undefined);
});

test("[CLI-5] the demo loses nothing, says so in its last line, and leaves nothing behind", async () => {
  const { status, out } = await holdfast(["demo"], { env: { TMPDIR: home } });
  assert.match(out, /\nevents \d{5,} {2}lost 0 {2}duplicated 0 {2}reordered 0\n$/);
  assert.match(out, /killed: INTERNAL_ERROR node_lost, told by event \d+/);
  assert.match(out, /server killed/);
  assert.match(out, /The survey found \d+ files/);
  assert.equal(status, 0);
  assert.deepEqual(
    (await readdir(home)).filter((name) => name.startsWith("holdfast-demo")),
    [],
  );
});

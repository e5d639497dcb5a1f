/** Results in pieces on the command line: real processes against a server of this one. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { buffer } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ArcpError } from "../src/protocol/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { bearerTokens, type HoldfastServer, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE = { timeout: 30_000 };
const TEXT = "colours \u001b[31m and 🌹\r\n".repeat(20_000);
const BYTES = Uint8Array.from({ length: 300_000 }, (_, index) => index % 253);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let server: HoldfastServer;
/** What the agent `waits` waits for before it goes on. */
let goOn: PromiseWithResolvers<void>;

function start(...args: string[]): ChildProcess {
  const env = {
    PATH: process.env["PATH"],
    HOLDFAST_ACTIVE_SESSIONS: "0",
    HOLDFAST_HOME: folder.path,
    HOLDFAST_URL: server.url,
    HOLDFAST_TOKEN: "t",
  };
  return spawn(process.execPath, [MAIN, ...args], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 30_000,
    killSignal: "SIGKILL",
  });
}

async function outcome(child: ChildProcess): Promise<{ status: number; out: Buffer; err: string }> {
  assert.ok(child.stdout && child.stderr);
  const [out, err, [status]] = await Promise.all([buffer(child.stdout), buffer(child.stderr), once(child, "exit")]);
  return { status: status as number, out, err: err.toString() };
}

const holdfast = (...args: string[]) => outcome(start(...args));

before(async () => {
  folder = await temporaryFolder();
  const runtime = new Runtime({
    store: sqlite(path.join(folder.path, "test.db")),
    auth: bearerTokens({ t: "alice" }),
  });
  runtime.agent("echo", (input) => input);
  runtime.agent("give", async (input, job) => {
    const out = job.stream();
    await out.write((input as { bytes?: boolean }).bytes === true ? BYTES : TEXT);
  });
  runtime.agent("fails", async (_input, job) => {
    await job.stream().write("half of it");
    throw new ArcpError("BUDGET_EXHAUSTED", "no more");
  });
  runtime.agent("waits", async (_input, job) => {
    const out = job.stream();
    await out.write("first ");
    await Promise.race([goOn.promise, once(job.signal, "abort")]);
    await out.write("second");
  });
  server = await serve(runtime, { port: 0 });
});

after(async () => {
  await server.stop({ drainMs: 0 });
  await folder[Symbol.asyncDispose]();
});

test("[CLI-14] submit --stream writes text and bytes unchanged and alone", DEADLINE, async () => {
  const asText = await holdfast("submit", "give", "--stream");
  assert.deepEqual([asText.status, asText.err], [0, ""]);
  assert.equal(asText.out.toString(), TEXT);
  const asBytes = await holdfast("submit", "give", '{"bytes":true}', "--stream");
  assert.equal(asBytes.status, 0);
  assert.deepEqual(asBytes.out, Buffer.from(BYTES));
  const whole = await holdfast("submit", "echo", '{"a":1}', "--stream");
  assert.equal(whole.out.toString(), '{"a":1}');
});

test("[CLI-14] a piece is there while the job still runs; Ctrl-C cancels it", DEADLINE, async () => {
  goOn = Promise.withResolvers();
  const child = start("submit", "waits", "--stream");
  assert.ok(child.stdout);
  const [first] = (await once(child.stdout, "data")) as [Buffer];
  assert.equal(first.toString(), "first ");
  goOn.resolve();
  const rest = await outcome(child);
  assert.deepEqual([rest.out.toString(), rest.status], ["second", 0]);

  goOn = Promise.withResolvers();
  const cancelled = start("submit", "waits", "--stream");
  assert.ok(cancelled.stdout);
  await once(cancelled.stdout, "data");
  cancelled.kill("SIGINT");
  const ended = await outcome(cancelled);
  assert.equal(ended.status, 1);
  assert.match(ended.err, /ended cancelled/);
});

test("[CLI-14] a job that fails: what came of its result, and the error on standard error", DEADLINE, async () => {
  const failed = await holdfast("submit", "fails", "--stream");
  assert.deepEqual([failed.out.toString(), failed.status], ["half of it", 1]);
  assert.match(failed.err, /^fails@1\.0\.0 ended error: BUDGET_EXHAUSTED: no more/);
  const wrong = await holdfast("submit", "give", "--stream", "--json");
  assert.deepEqual([wrong.out.length, wrong.status], [0, 2]);
});

test("[CLI-14] result --raw writes what the job came to, as it is", DEADLINE, async () => {
  const jobOf = async (input: string) => {
    const { out } = await holdfast("submit", "give", input, "--follow", "--json");
    const lines = out
      .toString()
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    return { jobId: String(lines[0]?.["job_id"]), end: lines.at(-1) };
  };
  const bytes = await jobOf('{"bytes":true}');
  assert.equal(bytes.end?.["result_encoding"], "base64");
  assert.deepEqual(Buffer.from(String(bytes.end?.["result"]), "base64"), Buffer.from(BYTES));
  assert.deepEqual((await holdfast("result", bytes.jobId, "--raw")).out, Buffer.from(BYTES));
  const text = await jobOf("{}");
  assert.equal((await holdfast("result", text.jobId, "--raw")).out.toString(), TEXT);
  assert.equal((await holdfast("result", text.jobId, "--raw", "--json")).status, 2);
});

test(
  "[CLI-3] submit --follow shows a streamed result once, at its end; of bytes it says how to get them",
  DEADLINE,
  async () => {
    const text = await holdfast("submit", "give", "--follow");
    assert.equal(text.out.toString().split("🌹").length - 1, 20_000);
    assert.doesNotMatch(text.out.toString(), /result_chunk/);
    const bytes = await holdfast("submit", "give", '{"bytes":true}', "--follow");
    assert.match(bytes.out.toString(), /300000 bytes; get them with: holdfast result job_\w+ --raw > FILE/);
  },
);

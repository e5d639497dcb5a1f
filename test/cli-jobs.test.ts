/** The commands that ask for one job without a session, and the backup: real processes, one server. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { connect, type JobEvent, questionOf, type Session } from "../src/client/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { bearerTokens } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE = { timeout: 30_000 };
/** How long the one server may live that all tests here share. */
const WHOLE_FILE_MS = 300_000;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let server: ChildProcess;
/** Of the principal that the commands speak for; they submit nothing themselves. */
let session: Session;

function start(args: readonly string[], timeout = 30_000) {
  const env = { PATH: process.env["PATH"], HOLDFAST_ACTIVE_SESSIONS: "0", HOLDFAST_HOME: folder.path };
  return spawn(process.execPath, [MAIN, ...args], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout,
    killSignal: "SIGKILL",
  });
}

async function holdfast(...args: string[]): Promise<{ status: number; out: string; err: string }> {
  const child = start(args);
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  return { status: status as number, out, err };
}

/** One complaint on standard error and nothing else. */
function assertComplaint(outcome: { status: number; out: string; err: string }, complaint: RegExp): void {
  assert.match(outcome.err, complaint);
  assert.deepEqual([outcome.err.trimEnd().split("\n").length, outcome.out, outcome.status], [1, "", 1]);
}

before(async () => {
  folder = await temporaryFolder();
  const serving = start(
    ["serve", "--demo", "--port", "0", "--json", "--drain", "0", "--token", "t=alice"],
    WHOLE_FILE_MS,
  );
  server = serving;
  serving.stderr.resume();
  const [line] = (await once(createInterface({ input: serving.stdout }), "line")) as [string];
  session = await connect((JSON.parse(line) as { url: string }).url, { token: "t" });
});

after(async () => {
  await session.close();
  server.kill("SIGKILL");
  await once(server, "exit");
  await folder[Symbol.asyncDispose]();
});

test("[CLI-10] result prints what a job came to as JSON, and with --json how", DEADLINE, async () => {
  const job = await session.submit("echo", { text: "ž\u0007\u202e", n: [1] });
  await job.result;
  const plain = await holdfast("result", job.id);
  assert.deepEqual([plain.status, plain.err], [0, ""]);
  assert.deepEqual(JSON.parse(plain.out), { text: "ž\u0007\u202e", n: [1] });
  assert.ok(!plain.out.includes("\u0007") && !plain.out.includes("\u202e"));
  const outcome = JSON.parse((await holdfast("result", job.id, "--json")).out) as Record<string, unknown>;
  assert.deepEqual([outcome["job_id"], outcome["status"]], [job.id, "success"]);
});

test("[CLI-10] a job that runs is said to; with --wait its end is waited for", DEADLINE, async () => {
  const endless = await session.submit("ticker", { n: 2, every_ms: 3_600_000 });
  assertComplaint(await holdfast("result", endless.id), /The job is running; --wait waits for its end/);
  await endless.cancel();
  // A slow machine may see its end before the command looks, which then shows less, and is right as well.
  const job = await session.submit("ticker", { n: 3, every_ms: 1_000 });
  const waited = await holdfast("result", job.id, "--wait");
  assert.equal(waited.status, 0);
  assert.deepEqual(JSON.parse(waited.out), await job.result);
});

test("[CLI-10] the error of a job that failed is told, and another's job is not there", DEADLINE, async () => {
  const job = await session.submit("ticker", { n: -1 });
  await job.terminal;
  assertComplaint(await holdfast("result", job.id), /^holdfast: The job ended error: INVALID_REQUEST: .*\bn\b/);
  assertComplaint(await holdfast("result", "job_x"), /No job job_x of yours is there; `holdfast jobs` lists them/);
  assertComplaint(await holdfast("result", job.id, "--token", "wrong"), /refuses the token; give a good one/);
  const elsewhere = ["--url", "ws://127.0.0.1:9/arcp", "--token", "t"];
  assertComplaint(await holdfast("result", job.id, ...elsewhere), /ws:\/\/127\.0\.0\.1:9\/arcp cannot be reached/);
});

test(
  "[CLI-11] cancel ends a job that another session submitted, and says when there is nothing to end",
  DEADLINE,
  async () => {
    const job = await session.submit("ticker", { n: 2, every_ms: 3_600_000 });
    const cancelled = await holdfast("cancel", job.id, "--reason", "not needed");
    assert.deepEqual([cancelled.status, cancelled.err], [0, ""]);
    assert.match(cancelled.out, /is being cancelled/);
    const end = await job.terminal;
    assert.deepEqual([end.final_status, String(end.message).includes("not needed")], ["cancelled", true]);
    const again = await holdfast("cancel", job.id, "--json");
    assert.deepEqual(JSON.parse(again.out), { job_id: job.id, outcome: "already_ended", status: "cancelled" });
    assertComplaint(await holdfast("cancel", "job_x"), /No job job_x of yours is there/);
  },
);

test("[CLI-12] a backup is a store with all that was there, while the server works on", DEADLINE, async () => {
  const job = await session.submit("burst", { n: 2_000, bytes: 300 });
  await job.result;
  const busy = await session.submit("ticker", { n: 1_000, every_ms: 5 });
  const target = path.join(folder.path, "copy.db");
  const backup = await holdfast("backup", target, "--json");
  assert.deepEqual([backup.status, backup.err], [0, ""]);
  const told = JSON.parse(backup.out) as Record<string, number>;
  assert.ok(Number(told["events"]) > 2_000 && Number(told["bytes"]) > 600_000, backup.out);
  assert.equal((await stat(target)).mode & 0o777, 0o600);
  await busy.cancel();
  await busy.terminal;

  const runtime = new Runtime({ store: sqlite(target), auth: bearerTokens({ t: "alice" }) });
  await runtime.start();
  const outcome = await runtime.jobs.result(job.id, "alice");
  assert.ok(outcome.status === "success" && "result" in outcome);
  assert.deepEqual(outcome.result, { n: 2_000 });
  await runtime.stop({ drainMs: 0 });
});

test("[CLI-12] a backup overwrites nothing, and what cannot be backed up leaves nothing behind", DEADLINE, async () => {
  const target = path.join(folder.path, "taken.db");
  await writeFile(target, "precious");
  const before = (await readdir(folder.path)).sort();
  assertComplaint(await holdfast("backup", target), /taken\.db is there already and is not overwritten/);
  assert.equal((await stat(target)).size, "precious".length);
  const fresh = path.join(folder.path, "fresh.db");
  assertComplaint(
    await holdfast("backup", fresh, "--store", `${fresh}.not`),
    /No store is at .*fresh\.db\.not; name it/,
  );
  assertComplaint(await holdfast("backup", fresh, "--store", target), /taken\.db is no store of Holdfast/);
  assertComplaint(await holdfast("backup", path.join(folder.path, "no", "where.db")), /The folder of .* is not there/);
  assert.deepEqual((await readdir(folder.path)).sort(), before);
});

test("[CLI-13] answer answers the question that is open, or the one that is named", DEADLINE, async () => {
  const job = await session.submit("approve", { action: "delete \u202eit" });
  const events = job[Symbol.asyncIterator]();
  const { value: event } = await events.next();
  const { questionId } = (event && questionOf(event)) ?? {};
  assert.ok(questionId !== undefined);
  assertComplaint(
    await holdfast("answer", job.id, '{"approve":"yes"}'),
    /INVALID_REQUEST: body\.answer\.approve: must be/,
  );
  const answered = await holdfast("answer", job.id, '{"approve":true}');
  assert.deepEqual([answered.status, answered.err], [0, ""]);
  assert.ok(answered.out.startsWith(`Answered ${questionId};`), answered.out);
  assert.deepEqual(await job.result, { action: "delete \u202eit", approve: true });
  assertComplaint(await holdfast("answer", job.id, questionId, '{"approve":true}'), /was answered before/);
  assertComplaint(await holdfast("answer", job.id, "true"), /has no open question/);
  assertComplaint(await holdfast("answer", "job_x", "true"), /No job job_x of yours is there/);
  const other = await session.submit("approve", { action: "go" });
  const named = questionOf((await other[Symbol.asyncIterator]().next()).value as JobEvent);
  const json = await holdfast("answer", other.id, named?.questionId ?? "", '{"approve":false,"note":"no"}', "--json");
  assert.deepEqual(JSON.parse(json.out), { job_id: other.id, question_id: named?.questionId, outcome: "accepted" });
  assert.deepEqual(await other.result, { action: "go", approve: false, note: "no" });
});

test("[CLI-13] of an answer that is no JSON, or one argument too many, the command says so", DEADLINE, async () => {
  for (const [args, complaint] of [
    [["job_1", "{approve:true}"], /The answer is not JSON .*; quote it/],
    [["job_1", "q_1", "1", "2"], /Too many arguments/],
    [["job_1"], /missing required argument/],
  ] as const) {
    const { status, err, out } = await holdfast("answer", ...args);
    assert.match(err, complaint);
    assert.deepEqual([status, out, err.trimEnd().split("\n").length], [2, "", 1]);
  }
});

test("[CLI-13] watch shows a question, how to answer it, and who did", DEADLINE, async () => {
  const job = await session.submit("approve", { action: "ship it\u0007\u202e" });
  const { value: event } = await job[Symbol.asyncIterator]().next();
  const questionId = event && questionOf(event)?.questionId;
  const watching = holdfast("watch", job.id);
  await session.answer(job.id, questionId ?? "", { approve: true });
  const { status, out } = await watching;
  assert.equal(status, 0);
  const [asked, how, answered] = out.split("\n");
  assert.match(asked ?? "", /status +asks: May I ship it\?$/);
  assert.ok(how?.includes(`answer it: holdfast answer ${job.id} ${questionId} JSON of the form {"`), how);
  assert.match(answered ?? "", /status +was answered by alice$/);
});

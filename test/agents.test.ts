/** The demo agents, each in a real runtime. */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { approve } from "../src/agents/approve.ts";
import { burst } from "../src/agents/burst.ts";
import { echo } from "../src/agents/echo.ts";
import { type SurveyReport, survey, surveyLease } from "../src/agents/survey.ts";
import { ticker } from "../src/agents/ticker.ts";
import type { Envelope, Lease } from "../src/protocol/index.ts";
import type { AgentHandler } from "../src/runtime/index.ts";
import { eventually, type RuntimeFixture, runtimeFixture, type TestClient } from "./runtime-fixture.ts";

const WINDOWS = process.platform === "win32" ? "paths of a lease are POSIX's" : false;

interface Ran {
  /** What the job came to, put together where it came in chunks. */
  result: unknown;
  error: { code?: unknown; message: string; details?: unknown };
  events: { kind: unknown; body: Record<string, unknown> }[];
  end: Envelope;
}

/** Runs `handler` as the agent `tested` to its end. `lease` is granted, and what its jobs have by default. */
async function run(handler: AgentHandler, input: unknown, lease: Lease = {}, request: object = {}): Promise<Ran> {
  await using fixture = await runtimeFixture({ policy: () => lease });
  fixture.runtime.agent("tested", handler, { lease });
  const client = await fixture.connect();
  const jobId = await client.start("tested", input, request);
  return await ended(fixture, client, jobId);
}

/** Waits for a job's end while the clock goes on: agents sleep between their steps. */
async function ended(fixture: RuntimeFixture, client: TestClient, jobId: string): Promise<Ran> {
  const isOver = () => client.of(jobId).some(({ type }) => type !== "job.event");
  const ticking = (async () => {
    while (!isOver()) await fixture.clock.advance(1);
  })();
  const [end] = await Promise.all([client.terminal(jobId), ticking]);
  const events = client
    .of(jobId)
    .filter(({ type }) => type === "job.event")
    .map(({ payload }) => ({ kind: payload["kind"], body: payload["body"] as Record<string, unknown> }));
  const chunks = events.filter(({ kind }) => kind === "result_chunk").map(({ body }) => body["data"]);
  const result = end.payload["result_id"] === undefined ? end.payload["result"] : chunks.join("");
  return { result, error: end.payload as unknown as Ran["error"], events, end };
}

const messages = ({ events }: Pick<Ran, "events">) => events.map(({ body }) => body["message"]);

function reportOf({ result, end }: Ran): SurveyReport {
  assert.equal(end.type, "job.result", JSON.stringify(end));
  return JSON.parse(String(result)) as SurveyReport;
}

/** What a survey of `root` comes to under its own lease, or under `lease`. */
const surveyOf = (root: string, input: unknown = {}, lease = surveyLease(root)) => run(survey(root), input, lease);

async function directory(name = "place"): Promise<{ root: string } & AsyncDisposable> {
  const above = await realpath(await mkdtemp(path.join(tmpdir(), "holdfast-survey-")));
  const root = path.join(above, name);
  await mkdir(root);
  return { root, [Symbol.asyncDispose]: () => rm(above, { recursive: true, force: true }) };
}

test("[JOB-1] echo succeeds with its input", async () => {
  assert.deepEqual((await run(echo, { a: [1, null] })).result, { a: [1, null] });
  assert.equal((await run(echo, null)).result, null);
});

test("[CLI-5] each message of a burst starts with its number and has the length that was asked for", async () => {
  const ran = await run(burst, { n: 3, bytes: 12 });
  assert.deepEqual(messages(ran), ["00000000....", "00000001....", "00000002...."]);
  assert.deepEqual(ran.result, { n: 3 });
  assert.deepEqual(messages(await run(burst, { n: 11, bytes: 1 })).slice(-2), ["9", "0"]);
});

test("[JOB-6] a burst stops at its next event when it is cancelled, and in its delay too", async () => {
  await using fixture = await runtimeFixture();
  fixture.runtime.agent("burst", burst);
  const client = await fixture.connect();
  for (const input of [
    { n: 10_000_000, bytes: 10 },
    { n: 2, bytes: 10, delay_ms: 3_600_000 },
  ]) {
    const jobId = await client.start("burst", input);
    if (input.delay_ms === undefined) await eventually(() => client.of(jobId).length > 0, "an event of the burst");
    await client.ask("job.cancel", {}, { job_id: jobId });
    const { payload } = await client.terminal(jobId);
    assert.deepEqual([payload["final_status"], payload["code"]], ["cancelled", "CANCELLED"]);
    assert.ok(client.logged(jobId).length < input.n);
  }
});

test("[JOB-1] a ticker numbers its ticks and returns how many there were", async () => {
  const ran = await run(ticker, { n: 3, every_ms: 2 });
  assert.deepEqual(messages(ran), ["tick 0", "tick 1", "tick 2"]);
  assert.deepEqual(ran.result, { n: 3 });
});

test("[ENV-3] bad input is INVALID_REQUEST and names the field", async () => {
  const cases: [AgentHandler, unknown, RegExp][] = [
    [burst, { bytes: 10 }, /input\.n/],
    [burst, { n: 10_000_001, bytes: 10 }, /input\.n/],
    [burst, { n: 1, bytes: 1_048_577 }, /input\.bytes/],
    [burst, { n: 1, bytes: 1, delay_ms: -1 }, /input\.delay_ms/],
    [burst, "many", /Invalid input for burst: input/],
    [ticker, { n: 1.5, every_ms: 1 }, /Invalid input for ticker: input\.n/],
    [ticker, { n: 1, every_ms: "soon" }, /input\.every_ms/],
    [survey("."), { largest: 0 }, /input\.largest/],
    [survey("."), { directory: "/" }, /Invalid input for survey: input/],
    [approve, { action: "" }, /Invalid input for approve: input\.action/],
  ];
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  for (const [index, [handler, input, message]] of cases.entries()) {
    fixture.runtime.agent(`tested-${index}`, handler);
    const { payload } = await client.terminal(await client.start(`tested-${index}`, input));
    assert.equal(payload["code"], "INVALID_REQUEST");
    assert.match(String(payload["message"]), message);
  }
});

test("[JOB-14] a survey counts lines by language, finds the largest and the equal files, and says what it skips", {
  skip: WINDOWS,
}, async () => {
  await using place = await directory();
  const { root } = place;
  await mkdir(path.join(root, "src"));
  await mkdir(path.join(root, "node_modules"));
  await writeFile(path.join(root, "src/a.ts"), "one\ntwo\nthree");
  await writeFile(path.join(root, "src/b.ts"), "one\ntwo\nthree");
  await writeFile(path.join(root, "src/c.ts"), "one\ntwo\nTHREE");
  await writeFile(path.join(root, "README.md"), "# Title\n");
  await writeFile(path.join(root, "empty.md"), "");
  await writeFile(path.join(root, "image.bin"), Buffer.concat([Buffer.alloc(70_000, 10), Buffer.from([10, 0])]));
  await writeFile(path.join(root, "noise.dat"), Buffer.from([1, 0, 10, 10, 10]));
  await writeFile(path.join(root, "node_modules/x.js"), "skipped\n");
  await symlink(path.join(root, "src"), path.join(root, "link"));
  await symlink("/etc/hostname", path.join(root, "outside.txt"));

  const ran = await surveyOf(root, null);
  const report = reportOf(ran);
  assert.deepEqual(
    report.languages.map(({ language, files, lines }) => ({ language, files, lines })),
    [
      { language: "other", files: 1, lines: 70_002 },
      { language: "TypeScript", files: 3, lines: 9 },
      { language: "Markdown", files: 2, lines: 1 },
      { language: "binary", files: 1, lines: 0 },
    ],
  );
  assert.equal(report.files, 7);
  assert.deepEqual(report.largest[0], { path: "image.bin", bytes: 70_002 });
  assert.deepEqual(
    report.equal.map(({ paths }) => paths),
    [["src/a.ts", "src/b.ts"]],
  );
  assert.equal(report.wasted_bytes, 13);
  assert.deepEqual(report.skipped, ["node_modules"]);
  assert.deepEqual([report.symbolic_links, report.unreadable, report.truncated], [2, 0, false]);
  assert.ok(messages(ran).includes("skipped node_modules"));
  const progress = ran.events.filter(({ kind }) => kind === "progress").map(({ body }) => body["current"]);
  assert.equal(progress[0], 0);
  assert.equal(progress.at(-1), 7);
  assert.ok(
    ran.events.some(({ kind, body }) => kind === "metric" && body["name"] === "survey.lines" && body["value"] === 9),
  );

  const everything = reportOf(await surveyOf(root, { everything: true, largest: 1 }));
  assert.equal(everything.files, 8);
  assert.equal(everything.largest.length, 1);
});

test("[JOB-20] the report of a survey is JSON text in chunks, the first while it still compares files", {
  skip: WINDOWS,
}, async () => {
  await using place = await directory();
  for (const name of ["a", "b"]) await writeFile(path.join(place.root, `${name}.txt`), "same\n");
  const { events, result, end } = await surveyOf(place.root);
  const first = events.findIndex(({ kind }) => kind === "result_chunk");
  const comparing = events.findIndex(({ body }) => body["phase"] === "comparing");
  assert.ok(first !== -1 && first < comparing, JSON.stringify(events));
  assert.equal(events[first]?.body["content_type"], "application/json");
  assert.match(String(result), /^\{\n {2}"files": 2,\n[\s\S]*\n {2}"truncated": false\n\}$/);
  assert.equal(end.payload["summary"], "2 files, 2 lines, 5 bytes in copies");
});

test("[JOB-20] a report of many items is sent in chunks of some 32 KiB, and is whole", { skip: WINDOWS }, async () => {
  await using place = await directory();
  for (let index = 0; index < 400; index += 1) {
    const name = `${"long".repeat(25)}${index}.txt`;
    await writeFile(path.join(place.root, name), `${"x".repeat(Math.floor(index / 2))}\n`);
  }
  const ran = await surveyOf(place.root);
  assert.equal(reportOf(ran).equal.length, 200);
  const sizes = ran.events.filter(({ kind }) => kind === "result_chunk").map(({ body }) => String(body["data"]).length);
  assert.ok(sizes.length >= 4, String(sizes));
  assert.ok(
    sizes.every((size) => size < 34 * 1024),
    String(sizes),
  );
});

test("[ACT-15] a survey reads quietly: its stream tells of no file that it could read", { skip: WINDOWS }, async () => {
  await using place = await directory();
  await writeFile(path.join(place.root, "a.txt"), "text\n");
  const { events } = await surveyOf(place.root);
  assert.ok(!events.some(({ kind }) => kind === "tool_call" || kind === "tool_result"));
});

test("[ACT-9] a survey under a narrower lease is refused its directory, and says so", { skip: WINDOWS }, async () => {
  await using place = await directory();
  const { root } = place;
  await mkdir(path.join(root, "src"));
  for (const lease of [{}, { "fs.read": [`${root}/src/**`] }, { "tool.call": ["**"] }]) {
    const { error, events } = await surveyOf(root, {}, lease);
    assert.equal(error.code, "PERMISSION_DENIED");
    assert.match(error.message, /^A survey needs fs\.read for all of its directory: fs\.read: .*not within the job's/);
    assert.deepEqual(
      events.filter(({ kind }) => kind === "tool_call").map(({ body }) => [body["tool"], body["args"]]),
      [["fs.list", { path: root }]],
    );
  }
});

test("[ACT-9] what the lease or the system does not let a survey read is counted and told, and the rest is done", {
  skip: WINDOWS,
}, async () => {
  await using place = await directory();
  const { root } = place;
  await mkdir(path.join(root, "closed"));
  await writeFile(path.join(root, "closed", "b.txt"), "text\n");
  await writeFile(path.join(root, "a.txt"), "text\n");
  // Read as it is spelt it would be decoded, and be the other file.
  await writeFile(path.join(root, "A.txt"), "one\ntwo\n");
  await writeFile(path.join(root, "%41.txt"), "text\n");
  const ran = await surveyOf(root, {}, { "fs.read": [root, `${root}/*`] });
  const report = reportOf(ran);
  assert.deepEqual([report.files, report.lines], [2, 3]);
  const found = reportOf(await surveyOf(root, {}, { "fs.read": [root, `${root}/*.txt`] }));
  assert.deepEqual([found.files, found.unreadable], [2, 2]);
  assert.ok(messages(ran).includes("cannot read %41.txt: PERMISSION_DENIED"));
});

test("[ACT-9] the lease of a survey covers its real directory, and nothing where a pattern cannot say its name", {
  skip: WINDOWS,
}, async () => {
  await using place = await directory();
  const link = `${place.root}-link`;
  await symlink(place.root, link);
  assert.deepEqual(surveyLease(link), { "fs.read": [`${place.root}/**`] });
  assert.equal(reportOf(await surveyOf(link)).files, 0);
  assert.deepEqual(surveyLease("/"), { "fs.read": ["/**"] });
  for (const name of ["a[b]", "(a)", "a*", "a%41", "a ", "a\\b"]) {
    await using odd = await directory(name);
    assert.deepEqual(surveyLease(odd.root), {});
    assert.equal((await surveyOf(odd.root)).error.code, "PERMISSION_DENIED");
  }
});

test("[JOB-6] a survey stops in the middle when it is cancelled", { skip: WINDOWS }, async () => {
  await using place = await directory();
  for (let index = 0; index < 1_000; index += 1) await writeFile(path.join(place.root, `${index}.txt`), "text\n");
  const lease = surveyLease(place.root);
  await using fixture = await runtimeFixture({ policy: () => lease });
  fixture.runtime.agent("survey", survey(place.root), { lease });
  const client = await fixture.connect();
  const jobId = await client.start("survey", {});
  const counted = () => client.of(jobId).filter(({ payload }) => payload["kind"] === "progress").length;
  await eventually(() => counted() > 0, "the survey to count");
  await client.ask("job.cancel", {}, { job_id: jobId });
  assert.equal((await client.terminal(jobId)).payload["code"], "CANCELLED");
  assert.ok(counted() < 100, `it counted on: ${counted()}`);
});

test("[JOB-15] a directory that is not there is an error without its path", { skip: WINDOWS }, async () => {
  const { error } = await surveyOf(path.join(await realpath(tmpdir()), "holdfast-not-there"));
  assert.equal(error.code, "INTERNAL_ERROR");
  assert.doesNotMatch(JSON.stringify(error), /holdfast-not-there/);
});

test("[ASK-1] approve asks for its action and returns the decision", async () => {
  await using fixture = await runtimeFixture();
  fixture.runtime.agent("approve", approve);
  const client = await fixture.connect();
  const jobId = await client.start("approve", { action: "deploy", timeout_ms: 5 });
  const { payload } = await client.waitFor(
    ({ job_id, payload }) => job_id === jobId && payload["kind"] === "status",
    "the question",
  );
  const asked = payload["body"] as { phase: string; message: string; question_id: string };
  assert.deepEqual([asked.phase, asked.message], ["input_required", "May I deploy?"]);
  const answer = { approve: false, note: "not on a Friday" };
  client.send("x-vendor.holdfast.answer", { job_id: jobId, question_id: asked.question_id, answer });
  assert.deepEqual((await client.terminal(jobId)).payload["result"], { action: "deploy", ...answer });

  const late = await client.start("approve", { action: "deploy", timeout_ms: 5 });
  await eventually(() => client.of(late).length > 0, "the second question");
  await fixture.clock.advance(5);
  assert.equal((await client.terminal(late)).payload["code"], "TIMEOUT");
});

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { systemClock } from "../clock.ts";
import { ArcpError, checkEventBody } from "../protocol/index.ts";
import type { AgentHandler } from "../runtime/index.ts";
import { JobContext } from "../runtime/job/context.ts";
import { burst } from "./burst.ts";
import { echo } from "./echo.ts";
import { type SurveyReport, survey } from "./survey.ts";
import { ticker } from "./ticker.ts";

interface Emitted {
  kind: string;
  body: Record<string, unknown>;
}

/** Runs an agent with a log that is an array; every body is checked as the runtime does it. */
async function run(
  agent: AgentHandler,
  input: unknown,
  options: { onEmit?: (emitted: Emitted) => void; signal?: AbortSignal } = {},
): Promise<{ result: unknown; events: Emitted[] }> {
  const events: Emitted[] = [];
  const job = new JobContext({
    jobId: "job_1",
    agent: "agent@1.0.0",
    principal: "alice",
    traceId: "0".repeat(32),
    lease: {},
    clock: systemClock,
    signal: options.signal ?? new AbortController().signal,
    async emit(kind, body) {
      checkEventBody(kind, body);
      const emitted = { kind, body: body as Record<string, unknown> };
      events.push(emitted);
      options.onEmit?.(emitted);
    },
    flush: () => Promise.resolve(),
  });
  return { result: await agent(input, job), events };
}

const messages = (events: readonly Emitted[]) => events.map(({ body }) => body["message"]);

async function directory(): Promise<{ root: string } & AsyncDisposable> {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-survey-"));
  return { root, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) };
}

test("[JOB-1] echo succeeds with its input", async () => {
  assert.deepEqual((await run(echo, { a: [1, null] })).result, { a: [1, null] });
  assert.equal((await run(echo, undefined)).result, null);
});

test("[CLI-5] each message of a burst starts with its number and has the length that was asked for", async () => {
  const { result, events } = await run(burst, { n: 3, bytes: 12 });
  assert.deepEqual(messages(events), ["00000000....", "00000001....", "00000002...."]);
  assert.deepEqual(result, { n: 3 });
  assert.deepEqual(messages((await run(burst, { n: 11, bytes: 1 })).events).slice(-2), ["9", "0"]);
});

test("[JOB-6] a burst stops at its next event when it is cancelled, and in its delay too", async () => {
  const stop = new AbortController();
  const events: Emitted[] = [];
  const onEmit = (emitted: Emitted) => {
    events.push(emitted);
    if (events.length === 5) stop.abort(new Error("cancelled"));
  };
  await assert.rejects(run(burst, { n: 1_000_000, bytes: 10 }, { onEmit, signal: stop.signal }), /cancelled/);
  assert.equal(events.length, 5);
  await assert.rejects(run(burst, { n: 1, bytes: 10, delay_ms: 3_600_000 }, { signal: stop.signal }), /cancelled/);
});

test("[JOB-1] a ticker numbers its ticks and returns how many there were", async () => {
  const { result, events } = await run(ticker, { n: 3, every_ms: 0 });
  assert.deepEqual(messages(events), ["tick 0", "tick 1", "tick 2"]);
  assert.deepEqual(result, { n: 3 });
});

test("[ENV-3] bad input is INVALID_REQUEST and names the field", async () => {
  const cases: [AgentHandler, unknown, RegExp][] = [
    [burst, { bytes: 10 }, /burst: input\.n/],
    [burst, { n: 10_000_001, bytes: 10 }, /input\.n/],
    [burst, { n: 1, bytes: 1_048_577 }, /input\.bytes/],
    [burst, { n: 1, bytes: 1, delay_ms: -1 }, /input\.delay_ms/],
    [burst, "many", /burst: input/],
    [ticker, { n: 1.5, every_ms: 1 }, /input\.n/],
    [ticker, { n: 1, every_ms: "soon" }, /input\.every_ms/],
    [survey("."), { largest: 0 }, /input\.largest/],
    [survey("."), { directory: "/" }, /survey: input/],
  ];
  for (const [agent, input, message] of cases) {
    await assert.rejects(run(agent, input), (error) => {
      assert.ok(error instanceof ArcpError);
      assert.equal(error.code, "INVALID_REQUEST");
      assert.match(error.message, message);
      return true;
    });
  }
});

test("[JOB-14] a survey counts lines by language, finds the largest and the equal files, and says what it skips", async () => {
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

  const { result, events } = await run(survey(root), null);
  const report = result as SurveyReport;
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
  assert.equal(report.symbolic_links, 2);
  assert.ok(messages(events).includes("skipped node_modules"));
  const progress = events.filter(({ kind }) => kind === "progress").map(({ body }) => body["current"]);
  assert.equal(progress[0], 0);
  assert.equal(progress.at(-1), 7);
  assert.ok(
    events.some(({ kind, body }) => kind === "metric" && body["name"] === "survey.lines" && body["value"] === 9),
  );

  const everything = (await run(survey(root), { everything: true, largest: 1 })).result as SurveyReport;
  assert.equal(everything.files, 8);
  assert.equal(everything.largest.length, 1);
});

test("[JOB-6] a survey stops when it is cancelled", async () => {
  await using place = await directory();
  for (let index = 0; index < 20; index += 1) await writeFile(path.join(place.root, `${index}.txt`), "text\n");
  const stop = new AbortController();
  const onEmit = ({ kind }: Emitted) => {
    if (kind === "progress") stop.abort(new Error("cancelled"));
  };
  await assert.rejects(run(survey(place.root), {}, { onEmit, signal: stop.signal }), /cancelled/);
});

test("[JOB-15] a directory that is not there is an error without its path", async () => {
  await assert.rejects(run(survey(path.join(tmpdir(), "holdfast-not-there")), {}), (error) => {
    assert.ok(error instanceof ArcpError);
    assert.doesNotMatch(error.message, /holdfast-not-there/);
    return true;
  });
});

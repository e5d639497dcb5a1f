/** The conformance cases against our own runtime, and against runtimes that are broken on purpose. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Transform } from "node:stream";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { burst, echo, registerDemoAgents, ticker } from "../src/agents/index.ts";
import type { Clock } from "../src/clock.ts";
import { type AgentHandler, Runtime, type RuntimeOptions } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import {
  type ConformanceSummary,
  conformanceRules,
  runConformance,
  type Wire,
} from "../src/testing/conformance/index.ts";
import { ManualClock } from "../src/testing/manual-clock.ts";
import { memoryPair } from "../src/transport/memory.ts";
import { stdioTransport } from "../src/transport/stdio.ts";
import { BROKEN_RUNTIMES, type BrokenRuntime, Link } from "./broken-runtimes.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));

/** Intervals so short that no case is skipped for its length. */
const SHORT = { heartbeatIntervalSec: 1, resumeWindowSec: 4, helloTimeoutMs: 1_000 };

/** A runtime on a file of its own. */
async function newRuntime(settings: Partial<RuntimeOptions>, clock?: Clock) {
  const folder = await temporaryFolder();
  await writeFile(join(folder.path, "one.txt"), "one\n");
  const injected = clock === undefined ? {} : { clock };
  const runtime = new Runtime({
    store: sqlite(join(folder.path, "holdfast.db"), injected),
    auth: bearerTokens({ alice: "alice", bob: "bob" }),
    ...injected,
    ...settings,
  });
  return { runtime, folder };
}

/** Stands for the agent of that name where no time passes while files are read. */
const survey: AgentHandler = async (_input, job) => {
  for (let current = 0; current < 10; current += 1) {
    await job.progress({ current, total: 10 });
    await job.log(`file ${current}`);
  }
  return null;
};

interface Outcome {
  status: number;
  lines: Record<string, unknown>[];
  err: string;
}

/** The command, as a user has it. */
async function conformance(...args: string[]): Promise<Outcome> {
  const child = spawn(process.execPath, [main, "conformance", "--json", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 60_000,
    killSignal: "SIGKILL",
  });
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  const lines = out
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { status: status as number, lines, err };
}

/** What did not pass, with the reasons. */
const notPassed = (rules: readonly Record<string, unknown>[]) => rules.filter(({ outcome }) => outcome !== "pass");

test("[CLI-9] every wire rule passes over a real WebSocket, and none is skipped", async () => {
  const { runtime, folder } = await newRuntime(SHORT);
  await using _folder = folder;
  registerDemoAgents(runtime, { directory: folder.path });
  await using server = await serve(runtime, { port: 0 });
  const { status, lines, err } = await conformance(server.url, "--token", "alice", "--other-token", "bob");
  const summary = lines.pop();
  assert.ok(summary !== undefined, err);
  assert.deepEqual(notPassed(lines), [], err);
  assert.deepEqual(
    lines.map(({ rule }) => rule),
    conformanceRules(),
  );
  assert.deepEqual(
    [summary["type"], summary["passed"], summary["failed"], summary["skipped"]],
    ["summary", conformanceRules().length, 0, 0],
  );
  assert.equal(status, 0, err);
});

/** Time goes on while work is under way: a wait in vain takes turns of the event loop, not seconds. */
async function under<T>(clock: ManualClock, work: Promise<T>): Promise<T> {
  let over = false;
  const done = work.finally(() => {
    over = true;
  });
  done.catch(() => undefined);
  while (!over) await clock.advance(5);
  return await done;
}

/** A connection to the runtime, from this process. */
type Carrier = (runtime: Runtime) => Wire;

const overMemory: Carrier = (runtime) => {
  const pair = memoryPair({ auto: true });
  runtime.accept(pair.b);
  return Object.assign(pair.a, { cut: () => pair.cut() });
};

/** As a pipe of the system does, it hands on what is written in a later turn of the event loop. */
const pipe = () =>
  new Transform({ transform: (chunk: Buffer, _encoding, done) => void setImmediate(() => done(null, chunk)) });

const overStdio: Carrier = (runtime) => {
  const [toRuntime, toClient] = [pipe(), pipe()];
  runtime.accept(stdioTransport({ input: toRuntime, output: toClient }, { clock: runtime.clock }));
  const client = stdioTransport({ input: toClient, output: toRuntime }, { clock: runtime.clock });
  const cut = () => {
    toRuntime.destroy();
    toClient.destroy();
  };
  return Object.assign(client, { cut });
};

async function runWith(carrier: Carrier, broken?: BrokenRuntime): Promise<ConformanceSummary> {
  const clock = new ManualClock();
  const settings = { heartbeatIntervalSec: 0.2, resumeWindowSec: 2, helloTimeoutMs: 500 };
  const { runtime, folder } = await newRuntime(settings, clock);
  await using _folder = folder;
  runtime.agent("echo", echo).agent("burst", burst).agent("ticker", ticker).agent("survey", survey);
  await runtime.start();
  const connect = broken?.begin();
  const open = async (): Promise<Wire> =>
    connect === undefined ? carrier(runtime) : new Link(carrier(runtime), connect());
  const options = { token: "alice", otherToken: "bob", behind: 300, concurrency: 12, timeoutMs: 3_000 };
  try {
    return await under(clock, runConformance({ open, clock, ...options }));
  } finally {
    await under(clock, runtime.stop({ drainMs: 1 }));
  }
}

for (const [name, carrier] of Object.entries({ memory: overMemory, stdio: overStdio })) {
  test(`[CLI-9] every wire rule passes over ${name}, and none is skipped`, async () => {
    const { rules, passed, failed, skipped } = await runWith(carrier);
    assert.deepEqual(
      rules.filter(({ outcome }) => outcome !== "pass"),
      [],
    );
    assert.deepEqual([passed, failed, skipped], [conformanceRules().length, 0, 0]);
  });
}

test("[CLI-9] sessions are resumed and taken over between child processes on one file", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  const serve = `serve --stdio --demo --drain 2 --log-level warn --token alice=alice --store`;
  const { status, lines, err } = await conformance(
    ...["--stdio", `"${process.execPath}" "${main}" ${serve} "${file}"`, "--token", "alice"],
    ...["--only", "RES-1", "--only", "RES-8", "--timeout", "30"],
  );
  const summary = lines.pop();
  assert.deepEqual(notPassed(lines), [], err);
  assert.equal(summary?.["passed"], 2, err);
  assert.equal(status, 0);
});

test("[CLI-9] what cannot be tested is told in one line, with exit status 2", async () => {
  const wrong: [args: string[], complaint: RegExp][] = [
    [["ws://127.0.0.1:9/arcp", "--token", "alice"], /cannot be tested: .*ECONNREFUSED/],
    [["ws://127.0.0.1:9/arcp", "--token", "alice", "--only", "CLI-1"], /--only.*RES-3/],
    [["ws://127.0.0.1:9/arcp", "--token", "alice", "--timeout", "0"], /--timeout.*above 0/],
    [["ws://127.0.0.1:9/arcp", "--stdio", "true", "--token", "alice"], /not both/],
    [["--stdio", "holdfast-no-such-command", "--token", "alice"], /could not be started/],
    [["--stdio", "true"], /needs a token/],
  ];
  const outcomes = await Promise.all(wrong.map(([args]) => conformance(...args)));
  for (const [index, { status, lines, err }] of outcomes.entries()) {
    assert.match(err, wrong[index]?.[1] ?? /^$/);
    assert.equal(err.trimEnd().split("\n").length, 1, err);
    assert.deepEqual([status, lines], [2, []], err);
  }
});

test("[CLI-9] a rule that fails is told with what was expected and what came, and exit status 1", async () => {
  await using folder = await temporaryFolder();
  // Welcomes everybody, and answers nothing else.
  const runtime = join(folder.path, "mute.cjs");
  await writeFile(
    runtime,
    `require("node:readline").createInterface({ input: process.stdin }).on("line", (line) => {
      const { id, type } = JSON.parse(line);
      if (type !== "session.hello") return;
      const capabilities = { encodings: [], features: [], agents: [] };
      const payload = { runtime: { name: "mute", version: "1" }, resume_token: "secret", capabilities, request_id: id };
      console.log(JSON.stringify({ arcp: "1.1", id: "w", type: "session.welcome", session_id: "s", payload }));
    });`,
  );
  const command = ["--stdio", `${process.execPath} ${runtime}`, "--token", "t", "--timeout", "2"];
  const { status, lines, err } = await conformance(...command, "--only", "SES-6", "--only", "RES-7");
  assert.equal(status, 1, err);
  const outcome = (rule: string) => lines.find((line) => line["rule"] === rule)?.["outcome"];
  assert.deepEqual([outcome("SES-6"), outcome("RES-7")], ["fail", "skipped"]);
  const told = JSON.stringify(lines);
  assert.match(told, /it needs a token of another principal \(--other-token\)/);
  assert.match(told, /"expected":"session\.pong within 2000 ms"/);
  assert.match(told, /"got":"nothing after .*session\.welcome/);
  assert.doesNotMatch(told, /secret/);
});

for (const broken of BROKEN_RUNTIMES) {
  test(`[CLI-9] conformance notices a runtime that ${broken.name}`, async () => {
    const { rules } = await runWith(overMemory, broken);
    const failed = rules.filter(({ outcome }) => outcome === "fail");
    const why = JSON.stringify(
      failed.map(({ rule, cases }) => [rule, cases.filter(({ outcome }) => outcome === "fail")]),
      null,
      1,
    );
    assert.deepEqual(failed.map(({ rule }) => rule).toSorted(), broken.fails.toSorted(), why);
    for (const { expected, got } of failed.flatMap(({ cases }) => cases)) {
      if (expected !== undefined) assert.ok(expected.length > 5 && (got?.length ?? 0) > 1, `${expected}: ${got}`);
    }
  });
}

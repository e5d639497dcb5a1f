/** The conformance cases against our own runtime, over every way that a runtime is reached. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { registerDemoAgents, surveyLease } from "../src/agents/index.ts";
import { systemClock } from "../src/clock.ts";
import { Runtime } from "../src/runtime/index.ts";
import { serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { conformanceRules, NOT_ON_THE_WIRE } from "../src/testing/conformance/index.ts";
import { COMPLETE, overMemory, overStdio, runWith, tokens } from "./conformance-run.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));

/** Intervals so short that no case is skipped for its length. */
const SHORT = { heartbeatIntervalSec: 1, resumeWindowSec: 4, helloTimeoutMs: 1_000 };

interface Outcome {
  status: number;
  lines: Record<string, unknown>[];
  err: string;
}

/** The command, as a user has it. */
async function conformance(...args: string[]): Promise<Outcome> {
  const child = spawn(process.execPath, [main, "conformance", "--json", ...args], {
    env: { ...process.env, HOLDFAST_ACTIVE_SESSIONS: "0" },
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
  await using folder = await temporaryFolder();
  await writeFile(join(folder.path, "one.txt"), "one\n");
  const auth = tokens(systemClock, 6_000);
  const runtime = new Runtime({
    ...{ store: sqlite(join(folder.path, "holdfast.db")), auth, ...SHORT, ...COMPLETE },
    policy: (_principal, agent) => ({
      ...COMPLETE.policy(),
      ...(agent === "survey" ? surveyLease(folder.path) : {}),
    }),
  });
  registerDemoAgents(runtime, { directory: folder.path });
  await using server = await serve(runtime, { port: 0 });
  const { status, lines, err } = await conformance(
    ...[server.url, "--token", "alice", "--other-token", "bob", "--expiring-token", "expiring"],
  );
  const summary = lines.pop();
  assert.ok(summary !== undefined, err);
  assert.deepEqual(notPassed(lines), [], err);
  // Nobody can restart a server at an address.
  const rules = conformanceRules().filter((rule) => rule !== "RES-11");
  assert.deepEqual(
    lines.map(({ rule }) => rule),
    rules,
  );
  assert.deepEqual(
    [summary["type"], summary["passed"], summary["failed"], summary["skipped"]],
    ["summary", rules.length, 0, 0],
  );
  assert.deepEqual(
    (summary["not_run"] as { rule: string }[]).map(({ rule }) => rule),
    ["RES-11"],
  );
  assert.equal(status, 0, err);
});

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

test("[CLI-9] with --serve the runtime is started, restarted and stopped by the command", async () => {
  await using folder = await temporaryFolder();
  const port = await freePort();
  const url = `ws://127.0.0.1:${port}/arcp`;
  const command = `"${process.execPath}" "${main}" serve --demo --log-level warn --port ${port}`;
  const options = ["--token", "alice", "--only", "RES-11", "--timeout", "30"];
  const serve = `${command} --token alice=alice --store "${join(folder.path, "holdfast.db")}"`;
  const { status, lines, err } = await conformance(url, "--serve", serve, ...options);
  const summary = lines.pop();
  assert.deepEqual(notPassed(lines), [], err);
  assert.deepEqual([status, summary?.["passed"]], [0, 1], err);
  const after = await conformance(url, ...options.slice(0, 2));
  assert.match(after.err, /ECONNREFUSED/);

  const broken = await conformance(url, "--serve", `"${process.execPath}" -e 0`, ...options);
  assert.match(broken.err, /--serve: .* exited with status 0 before/);
  assert.equal(broken.status, 2);
});

test("[CLI-9] every rule of the wire has a case, or a reason why nobody could see it there", async () => {
  const spec = await readFile(fileURLToPath(new URL("../SPEC.md", import.meta.url)), "utf8");
  const rules = [...spec.matchAll(/^- \*\*((?:ENV|SES|RES|JOB|ASK|EXT|DEL|LEA|ACT|CRD|TRC)-\d+)\*\*/gm)].map(
    ([, rule]) => rule,
  );
  assert.deepEqual([...conformanceRules(), ...Object.keys(NOT_ON_THE_WIRE)].toSorted(), rules.toSorted());
});

for (const [name, carrier] of Object.entries({ memory: overMemory, stdio: overStdio })) {
  test(`[CLI-9] every wire rule passes over ${name}, and none is skipped`, async () => {
    const { rules, passed, failed, skipped, notRun } = await runWith(carrier);
    assert.deepEqual(
      rules.filter(({ outcome }) => outcome !== "pass"),
      [],
    );
    assert.deepEqual([passed, failed, skipped, notRun], [conformanceRules().length, 0, 0, []]);
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
    [["--serve", "true", "--token", "alice"], /--serve: .*the address/],
    [["ws://127.0.0.1:9/arcp", "--token", "alice", "--only", "RES-11"], /RES-11 cannot be run, .*--serve/],
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
  const { status, lines, err } = await conformance(...command, "--only", "SES-6", "--only", "RES-7", "--only", "DEL-4");
  assert.equal(status, 1, err);
  const outcome = (rule: string) => lines.find((line) => line["rule"] === rule)?.["outcome"];
  assert.deepEqual([outcome("SES-6"), outcome("RES-7")], ["fail", "skipped"]);
  const notRun = lines.find(({ type }) => type === "summary")?.["not_run"];
  assert.deepEqual(notRun, [{ rule: "DEL-4", reason: "the runtime offers no agent `relay`" }]);
  const told = JSON.stringify(lines);
  assert.match(told, /it needs a token of another principal \(--other-token\)/);
  assert.match(told, /"expected":"session\.pong within 2000 ms"/);
  assert.match(told, /"got":"nothing after .*session\.welcome/);
  assert.doesNotMatch(told, /secret/);
});

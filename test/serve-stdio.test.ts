/** `holdfast serve --stdio`, as a client's child process: the whole way without a port. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { connect } from "../src/client/index.ts";
import { spawnStdio, stdioTransport } from "../src/transport/stdio.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const DEADLINE = { timeout: 30_000 };
const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const SERVE = [MAIN, "serve", "--stdio", "--demo"];

/** Starts children in one home; what is left of them is killed at the end. */
async function newHome() {
  const folder = await temporaryFolder();
  const children: ReturnType<typeof start>[] = [];
  const env = {
    PATH: process.env["PATH"],
    HOLDFAST_ACTIVE_SESSIONS: "0",
    HOLDFAST_HOME: folder.path,
    HOLDFAST_TOKENS: "secret=alice",
  };
  const start = (flags: readonly string[]) => {
    const process_ = spawn(process.execPath, [...SERVE, ...flags], { env, stdio: ["pipe", "pipe", "pipe"] });
    return {
      process: process_,
      transport: stdioTransport({ input: process_.stdout, output: process_.stdin }),
      exited: once(process_, "exit"),
      log: text(process_.stderr),
    };
  };
  return {
    path: folder.path,
    env,
    start(...flags: string[]) {
      const child = start(flags);
      children.push(child);
      return child;
    },
    async [Symbol.asyncDispose]() {
      for (const child of children) child.process.kill("SIGKILL");
      await Promise.all(children.map((child) => child.exited));
      await folder[Symbol.asyncDispose]();
    },
  };
}

test(
  "[CLI-8] jobs run over standard input and output; the end of the connection ends the server",
  DEADLINE,
  async () => {
    await using home = await newHome();
    const child = home.start();
    const session = await connect(async () => child.transport, { token: "secret" });
    const input = { text: "žluťoučký 🐎\r\n" };
    assert.deepEqual(await (await session.submit("echo", input)).result, input);
    const job = await session.submit("burst", { n: 2_000, bytes: 500 });
    let events = 0;
    for await (const event of job) events += event.kind === "log" ? 1 : 0;
    assert.equal(events, 2_000);
    await session.close();
    assert.deepEqual(await child.exited, [0, null]);
    assert.match(await child.log, /the connection ended/);
    assert.deepEqual(await readdir(home.path), ["holdfast.db"]);
  },
);

test("[CLI-8] a job that runs when the connection ends gets its time, and its end is stored", DEADLINE, async () => {
  await using home = await newHome();
  const child = home.start("--drain", "20");
  const session = await connect(async () => child.transport, { token: "secret" });
  const { id } = await session.submit("ticker", { n: 3, every_ms: 100 });
  child.process.stdin.end();
  assert.deepEqual(await child.exited, [0, null]);
  const { resumeState } = session;
  await session.close();

  const args = [...SERVE, "--log-level", "error"];
  const open = () => spawnStdio(process.execPath, args, { env: home.env });
  await using resumed = await connect(open, { token: "secret", resume: resumeState });
  const { jobs } = await resumed.listJobs();
  assert.deepEqual(
    jobs.map((job) => [job.job_id, job.status]),
    [[id, "success"]],
  );
});

test("[CLI-8, RES-11] a session goes on with a new child when the first one is killed", DEADLINE, async () => {
  await using home = await newHome();
  const children: ReturnType<typeof home.start>[] = [];
  const open = async () => {
    const child = home.start("--drain", "0");
    children.push(child);
    return child.transport;
  };
  await using session = await connect(open, { token: "secret", reconnect: { initialMs: 1, maxMs: 1 } });
  assert.equal(await (await session.submit("echo", "before")).result, "before");
  children[0]?.process.kill("SIGKILL");
  assert.equal(await (await session.submit("echo", "after")).result, "after");
  assert.equal(children.length, 2);
});

test("[CLI-8] a wrong token is answered, then the server is gone", DEADLINE, async () => {
  await using home = await newHome();
  const child = home.start();
  await assert.rejects(
    connect(async () => child.transport, { token: "wrong" }),
    { code: "UNAUTHENTICATED" },
  );
  assert.deepEqual(await child.exited, [0, null]);
});

test("[CLI-8] without a token, and with a port, it is wrong use", DEADLINE, async () => {
  await using home = await newHome();
  for (const [flags, env, complaint] of [
    [[], { HOLDFAST_TOKENS: "" }, /^holdfast: --stdio needs a token that the client knows; give --token/],
    [["--port", "0"], {}, /^holdfast: option '--stdio' cannot be used with option '--port/],
  ] as const) {
    const child = spawn(process.execPath, [...SERVE, ...flags], { env: { ...home.env, ...env } });
    const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
    assert.deepEqual([out, status], ["", 2]);
    assert.match(err, complaint);
    assert.equal(err.trimEnd().split("\n").length, 1);
  }
});

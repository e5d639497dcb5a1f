/** Turns, conversations and locks on the command line: real processes, one server. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { connect, type Session, type TurnKey, type TurnOptions } from "../src/client/index.ts";
import { spawnStdio } from "../src/transport/stdio.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE = { timeout: 60_000 };
/** How long the one server may live that all tests here share. */
const WHOLE_FILE_MS = 600_000;
const ENDLESS = '{"n":2,"every_ms":3600000}';
const SHORT = '{"n":1,"every_ms":0}';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let server: ChildProcess;
/** Of alice, for whom the commands speak unless they are told otherwise; she is an operator, and bob is none. */
let session: Session;

function start(args: readonly string[], timeout = 60_000) {
  const env = { PATH: process.env["PATH"], HOLDFAST_ACTIVE_SESSIONS: "0", HOLDFAST_HOME: folder.path };
  return spawn(process.execPath, [MAIN, ...args], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout,
    killSignal: "SIGKILL",
  });
}

interface Outcome {
  status: number;
  out: string;
  err: string;
}

async function holdfast(...args: string[]): Promise<Outcome> {
  const child = start(args);
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  return { status: status as number, out, err };
}

async function json(...args: string[]): Promise<Record<string, unknown>[]> {
  const { status, out, err } = await holdfast(...args, "--json");
  assert.deepEqual([status, err], [0, ""]);
  return out
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** One complaint on standard error and nothing else. */
function assertComplaint(outcome: Outcome, complaint: RegExp, status = 1): void {
  assert.match(outcome.err, complaint);
  assert.deepEqual([outcome.err.trimEnd().split("\n").length, outcome.out, outcome.status], [1, "", status]);
}

const turn = (key: string, input: string, ...more: string[]) => [
  ...["turn", "--key", key, "--agent", "ticker", input],
  ...more,
];

interface Accepted {
  job_id: string;
  turn: { conversation_id: string; created: boolean; state: string; place?: number };
}

const speak = async (key: string, input: string, ...more: string[]): Promise<Accepted> =>
  (await json(...turn(key, input, ...more)))[0] as unknown as Accepted;

before(async () => {
  folder = await temporaryFolder();
  const serving = start(
    [
      ...["serve", "--demo", "--port", "0", "--json", "--drain", "0", "--max-queued", "2"],
      ...["--token", "alices=alice", "--token", "bobs=bob", "--operator", "alice"],
    ],
    WHOLE_FILE_MS,
  );
  server = serving;
  serving.stderr.resume();
  const [line] = (await once(createInterface({ input: serving.stdout }), "line")) as [string];
  session = await connect((JSON.parse(line) as { url: string }).url, { token: "alices" });
});

after(async () => {
  await session.close();
  server.kill("SIGKILL");
  await once(server, "exit");
  await folder[Symbol.asyncDispose]();
});

test("[CLI-16] a turn runs at once, the next waits in its place, and one message is one turn", DEADLINE, async () => {
  const key = "slack:C1/1700.1";
  const first = await speak(key, ENDLESS, "--message-id", "m-1");
  assert.deepEqual([first.turn.created, first.turn.state], [true, "running"]);
  const second = await holdfast(...turn(key, SHORT));
  assert.match(
    second.out,
    /^ticker@1\.0\.0 waits as (job_\w+), place 1 in slack_\w+; see it with: holdfast watch job_/,
  );
  assert.deepEqual([second.status, second.err], [0, ""]);
  const third = await speak(key, SHORT);
  assert.deepEqual([third.turn.state, third.turn.place], ["queued", 2]);
  assertComplaint(await holdfast(...turn(key, SHORT)), /CONVERSATION_BUSY: The conversation's queue is full: job_/);
  const again = await speak(key, ENDLESS, "--message-id", "m-1");
  assert.deepEqual([again.job_id, again.turn.state], [first.job_id, "repeated"]);
  assertComplaint(
    await holdfast(...turn(key, SHORT, "--on-busy", "reject")),
    new RegExp(`^holdfast: CONVERSATION_BUSY: The conversation is busy: ${first.job_id} runs`),
  );

  const next = await holdfast(...turn(key, SHORT, "--on-busy", "interrupt", "--follow"));
  // The queue is full: so nothing is interrupted either.
  assertComplaint(next, /queue is full/);
  assert.equal((await holdfast("cancel", third.job_id)).status, 0);
  const ahead = await holdfast(...turn(key, SHORT, "--on-busy", "interrupt", "--follow"));
  assert.equal(ahead.status, 0, ahead.err);
  const [standing, tick, end] = ahead.out.split("\n");
  assert.match(standing ?? "", /waits as job_\w+, place 1 in slack_/);
  assert.match(tick ?? "", /tick 0$/);
  assert.match(end ?? "", /^ticker@1\.0\.0 succeeded/);
  assertComplaint(await holdfast("result", first.job_id), /ended cancelled/);
  const [, secondId = ""] = /as (job_\w+)/.exec(second.out) ?? [];
  assert.equal((await holdfast("result", secondId, "--wait")).status, 0);
});

test("[CLI-16] Ctrl-C cancels a turn that waits, and the one that runs goes on", DEADLINE, async () => {
  const running = await speak("cli:interrupted", ENDLESS);
  const child = start(turn("cli:interrupted", SHORT, "--follow", "--json"));
  const ended = once(child, "exit");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const accepted = JSON.parse((await lines.next()).value as string) as Accepted;
  assert.deepEqual([accepted.turn.state, accepted.turn.place], ["queued", 1]);
  child.kill("SIGINT");
  const end = JSON.parse((await lines.next()).value as string) as Record<string, unknown>;
  assert.deepEqual([end["type"], end["job_id"], end["final_status"]], ["end", accepted.job_id, "cancelled"]);
  assert.deepEqual(await ended, [1, null]);
  const [{ queued, lock } = {}] = await json("conversations", running.turn.conversation_id);
  assert.deepEqual([queued, (lock as Accepted).job_id], [0, running.job_id]);
  await holdfast("cancel", running.job_id);
});

test("[CLI-16] what cannot be is told by its name", DEADLINE, async () => {
  const wrong: [string[], RegExp, number?][] = [
    [["--key", "fax:1", "--agent", "echo"], /--key.*key\.source: "fax" is none of slack, web, cli/, 2],
    [["--key", "slack:C1", "--agent", "echo"], /--key.*is not slack:CHANNEL\/THREAD/, 2],
    [["--agent", "echo"], /required option '--key <key>'/, 2],
    [["--key", "cli:x"], /required option '--agent <agent>'/, 2],
    [["--key", "cli:x", "--agent", "echo", "--on-busy", "shout"], /--on-busy.*Allowed choices are reject, enqueue/, 2],
    [["--key", "cli:x", "--agent", "echo", "{"], /The input is not JSON/, 2],
    [["--key", "cli:x", "--agent", "none"], /AGENT_NOT_AVAILABLE: payload\.agent: .*none/],
    [["--key", "cli:x", "--agent", "echo", "--message-id", ""], /INVALID_REQUEST: .*messageId: ""/],
    [["--key", "cli:x", "--agent", "echo", "--user", "eve", "--token", "bobs"], /PERMISSION_DENIED: .*user_id/],
    [["--key", "slack:C1/2", "--agent", "echo", "--token", "bobs"], /PERMISSION_DENIED: .*key.*operators/],
    [["--key", "cli:x", "--agent", "echo", "--lease", "fs.read=/etc/**"], /PERMISSION_DENIED: .*fs\.read/],
  ];
  for (const [args, complaint, status] of wrong) assertComplaint(await holdfast("turn", ...args), complaint, status);
});

/** What a program without types may send. */
const untyped = (text: string): unknown => JSON.parse(text);

test("[TRN-8] over the wire an onBusy or a key that cannot be is told by its field", DEADLINE, async () => {
  const refused: [Promise<unknown>, RegExp][] = [
    [
      session.turn("cli:x", "echo", 1, untyped('{"onBusy":"shout"}') as TurnOptions),
      /x-vendor\.holdfast\.turn"\]\.onBusy: "shout" is none of/,
    ],
    [session.turn("fax:1", "echo"), /key\.source: "fax"/],
    [session.turn({ source: "slack", channel: "C1" }, "echo"), /\.key\.thread: undefined is not a text/],
    [session.turn(untyped("null") as TurnKey, "echo"), /x-vendor\.holdfast\.turn"\]\.key: null is not an object/],
  ];
  for (const [submitting, complaint] of refused) {
    await assert.rejects(submitting, (error: Error) => {
      assert.match(error.message, complaint);
      return "code" in error && error.code === "INVALID_REQUEST";
    });
  }
});

test("[JOB-5] an idempotency key is good for one turn, not for another conversation's", DEADLINE, async () => {
  const options = { idempotencyKey: "k-1" };
  const job = await session.turn("cli:one", "echo", 1, options);
  await job.result;
  assert.equal((await session.turn("cli:one", "echo", 1, options)).id, job.id);
  for (const submitting of [session.turn("cli:two", "echo", 1, options), session.submit("echo", 1, options)]) {
    await assert.rejects(submitting, (error: Error) => "code" in error && error.code === "DUPLICATE_KEY");
  }
});

test("[CLI-17] conversations are listed, shown and deleted, and a foreign one is not there", DEADLINE, async () => {
  const job = await session.turn({ source: "cli", name: "a\u202eb/%" }, "ticker", JSON.parse(ENDLESS), {
    userId: "U1\u202e",
  });
  await session.turn("cli:a\u202eb%2F%25", "echo", 1);
  const id = job.turn?.conversationId ?? "";
  const listed = await holdfast("conversations", "--locked");
  assert.deepEqual([listed.status, listed.err], [0, ""]);
  const row = listed.out.split("\n").find((line) => line.includes(id));
  assert.match(row ?? "", new RegExp(`│ cli:ab%2F%25 +│ alice +│ ${job.id} │ 1 +│`));
  assert.ok(!listed.out.includes("\u202e"));

  const shown = await holdfast("conversations", id);
  assert.deepEqual([shown.status, shown.err], [0, ""]);
  assert.match(shown.out, /^key +cli:ab%2F%25$/m);
  assert.match(shown.out, new RegExp(`^lock +${job.id}, epoch 1$`, "m"));
  assert.match(shown.out, new RegExp(`^held by +process ${server.pid} on `, "m"));
  assert.match(shown.out, /^first spoke +U1, /m);
  assert.match(shown.out, /│ job_\w+ +│ echo@1\.0\.0 +│ alice +│ queued, place 1 +│/);
  assert.ok(!shown.out.includes("\u202e"));

  assertComplaint(await holdfast("conversations", "delete", id), /CONVERSATION_BUSY|The conversation is busy/);
  for (const command of [
    ["conversations", id],
    ["conversations", "delete", id],
  ]) {
    assertComplaint(await holdfast(...command, "--token", "bobs"), /No conversation \w+ of yours is there/);
  }
  const bobs = await holdfast("conversations", "--token", "bobs");
  assert.deepEqual([bobs.status, bobs.out, bobs.err], [0, "", "No conversations.\n"]);
  await job.cancel();
  await job.terminal;
  await session.turn("cli:a\u202eb%2F%25", "echo", 1).then((last) => last.result);
  assert.deepEqual(await json("conversations", "delete", id), [{ conversation_id: id, outcome: "deleted" }]);
  assertComplaint(
    await holdfast("conversations", id),
    /No conversation \w+ of yours is there; `holdfast conversations`/,
  );
  assertComplaint(await holdfast("conversations", "--limit", "0"), /Give a number from 1 to 1000/, 2);
});

test("[CLI-18] locks are listed, and broken by an operator with a reason", DEADLINE, async () => {
  const child = start(turn("cli:stuck", ENDLESS, "--follow", "--json"));
  const ended = once(child, "exit");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const accepted = JSON.parse((await lines.next()).value as string) as Accepted;
  const id = accepted.turn.conversation_id;
  const listed = await holdfast("locks");
  assert.match(listed.out, new RegExp(`│ ${id} │ ${accepted.job_id} │ \\d+ +│ process ${server.pid} on `));
  const lock = (await json("locks")).find((one) => one["conversation_id"] === id);
  assert.deepEqual([lock?.["job_id"], lock?.["pid"]], [accepted.job_id, server.pid]);

  const breaking = ["locks", "break", id, "--reason", "it hangs"];
  assertComplaint(await holdfast("locks", "break", id), /required option '--reason <text>'/, 2);
  assertComplaint(await holdfast("locks", "break", id, "--reason", " "), /body\.reason: say why/);
  assertComplaint(await holdfast(...breaking, "--token", "bobs"), /PERMISSION_DENIED: Only an operator/);
  const broken = await holdfast(...breaking);
  assert.deepEqual(
    [broken.status, broken.out, broken.err],
    [0, `The lock of ${id} is free; ${accepted.job_id} has lost it.\n`, ""],
  );
  let end: Record<string, unknown> = {};
  for (let step = await lines.next(); step.done !== true; step = await lines.next()) end = JSON.parse(step.value);
  assert.equal(end["final_status"], "error");
  assert.match(String(end["message"]), /it hangs/);
  assert.deepEqual(await ended, [1, null]);
  assertComplaint(await holdfast(...breaking), /nobody holds the lock/);
  assertComplaint(await holdfast("locks", "break", "cli_none", "--reason", "x"), /No conversation cli_none of yours/);
});

test("[SRV-19] what serve makes a token for is its starter's and an operator's", DEADLINE, async () => {
  await using home = await temporaryFolder();
  const env = { PATH: process.env["PATH"], HOLDFAST_ACTIVE_SESSIONS: "0", HOLDFAST_HOME: home.path };
  const child = spawn(process.execPath, [MAIN, "serve", "--port", "0", "--demo"], {
    env,
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    let banner = "";
    for await (const line of createInterface({ input: child.stdout })) {
      banner += `${line}\n`;
      if (/^ {2}stop/.test(line)) break;
    }
    const [, url = ""] = /serves (\S+)/.exec(banner) ?? [];
    const [, token = ""] = /token +(hf_\S+) .*an operator/.exec(banner) ?? [];
    await using own = await connect(url, { token });
    const job = await own.turn("slack:C1/1700.1", "echo", "hello");
    assert.equal(await job.result, "hello");
  } finally {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});

test("[CLI-19] over stdio there are turns too, with the limits that were given", DEADLINE, async () => {
  await using home = await temporaryFolder();
  const env = { PATH: process.env["PATH"], HOLDFAST_ACTIVE_SESSIONS: "0", HOLDFAST_HOME: home.path };
  const limits = ["--operator", "alice", "--max-queued", "0", "--lock-ttl", "60", "--log-level", "error"];
  const command = [MAIN, "serve", "--stdio", "--demo", "--token", "t=alice", ...limits];
  await using own = await connect(() => spawnStdio(process.execPath, command, { env }), { token: "t" });
  const job = await own.turn("slack:C1/1700.1", "ticker", JSON.parse(ENDLESS));
  assert.equal(job.turn?.state, "running");
  await assert.rejects(own.turn("slack:C1/1700.1", "echo", 1), /queue is full/);
  await job.cancel();
  await job.terminal;
});

test("[CLI-19] a limit that cannot be is told by its option", DEADLINE, async () => {
  for (const [flag, value, complaint] of [
    ["--lock-ttl", "0", /--lock-ttl.*more than 0 seconds/],
    ["--lock-ttl", "100000", /--lock-ttl.*at most 86400 seconds/],
    ["--max-queued", "-1", /--max-queued.*whole number from 0/],
    ["--max-queued", "1.5", /--max-queued.*whole number from 0/],
  ] as const) {
    assertComplaint(await holdfast("serve", "--port", "0", `${flag}=${value}`), complaint, 2);
  }
});

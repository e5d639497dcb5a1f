/** Conversations and locks over `/v1`. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { FaultyStore } from "../../../test/faulty-store.ts";
import { connect, type JobHandle } from "../../client/index.ts";
import { Conversations, type ConversationsOptions, conversationIdOf } from "../../conversation/index.ts";
import { type AgentHandler, Runtime, type RuntimeOptions } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { FakeBackend } from "../../testing/fake-backend.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";

const DEADLINE = { timeout: 20_000 };

const wait: AgentHandler = async (_, job) => {
  await job.log("waiting");
  await job.sleep(3_600_000);
};

interface Answer {
  status: number;
  type: string | null;
  json: Record<string, unknown>;
}

type Row = Record<string, unknown>;

/** A server with conversations, sessions of alice, bob and the operator olga, and what asks its API. */
async function newServer(
  stack: AsyncDisposableStack,
  options: Partial<RuntimeOptions> = {},
  kept: ConversationsOptions = {},
) {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-v1-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const store = new FaultyStore(sqlite(path.join(root, "test.db")));
  const auth = bearerTokens({ alices: "alice", bobs: "bob", olgas: { principal: "olga", operator: true } });
  const runtime = new Runtime({ store, auth, ...options });
  runtime.agent("wait", wait).agent("echo", (input) => input);
  const conversations = new Conversations(runtime, kept);
  const server = await serve(runtime, { port: 0, conversations });
  stack.defer(() => server.stop({ drainMs: 0 }));
  const session = async (token: string) => stack.use(await connect(server.url, { token }));
  const ask = async (
    target: string,
    asking: { token?: string; method?: string; body?: string } = {},
  ): Promise<Answer> => {
    const { token = "alices", method = "GET", body } = asking;
    const response = await fetch(`http://127.0.0.1:${server.port}/v1${target}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: body ?? null,
    });
    const json = (await response.json()) as Record<string, unknown>;
    return { status: response.status, type: response.headers.get("content-type"), json };
  };
  return { store, ask, conversations, alice: await session("alices"), session };
}

const idsOf = (answer: Answer, list = "conversations"): unknown[] =>
  (answer.json[list] as Row[]).map((row) => row["conversation_id"]);

test("[SRV-17] a conversation is shown with the sessions that it has with agent backends", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const backends = [new FakeBackend({ name: "one" }), new FakeBackend({ name: "two" })];
  const { ask, alice, store } = await newServer(stack, {}, { upstream: { backends } });
  await (await alice.turn("cli:notes", "echo", 1)).result;
  const conversationId = conversationIdOf({ source: "cli", name: "notes" }, "alice");
  const ref = { conversationId, backend: "two" };
  await store.bindings.claim({ ...ref, nonce: "n", staleBefore: 0, maxNoted: 10, now: 1_000 });
  const { json } = await ask(`/conversations/${conversationId}`);
  assert.deepEqual(json["bindings"], [
    { backend: "two", state: "binding", generation: 1, upstream_id: null, changed_at: "1970-01-01T00:00:01.000Z" },
  ]);
  assert.equal((await ask(`/conversations/${conversationId}`, { token: "bobs" })).status, 404);
});

test("[SRV-17] a conversation is shown with its lock and its turns with their places", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, alice } = await newServer(stack);
  const first = await alice.turn("cli:notes", "wait", 1, { messageId: "m-1" });
  const second = await alice.turn("cli:notes", "echo", 2);
  const third = await alice.turn("cli:notes", "echo", 3);
  assert.deepEqual([second.turn?.place, third.turn?.place], [1, 2]);
  const id = conversationIdOf({ source: "cli", name: "notes" }, "alice");
  assert.equal(first.turn?.conversationId, id);

  const { status, json } = await ask(`/conversations/${id}`);
  const { lock, turns, created_at: createdAt, active_at: activeAt, ...rest } = json;
  assert.equal(status, 200);
  assert.deepEqual(rest, {
    conversation_id: id,
    source: "cli",
    key: { source: "cli", name: "notes" },
    principal: "alice",
    user_id: "alice",
    queued: 2,
    bindings: [],
  });
  assert.ok(Date.parse(String(createdAt)) <= Date.parse(String(activeAt)));
  const { since, until, node_id: nodeId, host, ...held } = lock as Row;
  assert.deepEqual(held, { holder: first.id, epoch: 1, pid: process.pid, job_id: first.id });
  assert.ok(typeof nodeId === "string" && typeof host === "string");
  assert.ok(Date.parse(String(until)) > Date.parse(String(since)));
  assert.deepEqual(
    (turns as Row[]).map((turn) => ({ ...turn, submitted_at: "" })),
    [
      { job_id: first.id, state: "running", status: "running", message_id: "m-1", epoch: 1 },
      { job_id: second.id, state: "queued", status: "pending", place: 1 },
      { job_id: third.id, state: "queued", status: "pending", place: 2 },
    ].map((turn, index) => ({
      agent: index === 0 ? "wait@1.0.0" : "echo@1.0.0",
      user_id: "alice",
      submitted_at: "",
      ...turn,
    })),
  );

  await first.cancel();
  assert.deepEqual(await Promise.all([second.result, third.result]), [2, 3]);
  const { json: after } = await ask(`/conversations/${id}`);
  assert.deepEqual([after["lock"], after["queued"]], [null, 0]);
  assert.deepEqual(
    (after["turns"] as Row[]).map(({ job_id, state, status }) => [job_id, state, status]),
    [
      [third.id, "ended", "success"],
      [second.id, "ended", "success"],
      [first.id, "ended", "cancelled"],
    ],
  );
});

test("[SRV-17] conversations are listed newest activity first, in pages, and by their locks", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const { ask, alice } = await newServer(stack, { clock });
  const ids: string[] = [];
  let running: JobHandle | undefined;
  for (const name of ["one", "two", "three"]) {
    const job = await alice.turn(`cli:${name}`, name === "two" ? "wait" : "echo", name);
    if (name === "two") running = job;
    else await job.terminal;
    ids.unshift(job.turn?.conversationId ?? "");
    await clock.advance(10);
  }
  const page = await ask("/conversations?limit=2");
  assert.deepEqual(idsOf(page), ids.slice(0, 2));
  const rest = await ask(`/conversations?limit=2&cursor=${encodeURIComponent(String(page.json["next_cursor"]))}`);
  assert.deepEqual([idsOf(rest), rest.json["next_cursor"]], [ids.slice(2), null]);
  assert.deepEqual(idsOf(await ask("/conversations?locked=true")), [ids[1]]);
  assert.deepEqual(idsOf(await ask("/conversations?locked=false")), ids);
  // Nobody moves the clock while the server stops.
  await running?.cancel();
  await running?.terminal;
});

test("[SRV-17] a foreign conversation is not there, except for an operator", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, alice } = await newServer(stack);
  const job = await alice.turn("cli:notes", "echo", 1);
  await job.result;
  const id = job.turn?.conversationId ?? "";
  for (const method of ["GET", "DELETE"]) {
    const [theirs, nobodys] = [
      await ask(`/conversations/${id}`, { method, token: "bobs" }),
      await ask("/conversations/cli_none", { method, token: "bobs" }),
    ];
    assert.deepEqual([theirs.status, theirs.type], [404, "application/problem+json"]);
    assert.deepEqual(JSON.parse(JSON.stringify(theirs.json).replace(id, "cli_none")), nobodys.json);
  }
  assert.deepEqual(idsOf(await ask("/conversations", { token: "bobs" })), []);
  assert.deepEqual(idsOf(await ask("/conversations", { token: "olgas" })), [id]);
  assert.equal((await ask(`/conversations/${id}`, { token: "olgas" })).status, 200);
  assert.equal((await ask("/conversations", { token: "wrong" })).status, 401);
  const gone = await ask(`/conversations/${id}`, { method: "DELETE" });
  assert.deepEqual([gone.status, gone.json], [200, { conversation_id: id, outcome: "deleted" }]);
  assert.equal((await ask(`/conversations/${id}`)).status, 404);
  assert.equal((await ask(`/conversations/${id}`, { method: "DELETE" })).status, 404);
  assert.equal((await ask(`/jobs/${job.id}`)).status, 200);
});

test("[SRV-17] a conversation in which somebody is at work is not deleted", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, alice } = await newServer(stack);
  const job = await alice.turn("cli:notes", "wait");
  const refused = await ask(`/conversations/${job.turn?.conversationId}`, { method: "DELETE" });
  assert.deepEqual([refused.status, refused.json["code"]], [409, "AGENT_NOT_AVAILABLE"]);
  assert.equal((refused.json["details"] as Row)["code"], "CONVERSATION_BUSY");
});

test("[SRV-12] an operator cancels anybody's turn that waits, with a line for the audit", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const audit: object[] = [];
  const ignore = () => undefined;
  const info = (fields: object) => void ("audit" in fields && audit.push(fields));
  const { ask, alice } = await newServer(stack, { logger: { debug: ignore, info, warn: ignore, error: ignore } });
  const first = await alice.turn("cli:notes", "wait");
  const waiting = await alice.turn("cli:notes", "wait");
  const cancel = (token: string) => ask(`/jobs/${waiting.id}/cancel`, { method: "POST", token });
  const refused = await cancel("bobs");
  assert.deepEqual([refused.status, refused.json["code"]], [404, "JOB_NOT_FOUND"]);
  const answer = await cancel("olgas");
  assert.deepEqual([answer.status, answer.json["outcome"]], [202, "requested"]);
  assert.equal((await waiting.terminal).final_status, "cancelled");
  assert.deepEqual(audit, [{ audit: "job.cancel", principal: "olga", job_id: waiting.id, outcome: "ended" }]);
  await first.cancel();
});

test("[SRV-18] locks are listed, and an operator breaks one, with a line for the audit", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const audit: object[] = [];
  const ignore = () => undefined;
  const info = (fields: object) => void ("audit" in fields && audit.push(fields));
  const logger = { debug: ignore, info, warn: ignore, error: ignore };
  const { ask, alice, session } = await newServer(stack, { logger });
  const job = await alice.turn("cli:notes", "wait");
  const next = await alice.turn("cli:notes", "echo", "next");
  const id = job.turn?.conversationId ?? "";
  const olga = await session("olgas");
  await olga.turn("slack:C1/1700.1", "wait");

  const [lock] = (await ask("/locks")).json["locks"] as Row[];
  assert.deepEqual([lock?.["conversation_id"], lock?.["holder"], lock?.["epoch"]], [id, job.id, 1]);
  assert.equal(idsOf(await ask("/locks", { token: "olgas" }), "locks").length, 2);
  assert.deepEqual(idsOf(await ask("/locks", { token: "bobs" }), "locks"), []);

  const breakIt = (token: string, body = '{"reason":"it hangs"}', of = id) =>
    ask(`/conversations/${of}/lock/break`, { method: "POST", token, body });
  for (const token of ["alices", "bobs"]) {
    const { status, json } = await breakIt(token);
    assert.deepEqual([status, json["code"]], [403, "PERMISSION_DENIED"]);
  }
  assert.equal((await breakIt("alices", "{}", "cli_none")).status, 403);
  for (const body of [
    "",
    "{}",
    '{"reason":""}',
    '{"reason":" "}',
    '{"reason":7}',
    `{"reason":"${"x".repeat(1025)}"}`,
  ]) {
    const { status, json } = await breakIt("olgas", body);
    assert.equal(status, 400, body);
    assert.match(String(json["detail"]), /^body\.reason: /);
  }
  assert.deepEqual(audit, []);

  const broken = await breakIt("olgas");
  assert.deepEqual([broken.status, broken.json["outcome"]], [200, "broken"]);
  assert.equal((broken.json["lock"] as Row)["holder"], job.id);
  const end = await job.terminal;
  assert.deepEqual([end.final_status, end.final_status !== "success" && end.details?.["code"]], ["error", "LOCK_LOST"]);
  assert.match(String(end.message), /it hangs/);
  assert.equal(await next.result, "next");
  assert.deepEqual(audit, [
    {
      audit: "lock.break",
      principal: "olga",
      reason: "it hangs",
      conversation_id: id,
      holder: job.id,
      job_id: job.id,
    },
  ]);

  const free = await breakIt("olgas");
  assert.deepEqual([free.status, free.json["code"]], [409, "INVALID_REQUEST"]);
  assert.match(String(free.json["detail"]), /nobody holds the lock/);
  assert.equal((await breakIt("olgas", undefined, "cli_none")).status, 404);
});

test("[SRV-14] what is wrong with a request about conversations is a problem that names it", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newServer(stack);
  const cases: [Promise<Answer>, number, RegExp][] = [
    [ask("/conversations?limit=0"), 400, /^query\.limit: /],
    [ask("/conversations?locked=yes"), 400, /^query\.locked: must be true or false/],
    [ask("/conversations?cursor=nonsense"), 400, /^cursor: /],
    [ask("/conversations?status=x"), 400, /^query: .*status/],
    [ask("/locks?locked=true"), 400, /^query: .*locked/],
    [ask("/locks?limit=1001"), 400, /^query\.limit: /],
    [ask("/conversations", { method: "POST" }), 405, /GET, HEAD is/],
    [ask("/conversations/x", { method: "POST" }), 405, /DELETE/],
    [ask("/conversations/x/lock/break"), 405, /POST is/],
    [ask("/locks", { method: "DELETE" }), 405, /GET, HEAD is/],
  ];
  for (const [asked, status, detail] of cases) {
    const answer = await asked;
    assert.match(String(answer.json["detail"]), detail);
    assert.deepEqual([answer.status, answer.type], [status, "application/problem+json"]);
  }
});

test("[SRV-14] while the store does not answer about conversations it is 503; then all is well", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, store } = await newServer(stack);
  store.goDown();
  const breaking = { method: "POST", token: "olgas", body: '{"reason":"x"}' };
  for (const asked of [ask("/conversations"), ask("/locks"), ask("/conversations/x/lock/break", breaking)]) {
    const { status, json } = await asked;
    assert.deepEqual([status, json["details"]], [503, { code: "STORE_UNAVAILABLE" }]);
  }
  store.recover();
  assert.equal((await ask("/conversations")).status, 200);
});

test("[SRV-17] a server without conversations serves nothing about them", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-v1-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const runtime = new Runtime({ store: sqlite(path.join(root, "test.db")), auth: bearerTokens({ alices: "alice" }) });
  const server = stack.use(await serve(runtime, { port: 0 }));
  const headers = { authorization: "Bearer alices" };
  for (const target of ["conversations", "conversations/x", "locks"]) {
    assert.equal((await fetch(`http://127.0.0.1:${server.port}/v1/${target}`, { headers })).status, 404);
  }
  const session = stack.use(await connect(server.url, { token: "alices" }));
  await assert.rejects(session.turn("cli:notes", "echo"), /echo|no conversations/);
});

/** Jobs and turns that are submitted over HTTP, and what a console looks at. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { type Answer, newHttpServer } from "../../../test/http-server.ts";
import { connect } from "../../client/index.ts";
import { ManualClock } from "../../testing/manual-clock.ts";

const DEADLINE = { timeout: 30_000 };

type Row = Record<string, unknown>;

test(
  "[SRV-25] a job is submitted and runs; a repeat with the key finds it, a changed body is refused",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { ask } = await newHttpServer(stack);
    const submit = (body: object, key?: string, token = "alices") =>
      ask("/v1/jobs", { method: "POST", token, body, headers: key === undefined ? {} : { "idempotency-key": key } });
    const first = await submit({ agent: "wait", input: { a: 1, b: 2 } }, "k");
    assert.equal(first.status, 201);
    assert.equal(first.headers["location"], `/v1/jobs/${first.json["job_id"]}`);
    assert.deepEqual(
      [first.json["agent"], first.json["status"], first.json["principal"]],
      ["wait@1.0.0", "running", "alice"],
    );
    const again = await submit({ input: { b: 2, a: 1 }, agent: "wait" }, "k");
    assert.deepEqual([again.status, again.json["job_id"]], [200, first.json["job_id"]]);
    const changed = await submit({ agent: "wait", input: { a: 2, b: 2 } }, "k");
    assert.deepEqual([changed.status, changed.json["code"]], [409, "DUPLICATE_KEY"]);
    assert.equal((await submit({ agent: "wait", input: 3 }, "k", "bobs")).status, 201);
    assert.notEqual((await submit({ agent: "wait" })).json["job_id"], first.json["job_id"]);
  },
);

test("[SRV-25] a key of the wire and one of HTTP are the same", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, server } = await newHttpServer(stack);
  const session = stack.use(await connect(server.url, { token: "alices" }));
  const job = await session.submit("echo", { a: 1 }, { idempotencyKey: "k" });
  const body = { agent: "echo", input: { a: 1 } };
  const answer = await ask("/v1/jobs", { method: "POST", body, headers: { "idempotency-key": "k" } });
  assert.deepEqual([answer.status, answer.json["job_id"]], [200, job.id]);
});

test("[SRV-25] what is wrong with a submit is named, and nothing is run", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack, { runtime: { maxInputBytes: 1_000, maxRunningJobsPerPrincipal: 1 } });
  const cases: [object, number, string, RegExp][] = [
    [{}, 400, "INVALID_REQUEST", /^body\.agent: /],
    [{ agent: "echo", inptu: 1 }, 400, "INVALID_REQUEST", /inptu/],
    [{ agent: "nobody" }, 404, "AGENT_NOT_AVAILABLE", /^body\.agent: no agent "nobody"/],
    [{ agent: "echo@7" }, 404, "AGENT_VERSION_NOT_AVAILABLE", /^body\.agent: /],
    [{ agent: "echo", input: "x".repeat(1_000) }, 400, "INVALID_REQUEST", /^body\.input: takes 1002 bytes/],
    [{ agent: "echo", lease_request: { "fs.read": ["/etc/**"] } }, 403, "PERMISSION_DENIED", /fs\.read/],
    [
      { agent: "echo", lease_constraints: { expires_at: "2001-01-01T00:00:00Z" } },
      400,
      "INVALID_REQUEST",
      /^body\.lease_constraints\.expires_at: /,
    ],
  ];
  for (const [body, status, code, detail] of cases) {
    const answer = await ask("/v1/jobs", { method: "POST", body });
    assert.deepEqual([answer.status, answer.json["code"]], [status, code], answer.text);
    assert.match(String(answer.json["detail"]), detail);
  }
  assert.deepEqual((await ask("/v1/jobs")).json["jobs"], []);
  const headers = { "idempotency-key": "x".repeat(257) };
  assert.equal((await ask("/v1/jobs", { method: "POST", body: { agent: "echo" }, headers })).status, 400);
  assert.equal((await ask("/v1/jobs", { method: "POST", body: { agent: "wait" } })).status, 201);
  const full = await ask("/v1/jobs", { method: "POST", body: { agent: "wait" } });
  assert.deepEqual([full.status, full.headers["retry-after"]], [429, "1"]);
});

test("[SRV-25] a job that the store took too late, without a key, never runs", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const ran: unknown[] = [];
  const { ask, store } = await newHttpServer(stack, {
    runtime: { clock },
    prepare: (runtime) => void runtime.agent("note", (input) => void ran.push(input)),
  });
  const late = async (input: string, headers: Record<string, string> = {}) => {
    store.stall();
    let answer: Answer | undefined;
    void ask("/v1/jobs", { method: "POST", body: { agent: "note", input }, headers }).then((given) => {
      answer = given;
    });
    while (answer === undefined) await clock.advance(1_000);
    assert.deepEqual([answer.status, answer.json["retryable"]], [503, true]);
    store.recover();
  };
  await late("lost");
  await late("kept", { "idempotency-key": "k" });
  const statuses = async () => ((await ask("/v1/jobs")).json["jobs"] as Row[]).map(({ status }) => status);
  while ((await statuses()).some((status) => status === "running")) await clock.advance(100);
  assert.deepEqual(await statuses(), ["success", "error"]);
  assert.deepEqual(ran, ["kept"]);
});

test("[SRV-25] an input may be as long as on the wire", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack);
  const input = "x".repeat(1024 * 1024 - 2);
  const submitted = await ask("/v1/jobs", { method: "POST", body: { agent: "echo", input } });
  assert.equal(submitted.status, 201);
  const tooLong = await ask("/v1/jobs", { method: "POST", body: { agent: "echo", input: "x".repeat(1_200_000) } });
  assert.equal(tooLong.status, 413);
});

test(
  "[SRV-31] a turn runs or waits for its place; a message has one; channels' keys are not for users",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { ask } = await newHttpServer(stack);
    const turn = (body: object, token = "alices") => ask("/v1/turns", { method: "POST", token, body });
    const first = await turn({ key: "cli:notes", agent: "wait", message_id: "m-1" });
    assert.deepEqual([first.status, first.json["state"], first.json["created"]], [201, "running", true]);
    const id = String(first.json["conversation_id"]);
    const second = await turn({ conversation_id: id, agent: "echo", input: 2 });
    assert.deepEqual([second.status, second.json["state"], second.json["place"]], [202, "queued", 1]);
    const repeated = await turn({ key: { source: "cli", name: "notes" }, agent: "wait", message_id: "m-1" });
    assert.deepEqual([repeated.status, repeated.json["job_id"]], [200, first.json["job_id"]]);
    const busy = await turn({ key: "cli:notes", agent: "echo", on_busy: "reject" });
    assert.deepEqual([busy.status, (busy.json["details"] as Row)["code"]], [409, "CONVERSATION_BUSY"]);
    const shown = (await ask(`/v1/conversations/${id}`)).json;
    assert.deepEqual(
      (shown["turns"] as Row[]).map(({ state }) => state),
      ["running", "queued"],
    );

    assert.equal((await turn({ conversation_id: id, agent: "echo" }, "bobs")).json["status"], 404);
    const slack = { key: { source: "slack", channel: "C1", thread: "1.2" }, agent: "echo" };
    const denied = await turn(slack);
    assert.deepEqual([denied.status, denied.json["code"]], [403, "PERMISSION_DENIED"]);
    assert.match(String(denied.json["detail"]), /^body\.key: /);
    assert.equal((await turn(slack, "olgas")).status, 201);
    assert.match(
      String((await turn({ key: "cli:x", agent: "echo", user_id: "bob" })).json["detail"]),
      /^body\.user_id: /,
    );
    assert.match(String((await turn({ agent: "echo" })).json["detail"]), /^body: give either/);
    assert.equal((await turn({ key: "cli:x", agent: "echo" }, "ottos")).status, 403);
  },
);

test(
  "[SRV-29] sessions are told to their principal, all to an operator, with state, numbers and lag",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { ask, server, runtime } = await newHttpServer(stack);
    const alice = stack.use(await connect(server.url, { token: "alices", client: { name: "page", version: "2" } }));
    stack.use(await connect(server.url, { token: "bobs" }));
    const job = await alice.submit("echo", 1);
    await job.result;
    const mine = (await ask("/v1/sessions")).json["sessions"] as Row[];
    assert.equal(mine.length, 1);
    const { created_at: createdAt, acked_seq: acked, lag, ...rest } = mine[0] ?? {};
    assert.ok(Date.parse(String(createdAt)) > 0);
    assert.equal(Number(acked) + Number(lag), 1);
    assert.deepEqual(rest, {
      session_id: alice.id,
      principal: "alice",
      client: { name: "page", version: "2" },
      state: "attached",
      node_id: runtime.nodeId,
      resumable_until: null,
      connection_epoch: 1,
      last_event_seq: 1,
      jobs: 0,
    });
    const all = (await ask("/v1/sessions?limit=1", { token: "olgas" })).json;
    assert.equal((all["sessions"] as Row[]).length, 1);
    const next = (await ask(`/v1/sessions?cursor=${all["next_cursor"]}`, { token: "olgas" })).json;
    assert.deepEqual([(next["sessions"] as Row[]).length, next["next_cursor"]], [1, null]);
    const wrong = await ask("/v1/sessions?cursor=x");
    assert.deepEqual([wrong.status, wrong.json["code"]], [400, "INVALID_REQUEST"]);
  },
);

test("[SRV-29] nodes and agents; which machine a node is on, operators are told", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, runtime } = await newHttpServer(stack);
  const [node] = (await ask("/v1/nodes")).json["nodes"] as Row[];
  assert.deepEqual([node?.["node_id"], node?.["state"], node?.["self"]], [runtime.nodeId, "alive", true]);
  assert.deepEqual([node?.["pid"], node?.["host"]], [null, null]);
  const [told] = (await ask("/v1/nodes", { token: "olgas" })).json["nodes"] as Row[];
  assert.equal(told?.["pid"], process.pid);
  assert.deepEqual((await ask("/v1/agents")).json["agents"], [
    { name: "echo", versions: ["1.0.0"], default: "1.0.0" },
    { name: "wait", versions: ["1.0.0"], default: "1.0.0" },
  ]);
  for (const target of ["/v1/nodes", "/v1/agents", "/v1/sessions"]) {
    assert.equal((await ask(target, { token: "" })).status, 401);
  }
});

test("[SRV-36] what the process does is told in numbers, of nobody by name", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack);
  const before = (await ask("/v1/stats")).json;
  assert.deepEqual([before["jobs_started"], before["jobs_running"], before["events_appended"]], [0, 0, 0]);
  const { json: job } = await ask("/v1/jobs", { method: "POST", body: { agent: "wait" } });
  const events = await ask(`/v1/jobs/${job["job_id"]}/cancel`, { method: "POST", body: {} });
  assert.equal(events.status, 202);
  await ask(`/v1/jobs/${job["job_id"]}/events`);
  const { json, status } = await ask("/v1/stats", { token: "ottos" });
  assert.deepEqual([status, json["jobs_started"], json["jobs_running"]], [200, 1, 0]);
  assert.deepEqual(json["jobs_ended"], { success: 0, error: 0, cancelled: 1, timed_out: 0 });
  assert.ok(Number(json["events_appended"]) >= 1 && Number(json["uptime_ms"]) >= Number(before["uptime_ms"]));
  assert.equal((await ask("/v1/stats", { token: "" })).status, 401);
});

test("[SRV-30] ready while the store answers, not while it does not or the process stops", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, store, server, runtime } = await newHttpServer(stack);
  const ready = async () => (await ask("/v1/ready", { token: "" })).status;
  assert.equal(await ready(), 200);
  store.goDown();
  assert.equal(await ready(), 503);
  assert.equal((await ask("/v1/health", { token: "" })).status, 200);
  store.recover();
  assert.equal(await ready(), 200);
  await server.stop({ drainMs: 0 });
  await assert.rejects(runtime.ready(), /stopping/);
});

const Submit = z.object({ requestBody: z.unknown(), parameters: z.array(z.object({ name: z.string() })) });
const Document = z.object({
  openapi: z.string(),
  paths: z.record(z.string(), z.record(z.string(), z.looseObject({ responses: z.record(z.string(), z.unknown()) }))),
});

test("[SRV-22] the OpenAPI document shows every route with what it takes and answers", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack);
  const answer = await ask("/v1/openapi.json", { token: "" });
  const { openapi, paths } = Document.parse(answer.json);
  assert.equal(openapi, "3.1.0");
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((name) => `${name} ${path}`),
  );
  for (const route of [
    "post /v1/jobs",
    "get /v1/jobs",
    "get /v1/jobs/{id}/events",
    "post /v1/turns",
    "post /v1/login",
    "post /v1/conversations/{id}/lock/break",
    "get /v1/openapi.json",
  ]) {
    assert.ok(routes.includes(route), route);
  }
  // What the document names is there, and what it does not name is not.
  for (const [path, methods] of Object.entries(paths)) {
    const target = path.replace(/\{\w+\}/g, "x");
    const allowed = (await ask(target, { method: "PUT", token: "olgas" })).headers["allow"];
    const named = Object.keys(methods).flatMap((name) => (name === "get" ? ["GET", "HEAD"] : [name.toUpperCase()]));
    assert.equal(allowed, named.join(", "), path);
  }
  const submit = Submit.parse(paths["/v1/jobs"]?.["post"]);
  assert.match(JSON.stringify(submit.requestBody), /"required":\["agent"\]/);
  assert.deepEqual(
    submit.parameters.map(({ name }) => name),
    ["idempotency-key"],
  );
});

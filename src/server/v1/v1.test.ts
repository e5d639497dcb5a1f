import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { FaultyStore } from "../../../test/faulty-store.ts";
import { connect } from "../../client/index.ts";
import { type AgentHandler, Runtime, type RuntimeOptions } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import type { Store } from "../../store/store.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { attach } from "../attach.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";

const DEADLINE = { timeout: 20_000 };

const wait: AgentHandler = async (_, job) => {
  await job.log("waiting");
  await job.sleep(3_600_000);
};

/** More than a page of the log holds; a character is cut in two. */
const CHUNKS = ["x".repeat(700_000), "y".repeat(700_000), "ž\ud83d", "\udc0e"];

interface Answer {
  status: number | undefined;
  headers: IncomingMessage["headers"];
  text: string;
  /** The body as JSON. */
  json: Record<string, unknown>;
}

interface Asking {
  method?: string;
  token?: string | undefined;
  body?: string | Uint8Array;
  headers?: Record<string, string>;
}

async function ask(port: number, target: string, asking: Asking = {}): Promise<Answer> {
  const { method = "GET", token = "alices", body, headers = {} } = asking;
  const outgoing = request({ port, host: "127.0.0.1", path: target, method, agent: false });
  if (token !== "") outgoing.setHeader("authorization", `Bearer ${token}`);
  for (const [name, value] of Object.entries(headers)) outgoing.setHeader(name, value);
  // A server that refuses early may close before all of the body is written.
  outgoing.on("error", () => undefined);
  outgoing.end(body);
  const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
  const content = await text(incoming);
  const json = content.startsWith("{") ? (JSON.parse(content) as Record<string, unknown>) : {};
  return { status: incoming.statusCode, headers: incoming.headers, text: content, json };
}

/** A server with jobs of two principals, and what asks it as one of them. */
async function newServer(
  stack: AsyncDisposableStack,
  options: Partial<RuntimeOptions> = {},
  wrapped: (store: Store) => Store = (store) => store,
) {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-v1-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const file = path.join(root, "test.db");
  const store = wrapped(sqlite(file));
  const auth = bearerTokens({ alices: "alice", bobs: "bob" });
  const runtime = new Runtime({ store, auth, ...options });
  runtime.agent("echo", (input) => input).agent("wait", wait);
  runtime.agent("fail", () => {
    throw new Error("a secret of ours");
  });
  runtime.agent("chunks", async (_, job) => {
    for (const [index, data] of CHUNKS.entries()) {
      const more = index < CHUNKS.length - 1;
      await job.emit("result_chunk", { result_id: "r", chunk_seq: index, data, encoding: "utf8", more });
    }
  });
  runtime.agent("bytes", async (_, job) => {
    await job.emit("result_chunk", { result_id: "r", chunk_seq: 0, data: "3q2+", encoding: "base64", more: true });
    await job.emit("result_chunk", { result_id: "r", chunk_seq: 1, data: "7w==", encoding: "base64", more: false });
  });
  const server = await serve(runtime, { port: 0 });
  stack.defer(() => server.stop({ drainMs: 0 }));
  const session = stack.use(await connect(server.url, { token: "alices" }));
  return { session, runtime, file, ask: (target: string, asking?: Asking) => ask(server.port, target, asking) };
}

test("[SRV-12] health needs no token", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newServer(stack);
  const answer = await ask("/v1/health", { token: "" });
  assert.deepEqual([answer.status, answer.text], [200, '{"status":"ok"}']);
  assert.equal(answer.headers["content-type"], "application/json");
  assert.equal(answer.headers["cache-control"], "no-store");
  assert.equal(answer.headers["x-content-type-options"], "nosniff");
});

test("[SRV-12] a job is looked at, and jobs are listed by filter in pages", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, session } = await newServer(stack);
  const ids: string[] = [];
  for (let count = 0; count < 3; count += 1) {
    const job = await session.submit("echo", count);
    await job.result;
    ids.unshift(job.id);
  }
  const live = await session.submit("wait");

  const one = (await ask(`/v1/jobs/${live.id}`)).json;
  assert.deepEqual(
    { ...one, created_at: "", events: 0 },
    {
      job_id: live.id,
      principal: "alice",
      agent: "wait@1.0.0",
      status: "running",
      lease: {},
      parent_job_id: null,
      trace_id: live.accepted.trace_id,
      created_at: "",
      cancel_requested: false,
      events: 0,
    },
  );
  const ended = (await ask(`/v1/jobs/${ids[0]}`)).json;
  assert.equal(ended["status"], "success");
  assert.ok(Date.parse(String(ended["ended_at"])) >= Date.parse(String(ended["created_at"])));

  const listed = async (query: string) => {
    const { status, json } = await ask(`/v1/jobs${query}`);
    assert.equal(status, 200);
    return { ids: (json["jobs"] as { job_id: string }[]).map((job) => job.job_id), next: json["next_cursor"] };
  };
  assert.deepEqual(await listed(""), { ids: [live.id, ...ids], next: null });
  assert.deepEqual(await listed("?status=running&status=pending"), { ids: [live.id], next: null });
  const { next, ...page } = await listed("?agent=echo@1.0.0&limit=2");
  assert.deepEqual(page, { ids: ids.slice(0, 2) });
  assert.deepEqual(await listed(`?agent=echo&limit=2&cursor=${next}`), { ids: ids.slice(2), next: null });
  assert.deepEqual(await listed("?created_after=2999-01-01T00:00:00Z"), { ids: [], next: null });
  const wrong = await ask("/v1/jobs?cursor=job_of_nobody");
  assert.deepEqual([wrong.status, wrong.json["code"]], [400, "INVALID_REQUEST"]);
});

test(
  "[SRV-12] a job that another session submitted is cancelled, once, with a line for the audit",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const audit: object[] = [];
    const ignore = () => undefined;
    const info = (fields: object) => void ("audit" in fields && audit.push(fields));
    const { ask, session } = await newServer(stack, { logger: { debug: ignore, info, warn: ignore, error: ignore } });
    const job = await session.submit("wait");
    const cancel = (body: string) =>
      ask(`/v1/jobs/${job.id}/cancel`, { method: "POST", body, headers: { "content-type": "application/json" } });

    const first = await cancel('{"reason":"enough"}');
    assert.deepEqual([first.status, first.json], [202, { job_id: job.id, outcome: "requested" }]);
    const end = await job.terminal;
    assert.equal(end.final_status, "cancelled");
    assert.match(String(end.message), /enough/);
    const again = await cancel("");
    assert.deepEqual(
      [again.status, again.json],
      [200, { job_id: job.id, outcome: "already_ended", status: "cancelled" }],
    );
    assert.deepEqual(audit, [
      { audit: "job.cancel", principal: "alice", job_id: job.id, outcome: "requested" },
      { audit: "job.cancel", principal: "alice", job_id: job.id, outcome: "already_ended" },
    ]);
    assert.equal((await ask(`/v1/jobs/${job.id}`)).json["cancel_requested"], true);
  },
);

test("[SRV-12] a job that runs in another process of the store is cancelled and told as well", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { session, file } = await newServer(stack);
  const other = new Runtime({ store: sqlite(file), auth: bearerTokens({ alices: "alice" }) });
  const { port, stop } = await serve(other, { port: 0 });
  stack.defer(() => stop({ drainMs: 0 }));
  const job = await session.submit("wait");
  const answer = await ask(port, `/v1/jobs/${job.id}/cancel`, { method: "POST" });
  assert.deepEqual([answer.status, answer.json["outcome"]], [202, "requested"]);
  assert.equal((await job.terminal).final_status, "cancelled");
  assert.equal((await ask(port, `/v1/jobs/${job.id}/result`)).json["code"], "CANCELLED");
});

test("[SRV-13] without a good token nothing is told, and another principal's job is not there", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, session } = await newServer(stack);
  const job = await session.submit("wait");
  const routes = [
    ["GET", `/v1/jobs/${job.id}`],
    ["GET", `/v1/jobs/${job.id}/result`],
    ["POST", `/v1/jobs/${job.id}/cancel`],
  ] as const;
  for (const token of ["", "wrong", "alices bobs"]) {
    for (const [method, target] of [...routes, ["GET", "/v1/jobs"] as const]) {
      const { status, headers, json } = await ask(target, { method, token });
      assert.deepEqual([status, json["code"]], [401, "UNAUTHENTICATED"]);
      assert.equal(headers["www-authenticate"], "Bearer");
    }
  }
  for (const [method, target] of routes) {
    const [theirs, nobodys] = [
      await ask(target, { method, token: "bobs" }),
      await ask(target.replace(job.id, "job_x"), { method, token: "bobs" }),
    ];
    assert.deepEqual([theirs.status, theirs.json["code"]], [404, "JOB_NOT_FOUND"]);
    assert.equal(theirs.text.replace(job.id, "job_x"), nobodys.text);
  }
  assert.deepEqual((await ask("/v1/jobs", { token: "bobs" })).json["jobs"], []);
  assert.equal((await ask(`/v1/jobs/${job.id}`)).json["cancel_requested"], false);
});

test("[SRV-4] a token in the address is refused, and not repeated", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newServer(stack);
  for (const target of ["/v1/jobs", "/v1/jobs/job_x", "/v1/jobs/job_x/result", "/v1/health"]) {
    const answer = await ask(`${target}?token=alices`);
    assert.equal(answer.status, 400);
    assert.match(String(answer.json["detail"]), /token/);
    assert.doesNotMatch(answer.text, /alices/);
  }
});

test("[SRV-14] what is wrong with a request is a problem that names it", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newServer(stack);
  const json = { "content-type": "application/json" };
  const post = (body: string | Uint8Array, headers: Record<string, string> = json) =>
    ask("/v1/jobs/job_x/cancel", { method: "POST", body, headers });
  const cases: [Promise<Answer>, number, RegExp][] = [
    [ask("/v1/jobs?limit=0"), 400, /^query\.limit: /],
    [ask("/v1/jobs?limit=1001"), 400, /^query\.limit: /],
    [ask("/v1/jobs?limit=1e2"), 400, /^query\.limit: must be a number from 1 to 1000/],
    [ask("/v1/jobs?status=done"), 400, /^query\.status\.0: /],
    [ask("/v1/jobs?agent=a&agent=b"), 400, /^query\.agent: /],
    [ask("/v1/jobs?created_after=yesterday"), 400, /^query\.created_after: /],
    [post('{"reason":1}'), 400, /^body\.reason: /],
    [post('{"reasons":"x"}'), 400, /^body: .*reasons/],
    [post("[]"), 400, /^body: /],
    [post("{"), 400, /^body: not JSON/],
    [post("{}", { "content-type": "text/plain" }), 415, /^body: send application\/json/],
    [post(`{"reason":"${"x".repeat(64 * 1024)}"}`), 413, /^body: at most 65536 bytes/],
    [post(`{"reason":"${"x".repeat(64 * 1024)}"}`, { ...json, "transfer-encoding": "chunked" }), 413, /^body: at most/],
    [ask("/v1/jobs", { method: "DELETE" }), 405, /^DELETE is not possible here; GET, HEAD, POST is/],
    [ask("/v1/jobs/job_x/cancel"), 405, /POST/],
    [ask("/v1/nothing"), 404, /^Nothing is served at \/v1\/nothing/],
    [ask("/v1"), 404, /^Nothing is served at \/v1/],
    [ask("/v1/jobs", { headers: { host: "evil.example.com" } }), 403, /^Host is not a name of this server/],
    [ask("/v1/health", { headers: { origin: "https://evil.example.com" } }), 403, /^Origin is foreign/],
  ];
  for (const [asked, status, detail] of cases) {
    const answer = await asked;
    assert.match(String(answer.json["detail"]), detail);
    assert.equal(answer.status, status, answer.text);
    assert.equal(answer.json["status"], status);
    assert.equal(answer.headers["content-type"], "application/problem+json");
    assert.equal(answer.json["code"], status === 403 ? "PERMISSION_DENIED" : "INVALID_REQUEST");
    assert.equal(answer.json["retryable"], false);
    if (status === 405) assert.match(String(answer.headers["allow"]), /^(GET, HEAD, POST|POST)$/);
  }
});

test("[SRV-14] while the store does not answer it is 503, to be tried again; then all is well", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  let faulty: FaultyStore | undefined;
  const broken = (store: Store) => {
    faulty = new FaultyStore(store);
    return faulty;
  };
  const { ask, session } = await newServer(stack, { clock }, broken);
  const job = await session.submit("echo", 1);
  await job.result;
  const unavailable = async (answer: Promise<Answer>) => {
    const { status, json } = await answer;
    assert.equal(status, 503);
    assert.deepEqual([json["code"], json["retryable"]], ["INTERNAL_ERROR", true]);
    assert.deepEqual(json["details"], { code: "STORE_UNAVAILABLE" });
  };
  faulty?.goDown();
  await unavailable(ask("/v1/jobs"));
  await unavailable(ask(`/v1/jobs/${job.id}`));
  await unavailable(ask(`/v1/jobs/${job.id}/result`));
  await unavailable(ask(`/v1/jobs/${job.id}/cancel`, { method: "POST" }));
  faulty?.recover();
  faulty?.stall();
  const asking = ask(`/v1/jobs/${job.id}`);
  let answered = false;
  void asking.then(() => {
    answered = true;
  });
  while (!answered) await clock.advance(1_000);
  await unavailable(asking);
  faulty?.recover();
  assert.equal((await ask(`/v1/jobs/${job.id}`)).status, 200);
});

test("[SRV-15] the result of a job that succeeded, failed, was chunked, or has not ended", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, session } = await newServer(stack);
  const ended = async (agent: string, input?: unknown) => {
    const job = await session.submit(agent, input);
    await job.terminal;
    const { status, json } = await ask(`/v1/jobs/${job.id}/result`);
    assert.deepEqual([status, json["job_id"]], [200, job.id]);
    return json;
  };
  const echoed = await ended("echo", { a: [1, "ž"] });
  assert.deepEqual(
    [echoed["status"], echoed["final_status"], echoed["result"]],
    ["success", "success", { a: [1, "ž"] }],
  );

  const failed = await ended("fail");
  assert.deepEqual([failed["status"], failed["code"], failed["retryable"]], ["error", "INTERNAL_ERROR", true]);
  assert.doesNotMatch(JSON.stringify(failed), /secret/);

  const whole = await ended("chunks");
  assert.deepEqual([whole["result_encoding"], whole["result_id"]], ["utf8", undefined]);
  assert.equal(whole["result"], CHUNKS.join(""));

  const bytes = await ended("bytes");
  assert.deepEqual([bytes["result_encoding"], bytes["result"]], ["base64", "3q2+7w=="]);

  const live = await session.submit("wait");
  const pending = await ask(`/v1/jobs/${live.id}/result`);
  assert.deepEqual([pending.status, pending.json], [202, { job_id: live.id, status: "running" }]);
});

test(
  "[SRV-7] attached to a server, only /v1 is answered, and at the end it is the server's again",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { runtime } = await newServer(stack);
    const theirs = (incoming: IncomingMessage, response: ServerResponse) => void response.end(`theirs ${incoming.url}`);
    const http = createServer(theirs);
    stack.defer(() => {
      http.close();
      http.closeAllConnections();
    });
    const attachment = await attach(runtime, http);
    http.listen(0, "127.0.0.1");
    await once(http, "listening");
    const { port } = http.address() as AddressInfo;
    assert.equal((await ask(port, "/v1/health")).text, '{"status":"ok"}');
    for (const target of ["/", "/v10/jobs", "/v2", "/api/v1/jobs"]) {
      assert.equal((await ask(port, target)).text, `theirs ${target}`);
    }
    assert.equal((await ask(port, "/v1/jobs", { headers: { host: "evil.example.com" } })).status, 403);
    await attachment.stop();
    assert.equal((await ask(port, "/v1/health")).text, "theirs /v1/health");
    assert.deepEqual(http.listeners("request"), [theirs]);
  },
);

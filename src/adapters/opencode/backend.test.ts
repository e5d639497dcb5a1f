/** What the adapter makes of a server that misbehaves: a double on loopback that says what the test wants. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { systemClock, type Timer } from "../../clock.ts";
import { BackendError, type BackendEvent, type PromptUpstream } from "../../conversation/index.ts";
import { type OpencodeTimeouts, opencode } from "./backend.ts";

const ID = "ses_1";

interface Asked {
  method: string;
  path: string;
  body: unknown;
}

type Route = (response: ServerResponse, asked: Asked) => unknown;

/** Answers by `METHOD /path`; what is not scripted is 404. */
class Double implements AsyncDisposable {
  readonly asked: Asked[] = [];
  readonly #routes: Record<string, Route>;
  readonly #server = createServer((request, response) => void this.#answer(request, response));

  private constructor(routes: Record<string, Route>) {
    this.#routes = routes;
  }

  static async start(routes: Record<string, Route>): Promise<Double> {
    const double = new Double(routes);
    double.#server.listen(0, "127.0.0.1");
    await once(double.#server, "listening");
    return double;
  }

  backend(timeouts: OpencodeTimeouts = {}) {
    const { port } = this.#server.address() as AddressInfo;
    return opencode({ baseUrl: `http://127.0.0.1:${port}/`, timeouts });
  }

  /** What was asked, as `METHOD /path`. */
  get lines(): string[] {
    return this.asked.map(({ method, path }) => `${method} ${path}`);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url = "" } = request;
    const { pathname } = new URL(url, "http://x");
    const said = await text(request);
    const asked = { method, path: pathname, body: said === "" ? undefined : (JSON.parse(said) as unknown) };
    this.asked.push(asked);
    const route = this.#routes[`${method} ${pathname}`];
    if (route === undefined) json({ name: "NotFoundError", data: { message: "not there" } }, 404)(response);
    else await route(response, asked);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}

const json =
  (value: unknown, status = 200) =>
  (response: ServerResponse): void => {
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
  };

const silence = (): void => undefined;

const frame = (type: string, properties: object): string =>
  `data: ${JSON.stringify({ id: "evt", type, properties })}\n\n`;

const CONNECTED = frame("server.connected", {});

/** What a server says of a prompt, from its being taken to the first answer's being begun. */
const taken = (partId: string): string =>
  frame("message.updated", { sessionID: ID, info: { id: "msg_1", role: "user", sessionID: ID } }) +
  frame("message.part.updated", { sessionID: ID, part: { id: partId, messageID: "msg_1", type: "text", text: "x" } }) +
  frame("session.status", { sessionID: ID, status: { type: "busy" } }) +
  frame("message.updated", { sessionID: ID, info: { id: "msg_2", role: "assistant", sessionID: ID } });

const part = (fields: object): string =>
  frame("message.part.updated", { sessionID: ID, part: { messageID: "msg_2", ...fields } });

const delta = (partID: string, piece: string): string =>
  frame("message.part.delta", { sessionID: ID, messageID: "msg_2", partID, field: "text", delta: piece });

const IDLE = frame("session.idle", { sessionID: ID });
const TEXT = part({ id: "prt_2", type: "text", text: "" });

/** Routes of a server whose event stream says `lines` once the prompt has come; `end` closes it after that. */
function prompting(lines: string | ((partId: string) => string), { end = false } = {}): Record<string, Route> {
  let stream: ServerResponse | undefined;
  return {
    "GET /session/status": json({}),
    "GET /event": (response) => {
      stream = response.writeHead(200, { "content-type": "text/event-stream" });
      stream.write(CONNECTED);
    },
    [`POST /session/${ID}/prompt_async`]: (response, { body }) => {
      response.writeHead(204).end();
      const partId = (body as { parts: { id: string }[] }).parts[0]?.id ?? "";
      stream?.write(typeof lines === "string" ? taken(partId) + lines : lines(partId));
      if (end) stream?.end();
    },
    [`POST /session/${ID}/abort`]: json(true),
  };
}

const failsAs =
  (kind: BackendError["kind"], message = /./) =>
  (error: unknown) => {
    assert(error instanceof BackendError, String(error));
    assert.equal(error.kind, kind, error.message);
    assert.match(error.message, message);
    return true;
  };

async function prompted(double: Double, timeouts?: OpencodeTimeouts): Promise<BackendEvent[]> {
  const events: BackendEvent[] = [];
  const request: PromptUpstream = { sessionId: ID, text: "x", onPermission: async () => "once" };
  for await (const event of double.backend(timeouts).prompt(request)) events.push(event);
  return events;
}

const NEW = { title: "t", nonce: "nonce-1", permissions: undefined };

test("[UPS-35] a new session's id is read under either spelling of its key", async () => {
  for (const answer of [{ id: "ses_a" }, { sessionID: "ses_a" }, { data: { id: "ses_a" } }]) {
    await using double = await Double.start({ "POST /session": json(answer) });
    assert.equal(await double.backend().create(NEW), "ses_a");
  }
});

test("[UPS-35] an answer without an id is malformed, and what was made is deleted by its nonce", async () => {
  for (const answer of [{}, null, "ses_a", { id: 7 }, { id: "" }, { id: "other_1" }]) {
    const sessions = [
      { id: "ses_theirs", metadata: { holdfast_nonce: "nonce-2" } },
      { id: "ses_orphan", metadata: { holdfast_nonce: "nonce-1" } },
    ];
    await using double = await Double.start({
      "POST /session": json(answer),
      "GET /session": json(sessions),
      "DELETE /session/ses_orphan": json(true),
    });
    await assert.rejects(double.backend().create(NEW), failsAs("malformed"));
    assert.deepEqual(double.lines, ["POST /session", "GET /session", "DELETE /session/ses_orphan"]);
  }
});

test("[UPS-35] an id that is none of OpenCode's is not sent", async () => {
  await using double = await Double.start({});
  const backend = double.backend();
  for (const id of ["", "x", "ses_", "ses_a/b", "ses_a?b", `ses_${"a".repeat(65)}`]) {
    await assert.rejects(backend.abort(id), failsAs("session_not_found", /ids begin with ses_/));
    await backend.delete(id);
    assert.equal(await backend.exists(id), false);
  }
  assert.deepEqual(double.asked, []);
});

test("[UPS-33] a server that accepts and never answers is unavailable in time, in every call", async () => {
  await using double = await Double.start({
    "POST /session": silence,
    "GET /session": silence,
    "GET /session/status": silence,
    [`GET /session/${ID}`]: silence,
    [`DELETE /session/${ID}`]: silence,
    [`POST /session/${ID}/abort`]: silence,
    "GET /global/health": silence,
  });
  const backend = double.backend({ requestMs: 50 });
  const calls = [
    backend.create(NEW),
    backend.exists(ID),
    backend.delete(ID),
    backend.abort(ID),
    backend.health(),
    backend.list()[Symbol.asyncIterator]().next(),
    prompted(double, { requestMs: 50 }),
  ];
  for (const call of calls) await assert.rejects(call, failsAs("unavailable", /within 50 ms/));
});

test("[UPS-33] an event stream that falls silent ends the prompt as unavailable, and aborts it", async () => {
  await using double = await Double.start(prompting(TEXT + delta("prt_2", "half")));
  await assert.rejects(prompted(double, { silenceMs: 80 }), failsAs("unavailable", /silent for 80 ms/));
  assert.equal(double.lines.at(-1), `POST /session/${ID}/abort`);
});

test("[UPS-33] a server that is not there is unavailable, and a signal ends a call sooner", async () => {
  const left = await Double.start({});
  const gone = left.backend();
  await left[Symbol.asyncDispose]();
  await assert.rejects(gone.exists(ID), failsAs("unavailable", /ECONNREFUSED/));
  await using double = await Double.start({ "POST /session": silence });
  const reason = new Error("enough");
  await assert.rejects(double.backend().create(NEW, { signal: AbortSignal.abort(reason) }), reason);
});

test("[UPS-34] an event stream that ends, in the middle of a frame too, is unavailable and not begun again", async () => {
  for (const lines of [
    TEXT + delta("prt_2", "a"),
    `${TEXT + delta("prt_2", "a")}data: {"id":"evt","type":"session.id`,
  ]) {
    await using double = await Double.start(prompting(lines, { end: true }));
    await assert.rejects(prompted(double), failsAs("unavailable", /stream ended/));
    assert.equal(double.lines.filter((line) => line === "GET /event").length, 1);
  }
});

test("[UPS-34] frames that are no events are passed over; a stream of nothing else is malformed", async () => {
  const odd =
    'data: {"type":\n\n' +
    ": a comment\n\n" +
    "event: x\n\n" +
    "data: 7\n\n" +
    'data: {"type":"session.idle"}\n\n' +
    frame("x.y", {});
  await using double = await Double.start(prompting(odd + TEXT + delta("prt_2", "a") + odd + IDLE));
  assert.deepEqual(await prompted(double), [{ type: "text", text: "a" }, { type: "done" }]);
  await using noise = await Double.start(prompting("data: nonsense\n\n".repeat(17)));
  await assert.rejects(prompted(noise), failsAs("malformed"));
});

test("[UPS-34] a frame without an end is malformed, and held no further", async () => {
  await using double = await Double.start(prompting(`data: ${"x".repeat(9 * 1024 * 1024)}`));
  await assert.rejects(prompted(double), failsAs("malformed", /longer than/));
});

test("[UPS-30] parts that come whole, with or without the newest piece, are told once", async () => {
  const reads = part({ id: "prt_3", type: "tool", tool: "read", callID: "c", state: { status: "pending", input: {} } });
  const tool = (status: string) =>
    part({ id: "prt_3", type: "tool", tool: "read", callID: "c", state: { status, input: { a: 1 }, output: "o" } });
  const lines =
    part({ id: "prt_2", type: "text", text: "ab", delta: "ab" }) +
    part({ id: "prt_2", type: "text", text: "abcd", delta: "cd" }) +
    part({ id: "prt_4", type: "reasoning", text: "why" }) +
    part({ id: "prt_4", type: "reasoning", text: "why not" }) +
    reads +
    tool("running") +
    tool("running") +
    tool("completed") +
    tool("completed") +
    part({ id: "prt_5", type: "tool", tool: "read", callID: "c", state: { status: "error", input: {}, error: "no" } }) +
    IDLE;
  await using double = await Double.start(prompting(lines));
  assert.deepEqual(await prompted(double), [
    { type: "text", text: "ab" },
    { type: "text", text: "cd" },
    { type: "reasoning", text: "why" },
    { type: "reasoning", text: " not" },
    { type: "tool_call", callId: "c", tool: "read", args: { a: 1 } },
    { type: "tool_result", callId: "c", result: "o" },
    { type: "tool_call", callId: "prt_5", tool: "read", args: {} },
    { type: "tool_result", callId: "prt_5", error: "no" },
    { type: "done" },
  ]);
});

test("[UPS-30] what another session does, and what an earlier prompt left, is not told", async () => {
  const other = { sessionID: "ses_2", part: { id: "prt_9", messageID: "msg_2", type: "text", text: "theirs" } };
  const before =
    frame("session.error", { sessionID: ID, error: { name: "MessageAbortedError", data: {} } }) +
    IDLE +
    frame("message.updated", { sessionID: ID, info: { id: "msg_0", role: "assistant", sessionID: ID } });
  const after =
    frame("message.part.updated", other) +
    frame("session.idle", { sessionID: "ses_2" }) +
    frame("message.part.updated", {
      sessionID: ID,
      part: { id: "prt_0", messageID: "msg_0", type: "text", text: "old" },
    }) +
    TEXT +
    delta("prt_2", "mine") +
    IDLE;
  await using double = await Double.start(prompting((partId) => before + taken(partId) + after));
  assert.deepEqual(await prompted(double), [{ type: "text", text: "mine" }, { type: "done" }]);
});

test("[UPS-31] a subagent's permission is asked for as well, and one that was answered elsewhere needs no answer", async () => {
  let answered = 0;
  const lines =
    frame("session.created", { sessionID: "ses_child", info: { id: "ses_child", parentID: ID } }) +
    frame("permission.asked", {
      id: "per_1",
      sessionID: "ses_child",
      permission: "edit",
      patterns: ["a.txt"],
      metadata: {},
    }) +
    frame("permission.asked", {
      id: "per_2",
      sessionID: "ses_other",
      permission: "edit",
      patterns: ["b"],
      metadata: {},
    });
  const routes = prompting(lines);
  let stream: ServerResponse | undefined;
  const subscribe = routes["GET /event"] as Route;
  await using double = await Double.start({
    ...routes,
    "GET /event": (response, asked) => {
      stream = response;
      return subscribe(response, asked);
    },
    "POST /permission/per_1/reply": (response, { body }) => {
      answered += 1;
      assert.deepEqual(body, { reply: "once" });
      json({ name: "NotFoundError", data: {} }, 404)(response);
      stream?.write(IDLE);
    },
  });
  const events = await prompted(double);
  assert.deepEqual(
    events.map((event) => (event.type === "permission" ? event.permissionId : event.type)),
    ["per_1", "done"],
  );
  assert.equal(answered, 1);
});

test("[UPS-31] a permission that was answered elsewhere is no longer waited for", async () => {
  const asked = { id: "per_1", sessionID: ID, permission: "edit", patterns: ["a.txt"], metadata: {} };
  const routes = prompting(
    frame("permission.asked", asked) +
      frame("permission.replied", { sessionID: ID, requestID: "per_1", reply: "once" }) +
      part({ id: "prt_2", type: "text", text: "go" }),
  );
  const subscribe = routes["GET /event"] as Route;
  let beat: Timer | undefined;
  await using double = await Double.start({
    ...routes,
    "GET /event": (response, asking) => {
      const say = () => {
        response.write(frame("server.heartbeat", {}));
        beat = systemClock.after(50, say);
      };
      beat = systemClock.after(50, say);
      return subscribe(response, asking);
    },
  });
  const told: string[] = [];
  const request: PromptUpstream = { sessionId: ID, text: "x", onPermission: () => new Promise(() => undefined) };
  try {
    await assert.rejects(
      async () => {
        const signal = AbortSignal.timeout(20_000);
        for await (const { type } of double.backend({ quietMs: 200 }).prompt(request, { signal })) told.push(type);
      },
      failsAs("unavailable", /Nothing came of the prompt/),
    );
  } finally {
    beat?.cancel();
  }
  assert.deepEqual(told, ["permission", "text"]);
});

test("[UPS-30] what a step cost is told once, however often its part comes", async () => {
  const step = part({ id: "prt_9", type: "step-finish", cost: 0.25 });
  const next = part({ id: "prt_10", type: "step-finish", cost: 0.5 });
  await using double = await Double.start(prompting(TEXT + step + step + next + IDLE));
  const costs = (await prompted(double)).filter(({ type }) => type === "cost");
  assert.deepEqual(
    costs,
    [0.25, 0.5].map((amount) => ({ type: "cost", amount, currency: "USD" })),
  );
});

test("[UPS-36] what the server refuses, and how it fails, is told in its words and on one line", async () => {
  const cases: [number, unknown, BackendError["kind"], RegExp][] = [
    [400, { _tag: "BadRequest" }, "rejected", /400 about a new session: BadRequest$/],
    [500, { name: "UnknownError", data: { message: "went wrong\n    at x" } }, "unavailable", /went wrong$/],
    [503, "down", "unavailable", /503/],
    [401, "", "rejected", /password/],
  ];
  for (const [status, body, kind, message] of cases) {
    await using double = await Double.start({ "POST /session": json(body, status) });
    await assert.rejects(double.backend().create(NEW), failsAs(kind, message));
  }
  await using page = await Double.start({
    "POST /session": (response) => response.writeHead(200, { "content-type": "text/html" }).end("<html>"),
    [`GET /session/${ID}`]: (response) => response.writeHead(200, { "content-type": "application/json" }).end("{"),
  });
  await assert.rejects(page.backend().create(NEW), failsAs("malformed"));
  await assert.rejects(page.backend().exists(ID), failsAs("malformed"));
});

test("[UPS-36] options that cannot be are refused at once", () => {
  assert.throws(() => opencode({ baseUrl: "localhost:4096" }), /baseUrl/);
  assert.throws(() => opencode({ baseUrl: "http://127.0.0.1:1", timeouts: { quietMs: 0 } }), /timeouts\.quietMs/);
});

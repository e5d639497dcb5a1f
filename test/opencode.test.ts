/** OpenCode as a backend: the real server, and a stand-in for its model only. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type OpencodeBackend, opencode } from "../src/adapters/opencode/index.ts";
import { systemClock } from "../src/clock.ts";
import { BackendError, type BackendEvent, type PermissionAnswer } from "../src/conversation/index.ts";
import { NO_OPENCODE, type RealOpencode, realOpencode } from "./opencode/real-server.ts";
import { eventually } from "./runtime-fixture.ts";

const MISSING = "ses_0000000000000000000000missing";

describe("a real OpenCode server", { skip: NO_OPENCODE }, () => {
  let real: RealOpencode;
  let backend: OpencodeBackend;

  before(async () => {
    real = await realOpencode();
    backend = opencode(real.server.connection);
  });
  after(() => real[Symbol.asyncDispose]());

  const session = (permissions?: unknown, nonce = `n-${Math.random()}`) =>
    backend.create({ title: "a test", nonce, permissions });

  const all = async (
    sessionId: string,
    text: string,
    answer: () => Promise<PermissionAnswer> = () => assert.fail("nobody asks"),
  ) => {
    const events: BackendEvent[] = [];
    for await (const event of backend.prompt({ sessionId, text, onPermission: answer })) events.push(event);
    return events;
  };

  const said = (events: BackendEvent[], type: "text" | "reasoning" = "text") =>
    events.flatMap((event) => (event.type === type ? [event.text] : [])).join("");

  const failsAs = (kind: BackendError["kind"]) => (error: unknown) =>
    error instanceof BackendError && error.kind === kind;

  test("[UPS-30] text and reasoning come piece by piece, then the cost and the end", async () => {
    const id = await session();
    const events = await all(id, "say one two three");
    assert.deepEqual(
      events.filter(({ type }) => type === "text"),
      ["one", " two", " three"].map((text) => ({ type: "text", text })),
    );
    assert.deepEqual(events.slice(-2), [{ type: "cost", amount: 0.00002, currency: "USD" }, { type: "done" }]);

    const thought = await all(id, "think hard about it");
    assert.equal(said(thought, "reasoning"), "hard about it");
    assert.equal(said(thought), "Thought.");
  });

  test("[UPS-30] a tool's call is told once, with its whole input, and so is its result", async () => {
    const events = await all(
      await session([{ permission: "bash", pattern: "*", action: "allow" }]),
      'use bash {"command":"echo hi there","description":"greets"}',
    );
    const tools = events.filter(({ type }) => type.startsWith("tool_"));
    assert.equal(tools.length, 2);
    const [call, result] = tools;
    assert(call?.type === "tool_call" && result?.type === "tool_result");
    assert.equal(call.tool, "bash");
    assert.deepEqual(call.args, { command: "echo hi there", description: "greets" });
    assert.equal(result.callId, call.callId);
    assert.match(String(result.result), /hi there/);
    assert.equal(said(events), "It says hi there");
  });

  test("[UPS-31] a permission is asked for once, and what is answered happens", async () => {
    const id = await session([{ permission: "bash", pattern: "*", action: "ask" }]);
    const granted = await all(id, 'use bash {"command":"echo granted","description":"x"}', async () => "once");
    const requests = granted.filter(({ type }) => type === "permission");
    assert.equal(requests.length, 1);
    const [request] = requests;
    assert(request?.type === "permission");
    assert.equal(request.tool, "bash");
    assert.match(request.title, /echo granted/);
    assert.equal(said(granted), "It says granted");

    const denied = await all(id, 'use bash {"command":"echo denied","description":"x"}', async () => "reject");
    const result = denied.find(({ type }) => type === "tool_result");
    assert(result?.type === "tool_result");
    assert.match(result.error ?? "", /reject/);
    assert.equal(denied.at(-1)?.type, "done");
  });

  test("[UPS-31] a question that the model asks by a tool is rejected, and the prompt ends", async () => {
    const question = { question: "Which?", header: "Which", options: [{ label: "a", description: "a" }] };
    const events = await all(await session(), `use question ${JSON.stringify({ questions: [question] })}`);
    assert(events.some((event) => event.type === "tool_result" && event.error !== undefined));
    assert.equal(events.at(-1)?.type, "done");
  });

  test("[UPS-32] the signal ends a prompt in the middle, and stops it upstream", async () => {
    const id = await session();
    const abort = new AbortController();
    const reason = new Error("enough");
    await assert.rejects(async () => {
      for await (const event of backend.prompt(
        { sessionId: id, text: "hang", onPermission: async () => "reject" },
        { signal: abort.signal },
      )) {
        if (event.type === "text") abort.abort(reason);
      }
    }, reason);
    await eventually(() => real.model.hanging === 0, "the model to be left alone");
    assert.equal(said(await all(id, "say again")), "again", "the session goes on");
  });

  test("[UPS-32] leaving the loop stops it upstream", async () => {
    for await (const event of backend.prompt({
      sessionId: await session(),
      text: "hang",
      onPermission: async () => "reject",
    })) {
      if (event.type === "text") break;
    }
    await eventually(() => real.model.hanging === 0, "the model to be left alone");
  });

  test("[UPS-32] what a dead predecessor's prompt still does is stopped before the next", async () => {
    const id = await session();
    const dead = backend
      .prompt({ sessionId: id, text: "hang", onPermission: async () => "reject" })
      [Symbol.asyncIterator]();
    await dead.next();
    assert.equal(real.model.hanging, 1, "it works, and nobody reads on");
    assert.equal(said(await all(id, "say mine")), "mine");
    assert.equal(real.model.hanging, 0);
    await assert.rejects(async () => {
      for (;;) if ((await dead.next()).done === true) return;
    }, failsAs("rejected"));
  });

  test("[UPS-33] a model that hangs ends the prompt as unavailable after the quiet time", async () => {
    const impatient = opencode({ ...real.server.connection, timeouts: { quietMs: 300 } });
    const since = systemClock.monotonic();
    await assert.rejects(async () => {
      for await (const _ of impatient.prompt({
        sessionId: await session(),
        text: "hang",
        onPermission: async () => "reject",
      }));
    }, failsAs("unavailable"));
    assert(systemClock.monotonic() - since < 10_000);
    await eventually(() => real.model.hanging === 0, "the model to be left alone");
  });

  test("[UPS-35] what is not there: a prompt is session_not_found, a deletion fine, and exists says so", async () => {
    for (const id of [MISSING, "no id of its", "ses_../../etc"]) {
      await assert.rejects(all(id, "say x"), failsAs("session_not_found"), id);
      assert.equal(await backend.exists(id), false);
      await backend.delete(id);
    }
    const id = await session();
    assert.equal(await backend.exists(id), true);
    await backend.delete(id);
    assert.equal(await backend.exists(id), false);
  });

  test("[UPS-36] rules and prompts that the server refuses are rejected, in one line", async () => {
    for (const permissions of [[{ permission: "bash", pattern: "*", action: "maybe" }], { bash: "ask" }, [1]]) {
      await assert.rejects(session(permissions), failsAs("rejected"));
    }
    await assert.rejects(all(await session(), "refuse"), (error: unknown) => {
      assert(error instanceof BackendError && error.kind === "rejected");
      assert.match(error.message, /the model will not/);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
  });

  test("[UPS-36] a wrong password is rejected", async () => {
    const stranger = opencode({ ...real.server.connection, password: "guessed" });
    await assert.rejects(stranger.exists(MISSING), failsAs("rejected"));
  });

  test("[UPS-37] every session is listed, with the nonce that it was made with", async () => {
    const made = new Map<string, string>();
    for (let batch = 0; batch < 6; batch += 1) {
      const nonces = Array.from({ length: 20 }, (_, index) => `nonce-${batch}-${index}`);
      for (const nonce of nonces) made.set(await session(undefined, nonce), nonce);
    }
    const listed = new Map<string, string | undefined>();
    for await (const { id, nonce } of backend.list()) {
      assert(!listed.has(id), "once each");
      listed.set(id, nonce);
    }
    for (const [id, nonce] of made) assert.equal(listed.get(id), nonce);
  });
});

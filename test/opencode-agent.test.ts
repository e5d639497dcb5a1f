/** The agent `opencode` in a runtime: the whole turn, with the real server. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import {
  type OpencodeAgentOptions,
  type OpencodeBackend,
  opencode,
  opencodeAgent,
} from "../src/adapters/opencode/index.ts";
import { sleep, systemClock } from "../src/clock.ts";
import { type Envelope, TURN } from "../src/protocol/index.ts";
import { NO_OPENCODE, type RealOpencode, realOpencode } from "./opencode/real-server.ts";
import { eventually, type RuntimeFixture, runtimeFixture, type TestClient } from "./runtime-fixture.ts";

const kinds = (events: Envelope[]): string[] => events.map(({ type, payload }) => String(payload["kind"] ?? type));

const bodies = (events: Envelope[], kind: string): Record<string, unknown>[] =>
  events
    .filter(({ payload }) => payload["kind"] === kind)
    .map(({ payload }) => payload["body"] as Record<string, unknown>);

const codeOf = (ended: Envelope | undefined): unknown =>
  (ended?.payload["details"] as { code?: string } | undefined)?.code;

const answerOf = (events: Envelope[]): string =>
  bodies(events, "result_chunk")
    .map(({ data }) => data)
    .join("");

describe("the agent opencode", { skip: NO_OPENCODE }, () => {
  let real: RealOpencode;
  let backend: OpencodeBackend;

  before(async () => {
    real = await realOpencode();
    backend = opencode(real.server.connection);
  });
  after(() => real[Symbol.asyncDispose]());

  async function fixture(options: Partial<OpencodeAgentOptions> = {}): Promise<RuntimeFixture> {
    const made = await runtimeFixture({ conversations: {} });
    made.runtime.agent("opencode", opencodeAgent({ backend, conversations: made.conversations, ...options }));
    return made;
  }

  async function start(client: TestClient, input: unknown, key = "cli:thread"): Promise<string> {
    const answer = await client.submit("opencode", input, {}, { extensions: { [TURN]: { key } } });
    assert.equal(answer.type, "job.accepted", JSON.stringify(answer));
    return answer.job_id as string;
  }

  async function turn(client: TestClient, input: unknown, key?: string): Promise<Envelope[]> {
    const jobId = await start(client, input, key);
    await client.terminal(jobId);
    return client.of(jobId);
  }

  const ids = async (): Promise<string[]> => {
    const found: string[] = [];
    for await (const { id } of backend.list()) found.push(id);
    return found;
  };

  test("[UPS-38] the second turn of a conversation goes on in its upstream session, another's does not", async () => {
    await using made = await fixture();
    const client = await made.connect();
    const before = await ids();
    const first = await turn(client, { text: "say hello there" });
    assert.equal(answerOf(first), "hello there");
    assert.equal(first.at(-1)?.type, "job.result");
    assert.equal(answerOf(await turn(client, "say more")), "more");
    assert.deepEqual(real.model.asked.at(-1), ["user: say hello there", "assistant: hello there", "user: say more"]);
    await turn(client, "say other", "cli:elsewhere");
    assert.deepEqual(real.model.asked.at(-1), ["user: say other"]);
    assert.equal((await ids()).length, before.length + 2);
  });

  test("[UPS-38] what a prompt brings about reads like a conversation in the job's log", async () => {
    await using made = await fixture({ permissionsFor: () => [{ permission: "bash", pattern: "*", action: "allow" }] });
    const client = await made.connect();
    const thought = await turn(client, "think this over");
    assert.deepEqual(bodies(thought, "thought"), [{ text: "this over" }]);
    const used = await turn(client, 'use bash {"command":"echo hi","description":"greets"}');
    const [call] = bodies(used, "tool_call");
    const [result] = bodies(used, "tool_result");
    assert.equal(call?.["tool"], "bash");
    assert.equal(result?.["call_id"], call?.["call_id"]);
    assert.equal(answerOf(used), "It says hi");
    const log = kinds(used).filter((kind) => kind !== "result_chunk");
    assert.deepEqual(log, ["tool_call", "tool_result", "metric", "metric", "job.result"]);
    assert.deepEqual(bodies(used, "metric")[0], { name: "cost.inference", value: 0.00002, unit: "USD" });
  });

  test("[UPS-38] a job that is no turn has a session of its own, which is deleted at its end", async () => {
    await using made = await fixture();
    const client = await made.connect();
    const before = await ids();
    const jobId = await client.start("opencode", { text: "say alone" });
    await client.terminal(jobId);
    assert.equal(answerOf(client.of(jobId)), "alone");
    assert.deepEqual(await ids(), before);
  });

  test("[UPS-38] input that is no text is INVALID_REQUEST and makes no session", async () => {
    await using made = await fixture();
    const client = await made.connect();
    const before = await ids();
    for (const input of [null, { text: " " }, { text: 7 }, {}]) {
      const ended = (await turn(client, input)).at(-1);
      assert.equal(ended?.payload["code"], "INVALID_REQUEST");
      assert.match(String(ended?.payload["message"]), /^input\.text: /);
    }
    assert.deepEqual(await ids(), before);
  });

  test("[UPS-39] a permission is a question to the client, and its answer counts", async () => {
    await using made = await fixture({ permissionsFor: () => [{ permission: "bash", pattern: "*", action: "ask" }] });
    const client = await made.connect();
    const ask = async (answer: string, word: string) => {
      const jobId = await start(client, `use bash {"command":"echo ${word}","description":"greets"}`);
      const { payload } = await client.waitFor(
        ({ job_id, payload: { body } }) =>
          job_id === jobId && (body as { phase?: string } | undefined)?.phase === "input_required",
        "the question",
      );
      const { question_id, message, schema } = payload["body"] as Record<string, unknown>;
      assert.match(String(message), new RegExp(`bash echo ${word}`));
      assert.deepEqual(schema, { enum: ["once", "always", "reject"] });
      const { type } = await client.ask("x-vendor.holdfast.answer", { job_id: jobId, question_id, answer });
      assert.equal(type, "x-vendor.holdfast.answered");
      await client.terminal(jobId);
      return client.of(jobId);
    };
    assert.equal(answerOf(await ask("once", "granted")), "It says granted");
    const [denied] = bodies(await ask("reject", "denied"), "tool_result");
    assert.match(String(denied?.["error"]), /reject/);
  });

  test("[UPS-39] a permission that nobody answers in time is rejected", async () => {
    await using made = await fixture({
      permissionsFor: () => [{ permission: "bash", pattern: "*", action: "ask" }],
      askTimeoutMs: 1_000,
    });
    const client = await made.connect();
    const jobId = await start(client, 'use bash {"command":"echo late","description":"x"}');
    const asked = ({ payload: { body } }: Envelope) =>
      (body as { phase?: string } | undefined)?.phase === "input_required";
    await client.waitFor(asked, "the question");
    await made.clock.advance(1_000);
    const ended = await client.terminal(jobId);
    assert.equal(ended.type, "job.result", JSON.stringify(ended));
    const [denied] = bodies(client.of(jobId), "tool_result");
    assert.match(String(denied?.["error"]), /reject/);
  });

  test("[UPS-39] a policy answers in people's stead, and the log tells", async () => {
    await using made = await fixture({
      permissionsFor: () => [{ permission: "bash", pattern: "*", action: "ask" }],
      onPermission: ({ title }) => (title.includes("safe") ? "once" : "reject"),
    });
    const client = await made.connect();
    const safe = await turn(client, 'use bash {"command":"echo safe","description":"x"}');
    assert.equal(answerOf(safe), "It says safe");
    assert.match(String(bodies(safe, "log")[0]?.["message"]), /^Permission for bash echo safe: once, by policy\.$/);
    const other = await turn(client, 'use bash {"command":"echo other","description":"x"}');
    assert.match(String(bodies(other, "tool_result")[0]?.["error"]), /reject/);
  });

  test("[UPS-32] a cancelled turn stops upstream, and the next one goes on", async () => {
    await using made = await fixture();
    const client = await made.connect();
    const jobId = await start(client, "hang");
    await client.waitFor(
      ({ job_id, payload }) => job_id === jobId && payload["kind"] === "result_chunk",
      "the first word",
    );
    client.send("job.cancel", {}, { job_id: jobId });
    await client.terminal(jobId);
    await eventually(() => real.model.hanging === 0, "the model to be left alone");
    assert.equal(answerOf(await turn(client, "say on")), "on");
  });

  test("[UPS-38] a session that somebody deleted is made anew, once, and the turn does not show it", async () => {
    await using made = await fixture();
    const client = await made.connect();
    const before = await ids();
    await turn(client, "say hello");
    for (const id of await ids()) if (!before.includes(id)) await backend.delete(id);
    assert.equal(answerOf(await turn(client, "say again")), "again");
    assert.deepEqual(real.model.asked.at(-1), ["user: say again"]);
    assert.equal((await ids()).length, before.length + 1);
  });

  test("[UPS-42] a server that dies in the middle is one retryable error, and the session is the same after", async () => {
    await using made = await fixture();
    const client = await made.connect();
    await turn(client, "say before");
    const jobId = await start(client, "hang");
    await client.waitFor(
      ({ job_id, payload }) => job_id === jobId && payload["kind"] === "result_chunk",
      "the first word",
    );
    const pid = real.server.pid;
    assert(pid !== undefined);
    process.kill(-pid, "SIGKILL");
    const ended = await client.terminal(jobId);
    assert.equal(codeOf(ended), "BACKEND_UNAVAILABLE");
    assert.equal(ended.payload["retryable"], true);
    while (real.server.pid === undefined || real.server.pid === pid) await sleep(systemClock, 20);
    assert.equal(answerOf(await turn(client, "say after")), "after");
    assert.deepEqual(real.model.asked.at(-1)?.slice(0, 2), ["user: say before", "assistant: before"]);
  });

  test("[UPS-40] no prompt starts that the conversation's lock may not last for", async () => {
    await using made = await runtimeFixture({ conversations: { lockTtlMs: 10_000 } });
    made.runtime.agent("opencode", opencodeAgent({ backend, conversations: made.conversations }));
    const client = await made.connect();
    const asked = real.model.asked.length;
    const ended = (await turn(client, "say too late")).at(-1);
    assert.equal(codeOf(ended), "LOCK_LOST");
    assert.equal(real.model.asked.length, asked);
  });
});

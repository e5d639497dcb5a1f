/** Deliveries over `/v1`. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Conversations } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { Runtime } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { FakeChannel } from "../../testing/fake-channel.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";

const DEADLINE = { timeout: 20_000 };

type Row = Record<string, unknown>;

async function newServer(stack: AsyncDisposableStack) {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-v1-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const audit: Row[] = [];
  const ignore = () => undefined;
  const info = (fields: object) => void ("audit" in fields && audit.push(fields as Row));
  const logger: Logger = { debug: ignore, info, warn: ignore, error: ignore };
  const auth = bearerTokens({ alices: "alice", bobs: "bob", olgas: { principal: "olga", operator: true } });
  const runtime = new Runtime({ store: sqlite(path.join(root, "test.db")), auth, logger });
  runtime.agent("echo", (input) => input);
  const channel = new FakeChannel();
  const conversations = new Conversations(runtime, { deliveries: { channels: [channel] } });
  const server = await serve(runtime, { port: 0, conversations });
  stack.defer(() => server.stop({ drainMs: 0 }));
  const ask = async (target: string, { token = "alices", method = "GET" } = {}) => {
    const response = await fetch(`http://127.0.0.1:${server.port}/v1${target}`, {
      method,
      headers: { authorization: `Bearer ${token}` },
    });
    return { status: response.status, json: (await response.json()) as Row };
  };
  /** A turn whose answer is delivered, or given up where the channel refuses it. */
  const answered = async (principal: string, thread: string): Promise<string> => {
    const over = Promise.withResolvers<string>();
    const offs = (["delivered", "failed"] as const).map((name) =>
      conversations.deliveries.on(name, ({ deliveryId }) => over.resolve(deliveryId)),
    );
    await conversations.startTurn({
      key: { source: "slack", channel: "C1", thread },
      principal,
      agent: "echo",
      input: "The answer.",
      replyTo: {
        routeKey: { channel: "fake", bridge: "T1", room: "C1", thread },
        fallbacks: { externalRoomId: "C1", threadId: thread },
      },
    });
    const deliveryId = await over.promise;
    for (const off of offs) off();
    return deliveryId;
  };
  return { ask, answered, channel, conversations, audit };
}

const idsOf = ({ json }: { json: Row }): unknown[] => (json["deliveries"] as Row[]).map((row) => row["delivery_id"]);

test(
  "[SRV-35] deliveries are listed newest first, by state, channel and conversation, and shown",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { ask, answered, channel } = await newServer(stack);
    const first = await answered("alice", "1.1");
    channel.fail("send", { kind: "refused" });
    const second = await answered("alice", "1.2");
    const bobs = await answered("bob", "1.3");
    assert.deepEqual(idsOf(await ask("/deliveries")), [second, first]);
    assert.deepEqual(idsOf(await ask("/deliveries?state=failed")), [second]);
    assert.deepEqual(idsOf(await ask("/deliveries?channel=fake&state=delivered")), [first]);
    assert.deepEqual(idsOf(await ask("/deliveries?channel=slack")), []);
    assert.deepEqual(idsOf(await ask("/deliveries", { token: "bobs" })), [bobs]);
    const page = await ask("/deliveries?limit=2", { token: "olgas" });
    assert.deepEqual(idsOf(page), [bobs, second]);
    const rest = await ask(`/deliveries?limit=2&cursor=${String(page.json["next_cursor"])}`, { token: "olgas" });
    assert.deepEqual([idsOf(rest), rest.json["next_cursor"]], [[first], null]);

    const { status, json } = await ask(`/deliveries/${second}`);
    const { job_id: jobId, conversation_id: conversation, created_at: created, changed_at: changed, ...shown } = json;
    assert.equal(status, 200);
    assert.deepEqual(shown, {
      delivery_id: second,
      state: "failed",
      channel: "fake",
      route_key: "fake/T1/C1/1.2",
      route: { externalRoomId: "C1", threadId: "1.2" },
      principal: "alice",
      attempts: 1,
      failures: 1,
      last_error: "send fails, as the test wants it",
      unclear: false,
      parts: 0,
      next_try_at: null,
    });
    assert.ok(Date.parse(String(created)) <= Date.parse(String(changed)));
    assert.match(String(jobId), /^job_/);
    assert.deepEqual(idsOf(await ask(`/deliveries?conversation_id=${String(conversation)}`)), [second]);
  },
);

test(
  "[SRV-35] what failed is tried again or discarded by who may see it, with a line for the audit",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { ask, answered, channel, conversations, audit } = await newServer(stack);
    channel.fail("send", { kind: "refused" });
    const failed = await answered("alice", "1.1");
    for (const what of ["retry", "discard"]) {
      const theirs = await ask(`/deliveries/${failed}/${what}`, { method: "POST", token: "bobs" });
      const nobodys = await ask(`/deliveries/dlv_none/${what}`, { method: "POST", token: "bobs" });
      assert.deepEqual([theirs.status, nobodys.status], [404, 404]);
      assert.deepEqual(JSON.parse(JSON.stringify(theirs.json).replace(failed, "dlv_none")), nobodys.json);
    }
    const delivered = Promise.withResolvers<void>();
    conversations.deliveries.on("delivered", () => delivered.resolve());
    const again = await ask(`/deliveries/${failed}/retry`, { method: "POST", token: "olgas" });
    assert.deepEqual([again.status, again.json["state"], again.json["failures"]], [200, "pending", 0]);
    await delivered.promise;
    assert.equal(channel.shown.length, 1);
    for (const what of ["retry", "discard"]) {
      const { status, json } = await ask(`/deliveries/${failed}/${what}`, { method: "POST" });
      assert.deepEqual([status, (json["details"] as Row)["reason"]], [409, "wrong_state"]);
    }
    channel.fail("send", { kind: "refused" });
    const second = await answered("alice", "1.2");
    assert.equal((await ask(`/deliveries/${second}/discard`, { method: "POST" })).json["state"], "discarded");
    assert.deepEqual(
      audit.map(({ audit: what, principal, delivery_id: id }) => [what, principal, id]),
      [
        ["delivery.retry", "olga", failed],
        ["delivery.discard", "alice", second],
      ],
    );
  },
);

test("[SRV-35] what cannot be asked is told by its name", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newServer(stack);
  for (const [target, said] of [
    ["?state=lost", /query\.state: must be one of open, pending/],
    ["?limit=0", /query\.limit/],
    ["?cursor=x", /^cursor: /],
    ["?channel=", /query\.channel/],
    ["?odd=1", /odd/],
  ] as const) {
    const { status, json } = await ask(`/deliveries${target}`);
    assert.equal(status, 400);
    assert.match(String(json["detail"]), said);
  }
  assert.equal((await ask("/deliveries/dlv_none")).status, 404);
  assert.equal((await ask("/deliveries", { token: "wrong" })).status, 401);
  assert.equal((await ask("/deliveries", { method: "DELETE" })).status, 405);
  assert.equal((await ask("/deliveries/dlv_none/retry")).status, 405);
});

/** A runtime's conversations and their upstream sessions (SPEC.md, UPS). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { UpstreamSession } from "../../src/conversation/index.ts";
import { ArcpError } from "../../src/protocol/index.ts";
import { FakeBackend } from "../../src/testing/fake-backend.ts";
import { eventually, runtimeFixture, turns } from "../runtime-fixture.ts";

const ALICE = { principal: "alice", operator: false };

test("[UPS-15] a conversation's sessions are named after its key, one for each backend, and go with it", async () => {
  const backends = [new FakeBackend({ name: "one" }), new FakeBackend({ name: "two" })];
  await using fixture = await runtimeFixture({ conversations: { upstream: { backends, intervalMs: 30_000 } } });
  const { conversations, store } = fixture;
  const { conversation } = await conversations.resolve({ source: "cli", name: "notes" }, ALICE);
  for (const backend of backends) {
    const options = { backend, permissionsFor: () => [] };
    const session = await conversations.upstream(conversation.conversationId, options);
    assert.ok(session instanceof UpstreamSession);
    const id = await session.ensure();
    assert.equal(await (await conversations.upstream(conversation.conversationId, options)).ensure(), id);
    assert.deepEqual(
      [...backend.sessions.values()].map(({ title }) => title),
      ["cli:notes"],
    );
  }
  backends[1]?.fail("delete", { kind: "unavailable" });
  await conversations.delete(conversation.conversationId, ALICE);
  await eventually(() => backends[0]?.sessions.size === 0 && backends[1]?.count("delete") === 1, "the first clean-up");
  assert.equal(backends[1]?.sessions.size, 1);
  await fixture.clock.advance(30_000);
  await eventually(() => backends[1]?.sessions.size === 0, "the janitor's next round");
  assert.deepEqual(await store.bindings.census(), { bound: 0, binding: 0, lost: 0, debts: 0 });
});

test("[UPS-15] an unknown conversation has no upstream session", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  await assert.rejects(
    fixture.conversations.upstream("cli_none", { backend: new FakeBackend(), permissionsFor: () => [] }),
    (error: unknown) => error instanceof ArcpError && error.details?.["reason"] === "unknown_conversation",
  );
});

test("[UPS-19] a job that is no turn has a session of its own, which goes with it, also where nobody disposes of it", async () => {
  const backend = new FakeBackend();
  await using fixture = await runtimeFixture({
    conversations: { upstream: { backends: [backend], intervalMs: 30_000 } },
  });
  const { conversations, store, clock } = fixture;
  const client = await fixture.connect();
  const options = { backend, permissionsFor: () => [] };
  const [one, two] = [await client.start("puppet"), await client.start("puppet")];
  {
    const session = conversations.jobUpstream(one, options);
    await using _ = session.record;
    const first = await session.ensure();
    const second = await session.recreate();
    assert.notEqual(second, first);
    assert.deepEqual([...backend.sessions.keys()], [second]);
  }
  assert.equal(backend.sessions.size, 0);
  assert.equal((await store.bindings.census()).debts, 0);

  const left = await conversations.jobUpstream(two, options).ensure();
  await clock.advance(2 * backend.createTimeoutMs + 60_000);
  await turns();
  assert.equal(backend.sessions.has(left), true, "the session of a running job was taken");
  (await fixture.puppet(two)).end();
  while ((await store.jobs.get(two))?.status === "running") await turns(1);
  for (let rounds = 0; rounds < 2; rounds += 1) {
    await clock.advance(30_000);
    await turns(100);
  }
  assert.equal(backend.sessions.size, 0);
  assert.equal((await store.bindings.census()).debts, 0);
});

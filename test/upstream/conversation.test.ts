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

test("[UPS-12] no create call starts whose note the store was too slow to take", async () => {
  const backend = new FakeBackend({ createTimeoutMs: 30_000 });
  const clock = Promise.withResolvers<{ advance(ms: number): Promise<void> }>();
  await using fixture = await runtimeFixture({
    conversations: {},
    wrap: (store) => {
      const { intend } = store.bindings;
      store.bindings.intend = async (given) => {
        await intend(given);
        await (await clock.promise).advance(60_002);
      };
      return store;
    },
  });
  clock.resolve(fixture.clock);
  const session = fixture.conversations.jobUpstream("job_1", { backend, permissionsFor: () => undefined });
  await assert.rejects(session.ensure(), /too slow; try again/);
  assert.equal(backend.count("create"), 0);
});

test("[UPS-17] a stop ends the round that is under way", async () => {
  const backend = new FakeBackend();
  await using fixture = await runtimeFixture({
    conversations: { upstream: { backends: [backend], intervalMs: 1_000 } },
  });
  const of = { backend: backend.name, owner: "job", recordId: "job_1", nonce: undefined } as const;
  for (let count = 0; count < 50; count += 1) {
    backend.fail("delete", { until: new Promise(() => undefined) });
    await fixture.store.bindings.doom({ ...of, upstreamId: `ses_${count}`, now: fixture.clock.wall() });
  }
  await fixture.clock.advance(1_500);
  await eventually(() => backend.count("delete") > 0, "the round");
  let stopped = false;
  const stopping = fixture.runtime.stop({ drainMs: 0 }).then(() => {
    stopped = true;
  });
  await turns(50);
  for (let second = 0; second < 60 && !stopped; second += 1) await fixture.clock.advance(1_000);
  assert.equal(stopped, true);
  await stopping;
  assert(backend.count("delete") < 50, "the whole round was waited for");
});

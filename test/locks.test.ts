/** Locks and the resolver as a program uses them (SPEC.md, CNV and LCK). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type ConversationKey, requestContext, withRequestContext } from "../src/conversation/index.ts";
import { ArcpError } from "../src/protocol/index.ts";
import { StoreUnavailable } from "../src/store/store.ts";
import { eventually, type RuntimeFixture, runtimeFixture, turns } from "./runtime-fixture.ts";
import { skippedOverPostgres } from "./test-store.ts";

const ALICE = { principal: "alice", operator: false };
const BOSS = { principal: "boss", operator: true };
const KEY: ConversationKey = { source: "cli", name: "notes" };

const isDetail = (code: string) => (error: unknown) => error instanceof ArcpError && error.details?.["code"] === code;
const isReason = (reason: string) => (error: unknown) =>
  error instanceof ArcpError && error.code === "INVALID_REQUEST" && error.details?.["reason"] === reason;

async function place(fixture: RuntimeFixture): Promise<string> {
  return (await fixture.conversations.resolve(KEY, ALICE)).conversation.conversationId;
}

test("[CNV-2] fifty who ask at once get one conversation, which one of them has made", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const answers = await Promise.all(Array.from({ length: 50 }, () => fixture.conversations.resolve(KEY, ALICE)));
  assert.equal(answers.filter(({ created }) => created).length, 1);
  assert.equal(new Set(answers.map(({ conversation }) => conversation.conversationId)).size, 1);
});

test("[CNV-3] a lookup finds and never makes", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  assert.equal(await fixture.conversations.lookup(KEY, ALICE), undefined);
  assert.equal((await fixture.conversations.list(BOSS)).conversations.length, 0);
  const id = await place(fixture);
  assert.equal((await fixture.conversations.lookup(KEY, ALICE))?.conversationId, id);
  assert.equal(await fixture.conversations.lookup(KEY, { principal: "bob" }), undefined);
});

test("[CNV-4] a fresh conversation has an id of its own; a channel's places have keys", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const [one, two] = [
    await fixture.conversations.createFresh("web", ALICE),
    await fixture.conversations.createFresh("web", ALICE),
  ];
  assert.match(one.conversationId, /^web_/);
  assert.notEqual(one.conversationId, two.conversationId);
  await assert.rejects(fixture.conversations.createFresh("slack" as "web", ALICE), /resolve\(key\)/);
  await assert.rejects(fixture.conversations.createFresh("fax" as "web", ALICE), /source/);
});

test("[CNV-6] one lists and deletes one's own, and not while somebody works on it", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const id = await place(fixture);
  await fixture.conversations.resolve(KEY, { principal: "bob" });
  const ids = async (who: typeof ALICE) =>
    (await fixture.conversations.list(who)).conversations.map((record) => record.conversationId);
  assert.deepEqual(await ids(ALICE), [id]);
  assert.equal((await ids(BOSS)).length, 2);
  const lock = await fixture.conversations.locks.tryAcquire(id);
  await assert.rejects(fixture.conversations.delete(id, ALICE), isDetail("CONVERSATION_BUSY"));
  await lock?.release();
  await assert.rejects(
    fixture.conversations.delete(id, { principal: "bob", operator: false }),
    isReason("unknown_conversation"),
  );
  await fixture.conversations.delete(id, ALICE);
  await assert.rejects(fixture.conversations.get(id, ALICE), isReason("unknown_conversation"));
  assert.equal((await fixture.conversations.resolve(KEY, ALICE)).created, true);
});

test("[LCK-1] one holds a lock at a time, the same holder included, and a lock that expires now has expired", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  const first = await locks.tryAcquire(id, { holder: "one", ttlMs: 1_000, keep: false });
  assert.equal(first?.lockEpoch, 1);
  assert.equal(await locks.tryAcquire(id, { holder: "one" }), undefined);
  await fixture.clock.advance(999);
  assert.equal(await locks.tryAcquire(id, { holder: "two" }), undefined);
  await fixture.clock.advance(1);
  const second = await locks.tryAcquire(id, { holder: "two" });
  assert.equal(second?.lockEpoch, 2);
  assert.equal(first?.signal.aborted, true);
  assert.equal(await first?.release(), false, "a stale release did something");
  await assert.rejects(first?.refresh() as Promise<void>, isDetail("LOCK_LOST"));
  assert.equal((await locks.inspect(id))?.holder, "two");
  assert.equal(await second?.release(), true);
  assert.equal(await second?.release(), false);
  await assert.rejects(locks.tryAcquire("cli_none"), isReason("unknown_conversation"));
  for (const ttlMs of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
    await assert.rejects(locks.tryAcquire(id, { ttlMs }), /ttlMs/);
  }
  for (const holder of ["", "x".repeat(257), "\ud800"]) {
    await assert.rejects(locks.tryAcquire(id, { holder }), /holder/);
  }
});

test("[LCK-3] a lock that is held refreshes itself for longer than its ttl", {
  skip: skippedOverPostgres("its clock runs ahead of what a server answers"),
}, async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  await using lock = await locks.tryAcquire(id, { ttlMs: 3_000 });
  assert(lock !== undefined);
  for (let second = 0; second < 30; second += 1) await fixture.clock.advance(1_000);
  assert.equal(lock.signal.aborted, false);
  assert(((await locks.inspect(id))?.expiresAt as number) > fixture.clock.wall());
  assert(lock.remainingMs > 0 && lock.remainingMs <= 3_000);
});

test("[LCK-4] a lock that cannot be refreshed is given up before it ends, also when only the wall's clock has gone on", {
  skip: skippedOverPostgres("its clock runs ahead of what a server answers"),
}, async () => {
  for (const how of ["silent", "failing", "asleep"] as const) {
    let broken = false;
    await using fixture = await runtimeFixture({
      conversations: {},
      wrap: (store) => {
        const { refresh } = store.conversations;
        store.conversations.refresh = (...given) => {
          if (!broken) return refresh(...given);
          return how === "silent" ? new Promise(() => undefined) : Promise.reject(new Error("disk"));
        };
        return store;
      },
    });
    const id = await place(fixture);
    const lock = await fixture.conversations.locks.tryAcquire(id, { ttlMs: 9_000 });
    assert(lock !== undefined);
    await fixture.clock.advance(3_000);
    broken = how !== "asleep";
    const expiresAt = lock.expiresAt;
    if (how === "asleep") fixture.clock.stepWall(60_000);
    for (let ms = 0; ms < 9_000 && !lock.signal.aborted; ms += 500) await fixture.clock.advance(500);
    assert.equal(lock.signal.aborted, true, how);
    if (how !== "asleep") assert(fixture.clock.wall() < expiresAt, `${how}: the signal came when the lock had ended`);
    assert.equal(isDetail("LOCK_LOST")(lock.signal.reason), true);
    assert.equal(lock.remainingMs, 0);
  }
});

test("[LCK-10] withLock holds the lock for the length of a function, and says when it was lost", {
  skip: skippedOverPostgres("its clock runs ahead of what a server answers"),
}, async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  const gate = Promise.withResolvers<void>();
  const first = locks.withLock(id, async (lock) => {
    await gate.promise;
    return lock.lockEpoch;
  });
  await eventually(() => fixture.clock.monotonic() >= 0, "the lock");
  await turns();
  await assert.rejects(
    locks.withLock(id, () => 1),
    isDetail("CONVERSATION_BUSY"),
  );
  const second = locks.withLock(id, (lock) => lock.lockEpoch, { waitMs: 10_000 });
  gate.resolve();
  assert.equal(await first, 1);
  await turns();
  await fixture.clock.advance(1_000);
  assert.equal(await second, 2);
  const lost = locks.withLock(id, async (lock) => {
    await locks.breakLock(id, { principal: "boss", reason: "stuck" });
    await assert.rejects(lock.refresh(), isDetail("LOCK_LOST"));
    return "done, as far as it knows";
  });
  await assert.rejects(lost, isDetail("LOCK_LOST"));
  await assert.rejects(
    locks.withLock(id, () => Promise.reject(new Error("mine"))),
    /mine/,
  );
  assert.equal(await locks.inspect(id), undefined);
});

test("[LCK-7] whoever holds a lock can be seen, and an operator can break it, with a line for the audit", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  await assert.rejects(locks.breakLock(id, { principal: "boss", reason: "x" }), isReason("not_locked"));
  await assert.rejects(
    locks.breakLock("cli_none", { principal: "boss", reason: "x" }),
    isReason("unknown_conversation"),
  );
  const lock = await locks.tryAcquire(id, { holder: "worker", ttlMs: 5_000, keep: false });
  assert.deepEqual(await locks.inspect(id), {
    holder: "worker",
    lockEpoch: 1,
    nodeId: fixture.runtime.nodeId,
    pid: process.pid,
    host: (await fixture.store.nodes.list())[0]?.host,
    acquiredAt: lock?.acquiredAt,
    expiresAt: (lock?.acquiredAt as number) + 5_000,
    jobId: undefined,
  });
  assert.equal((await locks.breakLock(id, { principal: "boss", reason: "stuck" })).holder, "worker");
  const audit = fixture.log.find(({ fields }) => (fields as { audit?: string }).audit === "lock.break");
  assert(audit !== undefined);
  const { reason, principal } = audit.fields as { reason: string; principal: string };
  assert.deepEqual([reason, principal], ["stuck", "boss"]);
  const next = await locks.tryAcquire(id);
  assert((next?.lockEpoch as number) > 1);
  await assert.rejects(lock?.refresh() as Promise<void>, isDetail("LOCK_LOST"));
});

test("[LCK-7] a turn whose lock is broken ends with the reason, and the next one runs", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const say = () => fixture.conversations.startTurn({ key: KEY, principal: "alice", agent: "puppet" });
  const [stuck, next] = [await say(), await say()];
  const { job } = await fixture.puppet(stuck.jobId);
  await fixture.conversations.locks.breakLock(stuck.conversationId, { principal: "boss", reason: "it hangs" });
  assert.equal(job.signal.aborted, true);
  (await fixture.puppet(next.jobId)).end("went on");
  await eventually(() => fixture.runtime.runningJobs === 0, "the next turn");
  const end = await fixture.runtime.jobs.result(stuck.jobId, "alice");
  assert.equal(end.status, "error");
  assert.match(JSON.stringify(end), /it hangs/);
});

test("[LCK-8] holder and user flow with the request, into a turn's handler too", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  await withRequestContext({ holder: "request-7", userId: "U1" }, async () => {
    await turns(3);
    await using lock = await locks.tryAcquire(id);
    assert.equal(lock?.holder, "request-7");
  });
  await using anonymous = await locks.tryAcquire(id);
  assert.match(anonymous?.holder ?? "", /^holder_/);
  fixture.runtime.agent("who", () => requestContext());
  const turn = await fixture.conversations
    .startTurn({ key: "x" as never, principal: "p", agent: "who" })
    .catch((error: unknown) => error);
  assert(turn instanceof ArcpError);
  const other: ConversationKey = { source: "cli", name: "other" };
  const { jobId } = await fixture.conversations.startTurn({
    key: other,
    principal: "alice",
    userId: "U2",
    agent: "who",
  });
  await eventually(() => fixture.runtime.runningJobs === 0, "the turn");
  const { result } = (await fixture.runtime.jobs.result(jobId, "alice")) as { result?: unknown };
  assert.deepEqual(result, { holder: jobId, userId: "U2" });
});

test("[LCK-4] a lock whose acquisition was answered late is known to be lost before somebody else has it", async () => {
  const gate = Promise.withResolvers<void>();
  let isTaken = false;
  await using fixture = await runtimeFixture({
    conversations: {},
    wrap: (store) => {
      const { acquire } = store.conversations;
      store.conversations.acquire = async (claim) => {
        const taken = await acquire(claim);
        if (!isTaken) {
          isTaken = true;
          await gate.promise;
        }
        return taken;
      };
      return store;
    },
  });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  const late = locks.tryAcquire(id, { holder: "one", ttlMs: 9_000 });
  await eventually(() => isTaken, "the store to have given it");
  await fixture.clock.advance(10_000);
  gate.resolve();
  const first = await late;
  await turns();
  await fixture.clock.advance(1);
  const second = await locks.tryAcquire(id, { holder: "two", ttlMs: 9_000 });
  assert.equal(second?.lockEpoch, 2);
  assert(first === undefined || first.signal.aborted, "two hold it and the first was not told");
});

test("[LCK-4] a holder whose wall clock has passed its lock's end is told within a second or two", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  const lock = await locks.tryAcquire(id, { holder: "one" });
  fixture.clock.stepWall(3_600_000);
  await fixture.clock.advance(2_000);
  const other = await locks.tryAcquire(id, { holder: "two" });
  assert.equal(other?.lockEpoch, 2);
  assert.equal(lock?.signal.aborted, true);
});

test("[LCK-6] a release that the store did not take can be tried again", async () => {
  let down = false;
  await using fixture = await runtimeFixture({
    conversations: {},
    wrap: (store) => {
      const { release } = store.conversations;
      store.conversations.release = (ref) => (down ? Promise.reject(new StoreUnavailable("down")) : release(ref));
      return store;
    },
  });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  const lock = await locks.tryAcquire(id);
  assert(lock !== undefined);
  down = true;
  await assert.rejects(lock.release());
  down = false;
  assert.equal(await lock.release(), true, "nothing was done");
  assert.equal(await locks.inspect(id), undefined);
});

test("[LCK-10] what the work came to is told though the release fails", async () => {
  await using fixture = await runtimeFixture({
    conversations: {},
    wrap: (store) => {
      store.conversations.release = () => Promise.reject(new StoreUnavailable("down"));
      return store;
    },
  });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  await assert.rejects(
    locks.withLock(id, () => {
      throw new RangeError("the work's own");
    }),
    RangeError,
  );
  const { conversation } = await fixture.conversations.resolve({ source: "cli", name: "other" }, ALICE);
  assert.equal(await locks.withLock(conversation.conversationId, () => "done"), "done");
});

test("[LCK-2] a stale holder of a conversation that was deleted does nothing to one that was made anew", async () => {
  await using fixture = await runtimeFixture({ conversations: {} });
  const { locks } = fixture.conversations;
  const id = await place(fixture);
  const stale = await locks.tryAcquire(id, { holder: "worker", ttlMs: 3_000, keep: false });
  await locks.breakLock(id, { principal: "boss", reason: "test" });
  await fixture.conversations.delete(id, ALICE);
  assert.equal(await place(fixture), id);
  await locks.tryAcquire(id, { holder: "worker" });
  assert.equal(await stale?.release(), false, "the stale holder has released the new one's lock");
  assert.equal((await locks.inspect(id))?.holder, "worker");
});

test("[CNV-10] a host's rule says what is listed, however few of all that is", async () => {
  const asked = new Set<string>();
  await using fixture = await runtimeFixture({
    conversations: {
      authorize: ({ principal }, { source, principal: owner }, action) => {
        asked.add(action);
        return source === "slack" || owner === principal;
      },
    },
  });
  const { conversations } = fixture;
  const ids: string[] = [];
  for (const thread of ["1", "2", "3"]) {
    const key = { source: "slack", channel: "C1", thread } as const;
    ids.unshift((await conversations.resolve(key, { principal: "bot" })).conversation.conversationId);
    await conversations.resolve({ source: "cli", name: thread }, { principal: "bob" });
    await fixture.clock.advance(1);
  }
  const pages: string[][] = [];
  let cursor: string | undefined;
  do {
    const page = await conversations.list(ALICE, { limit: 2, cursor });
    pages.push(page.conversations.map(({ conversationId }) => conversationId));
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  assert.deepEqual(pages.flat(), ids);
  assert(pages.every((page) => page.length <= 2));
  assert.deepEqual([...asked], ["list"]);
});

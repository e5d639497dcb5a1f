/** Work in an upstream session: healed once, and one clear error for the rest (SPEC.md, UPS). */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { silentLogger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { type Store, StoreUnavailable } from "../../store/store.ts";
import { FakeBackend } from "../../testing/fake-backend.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { BackendError } from "./backend.ts";
import { ConversationUpstream } from "./conversation-record.ts";
import { UpstreamJanitor } from "./janitor.ts";
import { UpstreamSession } from "./session.ts";
import { withUpstream } from "./with-upstream.ts";

const ID = "cli_1";

class Scene implements AsyncDisposable {
  readonly clock = new ManualClock();
  readonly backend = new FakeBackend();
  readonly store: Store;
  readonly janitor: UpstreamJanitor;
  readonly #folder: string;

  private constructor(folder: string) {
    const { clock, backend } = this;
    this.#folder = folder;
    this.store = sqlite(join(folder, "store.db"), { clock });
    this.janitor = new UpstreamJanitor({
      bindings: this.store.bindings,
      backends: [backend],
      clock,
      intervalMs: 1_000,
    });
  }

  static async open(): Promise<Scene> {
    const scene = new Scene(await mkdtemp(join(tmpdir(), "holdfast-upstream-")));
    await scene.store.start();
    const conversation = { conversationId: ID, source: "cli", key: undefined, principal: "alice", userId: "alice" };
    await scene.store.conversations.resolve({ ...conversation, now: scene.clock.wall() });
    return scene;
  }

  async session(): Promise<UpstreamSession<ConversationUpstream>> {
    const { clock, backend, store } = this;
    const parts = { bindings: store.bindings, clock, logger: silentLogger, backend, conversationId: ID, title: "t" };
    return new UpstreamSession(await ConversationUpstream.load(parts), { backend, clock, permissionsFor: () => [] });
  }

  get upstream(): string[] {
    return [...this.backend.sessions.keys()];
  }

  async state(): Promise<string> {
    return (await this.store.bindings.get({ conversationId: ID, backend: "fake" })).state;
  }

  /** Works as a prompt does: it fails where the session is not there. */
  readonly work = async (sessionId: string): Promise<string> => {
    if (!(await this.backend.exists(sessionId))) throw new BackendError("session_not_found", "no such session");
    return sessionId;
  };

  async [Symbol.asyncDispose](): Promise<void> {
    await this.janitor.stop();
    await this.store.stop();
    await rm(this.#folder, { recursive: true });
    assert.equal(this.clock.pendingTimers, 0);
  }
}

const isDetail = (code: string, retryable: boolean) => (error: unknown) => {
  assert.ok(error instanceof ArcpError, String(error));
  assert.deepEqual([error.details?.["code"], error.retryable, error.details?.["record_id"]], [code, retryable, ID]);
  return true;
};

test("[UPS-14] a session that the backend does not know is made anew once, and the work done again", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  const first = await withUpstream(session, scene.work);
  scene.backend.sessions.clear();
  const second = await withUpstream(session, scene.work);
  assert.notEqual(second, first);
  assert.deepEqual(scene.upstream, [second]);
  assert.equal(await scene.state(), "bound");
});

test("[UPS-14] of many that find it lost at once one makes another, for all of them", async () => {
  await using scene = await Scene.open();
  await (await scene.session()).ensure();
  const sessions = await Promise.all(Array.from({ length: 10 }, () => scene.session()));
  scene.backend.sessions.clear();
  const working = Promise.all(sessions.map((session) => withUpstream(session, scene.work)));
  let over = false;
  void working.finally(() => {
    over = true;
  });
  while (!over) await scene.clock.advance(50);
  assert.equal(new Set(await working).size, 1);
  assert.equal(scene.backend.count("create"), 2);
});

test("[UPS-14] what is lost twice in one turn is an error, not a session after the other", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  const lost = withUpstream(session, async () => {
    throw new BackendError("session_not_found", "no such session");
  });
  await assert.rejects(lost, isDetail("BACKEND_UNAVAILABLE", true));
  assert.equal(scene.backend.count("create"), 2);
});

test("[UPS-14] a backend that is down is one retryable error, and the session stays", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  const id = await session.ensure();
  scene.backend.down = true;
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await assert.rejects(withUpstream(session, scene.work), isDetail("BACKEND_UNAVAILABLE", true));
  }
  scene.backend.down = false;
  assert.equal(await withUpstream(session, scene.work), id);
  assert.equal(scene.backend.count("create"), 1);
});

test("[UPS-14] what a backend refuses is not worth another try; what work throws is its own", async () => {
  await using scene = await Scene.open();
  scene.backend.refuses = () => true;
  await assert.rejects(withUpstream(await scene.session(), scene.work), isDetail("BACKEND_REFUSED", false));
  assert.equal((await scene.store.bindings.census()).debts, 0, "what was refused is noted");
  scene.backend.refuses = () => false;
  await assert.rejects(
    withUpstream(await scene.session(), () => Promise.reject(new RangeError("mine"))),
    RangeError,
  );
});

test("[UPS-12] a create call whose answer is lost leaves a session that the sweep deletes, and no other", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  scene.backend.fail("create", { kind: "unavailable", late: true });
  await assert.rejects(withUpstream(session, scene.work), isDetail("BACKEND_UNAVAILABLE", true));
  assert.equal(await scene.state(), "unbound");
  const id = await withUpstream(session, scene.work);
  assert.equal(scene.upstream.length, 2);
  assert.equal(await scene.janitor.sweep(), 0);
  scene.clock.stepWall(2 * scene.backend.createTimeoutMs);
  assert.equal(await scene.janitor.sweep(), 1);
  assert.deepEqual(scene.upstream, [id]);
  assert.equal((await scene.store.bindings.census()).debts, 0);
});

test("[UPS-18] a backend that makes sessions and never answers gets ten calls, and then none until the sweep", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  for (let attempt = 0; attempt < 15; attempt += 1) {
    scene.backend.fail("create", { kind: "unavailable", late: true });
    await assert.rejects(withUpstream(session, scene.work), isDetail("BACKEND_UNAVAILABLE", true));
  }
  assert.equal(scene.backend.count("create"), 10);
  scene.clock.stepWall(2 * scene.backend.createTimeoutMs);
  assert.equal(await scene.janitor.sweep(), 10);
  for (let left = 5; left > 0; left -= 1) await assert.rejects(session.ensure());
  assert.deepEqual(scene.upstream.length, 5);
});

test("[UPS-14] a turn that is stopped meanwhile ends with that, not with the backend's word", async () => {
  await using scene = await Scene.open();
  const stop = new AbortController();
  scene.backend.fail("create", { until: new Promise(() => undefined) });
  const working = withUpstream(await scene.session(), scene.work, { signal: stop.signal });
  while (scene.backend.count("create") === 0) await scene.clock.advance(0);
  stop.abort(new RangeError("stopped"));
  await assert.rejects(working, RangeError);
});

test("[UPS-12] a create call that ends after its note was swept is deleted by its maker", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  const gate = Promise.withResolvers<void>();
  // A stalled process: its wall clock goes on, its timers do not.
  scene.backend.fail("create", { until: gate.promise });
  const ensuring = session.ensure();
  while (scene.backend.count("create") === 0) await scene.clock.advance(0);
  scene.clock.stepWall(2 * scene.backend.createTimeoutMs);
  await scene.janitor.sweep();
  const winner = await (await scene.session()).ensure();
  gate.resolve();
  assert.equal(await ensuring, winner, "the loser has the winner's session");
  assert.equal(session.justCreated, false);
  assert.deepEqual(scene.upstream, [winner]);
});

test("[UPS-17] the janitor works by its clock, tries again what failed, and asks for no list without need", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  const first = await session.ensure();
  scene.backend.fail("delete", { kind: "unavailable" });
  scene.backend.fail("delete", { kind: "rejected" });
  const second = await session.recreate();
  assert.deepEqual(scene.upstream, [first, second]);
  scene.janitor.start();
  await scene.clock.advance(1_000);
  assert.deepEqual(scene.upstream, [first, second]);
  await scene.clock.advance(1_000);
  assert.deepEqual(scene.upstream, [second]);
  assert.equal(scene.backend.count("list"), 0);
  await scene.janitor.stop();
  scene.janitor.start();
  assert.equal(scene.clock.pendingTimers, 0);
});

test("[UPS-17] a conversation that is gone gets no session", async () => {
  await using scene = await Scene.open();
  const session = await scene.session();
  await scene.store.conversations.delete(ID, scene.clock.wall());
  await assert.rejects(session.ensure(), /cli_1: there is no such conversation/);
  assert.equal(scene.backend.calls.length, 0);
});

test("[UPS-13] who waits for a claim that never ends gets it, once twice the create timeout is over", async () => {
  await using scene = await Scene.open();
  const ref = { conversationId: ID, backend: "fake" };
  const now = scene.clock.wall();
  await scene.store.bindings.claim({ ...ref, nonce: "of a dead process", staleBefore: 0, maxNoted: 1, now });
  const session = await scene.session();
  const ensuring = session.ensure();
  await scene.clock.advance(2 * scene.backend.createTimeoutMs - 1);
  assert.equal(scene.backend.calls.length, 0);
  await scene.clock.advance(1_000);
  assert.deepEqual(scene.upstream, [await ensuring]);
});

test("[UPS-5] a store that fails around the binding leaves a session that is bound, or none", async () => {
  for (const failing of ["get", "bind", "unclaim", "claim", "doom", "gone"] as const) {
    await using scene = await Scene.open();
    const { bindings } = scene.store;
    const session = await scene.session();
    const operation = bindings[failing];
    let after = failing === "get" ? 1 : 0;
    // The constructor's record holds this facet; from now on this operation of it fails.
    Object.assign(bindings, {
      [failing]: (...given: unknown[]) =>
        after-- > 0 ? Reflect.apply(operation, bindings, given) : Promise.reject(new StoreUnavailable("it is down")),
    });
    const id = await session.ensure().catch((error: unknown) => {
      assert.ok(error instanceof StoreUnavailable, String(error));
      return undefined;
    });
    Object.assign(bindings, { [failing]: operation });
    scene.clock.stepWall(2 * scene.backend.createTimeoutMs);
    await scene.janitor.sweep();
    const { upstreamId } = await bindings.get({ conversationId: ID, backend: "fake" });
    assert.equal(upstreamId, id, failing);
    assert.deepEqual(scene.upstream, id === undefined ? [] : [id], failing);
    assert.equal(await (await scene.session()).ensure(), scene.upstream[0]);
  }
});

/** The rules of an upstream session, over a record in memory (SPEC.md, UPS). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeBackend } from "../../testing/fake-backend.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { BackendError } from "./backend.ts";
import { AnotherWorkerWon, UpstreamError, type UpstreamErrorKind } from "./errors.ts";
import { OneAtATime } from "./one-at-a-time.ts";
import type { UpstreamRecord } from "./record.ts";
import { type UpstreamFailure, type UpstreamOptions, UpstreamSession } from "./session.ts";

/** What several workers share. */
class SharedRow {
  stored: string | null = null;
  readonly turns = new OneAtATime();
}

/** One worker's view of a row; what it does may be replaced by a test. */
class MemoryRecord implements UpstreamRecord {
  readonly id: string = "rec_7";
  readonly title = "a thread";
  upstreamSessionId: string | null;
  locks = 0;
  readonly #row: SharedRow;
  beforeWork: () => void = () => undefined;
  beforeUpdate: (id: string) => void = () => undefined;

  constructor(row = new SharedRow()) {
    this.#row = row;
    this.upstreamSessionId = row.stored;
  }

  get row(): SharedRow {
    return this.#row;
  }

  withLock<T>(work: () => Promise<T>): Promise<T> {
    return this.#row.turns.run(async () => {
      this.locks += 1;
      this.beforeWork();
      await this.reload();
      return await work();
    });
  }

  async update({ upstreamSessionId }: { upstreamSessionId: string }): Promise<void> {
    this.beforeUpdate(upstreamSessionId);
    this.#row.stored = upstreamSessionId;
    this.upstreamSessionId = upstreamSessionId;
  }

  async reload(): Promise<void> {
    this.upstreamSessionId = this.#row.stored;
  }
}

interface Scene {
  backend: FakeBackend;
  record: MemoryRecord;
  session: UpstreamSession<MemoryRecord>;
  failures: { error: unknown; failure: UpstreamFailure }[];
  /** How often permissions were asked for. */
  asked: () => number;
}

function scene(options: Partial<UpstreamOptions<MemoryRecord>> & { record?: MemoryRecord; id?: string } = {}): Scene {
  const backend = new FakeBackend();
  const record = options.record ?? new MemoryRecord();
  if (options.id !== undefined) record.upstreamSessionId = record.row.stored = options.id;
  const failures: Scene["failures"] = [];
  let asked = 0;
  const session = new UpstreamSession(record, {
    backend,
    permissionsFor: (of) => {
      asked += 1;
      return { of: of.id };
    },
    onError: (error, failure) => failures.push({ error, failure }),
    ...options,
  });
  return { backend, record, session, failures, asked: () => asked };
}

const isUpstream = (kind: UpstreamErrorKind) => (error: unknown) => {
  assert.ok(error instanceof UpstreamError, String(error));
  assert.equal(error.kind, kind);
  assert.match(error.message, new RegExp(error.recordId));
  return true;
};

test("[UPS-1] a record with a session is answered without a lock, a permission or a call", async () => {
  const { session, backend, record, asked } = scene({ id: "ses_1" });
  assert.equal(await session.ensure(), "ses_1");
  assert.deepEqual([record.locks, asked(), backend.calls.length, session.justCreated], [0, 0, 0, false]);
});

test("[UPS-1] a record without one gets one, with its title, its permissions and a nonce", async () => {
  const { session, backend, record, asked } = scene();
  const id = await session.ensure();
  assert.equal(record.row.stored, id);
  assert.equal(session.justCreated, true);
  assert.equal(asked(), 1);
  const made = backend.sessions.get(id);
  assert.equal(made?.title, "a thread");
  assert.deepEqual(made?.permissions, { of: "rec_7" });
  assert.match(made?.nonce ?? "", /^holdfast-/);
  assert.equal(await session.ensure(), id);
  assert.equal(session.justCreated, false);
  assert.equal(backend.sessions.size, 1);
});

test("[UPS-1] whoever finds another's session under the lock takes it", async () => {
  const { session, backend, record } = scene();
  record.beforeWork = () => {
    record.row.stored = "ses_theirs";
  };
  assert.equal(await session.ensure(), "ses_theirs");
  assert.deepEqual([backend.calls.length, session.justCreated], [0, false]);
});

test("[UPS-1] of twenty that ask at once one makes the session", async () => {
  const backend = new FakeBackend();
  const row = new SharedRow();
  const sessions = Array.from({ length: 20 }, () => scene({ record: new MemoryRecord(row), backend }).session);
  const ids = await Promise.all(sessions.map((session) => session.ensure()));
  assert.equal(new Set(ids).size, 1);
  assert.equal(sessions.filter(({ justCreated }) => justCreated).length, 1);
  assert.deepEqual([...backend.sessions.keys()], [ids[0]]);
});

test("[UPS-2] a blank id counts as none", async () => {
  for (const blank of ["", "   ", "\t\n"]) {
    const { session, backend } = scene({ id: blank });
    await session.abort();
    assert.equal(backend.count("abort"), 0);
    assert.equal(backend.sessions.has(await session.ensure()), true);
  }
});

test("[UPS-3] recreate makes a fresh session and deletes the one that it replaces", async () => {
  const { session, backend, record } = scene();
  const first = await session.ensure();
  const second = await session.recreate();
  assert.notEqual(second, first);
  assert.equal(session.justCreated, true);
  assert.equal(record.row.stored, second);
  assert.deepEqual([...backend.sessions.keys()], [second]);
});

test("[UPS-3] of twenty that recreate at once one makes the session", async () => {
  const backend = new FakeBackend();
  const row = new SharedRow();
  await scene({ record: new MemoryRecord(row), backend }).session.ensure();
  const sessions = Array.from({ length: 20 }, () => scene({ record: new MemoryRecord(row), backend }).session);
  const ids = await Promise.all(sessions.map((session) => session.recreate()));
  assert.equal(new Set(ids).size, 1);
  assert.equal(sessions.filter(({ justCreated }) => justCreated).length, 1);
  assert.deepEqual([...backend.sessions.keys()], [ids[0]]);
  assert.equal(backend.count("create"), 2);
});

test("[UPS-3] an id that was cleared meanwhile is made anew", async () => {
  const { session, record } = scene({ id: "ses_old" });
  record.beforeWork = () => {
    record.row.stored = null;
  };
  const id = await session.recreate();
  assert.equal(record.row.stored, id);
  assert.equal(session.justCreated, true);
});

test("[UPS-3] a session that cannot be deleted is reported, and the new one stands", async () => {
  const { session, backend, failures } = scene();
  const first = await session.ensure();
  backend.fail("delete", { kind: "unavailable" });
  const second = await session.recreate();
  assert.equal(await session.ensure(), second);
  assert.deepEqual(
    failures.map(({ failure }) => failure),
    [{ action: "delete_session", recordId: "rec_7" }],
  );
  assert.equal(backend.sessions.has(first), true);
});

test("[UPS-4] permissions that throw create nothing", async () => {
  const { session, backend, record } = scene({
    permissionsFor: () => {
      throw new Error("no rules");
    },
  });
  await assert.rejects(session.ensure(), /no rules/);
  assert.deepEqual([backend.calls.length, record.row.stored, session.justCreated], [0, null, false]);
});

test("[UPS-4] permissions may be a promise", async () => {
  const { session, backend } = scene({ permissionsFor: async () => ["ask"] });
  assert.deepEqual(backend.sessions.get(await session.ensure())?.permissions, ["ask"]);
});

test("[UPS-5] a session that cannot be persisted is deleted, and the error is the record's", async () => {
  const { session, backend, record } = scene();
  record.beforeUpdate = () => {
    throw new Error("title too long");
  };
  await assert.rejects(session.ensure(), /title too long/);
  assert.deepEqual([backend.count("create"), backend.sessions.size, session.justCreated], [1, 0, false]);
});

test("[UPS-5] a clean-up that fails never hides what led to it", async () => {
  const { session, backend, record, failures } = scene();
  record.beforeUpdate = () => {
    throw new Error("disk full");
  };
  backend.fail("delete", { kind: "unavailable" });
  await assert.rejects(session.ensure(), /disk full/);
  assert.equal(failures[0]?.failure.action, "delete_session");
});

test("[UPS-5] a commit that fails deletes the session; one that failed only as it seems keeps it", async () => {
  for (const lands of [false, true]) {
    const { session, backend, record } = scene();
    let commits = 0;
    const withLock = record.withLock.bind(record);
    record.withLock = async <T>(work: () => Promise<T>): Promise<T> => {
      const before = record.row.stored;
      const result = await withLock(work);
      if (++commits > 1) return result;
      if (!lands) record.row.stored = before;
      throw new Error("connection reset");
    };
    if (lands) {
      const id = await session.ensure();
      assert.deepEqual([...backend.sessions.keys()], [id]);
      assert.equal(session.justCreated, true);
    } else {
      await assert.rejects(session.ensure(), /connection reset/);
      assert.equal(backend.sessions.size, 0);
    }
  }
});

test("[UPS-6] a unique violation says that another worker won: theirs is the answer, ours goes", async () => {
  const violations = [
    Object.assign(new Error("duplicate key"), { code: "23505" }),
    Object.assign(new Error("UNIQUE constraint failed"), { code: "ERR_SQLITE_ERROR", errcode: 2067 }),
    new AnotherWorkerWon("late"),
    new Error("the ORM's", { cause: Object.assign(new Error("duplicate key"), { code: "23505" }) }),
  ];
  for (const violation of violations) {
    const { session, backend, record } = scene();
    record.beforeUpdate = () => {
      record.row.stored = "ses_theirs";
      throw violation;
    };
    assert.equal(await session.ensure(), "ses_theirs");
    assert.deepEqual([backend.sessions.size, session.justCreated], [0, false]);
  }
});

test("[UPS-6] a unique violation without a winner is a typed error that names the record", async () => {
  const { session, backend, record } = scene();
  record.beforeUpdate = () => {
    throw new AnotherWorkerWon("late");
  };
  await assert.rejects(session.ensure(), isUpstream("conflict"));
  assert.equal(backend.sessions.size, 0);
});

test("[UPS-7] abort stops what has an id, and keeps it", async () => {
  const { session, backend, record } = scene();
  await session.abort();
  assert.equal(backend.calls.length, 0);
  const id = await session.ensure();
  await session.abort();
  assert.deepEqual(backend.calls.at(-1), { method: "abort", sessionId: id });
  assert.equal(record.row.stored, id);
});

test("[UPS-7] an abort that fails is reported, to the log where nobody listens, and never thrown", async () => {
  const told = scene({ id: "ses_1" });
  told.backend.fail("abort", { kind: "unavailable" });
  await told.session.abort();
  assert.deepEqual(told.failures[0]?.failure, { action: "abort_session", recordId: "rec_7" });
  assert.ok(told.failures[0]?.error instanceof BackendError);

  for (const onError of [undefined, () => assert.fail("onError threw")]) {
    const lines: { level: string; fields: object }[] = [];
    const write = (level: string) => (fields: object) => void lines.push({ level, fields });
    const logger = { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
    const { session, backend } = scene({ id: "ses_1", onError, logger });
    backend.fail("abort", { kind: "session_not_found" });
    await session.abort();
    assert.equal(lines.length, 1);
    assert.equal((lines.at(0)?.fields as { record_id?: string } | undefined)?.record_id, "rec_7");
  }
});

test("[UPS-8] an answer without an id is a typed error with the record's id, and leaves nothing", async () => {
  for (const id of ["", "  ", undefined, 7]) {
    const { session, backend, record } = scene();
    const create = backend.create.bind(backend);
    backend.create = async (...given) => {
      await create(...given);
      return id as string;
    };
    await assert.rejects(session.ensure(), isUpstream("malformed"));
    assert.deepEqual([backend.sessions.size, record.row.stored], [0, null]);
  }
});

test("[UPS-8] what the backend refuses, or does not answer, is a typed error with the record's id", async () => {
  for (const kind of ["rejected", "unavailable", "malformed"] as const) {
    const { session, backend } = scene();
    backend.fail("create", { kind });
    await assert.rejects(session.ensure(), isUpstream(kind));
    assert.equal(session.justCreated, false);
    assert.equal(backend.sessions.has(await session.ensure()), true);
  }
});

test("[UPS-8] a create call that takes too long is stopped", async () => {
  const clock = new ManualClock();
  const { session, backend } = scene({ clock });
  backend.fail("create", { until: new Promise(() => undefined) });
  const ensuring = assert.rejects(session.ensure(), isUpstream("unavailable"));
  await clock.advance(backend.createTimeoutMs);
  await ensuring;
  assert.equal(clock.pendingTimers, 0);
});

test("[UPS-8] a record that lacks what is needed is refused by name", async () => {
  const options = { backend: new FakeBackend(), permissionsFor: () => undefined };
  const record = () => new MemoryRecord();
  const lacks = (change: object) => Object.assign(record(), change);
  assert.throws(() => new UpstreamSession(lacks({ id: "" }), options), /id is not/);
  for (const method of ["withLock", "update", "reload"]) {
    assert.throws(
      () => new UpstreamSession(lacks({ [method]: undefined }), options),
      new RegExp(`rec_7: ${method} is not a function`),
    );
  }
  await assert.rejects(new UpstreamSession(lacks({ upstreamSessionId: 7 }), options).ensure(), /rec_7: its session id/);
  const untitled = new UpstreamSession(lacks({ title: null }), options);
  await assert.rejects(untitled.ensure(), /rec_7: title is not a text/);
  assert.equal(options.backend.calls.length, 0);
});

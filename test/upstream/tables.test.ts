/** Rows of the host's own tables as upstream records (SPEC.md, UPS). */
import assert from "node:assert/strict";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, test } from "node:test";
import pg from "pg";
import {
  type PostgresClient,
  type PostgresPool,
  postgresTable,
  sqliteTable,
  type TableOptions,
  UpstreamError,
  UpstreamJanitor,
  UpstreamSession,
  type UpstreamTable,
} from "../../src/conversation/index.ts";
import { sqlite } from "../../src/store/sqlite/index.ts";
import type { Store } from "../../src/store/store.ts";
import { FakeBackend } from "../../src/testing/fake-backend.ts";
import { ManualClock } from "../../src/testing/manual-clock.ts";
import { type PostgresServer, postgresServer } from "../postgres.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const DDL = `CREATE TABLE "Chats" (number INTEGER PRIMARY KEY, subject TEXT, agent_session TEXT UNIQUE)`;
const NAMES = {
  table: "Chats",
  idColumn: "number",
  titleColumn: "subject",
  sessionColumn: "agent_session",
} satisfies TableOptions;

let postgres: PostgresServer | { reason: string } = { reason: "not started" };
before(async () => {
  postgres = await postgresServer();
});
after(async () => {
  if ("url" in postgres) await postgres[Symbol.asyncDispose]();
});

type OpenOptions = Partial<TableOptions & { pool: PostgresPool }>;

interface Scene extends AsyncDisposable {
  readonly store: Store;
  readonly backend: FakeBackend;
  readonly table: UpstreamTable;
  open(options: OpenOptions): UpstreamTable;
  sql(text: string): Promise<Record<string, unknown>[]>;
}

/** An empty table of that kind, a store for the notes and a backend; `undefined` without its database. */
async function scene(kind: "sqlite" | "postgres"): Promise<Scene | undefined> {
  if (kind === "postgres" && !("url" in postgres)) return undefined;
  const folder = await temporaryFolder();
  const store = sqlite(join(folder.path, "store.db"));
  await store.start();
  const common = { ...NAMES, bindings: store.bindings };
  const file = join(folder.path, "theirs.db");
  const pool =
    "url" in postgres && kind === "postgres" ? new pg.Pool({ connectionString: postgres.url, max: 5 }) : undefined;
  const connect = () => new DatabaseSync(file);
  const sql = async (text: string): Promise<Record<string, unknown>[]> => {
    if (pool !== undefined) return (await pool.query(text)).rows as Record<string, unknown>[];
    using db = connect();
    return db.prepare(text).all();
  };
  if (pool !== undefined) await sql(`DROP TABLE IF EXISTS "Chats"`);
  await sql(DDL);
  const open = (options: OpenOptions): UpstreamTable =>
    pool === undefined
      ? sqliteTable({ ...common, connect, ...options })
      : postgresTable({ ...common, pool, ...options });
  return {
    store,
    backend: new FakeBackend(),
    table: open({}),
    open,
    sql,
    async [Symbol.asyncDispose]() {
      await pool?.end();
      await store.stop();
      await folder[Symbol.asyncDispose]();
    },
  };
}

const sessionOf = async ({ table, backend }: Pick<Scene, "table" | "backend">, id: number) =>
  new UpstreamSession(await table.load(id), { backend, permissionsFor: () => [] });

const isInvalid = (what: RegExp) => (error: unknown) => {
  assert.ok(error instanceof UpstreamError, String(error));
  assert.deepEqual([error.kind, error.recordId], ["invalid_record", "9"]);
  assert.match(error.message, what);
  return true;
};

for (const kind of ["sqlite", "postgres"] as const) {
  test(`[UPS-16] ${kind}: a row gets its session, keeps it, and gets another`, async (t) => {
    await using at = await scene(kind);
    if (at === undefined) return void t.skip("reason" in postgres ? postgres.reason : "");
    await at.sql(`INSERT INTO "Chats" VALUES (7, 'about fish', '  ')`);
    const first = await (await sessionOf(at, 7)).ensure();
    assert.deepEqual(await at.sql(`SELECT agent_session AS id FROM "Chats"`).then(([row]) => ({ ...row })), {
      id: first,
    });
    assert.equal(at.backend.sessions.get(first)?.title, "about fish");
    assert.equal(await (await sessionOf(at, 7)).ensure(), first);
    const second = await (await sessionOf(at, 7)).recreate();
    assert.deepEqual([...at.backend.sessions.keys()], [second]);
    assert.equal((await at.store.bindings.census()).debts, 0);
  });

  test(`[UPS-16] ${kind}: many in one process, over one record and over several, get one session each row`, async (t) => {
    await using at = await scene(kind);
    if (at === undefined) return void t.skip("reason" in postgres ? postgres.reason : "");
    await at.sql(`INSERT INTO "Chats" VALUES (1, 'one', NULL), (2, 'two', NULL)`);
    const shared = await at.table.load(1);
    const options = { backend: at.backend, permissionsFor: () => [] };
    const sessions = await Promise.all(Array.from({ length: 12 }, (_none, index) => sessionOf(at, 1 + (index % 2))));
    const ids = await Promise.all([
      ...sessions.map((session) => session.ensure()),
      new UpstreamSession(shared, options).ensure(),
      new UpstreamSession(shared, options).ensure(),
    ]);
    assert.equal(new Set(ids).size, 2);
    assert.equal(at.backend.sessions.size, 2);
  });

  test(`[UPS-6] ${kind}: a session that another row has already is a conflict that names the record, and goes`, async (t) => {
    await using at = await scene(kind);
    if (at === undefined) return void t.skip("reason" in postgres ? postgres.reason : "");
    await at.sql(`INSERT INTO "Chats" VALUES (9, 'nine', NULL), (2, 'two', 'ses_same')`);
    at.backend.nextId = () => "ses_same";
    await assert.rejects(
      (await sessionOf(at, 9)).ensure(),
      (error: unknown) => error instanceof UpstreamError && error.kind === "conflict" && error.recordId === "9",
    );
    assert.equal((await at.store.bindings.census()).debts, 0);
  });

  test(`[UPS-16] ${kind}: rows, columns and names that will not do are named`, async (t) => {
    await using at = await scene(kind);
    if (at === undefined) return void t.skip("reason" in postgres ? postgres.reason : "");
    await assert.rejects(at.table.load(9), isInvalid(/no such row/));
    await at.sql(`INSERT INTO "Chats" VALUES (9, NULL, NULL)`);
    await assert.rejects(at.table.load(9), isInvalid(/title is not a text/));
    await at.sql(`UPDATE "Chats" SET subject = 'nine'`);
    const session = await sessionOf(at, 9);
    await at.sql(`DELETE FROM "Chats"`);
    await assert.rejects(session.ensure(), isInvalid(/no such row/));
    assert.equal(at.backend.calls.length, 0);
    await assert.rejects(at.open({ titleColumn: "nope" }).load(9), /nope/);
    const bad: [Partial<TableOptions>, RegExp][] = [
      [{ table: 'a"; DROP TABLE x' }, /^RangeError: table/],
      [{ table: "a.b.c" }, /^RangeError: table/],
      [{ idColumn: "" }, /^RangeError: idColumn/],
      [{ titleColumn: "a b" }, /^RangeError: titleColumn/],
      [{ sessionColumn: "1st" }, /^RangeError: sessionColumn/],
      [{ lockTimeoutMs: 0 }, /^RangeError: lockTimeoutMs/],
      [{ lockTimeoutMs: Number.NaN }, /^RangeError: lockTimeoutMs/],
    ];
    for (const [options, expected] of bad)
      assert.throws(
        () => at.open(options),
        (error: unknown) => expected.test(String(error)),
      );
  });

  test(`[UPS-16] ${kind}: a row that is locked for too long is told, and nothing is made`, async (t) => {
    await using at = await scene(kind);
    if (at === undefined) return void t.skip("reason" in postgres ? postgres.reason : "");
    await at.sql(`INSERT INTO "Chats" VALUES (9, 'nine', NULL)`);
    const holder = await at.table.load(9);
    const gate = Promise.withResolvers<void>();
    const locked = Promise.withResolvers<void>();
    const holding = holder.withLock(async () => {
      locked.resolve();
      await gate.promise;
    });
    await locked.promise;
    const record = await at.open({ lockTimeoutMs: 20 }).load(9);
    await assert.rejects(
      new UpstreamSession(record, { backend: at.backend, permissionsFor: () => [] }).ensure(),
      (error: unknown) => error instanceof UpstreamError && error.kind === "conflict",
    );
    gate.resolve();
    await holding;
    assert.equal(at.backend.calls.length, 0);
  });

  test(`[UPS-17] ${kind}: a session whose row may have it waits for a janitor that has the table`, async (t) => {
    await using at = await scene(kind);
    if (at === undefined) return void t.skip("reason" in postgres ? postgres.reason : "");
    await at.sql(`INSERT INTO "Chats" VALUES (1, 'kept', 'ses_kept'), (2, 'other', NULL)`);
    const clock = new ManualClock();
    const note = async (recordId: string, nonce: string, upstreamId: string) => {
      const owner = at.table.owner;
      await at.store.bindings.intend({ owner, recordId, backend: "fake", nonce, maxNoted: 10, now: clock.wall() });
      await at.store.bindings.persist({ nonce, upstreamId, replaces: undefined });
      at.backend.sessions.set(upstreamId, { title: "t", nonce, permissions: [] });
    };
    await note("1", "n1", "ses_kept");
    await note("2", "n2", "ses_orphan");
    await note("3", "n3", "ses_without_a_row");
    await clock.advance(2 * at.backend.createTimeoutMs);
    const parts = { bindings: at.store.bindings, backends: [at.backend], clock };
    assert.equal(await new UpstreamJanitor(parts).sweep(), 0);
    assert.equal(at.backend.sessions.size, 3);
    assert.equal(await new UpstreamJanitor({ ...parts, tables: [at.table] }).sweep(), 2);
    assert.deepEqual([...at.backend.sessions.keys()], ["ses_kept"]);
    assert.equal((await at.store.bindings.census()).debts, 0);
  });
}

test("[UPS-5] postgres: a connection that breaks at the commit leaves one session or none, as the row says", async (t) => {
  await using at = await scene("postgres");
  if (at === undefined || !("url" in postgres)) return void t.skip("reason" in postgres ? postgres.reason : "");
  await at.sql(`INSERT INTO "Chats" VALUES (1, 'before', NULL), (2, 'after', NULL)`);
  const pool = new pg.Pool({ connectionString: postgres.url, max: 2 });
  pool.on("error", () => undefined);
  t.after(() => pool.end());
  const count = () => at.backend.sessions.size;
  for (const commits of [false, true]) {
    const table = at.open({ pool: breaking(pool, commits, at.sql) });
    const session = await sessionOf({ ...at, table }, commits ? 2 : 1);
    const before = count();
    if (commits) {
      assert.equal(at.backend.sessions.has(await session.ensure()), true);
      assert.equal(count(), before + 1);
    } else {
      await assert.rejects(session.ensure());
      assert.equal(count(), before);
    }
  }
});

/** The first commit breaks its connection: before it is carried out, or when it was, and the answer is lost. */
function breaking(pool: pg.Pool, commits: boolean, sql: Scene["sql"]): PostgresPool {
  let breaks = true;
  return {
    async connect(): Promise<PostgresClient> {
      const client = await pool.connect();
      return {
        on: (event, listener) => client.on(event, listener),
        off: (event, listener) => client.off(event, listener),
        release: (destroy) => client.release(destroy),
        async query(text, values) {
          if (text !== "COMMIT" || !breaks) return await client.query(text, values);
          breaks = false;
          const { rows } = await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
          if (commits) await client.query(text);
          await sql(`SELECT pg_terminate_backend(${rows[0]?.pid})`);
          return await client.query(text);
        },
      };
    },
  };
}

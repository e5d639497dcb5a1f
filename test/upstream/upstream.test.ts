/**
 * Upstream sessions with real processes: many that ask at once, and processes that die at every step between the
 * first note and the last deletion (SPEC.md, UPS). Conversations, rows of a SQLite table and of a PostgreSQL table.
 */
import assert from "node:assert/strict";
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { systemClock } from "../../src/clock.ts";
import { UpstreamJanitor, UpstreamSession } from "../../src/conversation/upstream/index.ts";
import { sqlite } from "../../src/store/sqlite/index.ts";
import type { Store } from "../../src/store/store.ts";
import { ManualClock } from "../../src/testing/manual-clock.ts";
import { type PostgresServer, postgresServer } from "../postgres.ts";
import { eventually } from "../runtime-fixture.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { type BackendServer, backendServer } from "./backend-server.ts";
import { HttpBackend } from "./http-backend.ts";
import { openPlace, type Place } from "./records.ts";
import type { Answer, Message } from "./worker.ts";

const WORKER = fileURLToPath(new URL("worker.ts", import.meta.url));
const WORKERS = 20;
const CREATE_TIMEOUT_MS = 20_000;
const SLOW = { timeout: 120_000 };
const KINDS = ["conversation", "sqlite", "postgres"] as const;

let postgres: PostgresServer | { reason: string } = { reason: "not started" };
before(async () => {
  postgres = await postgresServer();
});
after(async () => {
  if ("url" in postgres) await postgres[Symbol.asyncDispose]();
});

/** A process that does as it is told. */
class Worker implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = once(child, "exit");
  }

  static async start(): Promise<Worker> {
    const child = fork(WORKER, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
    await once(child, "message");
    return new Worker(child);
  }

  /** @returns "died" when it is gone before it has answered */
  async tell(message: Message): Promise<Answer | "died"> {
    const answered = once(this.#child, "message").then(([answer]) => answer as Answer);
    this.#child.send(message);
    return await Promise.race([answered, this.#exited.then(() => "died" as const)]);
  }

  async bound(message: Message): Promise<{ id: string; made: boolean; steps: number }> {
    const answer = await this.tell(message);
    assert.ok(typeof answer === "object" && "id" in answer, JSON.stringify(answer));
    return answer;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.#exited;
  }
}

type Folder = Awaited<ReturnType<typeof temporaryFolder>>;

/** One store, one backend, one record of each kind. */
class Scene implements AsyncDisposable {
  readonly server: BackendServer;
  readonly store: Store;
  readonly storeFile: string;
  readonly #folder: Folder;
  #records = 0;

  private constructor(folder: Folder, server: BackendServer, storeFile: string) {
    this.#folder = folder;
    this.server = server;
    this.storeFile = storeFile;
    this.store = sqlite(storeFile);
  }

  static async open(): Promise<Scene> {
    const folder = await temporaryFolder();
    const scene = new Scene(folder, await backendServer(CREATE_TIMEOUT_MS), join(folder.path, "store.db"));
    await scene.store.start();
    return scene;
  }

  /** Where records of that kind are; `undefined` where there is no database for them. */
  async place(kind: Place["kind"]): Promise<Place | undefined> {
    const table = "(id TEXT PRIMARY KEY, title TEXT NOT NULL, upstream_session_id TEXT UNIQUE)";
    switch (kind) {
      case "conversation":
        return { kind };
      case "sqlite": {
        const file = join(this.#folder.path, "theirs.db");
        using db = new DatabaseSync(file);
        db.exec(`CREATE TABLE threads ${table}`);
        return { kind, file };
      }
      case "postgres": {
        if (!("url" in postgres)) return undefined;
        const client = new pg.Client(postgres.url);
        await client.connect();
        await client.query(`DROP TABLE IF EXISTS threads; CREATE TABLE threads ${table}`);
        await client.end();
        return { kind, url: postgres.url };
      }
    }
  }

  /** A new record. */
  async record(place: Place): Promise<string> {
    this.#records += 1;
    const id = `rec_${this.#records}`;
    const insert = `INSERT INTO threads VALUES ('${id}', 'a thread', NULL)`;
    switch (place.kind) {
      case "conversation": {
        const conversation = { conversationId: id, source: "cli", key: undefined, principal: "alice", userId: "alice" };
        await this.store.conversations.resolve({ ...conversation, now: systemClock.wall() });
        return id;
      }
      case "sqlite": {
        using db = new DatabaseSync(place.file);
        db.exec(insert);
        return id;
      }
      case "postgres": {
        const client = new pg.Client(place.url);
        await client.connect();
        await client.query(insert);
        await client.end();
        return id;
      }
    }
  }

  get backend(): HttpBackend {
    return new HttpBackend(this.server.url, CREATE_TIMEOUT_MS);
  }

  async session(place: Place, recordId: string) {
    const open = openPlace(place, this.store, this.backend);
    const session = new UpstreamSession(await open.load(recordId), {
      backend: this.backend,
      permissionsFor: () => "some",
    });
    return { session, open };
  }

  order(place: Place, recordId: string): Message {
    return {
      op: "load",
      order: {
        place,
        storeFile: this.storeFile,
        backendUrl: this.server.url,
        createTimeoutMs: CREATE_TIMEOUT_MS,
        recordId,
      },
    };
  }

  /** A round of the janitor, twice the create timeout from now. */
  async sweep(place: Place): Promise<void> {
    const clock = new ManualClock(systemClock.wall() + 2 * CREATE_TIMEOUT_MS + 1);
    await using open = openPlace(place, this.store, this.backend);
    await using janitor = new UpstreamJanitor({
      bindings: this.store.bindings,
      backends: [this.backend],
      tables: open.table === undefined ? [] : [open.table],
      clock,
    });
    await janitor.sweep();
  }

  get upstream(): string[] {
    return [...this.server.backend.sessions.keys()].sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.store.stop();
    await this.server[Symbol.asyncDispose]();
    await this.#folder[Symbol.asyncDispose]();
  }
}

let workers: Worker[] = [];
before(async () => {
  workers = await Promise.all(Array.from({ length: WORKERS }, () => Worker.start()));
});
after(async () => {
  await Promise.all(workers.map((worker) => worker[Symbol.asyncDispose]()));
});

for (const kind of KINDS) {
  test(
    `[UPS-1] [UPS-3] ${kind}: twenty processes that ensure at once make one session, and so do twenty that recreate`,
    SLOW,
    async (t) => {
      await using scene = await Scene.open();
      const place = await scene.place(kind);
      if (place === undefined) {
        t.skip("reason" in postgres ? postgres.reason : "");
        return;
      }
      const recordId = await scene.record(place);
      const load = async () => {
        for (const answer of await Promise.all(workers.map((worker) => worker.tell(scene.order(place, recordId))))) {
          assert.equal(answer, "loaded", JSON.stringify(answer));
        }
      };
      await load();
      const ensured = await Promise.all(workers.map((worker) => worker.bound({ op: "ensure" })));
      assert.equal(new Set(ensured.map(({ id }) => id)).size, 1);
      assert.equal(ensured.filter(({ made }) => made).length, 1);
      assert.deepEqual(scene.upstream, [ensured[0]?.id]);
      assert.equal(scene.server.backend.count("create"), 1);

      await load();
      const recreated = await Promise.all(workers.map((worker) => worker.bound({ op: "recreate" })));
      assert.equal(new Set(recreated.map(({ id }) => id)).size, 1);
      assert.equal(recreated.filter(({ made }) => made).length, 1);
      assert.notEqual(recreated[0]?.id, ensured[0]?.id);
      assert.deepEqual(scene.upstream, [recreated[0]?.id]);
      assert.equal(scene.server.backend.count("create"), 2);
      const { debts } = await scene.store.bindings.census();
      assert.equal(debts, 0, "something is still noted");
    },
  );

  test(
    `[UPS-1] ${kind}: nobody is given a session that is gone, while some ensure and others recreate`,
    SLOW,
    async (t) => {
      await using scene = await Scene.open();
      const place = await scene.place(kind);
      if (place === undefined) {
        t.skip("reason" in postgres ? postgres.reason : "");
        return;
      }
      const recordId = await scene.record(place);
      const first = await scene.session(place, recordId);
      await using _ = first.open;
      const old = await first.session.ensure();
      await Promise.all(workers.map((worker) => worker.tell(scene.order(place, recordId))));
      const answers = await Promise.all(
        workers.map((worker, index) => worker.bound({ op: index % 2 === 0 ? "recreate" : "ensure" })),
      );
      const recreated = new Set(answers.filter((_answer, index) => index % 2 === 0).map(({ id }) => id));
      assert.equal(recreated.size, 1);
      // Those that ensure had read the record before: the session that it had then is their answer.
      assert.ok(answers.every(({ id }, index) => recreated.has(id) || (index % 2 === 1 && id === old)));
      assert.deepEqual(scene.upstream, [...recreated]);
    },
  );

  for (const op of ["ensure", "recreate"] as const) {
    test(
      `[UPS-12] ${kind}: a process that is killed at any step of ${op} leaves nothing upstream but what records own`,
      SLOW,
      async (t) => {
        await using scene = await Scene.open();
        const place = await scene.place(kind);
        if (place === undefined) {
          t.skip("reason" in postgres ? postgres.reason : "");
          return;
        }
        const { length } = await killedAtEachStep(scene, place, op);
        assert.ok(length >= 6, `it died at ${length} steps only`);
      },
    );
  }
}

test(
  "[UPS-12] a process that is killed while the backend makes its session leaves none, when it has been made",
  SLOW,
  async () => {
    await using scene = await Scene.open();
    const place: Place = { kind: "conversation" };
    const recordId = await scene.record(place);
    const gate = Promise.withResolvers<void>();
    scene.server.backend.fail("create", { until: gate.promise });
    await using worker = await Worker.start();
    await worker.tell(scene.order(place, recordId));
    const answer = worker.tell({ op: "ensure" });
    await eventually(() => scene.server.backend.count("create") === 1, "the create call");
    worker.kill();
    assert.equal(await answer, "died");
    gate.resolve();
    await eventually(() => scene.upstream.length === 1, "the session of a dead process");
    await scene.sweep(place);
    assert.deepEqual(scene.upstream, []);
    const { session, open } = await scene.session(place, recordId);
    await using _ = open;
    const next = await session.ensure();
    assert.deepEqual(scene.upstream, [next]);
  },
);

/** @returns what each record holds in the end */
async function killedAtEachStep(scene: Scene, place: Place, op: "ensure" | "recreate"): Promise<string[]> {
  const owned: string[] = [];
  for (let dieAt = 1; ; dieAt += 1) {
    const recordId = await scene.record(place);
    const { session, open } = await scene.session(place, recordId);
    await using _ = open;
    let before: string | undefined;
    if (op === "recreate") before = await session.ensure();
    await using worker = await Worker.start();
    assert.equal(await worker.tell(scene.order(place, recordId)), "loaded");
    const answer = await worker.tell({ op, dieAt });
    await scene.sweep(place);

    await session.record.reload();
    const held = session.record.upstreamSessionId ?? undefined;
    assert.deepEqual(
      scene.upstream,
      [...owned, ...(held === undefined ? [] : [held])].sort(),
      `killed at step ${dieAt}`,
    );
    const { debts, binding } = await scene.store.bindings.census();
    assert.deepEqual({ debts, binding }, { debts: 0, binding: 0 }, `killed at step ${dieAt}`);
    if (before !== undefined) assert.notEqual(held, undefined, `killed at step ${dieAt}: the record's session is gone`);

    // The next one finds what there is, or makes one: nothing stays in the way.
    const next = await session.ensure();
    if (held !== undefined) assert.equal(next, held);
    owned.push(next);
    assert.deepEqual(scene.upstream, [...owned].sort(), `after step ${dieAt}`);
    if (answer !== "died") {
      assert.ok(typeof answer === "object" && "id" in answer && answer.id === held, JSON.stringify(answer));
      return owned;
    }
  }
}

/**
 * What happened in the database, by its own witness: triggers that note, in the transaction in which it happens, each
 * event, each change of a lock and each step of a turn, as those of turns/watch.ts do in a file. Read past the nodes'
 * links, with SQL of its own, so that a fault of the store's code cannot hide itself.
 */
import { sleep, systemClock } from "../../../src/clock.ts";
import { queryOnce } from "../../postgres.ts";
import type { Sighting, Stored, StoredJob, StoredTurn } from "../turns/watch.ts";

const TRIGGERS = `
CREATE SCHEMA watch;
CREATE TABLE watch.sightings (
  at BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  what TEXT NOT NULL, conversation BIGINT, job BIGINT, epoch BIGINT, n BIGINT, said TEXT
);
CREATE FUNCTION watch.event() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO watch.sightings (what, job, epoch, n, said) VALUES ('event', new.job_key, new.run_epoch, new.n, new.kind);
  RETURN NULL;
END $$;
CREATE FUNCTION watch.lock() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO watch.sightings (what, conversation, job, epoch, said)
    VALUES ('lock', new.conversation_key, new.lock_job_key, new.lock_epoch, new.lock_holder);
  RETURN NULL;
END $$;
CREATE FUNCTION watch.turn() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO watch.sightings (what, conversation, job, epoch, n, said)
    VALUES ('turn', new.conversation_key, new.job_key, new.lock_epoch, new.ahead, new.state);
  RETURN NULL;
END $$;
CREATE TRIGGER watch_events AFTER INSERT ON holdfast.events FOR EACH ROW EXECUTE FUNCTION watch.event();
CREATE TRIGGER watch_locks AFTER UPDATE ON holdfast.conversations FOR EACH ROW
  WHEN (old.lock_epoch IS DISTINCT FROM new.lock_epoch OR old.lock_holder IS DISTINCT FROM new.lock_holder)
  EXECUTE FUNCTION watch.lock();
CREATE TRIGGER watch_new_turns AFTER INSERT ON holdfast.turns FOR EACH ROW EXECUTE FUNCTION watch.turn();
CREATE TRIGGER watch_turns AFTER UPDATE ON holdfast.turns FOR EACH ROW
  WHEN (old.state <> new.state) EXECUTE FUNCTION watch.turn();`;

const RECOVERY_MS = 10_000;
const LOOK_MS = 50;

/** The tables as they are at the end. */
export interface StoredCluster {
  /** Of jobs that are turns, and no others. */
  turns: Stored;
  jobs: StoredJob[];
}

export class Witness {
  readonly #url: string;

  /** @param url of a database that the store has set up */
  constructor(url: string) {
    this.#url = url;
  }

  async watch(): Promise<void> {
    await queryOnce(this.#url, TRIGGERS);
  }

  /** Whether nothing waits, runs or is held; also not while the database is away. */
  async quiet(): Promise<boolean> {
    try {
      const [row] = await this.#all<{ busy: string }>(
        `SELECT (SELECT count(*) FROM holdfast.conversations WHERE lock_holder IS NOT NULL OR queued <> 0)
           + (SELECT count(*) FROM holdfast.turns WHERE state <> 'ended')
           + (SELECT count(*) FROM holdfast.job_heads WHERE ended_at IS NULL) AS busy`,
      );
      return row?.busy === "0";
    } catch {
      return false;
    }
  }

  /** Kills a process of the server that serves somebody; resolves when the server has recovered from that. */
  async crash(): Promise<void> {
    try {
      const [row] = await this.#all<{ pid: number }>(
        `SELECT pid FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
         ORDER BY backend_start DESC LIMIT 1`,
      );
      if (row === undefined) return;
      process.kill(row.pid, "SIGKILL");
      await this.#all(`SELECT pg_sleep(${RECOVERY_MS / 1_000})`);
    } catch {
      // The crash ends our own connections, too.
    }
    const since = systemClock.monotonic();
    while (!(await this.#answers()) && systemClock.monotonic() - since < RECOVERY_MS) await sleep(systemClock, LOOK_MS);
  }

  async read(): Promise<StoredCluster> {
    const turns = await this.#turns();
    const jobs = await this.#jobs();
    const isTurn = new Set(turns.map(({ job }) => job));
    const conversations = await this.#all<{ key: string; id: string; holder: string | null; queued: string }>(
      `SELECT conversation_key AS key, conversation_id AS id, lock_holder AS holder, queued FROM holdfast.conversations`,
    );
    return {
      jobs,
      turns: {
        conversations: conversations.map((row) => ({ ...row, key: Number(row.key), queued: Number(row.queued) })),
        turns,
        jobs: jobs.filter(({ key }) => isTurn.has(key)),
        sightings: (await this.#sightings()).filter((seen) => seen.what !== "event" || isTurn.has(seen.job)),
      },
    };
  }

  async #answers(): Promise<boolean> {
    return await this.#all("SELECT 1").then(
      () => true,
      () => false,
    );
  }

  async #turns(): Promise<StoredTurn[]> {
    return await this.#json<StoredTurn>(
      `SELECT t.conversation_key AS conversation, c.conversation_id AS "conversationId", t.job_key AS job,
         t.message_id AS "messageId", t.ahead::int > 0 AS ahead, t.state, t.lock_epoch AS epoch
       FROM holdfast.turns t JOIN holdfast.conversations c USING (conversation_key)`,
    );
  }

  async #jobs(): Promise<StoredJob[]> {
    const jobs = new Map<number, StoredJob>();
    const rows = await this.#json<Omit<StoredJob, "events">>(
      `SELECT j.job_key AS key, j.job_id AS "jobId", j.input::json ->> 'label' AS label, h.state, h.ended_at AS "endedAt"
       FROM holdfast.jobs j JOIN holdfast.job_heads h USING (job_key) ORDER BY j.job_key`,
    );
    for (const row of rows) jobs.set(row.key, { ...row, events: [] });
    const events = await this.#json<StoredJob["events"][number] & { key: number }>(
      `SELECT job_key AS key, n, run_epoch AS "runEpoch", kind, payload FROM holdfast.events ORDER BY job_key, n`,
    );
    for (const { key, ...event } of events) jobs.get(key)?.events.push(event);
    return [...jobs.values()];
  }

  async #sightings(): Promise<Sighting[]> {
    type Row = { what: string; conversation: number; job: number; epoch: number; n: number; said: string };
    const rows = await this.#json<Row>(
      "SELECT what, conversation, job, epoch, n, said FROM watch.sightings ORDER BY at",
    );
    return rows.map(({ what, conversation, job, epoch, n, said }): Sighting => {
      switch (what) {
        case "event":
          return { what, job, n, runEpoch: epoch, kind: said };
        case "lock":
          return { what, conversation, epoch, holder: said, job };
        default:
          return { what: "turn", conversation, job, ahead: n > 0, state: said, epoch };
      }
    });
  }

  /** As JSON, in which keys and counters are numbers. */
  async #json<Row>(sql: string): Promise<Row[]> {
    const rows = await this.#all<{ row: Row }>(`SELECT row_to_json(rows) AS row FROM (${sql}) AS rows`);
    return rows.map(({ row }) => row);
  }

  async #all<Row>(sql: string): Promise<Row[]> {
    return (await queryOnce(this.#url, sql)) as Row[];
  }
}

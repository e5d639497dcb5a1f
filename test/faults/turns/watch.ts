/**
 * What happened in the store's file, by its own witness: triggers that note, in the transaction in which it happens,
 * each event that is stored, each change of a lock and each step of a turn. Read here with SQL of its own, so that
 * a fault of the store's code cannot hide itself.
 */
import { DatabaseSync } from "node:sqlite";

/** In the order of the commits, and of the statements within one. Keys are those of the tables. */
export type Sighting =
  | { what: "event"; job: number; n: number; runEpoch: number; kind: string }
  /** `holder` and `job` are null while nobody holds it. */
  | { what: "lock"; conversation: number; epoch: number; holder: string | null; job: number | null }
  | { what: "turn"; conversation: number; job: number; ahead: boolean; state: string; epoch: number | null };

export interface StoredJob {
  key: number;
  jobId: string;
  /** Of the input. */
  label: string;
  state: string;
  /** Wall milliseconds; null while it lives. */
  endedAt: number | null;
  events: { n: number; runEpoch: number; kind: string; payload: string }[];
}

export interface StoredTurn {
  conversation: number;
  conversationId: string;
  job: number;
  messageId: string | null;
  ahead: boolean;
  state: string;
  epoch: number | null;
}

/** The tables as they are at the end. */
export interface Stored {
  conversations: { key: number; id: string; holder: string | null; queued: number }[];
  turns: StoredTurn[];
  jobs: StoredJob[];
  sightings: Sighting[];
}

const TRIGGERS = `
CREATE TABLE sightings (
  at INTEGER PRIMARY KEY AUTOINCREMENT,
  what TEXT NOT NULL, conversation INTEGER, job INTEGER, epoch INTEGER, n INTEGER, said TEXT
) STRICT;
CREATE TRIGGER watch_events AFTER INSERT ON events BEGIN
  INSERT INTO sightings (what, job, epoch, n, said) VALUES ('event', new.job_key, new.run_epoch, new.n, new.kind);
END;
CREATE TRIGGER watch_locks AFTER UPDATE ON conversations
  WHEN old.lock_epoch IS NOT new.lock_epoch OR old.lock_holder IS NOT new.lock_holder BEGIN
  INSERT INTO sightings (what, conversation, job, epoch, said)
    VALUES ('lock', new.conversation_key, new.lock_job_key, new.lock_epoch, new.lock_holder);
END;
CREATE TRIGGER watch_new_turns AFTER INSERT ON turns BEGIN
  INSERT INTO sightings (what, conversation, job, epoch, n, said)
    VALUES ('turn', new.conversation_key, new.job_key, new.lock_epoch, new.ahead, new.state);
END;
CREATE TRIGGER watch_turns AFTER UPDATE ON turns WHEN old.state <> new.state BEGIN
  INSERT INTO sightings (what, conversation, job, epoch, n, said)
    VALUES ('turn', new.conversation_key, new.job_key, new.lock_epoch, new.ahead, new.state);
END;`;

/** @param file one that the store has set up */
export function watch(file: string): void {
  const database = new DatabaseSync(file);
  database.exec(TRIGGERS);
  database.close();
}

const BUSY_TIMEOUT_MS = 5_000;

export class Witness implements Disposable {
  readonly #database: DatabaseSync;

  constructor(file: string) {
    this.#database = new DatabaseSync(file, { readOnly: true, timeout: BUSY_TIMEOUT_MS });
  }

  /** Whether nothing waits, runs or is held. */
  quiet(): boolean {
    const [row] = this.#all<{ busy: number }>(
      `SELECT (SELECT count(*) FROM conversations WHERE lock_holder IS NOT NULL OR queued <> 0)
         + (SELECT count(*) FROM turns WHERE state <> 'ended')
         + (SELECT count(*) FROM job_heads WHERE ended_at IS NULL) AS busy`,
    );
    return row?.busy === 0;
  }

  /** All of it, as of one moment. */
  read(): Stored {
    this.#database.exec("BEGIN");
    try {
      return {
        conversations: this.#all(
          `SELECT conversation_key AS key, conversation_id AS id, lock_holder AS holder, queued FROM conversations`,
        ),
        turns: this.#turns(),
        jobs: this.#jobs(),
        sightings: this.#sightings(),
      };
    } finally {
      this.#database.exec("ROLLBACK");
    }
  }

  [Symbol.dispose](): void {
    this.#database.close();
  }

  #turns(): StoredTurn[] {
    return this.#all<Omit<StoredTurn, "ahead"> & { ahead: number }>(
      `SELECT t.conversation_key AS conversation, c.conversation_id AS conversationId, t.job_key AS job,
         t.message_id AS messageId, t.ahead, t.state, t.lock_epoch AS epoch
       FROM turns t JOIN conversations c USING (conversation_key)`,
    ).map((turn) => ({ ...turn, ahead: turn.ahead === 1 }));
  }

  #jobs(): StoredJob[] {
    const jobs = new Map<number, StoredJob>();
    const rows = this.#all<Omit<StoredJob, "events">>(
      `SELECT j.job_key AS key, j.job_id AS jobId, json_extract(j.input, '$.label') AS label, h.state,
         h.ended_at AS endedAt
       FROM jobs j JOIN job_heads h USING (job_key)`,
    );
    for (const row of rows) jobs.set(row.key, { ...row, events: [] });
    const events = this.#all<StoredJob["events"][number] & { key: number }>(
      "SELECT job_key AS key, n, run_epoch AS runEpoch, kind, payload FROM events ORDER BY job_key, n",
    );
    for (const { key, ...event } of events) jobs.get(key)?.events.push(event);
    return [...jobs.values()];
  }

  #sightings(): Sighting[] {
    type Row = { what: string; conversation: number; job: number; epoch: number; n: number; said: string };
    return this.#all<Row>("SELECT what, conversation, job, epoch, n, said FROM sightings ORDER BY at").map(
      ({ what, conversation, job, epoch, n, said }): Sighting => {
        switch (what) {
          case "event":
            return { what, job, n, runEpoch: epoch, kind: said };
          case "lock":
            return { what, conversation, epoch, holder: said, job };
          default:
            return { what: "turn", conversation, job, ahead: n === 1, state: said, epoch };
        }
      },
    );
  }

  #all<Row>(sql: string): Row[] {
    return this.#database.prepare(sql).all() as Row[];
  }
}

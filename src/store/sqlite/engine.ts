/**
 * The synchronous engine behind an asynchronous seam.
 *
 * Writes are pure functions over the connection. They queue, and once per turn of the event loop the
 * queue goes through one `BEGIN IMMEDIATE … COMMIT` (group commit): a hundred appends of one turn cost
 * one commit. A flush does a bounded amount of work and leaves the rest to the next turn, so that
 * neither a burst nor a backlog starves the loop. A write that is refused fails alone; when anything
 * else goes wrong the whole group is rolled back and then runs again one write per transaction, so
 * that the bad one fails alone.
 *
 * No transaction and no cursor lives across an `await`, so reads may use the same connection: they
 * never find it inside a transaction. Other processes do hold locks: SQLite's own busy wait would
 * block the loop, so a busy file is tried again on the clock.
 */
import { type Clock, sleep } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { type Durability, type Hint, StoreRefusal, StoreUnavailable } from "../store.ts";
import { Checkpointer, WAL_CAP_BYTES } from "./checkpointer.ts";
import { Database, isBusy, isEngineError } from "./database.ts";
import { migrate } from "./migrate.ts";

/** One flush ends after the write that reaches one of these. About 5 ms of work. */
const FLUSH_ROWS = 2_000;
const FLUSH_BYTES = 2 * 1024 * 1024;

/** Between two tries of a busy file. */
const SHORTEST_RETRY_MS = 1;
const LONGEST_RETRY_MS = 20;

export interface EngineOptions {
  file: string;
  durability: Durability;
  busyTimeoutMs: number;
  clock: Clock;
  logger: Logger;
}

/** What a write is expected to put into the file, for the bounds of a flush. */
export interface WriteSize {
  rows: number;
  bytes: number;
}

const SMALL: WriteSize = { rows: 1, bytes: 0 };

interface QueuedWrite {
  run(db: Database): unknown;
  size: WriteSize;
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

type Outcome = { value: unknown } | { refusal: StoreRefusal };

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

export class Engine {
  readonly #options: EngineOptions;
  readonly #checkpointer: Checkpointer;
  /** Whether other processes are on the file, to whom each commit leaves hints. */
  leavesHints = false;
  #db: Database | undefined;
  #queue: QueuedWrite[] = [];
  /** The next so many writes get a transaction each: their group failed. */
  #alone = 0;
  #draining: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#checkpointer = new Checkpointer(options.file, options.logger);
  }

  /** Opens the file, creates it if need be, and brings its schema up to date. */
  async start(): Promise<void> {
    const { file, durability, clock } = this.#options;
    let db: Database | undefined;
    try {
      db = await this.#patiently(() => {
        const opened = new Database(file);
        try {
          const mode = opened.get<{ journal_mode: string }>("PRAGMA journal_mode = WAL")?.journal_mode;
          if (mode !== "wal") {
            throw new StoreUnavailable(`${file} cannot be put into WAL mode (it stays in "${mode}")`);
          }
          // Checkpoints are the checkpointer's work. A log that had outgrown its cap is cut by whoever begins it anew.
          opened.script(`PRAGMA wal_autocheckpoint = 0;
            PRAGMA journal_size_limit = ${WAL_CAP_BYTES};
            PRAGMA synchronous = ${durability === "power" ? "FULL" : "NORMAL"};`);
          migrate(opened, clock.wall());
        } catch (error) {
          opened.close();
          throw error;
        }
        return opened;
      });
    } catch (error) {
      throw storeError(error, `the store cannot open ${file}`);
    }
    this.#db = db;
  }

  /**
   * Queues a write. `run` checks all its preconditions before its first change of a row: a
   * {@link StoreRefusal} that it throws is taken to have changed nothing. Resolves after the commit,
   * in the order of the queue.
   */
  write<T>(run: (db: Database) => T, size: WriteSize = SMALL): Promise<T> {
    if (this.#db === undefined || this.#stopping !== undefined) {
      return Promise.reject(new StoreUnavailable("the store is not running"));
    }
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#queue.push({ run, size, resolve, reject });
    this.#draining ??= this.#drain();
    return promise as Promise<T>;
  }

  /** Reads what is committed: one snapshot, whatever other processes commit meanwhile. */
  async read<T>(run: (db: Database) => T): Promise<T> {
    if (this.#stopping !== undefined) {
      throw new StoreUnavailable("the store is not running");
    }
    try {
      return await this.#patiently(() => {
        const db = this.#db;
        if (db === undefined) {
          throw new StoreUnavailable("the store is not running");
        }
        db.run("BEGIN");
        try {
          return run(db);
        } finally {
          db.run("COMMIT");
        }
      });
    } catch (error) {
      throw storeError(error, "the store failed to read");
    }
  }

  /** Commits what is queued, checkpoints and closes. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    await this.#draining;
    await this.#checkpointer.stop();
    this.#db?.close();
    this.#db = undefined;
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      await nextTurn();
      await this.#checkpointer.pause;
      try {
        await this.#patiently(() => this.#flush());
      } catch (error) {
        const failure = storeError(error, "the store failed to write");
        this.#alone = 0;
        for (const write of this.#queue.splice(0)) {
          write.reject(failure);
        }
      }
    }
    this.#draining = undefined;
  }

  /** One transaction over the head of the queue. Throws, with the queue as it was, when the file is busy. */
  #flush(): void {
    const db = this.#db;
    if (db === undefined) {
      throw new StoreUnavailable("the store is not running");
    }
    db.run("BEGIN IMMEDIATE");
    const outcomes: Outcome[] = [];
    let rows = 0;
    let bytes = 0;
    try {
      for (const write of this.#queue) {
        outcomes.push(attempt(write, db));
        rows += write.size.rows;
        bytes += write.size.bytes;
        if (this.#alone > 0 || rows >= FLUSH_ROWS || bytes >= FLUSH_BYTES) {
          break;
        }
      }
      const touched = db.takeTouched();
      if (this.leavesHints) writeHints(db, touched);
      db.run("COMMIT");
    } catch (error) {
      db.takeTouched();
      this.#rollback(db);
      if (isBusy(error)) {
        throw error;
      }
      // The write that threw, and those before it; a commit that failed has no culprit yet.
      const group = Math.min(outcomes.length + 1, this.#queue.length);
      if (group > 1 && this.#alone === 0) {
        this.#alone = group;
        return;
      }
      this.#alone = Math.max(0, this.#alone - 1);
      this.#queue.shift()?.reject(storeError(error, "the store failed to write"));
      return;
    }
    this.#alone = Math.max(0, this.#alone - outcomes.length);
    const done = this.#queue.splice(0, outcomes.length);
    done.forEach((write, i) => {
      const outcome = outcomes[i] as Outcome;
      if ("refusal" in outcome) {
        write.reject(outcome.refusal);
      } else {
        write.resolve(outcome.value);
      }
    });
    this.#checkpointer.committed(db, done.length, bytes);
  }

  #rollback(db: Database): void {
    try {
      db.run("ROLLBACK");
    } catch (error) {
      // After some failures (a full disk) SQLite has rolled back by itself.
      this.#options.logger.debug({ err: error }, "nothing was left to roll back");
    }
  }

  async #patiently<T>(work: () => T): Promise<T> {
    const { clock, busyTimeoutMs, file } = this.#options;
    const since = clock.monotonic();
    for (let delayMs = SHORTEST_RETRY_MS; ; delayMs = Math.min(LONGEST_RETRY_MS, delayMs * 2)) {
      try {
        return work();
      } catch (error) {
        if (!isBusy(error)) {
          throw error;
        }
        if (clock.monotonic() - since >= busyTimeoutMs) {
          throw new StoreUnavailable(`${file} was held by another process for ${busyTimeoutMs} ms`, { cause: error });
        }
      }
      await sleep(clock, Math.max(SHORTEST_RETRY_MS, delayMs * (0.5 + Math.random() / 2)));
    }
  }
}

function attempt(write: QueuedWrite, db: Database): Outcome {
  try {
    return { value: write.run(db) };
  } catch (error) {
    if (error instanceof StoreRefusal) {
      return { refusal: error };
    }
    throw error;
  }
}

/** Engine failures become {@link StoreUnavailable}; anything else (a bug, a refusal) passes as it is. */
function storeError(error: unknown, what: string): unknown {
  return isEngineError(error) ? new StoreUnavailable(`${what}: ${(error as Error).message}`, { cause: error }) : error;
}

/** Leaves the hints of one transaction, to be read by other processes (hints.ts). */
function writeHints(db: Database, hints: Iterable<Hint>): void {
  for (const hint of hints) {
    db.run(
      "INSERT INTO hints (session_id, job_id) VALUES (?, ?)",
      "sessionId" in hint ? hint.sessionId : null,
      "jobId" in hint ? hint.jobId : null,
    );
  }
}

/**
 * Transactions, tried again where that is what helps.
 *
 * A write is a function over a {@link Transaction} that may run more than once: when the server chose it as the victim
 * of a deadlock, or its connection was lost before the commit was asked for, nothing has happened and it runs again,
 * a bounded number of times. Whether a commit took place that nobody has answered is unknown: that is
 * {@link StoreUnavailable}, and the operations are made so that their repeat is harmless.
 *
 * Rows are locked explicitly, in one order, for all of an operation before it changes the first: conversation, job,
 * follow, session, each kind with its keys ascending; the one delivery of a job that ends comes after them. What is read outside of a lock may change at any moment: the
 * isolation level is READ COMMITTED.
 *
 * Nothing lives in a connection's session: no setting, no lock, no temporary table. Limits are set within the
 * transaction, so a process that stops in the middle of one does not keep its locks.
 */
import { type Clock, sleep } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { type Hint, StoreRefusal, StoreUnavailable } from "../store.ts";
import { type Dialect, isConflict, isLost, QueryTimeout, storeError, Transaction } from "./database.ts";
import { Lanes } from "./lanes.ts";
import type { Connections, PooledClient } from "./pool.ts";

/** Tries of one operation. The first retries come at once, the later ones after a pause. */
const MAX_TRIES = 8;
const TRIES_AT_ONCE = 3;
const LONGEST_PAUSE_MS = 50;
/** Tries on connections that turn out to be lost: every idle one may be, after a restart. */
const MAX_LOST = 2;

export interface EngineOptions {
  connections: Connections;
  dialect: Dialect;
  /** How long one statement may take, waits for locks included. */
  statementTimeoutMs: number;
  clock: Clock;
  logger: Logger;
}

export class Engine {
  readonly #options: EngineOptions;
  readonly #begin: string;
  readonly #beginRead: string;
  readonly #running = new Set<Promise<unknown>>();
  readonly #lanes = new Lanes();
  #state: "new" | "running" | "stopped" = "new";
  /** Is told what a committed transaction has touched. */
  onTouched: (hints: Iterable<Hint>) => void = () => undefined;

  constructor(options: EngineOptions) {
    this.#options = options;
    const ms = Math.ceil(options.statementTimeoutMs);
    const limits = `SET LOCAL statement_timeout = ${ms}; SET LOCAL idle_in_transaction_session_timeout = ${ms}`;
    this.#begin = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; ${limits}`;
    this.#beginRead = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ${limits}`;
  }

  /** @param prepare what has to be done before all else, in one transaction */
  async start(prepare: (db: Transaction) => Promise<void>): Promise<void> {
    await this.#patiently(this.#begin, prepare, "the store cannot be opened");
    this.#state = "running";
  }

  /**
   * One transaction. `run` may run several times and changes nothing but the database. What it throws rolls back, a
   * {@link StoreRefusal} among it.
   */
  write<T>(run: (db: Transaction) => Promise<T>): Promise<T> {
    return this.track(() => this.writeTracked(run));
  }

  /** The same, in order. */
  writeInOrder<T>(key: string, run: (db: Transaction) => Promise<T>): Promise<T> {
    return this.inOrder(key, () => this.writeTracked(run));
  }

  /**
   * Does a piece of work after all of that key that was begun here before: what is written for a session keeps its
   * order, and who would wait for the same row as another one of this process has no connection meanwhile.
   */
  inOrder<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.track(() => this.#lanes.run(key, work));
  }

  /** The same, for whatever is tracked already: it goes on while the store stops. */
  writeTracked<T>(run: (db: Transaction) => Promise<T>): Promise<T> {
    return this.#patiently(this.#begin, run, "the store failed to write");
  }

  /** Reads one snapshot, however many statements `run` makes. */
  read<T>(run: (db: Transaction) => Promise<T>): Promise<T> {
    return this.track(() => this.#patiently(this.#beginRead, run, "the store failed to read"));
  }

  /**
   * For a `run` that makes exactly one statement: that is its own transaction, in one round trip. One whose connection
   * is lost may have taken place.
   */
  single<T>(run: (db: Transaction) => Promise<T>): Promise<T> {
    return this.track(() => this.singleTracked(run));
  }

  /** The same, for whatever is tracked already. */
  singleTracked<T>(run: (db: Transaction) => Promise<T>): Promise<T> {
    return this.#patiently(undefined, run, "the store failed");
  }

  /** Makes a piece of work be waited for by {@link stop}, or refuses it after one. */
  track<T>(work: () => Promise<T>): Promise<T> {
    if (this.#state !== "running") {
      return Promise.reject(new StoreUnavailable("the store is not running"));
    }
    const running = work();
    this.#running.add(running);
    const done = () => void this.#running.delete(running);
    running.then(done, done);
    return running;
  }

  /** Finishes what was begun. */
  async stop(): Promise<void> {
    this.#state = "stopped";
    while (this.#running.size > 0) await Promise.allSettled(this.#running);
  }

  async #patiently<T>(begin: string | undefined, run: (db: Transaction) => Promise<T>, what: string): Promise<T> {
    const { clock, connections } = this.#options;
    let lost = 0;
    for (let tries = 1; ; tries += 1) {
      try {
        return await connections.use((client, giveUp) => this.#once(client, giveUp, begin, run));
      } catch (error) {
        if (error instanceof StoreRefusal || error instanceof StoreUnavailable) throw error;
        if (isLost(error) && begin !== undefined) lost += 1;
        const again = isConflict(error) || (isLost(error) && begin !== undefined && lost <= MAX_LOST);
        if (!again || tries >= MAX_TRIES) throw storeError(error, what);
        this.#options.logger.debug({ err: error, tries }, "a transaction is tried again");
      }
      if (tries >= TRIES_AT_ONCE) await sleep(clock, Math.random() * Math.min(LONGEST_PAUSE_MS, 2 ** tries));
    }
  }

  async #once<T>(
    client: PooledClient,
    giveUp: () => void,
    begin: string | undefined,
    run: (db: Transaction) => Promise<T>,
  ): Promise<T> {
    const guard = <R>(query: Promise<R>) => this.#inTime(query, giveUp);
    const db = new Transaction(client, this.#options.dialect, guard);
    let result: T;
    try {
      if (begin !== undefined) await db.script(begin);
      result = await run(db);
    } catch (error) {
      if (isLost(error)) giveUp();
      else if (begin !== undefined) await rollback(db, giveUp);
      throw error;
    }
    if (begin !== undefined) {
      try {
        const did = await db.script("COMMIT");
        if (did !== "COMMIT") throw new Error(`the transaction had failed before its commit (${did})`);
      } catch (error) {
        giveUp();
        // A conflict is told instead of a commit; anything else may have come after it.
        if (isConflict(error)) throw error;
        throw new StoreUnavailable("the store did not say whether it has committed", { cause: error });
      }
    }
    this.onTouched(db.touched);
    return result;
  }

  /** The server has limits of its own; this one is for a server that does not answer at all. */
  async #inTime<T>(query: Promise<T>, giveUp: () => void): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = this.#options.clock.after(this.#options.statementTimeoutMs * 2, () => {
      giveUp();
      reject(new QueryTimeout(`no answer within ${this.#options.statementTimeoutMs * 2} ms`));
    });
    try {
      return await Promise.race([query, promise]);
    } finally {
      timer.cancel();
    }
  }
}

async function rollback(db: Transaction, giveUp: () => void): Promise<void> {
  try {
    await db.script("ROLLBACK");
  } catch {
    // The server rolls back by itself when the connection is gone.
    giveUp();
  }
}

/**
 * One connection of `node:sqlite` with its prepared statements. Everything here is synchronous; who
 * may call it when is the engine's affair (engine.ts). Rows are typed by the caller, next to the SQL
 * that selects them.
 */
import { DatabaseSync, type SQLInputValue, type SQLOutputValue, type StatementSync } from "node:sqlite";
import type { Hint } from "../store.ts";

/** SQLite's primary result codes that are told apart. */
const SQLITE_BUSY = 5;
const SQLITE_LOCKED = 6;

/** The engine's own failure, as opposed to a bug of the caller. */
function engineCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || (error as NodeJS.ErrnoException).code !== "ERR_SQLITE_ERROR") {
    return undefined;
  }
  // The extended code says more; its low byte is the primary one.
  return (error as Error & { errcode: number }).errcode & 0xff;
}

export const isEngineError = (error: unknown): boolean => engineCode(error) !== undefined;

/** Another connection holds the lock that was needed: nothing was done, and trying again may help. */
export function isBusy(error: unknown): boolean {
  const code = engineCode(error);
  return code === SQLITE_BUSY || code === SQLITE_LOCKED;
}

export class Database {
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #touched = new Map<string, Hint>();

  /** @param readOnly never creates the file */
  constructor(file: string, options: { readOnly?: boolean; busyTimeoutMs?: number } = {}) {
    this.#db = new DatabaseSync(file, { readOnly: options.readOnly ?? false, timeout: options.busyTimeoutMs ?? 0 });
  }

  /** Notes, within a transaction, what other processes may want to look at. */
  touch(hint: Hint): void {
    this.#touched.set("jobId" in hint ? hint.jobId : hint.sessionId, hint);
  }

  /** What was noted since the last call. */
  takeTouched(): Iterable<Hint> {
    const touched = this.#touched;
    if (touched.size > 0) this.#touched = new Map();
    return touched.values();
  }

  /** Runs a script of statements without parameters, prepared anew each time. */
  script(sql: string): void {
    this.#db.exec(sql);
  }

  /** @returns how many rows were changed */
  run(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.#prepared(sql).run(...values).changes);
  }

  get<Row>(sql: string, ...values: SQLInputValue[]): Row | undefined {
    return this.#prepared(sql).get(...values) as Row | undefined;
  }

  all<Row>(sql: string, ...values: SQLInputValue[]): Row[] {
    return this.#prepared(sql).all(...values) as Row[];
  }

  /** Rows as their columns, in the order of the statement: for long pages, without an object for each row. */
  columns<Row extends SQLOutputValue[]>(sql: string, ...values: SQLInputValue[]): Row[] {
    const statement = this.#prepared(sql);
    // Node 22.16 and later; before, an object's values come in the same order.
    if (typeof statement.setReturnArrays !== "function") {
      return statement.all(...values).map((row) => Object.values(row) as Row);
    }
    statement.setReturnArrays(true);
    return statement.all(...values) as unknown as Row[];
  }

  /** Row by row; leaving the loop early closes the cursor. Never leave one open across an `await`. */
  iterate<Row>(sql: string, ...values: SQLInputValue[]): Iterable<Row> {
    return this.#prepared(sql).iterate(...values) as Iterable<Row>;
  }

  close(): void {
    this.#statements.clear();
    this.#db.close();
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}

/**
 * Rows of the host's own SQLite table. A lock is `BEGIN IMMEDIATE` on a connection of its own, so it is the whole
 * file's write lock, held while the backend makes a session: use a file other than our store's. Nothing here waits in
 * SQLite, which would stop this process; a busy file is tried again on the clock.
 */
import { type Clock, sleep, systemClock } from "../../clock.ts";
import { UpstreamError } from "./errors.ts";
import {
  checkedLockTimeout,
  type LockedRow,
  quotedNames,
  type Row,
  type Rows,
  type TableNames,
  type TableOptions,
  UpstreamTable,
} from "./table.ts";

/** As much of `DatabaseSync` (node:sqlite) as is used; better-sqlite3 has it too. */
export interface SqliteConnection {
  exec(sql: string): unknown;
  prepare(sql: string): {
    get(...values: string[]): unknown;
    run(...values: string[]): { changes: number | bigint };
  };
  close(): unknown;
}

export interface SqliteTableOptions extends TableOptions {
  /** A new connection to the file, with no transaction; it is closed after use. */
  connect(): SqliteConnection;
}

const FIRST_RETRY_MS = 5;
const LONGEST_RETRY_MS = 100;

/** @throws RangeError for a name or a timeout that cannot be */
export function sqliteTable(options: SqliteTableOptions): UpstreamTable {
  return new UpstreamTable(new SqliteRows(options), options);
}

class SqliteRows implements Rows {
  readonly #connect: () => SqliteConnection;
  readonly #names: TableNames;
  readonly #patience: Patience;

  constructor(options: SqliteTableOptions) {
    this.#connect = () => options.connect();
    this.#names = quotedNames(options);
    this.#patience = { clock: options.clock ?? systemClock, timeoutMs: checkedLockTimeout(options) };
  }

  async read(id: string): Promise<Row | undefined> {
    const connection = this.#open();
    try {
      return await patiently(id, this.#patience, () => select(connection, this.#names, id));
    } finally {
      connection.close();
    }
  }

  async lock(id: string): Promise<LockedRow> {
    const connection = this.#open();
    const names = this.#names;
    try {
      await patiently(id, this.#patience, () => connection.exec("BEGIN IMMEDIATE"));
    } catch (error) {
      connection.close();
      throw error;
    }
    return {
      read: async () => select(connection, names, id),
      write: async (upstreamSessionId) => {
        const update = connection.prepare(`UPDATE ${names.table} SET ${names.session} = ? WHERE ${names.id} = ?`);
        if (Number(update.run(upstreamSessionId, id).changes) === 0) throw noRow(id);
      },
      commit: async () => {
        // Readers of a file without WAL hold a commit up.
        await patiently(id, this.#patience, () => connection.exec("COMMIT"));
        connection.close();
      },
      // What is not committed goes with the connection.
      rollback: async () => {
        try {
          connection.close();
        } catch {
          // It is closed already: the commit was the last that worked.
        }
      },
    };
  }

  #open(): SqliteConnection {
    const connection = this.#connect();
    connection.exec("PRAGMA busy_timeout = 0");
    return connection;
  }
}

// Qualified, since SQLite may take a quoted name that it does not know for a text.
function select(connection: SqliteConnection, { table, id: idColumn, title, session }: TableNames, id: string) {
  const row = connection
    .prepare(
      `SELECT r.${title} AS title, r.${session} AS "upstreamSessionId" FROM ${table} AS r WHERE r.${idColumn} = ?`,
    )
    .get(id);
  return row === undefined || row === null ? undefined : (row as Row);
}

const noRow = (id: string) => new UpstreamError("invalid_record", id, `record ${id}: its row is gone`);

interface Patience {
  clock: Clock;
  timeoutMs: number;
}

async function patiently<T>(id: string, { clock, timeoutMs }: Patience, work: () => T): Promise<T> {
  const since = clock.monotonic();
  for (let delayMs = FIRST_RETRY_MS; ; delayMs = Math.min(LONGEST_RETRY_MS, delayMs * 2)) {
    try {
      return work();
    } catch (error) {
      if (!isBusy(error)) throw error;
      if (clock.monotonic() - since >= timeoutMs) {
        const message = `record ${id}: its file was locked for ${timeoutMs} ms; try again`;
        throw new UpstreamError("conflict", id, message, { cause: error });
      }
    }
    await sleep(clock, delayMs * (0.5 + Math.random() / 2));
  }
}

/** SQLITE_BUSY and SQLITE_LOCKED, as node:sqlite and better-sqlite3 tell them. */
function isBusy(error: unknown): boolean {
  const { code, errcode } = error as { code?: unknown; errcode?: unknown };
  if (typeof errcode === "number") return (errcode & 0xff) === 5 || (errcode & 0xff) === 6;
  return typeof code === "string" && /^SQLITE_(BUSY|LOCKED)/.test(code);
}

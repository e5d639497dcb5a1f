/**
 * One PostgreSQL connection for the length of one operation: three ways to run a statement, and the few things that
 * all of this engine's SQL has in common. Who gets a connection when, and what becomes of its transaction, is the
 * engine's affair (engine.ts). Rows are typed by the caller, next to the SQL that selects them.
 *
 * Two marks stand in the SQL. `$.name` is the table or function of that name in the store's schema: every name is
 * qualified, for behind PgBouncer no `search_path` lasts. `$now` is the store's time in wall milliseconds, read when
 * the statement comes to it: a value that has to be newer than a lock's wait is read outside of the locking query,
 * `WITH locked AS MATERIALIZED (SELECT … FOR UPDATE) SELECT locked.*, $now AS now FROM locked`.
 *
 * The connections are structural: `pg`'s fit, and so does whatever behaves as they do.
 */
import { createHash } from "node:crypto";
import { type Hint, StoreUnavailable } from "../store.ts";

/** What a parameter may be. A list becomes a PostgreSQL array. */
export type SqlValue = string | number | boolean | null | Uint8Array | readonly (string | number | boolean | null)[];

/** A statement as `pg` takes it. */
export interface PostgresQuery {
  text: string;
  values?: unknown[];
  /** Of a statement that the connection is to keep prepared. */
  name?: string;
  types?: { getTypeParser(oid: number, format?: "text" | "binary"): (value: string) => unknown };
}

export interface PostgresResult {
  rows: unknown[];
  rowCount: number | null;
  /** What the server did: `COMMIT` for one, but `ROLLBACK` where it had to. */
  command: string;
}

/** A connection: a `Client` of `pg`, or one of its pool's. */
export interface PostgresClient {
  query(query: PostgresQuery): Promise<PostgresResult>;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  on(event: "notification", listener: (message: { payload?: string | undefined }) => void): unknown;
  off(event: "error", listener: (error: Error) => void): unknown;
}

const BOOL = 16;
const BYTEA = 17;
const INT8 = 20;
const INT2 = 21;
const INT4 = 23;
const FLOAT4 = 700;
const FLOAT8 = 701;
const INT4_ARRAY = 1007;

const text = (value: string) => value;

/**
 * Our own parsers, whatever the process has set for others. Keys and counters are far below 2^53, so a number holds
 * them.
 */
const TYPES: NonNullable<PostgresQuery["types"]> = {
  getTypeParser(oid) {
    switch (oid) {
      case INT2:
      case INT4:
      case INT8:
      case FLOAT4:
      case FLOAT8:
        return Number;
      case BOOL:
        return (value) => value === "t";
      case BYTEA:
        return (value) => Buffer.from(value.slice(2), "hex");
      case INT4_ARRAY:
        return (value) => (value === "{}" ? [] : value.slice(1, -1).split(",").map(Number));
      default:
        return text;
    }
  },
};

/** A `SqlValue` as `pg` is to get it. */
function parameter(value: SqlValue): unknown {
  if (value instanceof Uint8Array) {
    return Buffer.isBuffer(value) ? value : Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  }
  return Array.isArray(value) ? arrayText(value) : value;
}

const NEEDS_NO_QUOTES = /^[a-z0-9_.-]+$/;

/** A list as PostgreSQL reads one. `pg` quotes and escapes every element, which on the append path is too much. */
function arrayText(list: readonly (string | number | boolean | null)[]): string {
  let text = "{";
  for (const [i, element] of list.entries()) {
    if (i > 0) text += ",";
    if (typeof element !== "string") text += element === null ? "NULL" : String(element);
    else if (NEEDS_NO_QUOTES.test(element) && element !== "null") text += element;
    else text += `"${element.replace(/["\\]/g, "\\$&")}"`;
  }
  return `${text}}`;
}

/** The dialect of one store: its schema's name, and where its time comes from. */
export class Dialect {
  /** Quoted. */
  readonly schema: string;
  readonly #prepared: boolean;
  readonly #time: (() => number) | undefined;
  readonly #queries = new Map<string, { text: string; name: string | undefined; hasNow: boolean }>();

  /**
   * @param prepared whether connections keep statements prepared
   * @param time what takes the place of the server's clock
   */
  constructor(schema: string, prepared: boolean, time: (() => number) | undefined) {
    this.schema = `"${schema.replaceAll('"', '""')}"`;
    this.#prepared = prepared;
    this.#time = time;
  }

  qualified(sql: string): string {
    return sql.replaceAll("$.", `${this.schema}.`);
  }

  /** Resolves the marks. */
  query(sql: string, values: readonly SqlValue[]): PostgresQuery {
    const { text, name, hasNow } = this.#known(sql);
    const query: PostgresQuery = { text, values: values.map(parameter), types: TYPES };
    if (hasNow && this.#time !== undefined) {
      query.text = text.replaceAll("$now", `${this.#time()}::float8`);
    } else if (name !== undefined) {
      query.name = name;
    }
    return query;
  }

  #known(sql: string) {
    let known = this.#queries.get(sql);
    if (known === undefined) {
      const qualified = this.qualified(sql);
      const hasNow = sql.includes("$now");
      const text = this.#time === undefined ? qualified.replaceAll("$now", SERVER_TIME) : qualified;
      // The same text has the same name in every process: behind a pooler they share connections.
      const digest = createHash("sha256").update(text).digest("hex").slice(0, 32);
      known = { text, name: this.#prepared ? `holdfast_${digest}` : undefined, hasNow };
      this.#queries.set(sql, known);
    }
    return known;
  }
}

/** Wall milliseconds, now rather than at the start of the transaction. */
const SERVER_TIME = "(extract(epoch FROM clock_timestamp()) * 1000)::float8";

/** One operation's hold of a connection. */
export class Transaction {
  readonly #client: PostgresClient;
  readonly #dialect: Dialect;
  readonly #guard: <T>(query: Promise<T>) => Promise<T>;
  readonly #touched = new Map<string, Hint>();

  /** @param guard bounds the time that a query takes */
  constructor(client: PostgresClient, dialect: Dialect, guard: <T>(query: Promise<T>) => Promise<T>) {
    this.#client = client;
    this.#dialect = dialect;
    this.#guard = guard;
  }

  /** Notes what other processes may want to look at, once this is committed. */
  touch(hint: Hint): void {
    this.#touched.set("jobId" in hint ? hint.jobId : hint.sessionId, hint);
  }

  /** What was noted. */
  get touched(): Iterable<Hint> {
    return this.#touched.values();
  }

  /** @returns how many rows were changed */
  async run(sql: string, ...values: SqlValue[]): Promise<number> {
    return (await this.#query(sql, values)).rowCount ?? 0;
  }

  async get<Row>(sql: string, ...values: SqlValue[]): Promise<Row | undefined> {
    return (await this.#query(sql, values)).rows[0] as Row | undefined;
  }

  async all<Row>(sql: string, ...values: SqlValue[]): Promise<Row[]> {
    return (await this.#query(sql, values)).rows as Row[];
  }

  /** Statements without parameters, in one go. @returns what the server says that it did, where it is one statement */
  async script(sql: string): Promise<string> {
    return (await this.#guard(this.#client.query({ text: this.#dialect.qualified(sql) }))).command;
  }

  #query(sql: string, values: readonly SqlValue[]): Promise<PostgresResult> {
    return this.#guard(this.#client.query(this.#dialect.query(sql, values)));
  }
}

// ------------------------------------------------------------------------------------------- errors

/** SQLSTATE of what the server said; `undefined` where it said nothing. */
export function sqlState(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const { code } = error as { code?: unknown };
  return typeof code === "string" && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}

const SERIALIZATION_FAILURE = "40001";
const DEADLOCK_DETECTED = "40P01";

/** Nothing was done, and doing it again is what the server asks for. */
export function isConflict(error: unknown): boolean {
  const state = sqlState(error);
  return state === SERIALIZATION_FAILURE || state === DEADLOCK_DETECTED;
}

/** Class 08, the server's shutdown, crash and start, and what it ended because nothing came within a transaction. */
const LOST = /^(08...|57P0[1-5]|25P03)$/;
const SOCKET_ERRORS = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ETIMEDOUT",
  "ENOTFOUND",
  "EHOSTUNREACH",
  "EAI_AGAIN",
]);

/** The connection is gone, or none can be had; what it was doing may have been done. */
export function isLost(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined && LOST.test(state)) return true;
  if (!(error instanceof Error)) return false;
  const { code, errors } = error as { code?: unknown; errors?: unknown };
  if (typeof code === "string" && SOCKET_ERRORS.has(code)) return true;
  if (Array.isArray(errors)) return errors.some(isLost);
  return (
    error instanceof QueryTimeout ||
    /^(Connection terminated|Client has encountered a connection error|Client was closed|timeout)/i.test(error.message)
  );
}

/** The server did not answer in time; its connection is given up. */
export class QueryTimeout extends Error {
  override readonly name = "QueryTimeout";
}

/** Whatever the server or the way to it failed at becomes {@link StoreUnavailable}; the rest passes as it is. */
export function storeError(error: unknown, what: string): unknown {
  return isLost(error) || sqlState(error) !== undefined
    ? new StoreUnavailable(`${what}: ${(error as Error).message}`, { cause: error })
    : error;
}

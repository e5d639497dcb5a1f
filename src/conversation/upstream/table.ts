/**
 * A row of the host's own table as an upstream record: its lock is the row's, in a transaction on a connection of its
 * own, held while the backend makes the session. What is made is noted in our store first; the note ends after the
 * row's commit, and where a process died in between, the janitor asks the row.
 */
import { type Clock, systemClock } from "../../clock.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import type { BindingFacet } from "../../store/store.ts";
import type { Backend } from "./backend.ts";
import { AnotherWorkerWon, MAX_NOTED, ofNote, UpstreamError } from "./errors.ts";
import { OneAtATime } from "./one-at-a-time.ts";
import { idOf, newNonce, type RecordLedger, type UpstreamRecord } from "./record.ts";

/** A row as its table has it. */
export interface Row {
  title: unknown;
  upstreamSessionId: unknown;
}

/** A row in a transaction of its own, locked. */
export interface LockedRow {
  /** @returns undefined when it is not there */
  read(): Promise<Row | undefined>;
  write(upstreamSessionId: string): Promise<void>;
  commit(): Promise<void>;
  /** Never rejects: whatever made it necessary is the error that counts. */
  rollback(): Promise<void>;
}

/** One table of one database. */
export interface Rows {
  /** `UNKNOWN` and `BUSY` are told as errors with these words. */
  read(id: string): Promise<Row | undefined>;
  lock(id: string): Promise<LockedRow>;
}

export interface TableOptions {
  /** With schema or without, as the database has it: `Threads` and `threads` are two. */
  table: string;
  /** @default "id" */
  idColumn?: string | undefined;
  /** @default "title" */
  titleColumn?: string | undefined;
  /** A text that may be null. Make it unique where you can. @default "upstream_session_id" */
  sessionColumn?: string | undefined;
  /** Names the table in our notes: another one for each database that has one of that name. @default the table */
  name?: string | undefined;
  /** Our store's `bindings`. Without them, a crash at the wrong moment leaves a session that nobody finds. */
  bindings?: BindingFacet | undefined;
  /** @default 60_000 */
  lockTimeoutMs?: number | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
}

/** Our store, as a table's records use it. */
interface Notes {
  bindings: BindingFacet;
  clock: Clock;
  logger: Logger;
}

export class UpstreamTable {
  /** Under which its records are noted. */
  readonly owner: string;
  readonly #rows: Rows;
  readonly #notes: Notes | undefined;

  constructor(rows: Rows, options: TableOptions) {
    this.owner = `table:${options.name ?? options.table}`;
    this.#rows = rows;
    const { bindings, clock = systemClock, logger = silentLogger } = options;
    this.#notes = bindings === undefined ? undefined : { bindings, clock, logger };
  }

  /** @throws UpstreamError invalid_record when there is no such row, or it lacks what is needed */
  async load(id: string | number | bigint): Promise<TableUpstream> {
    const record = new TableUpstream(String(id), this.owner, this.#rows, this.#notes);
    await record.reload();
    return record;
  }

  /** The session that the row holds once whoever works on it has finished; `undefined` also when there is no row. */
  async held(id: string): Promise<string | undefined> {
    const locked = await this.#rows.lock(id);
    try {
      const row = await locked.read();
      return row === undefined ? undefined : idOf({ id, upstreamSessionId: row.upstreamSessionId });
    } finally {
      await locked.rollback();
    }
  }
}

export class TableUpstream implements UpstreamRecord {
  readonly id: string;
  readonly ledger: RecordLedger | undefined;
  readonly #owner: string;
  readonly #rows: Rows;
  readonly #notes: Notes | undefined;
  readonly #turns = new OneAtATime();
  #title = "";
  #upstreamSessionId: string | undefined;
  #locked: { row: LockedRow; nonce: string | undefined; written: string | undefined } | undefined;

  constructor(id: string, owner: string, rows: Rows, notes: Notes | undefined) {
    this.id = id;
    this.#owner = owner;
    this.#rows = rows;
    this.#notes = notes;
    this.ledger = notes && this.#ledgerOver(notes);
  }

  get title(): string {
    return this.#title;
  }

  get upstreamSessionId(): string | undefined {
    return this.#upstreamSessionId;
  }

  withLock<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.run(async () => {
      const row = await this.#rows.lock(this.id);
      const locked = { row, nonce: undefined as string | undefined, written: undefined as string | undefined };
      this.#locked = locked;
      try {
        await this.reload();
        const result = await work();
        await row.commit();
        if (locked.written !== undefined) await this.#settle(locked.nonce, locked.written);
        return result;
      } catch (error) {
        await row.rollback();
        throw error;
      } finally {
        this.#locked = undefined;
      }
    });
  }

  async update({ upstreamSessionId }: { upstreamSessionId: string }): Promise<void> {
    const locked = this.#locked;
    if (locked === undefined) throw new Error(`record ${this.id}: is updated under its lock only`);
    const replaces = this.#upstreamSessionId;
    await locked.row.write(upstreamSessionId);
    if (locked.nonce !== undefined && this.#notes !== undefined) {
      const { nonce } = locked;
      if (!(await this.#notes.bindings.persist({ nonce, upstreamId: upstreamSessionId, replaces }))) {
        throw new AnotherWorkerWon(`record ${this.id}: it took so long that the session was swept`);
      }
    }
    locked.written = upstreamSessionId;
    this.#upstreamSessionId = upstreamSessionId;
  }

  async reload(): Promise<void> {
    const row = this.#locked === undefined ? await this.#rows.read(this.id) : await this.#locked.row.read();
    if (row === undefined) {
      throw new UpstreamError("invalid_record", this.id, `record ${this.id}: ${this.#owner} has no such row`);
    }
    if (typeof row.title !== "string") {
      throw new UpstreamError("invalid_record", this.id, `record ${this.id}: title is not a text; give it one`);
    }
    this.#title = row.title;
    this.#upstreamSessionId = idOf({ id: this.id, upstreamSessionId: row.upstreamSessionId });
  }

  /** The row says who is right, so a note that does not end here ends with the sweep. */
  async #settle(nonce: string | undefined, holds: string): Promise<void> {
    if (nonce === undefined || this.#notes === undefined) return;
    const { bindings, clock, logger } = this.#notes;
    try {
      await bindings.settle({ nonce, holds, now: clock.wall() });
    } catch (error) {
      logger.warn({ err: error, record_id: this.id }, "a note of an upstream session is left to the sweep");
    }
  }

  #ledgerOver({ bindings, clock }: Notes): RecordLedger {
    const of = (backend: Backend) => ({ owner: this.#owner, recordId: this.id, backend: backend.name });
    return {
      intend: async (backend) => {
        if (this.#locked === undefined) throw new Error(`record ${this.id}: a session is made under its lock only`);
        const nonce = newNonce();
        const askedAt = clock.monotonic();
        await bindings
          .intend({ ...of(backend), nonce, maxNoted: MAX_NOTED, now: clock.wall() })
          .catch((error: unknown) => Promise.reject(ofNote(error, this.id)));
        // A create call that started late could outlast the note's time: the sweep would look before it is there.
        if (clock.monotonic() - askedAt > backend.createTimeoutMs) {
          throw new UpstreamError("conflict", this.id, `record ${this.id}: the store was too slow; try again`);
        }
        this.#locked.nonce = nonce;
        return nonce;
      },
      doom: (backend, { nonce, upstreamSessionId }) =>
        bindings.doom({ ...of(backend), nonce, upstreamId: upstreamSessionId, now: clock.wall() }),
      gone: (backend, session) =>
        bindings.gone({
          backend: backend.name,
          ...("nonce" in session ? session : { upstreamId: session.upstreamSessionId }),
        }),
    };
  }
}

/** What the statements are made of. */
export interface TableNames {
  table: string;
  id: string;
  title: string;
  session: string;
}

const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,62}$/;

/**
 * The names, quoted: they go into statements, so nothing but a plain name will do.
 *
 * @throws RangeError naming the option
 */
export function quotedNames(options: TableOptions): TableNames {
  const quoted = (option: string, name: string): string => {
    if (NAME.test(name)) return `"${name}"`;
    const shown = JSON.stringify(name.slice(0, 64));
    throw new RangeError(`${option}: ${shown} is not a name of letters, digits and _ that starts with no digit.`);
  };
  const parts = options.table.split(".");
  if (parts.length > 2) throw new RangeError(`table: ${JSON.stringify(options.table)} is not TABLE or SCHEMA.TABLE.`);
  return {
    table: parts.map((part) => quoted("table", part)).join("."),
    id: quoted("idColumn", options.idColumn ?? "id"),
    title: quoted("titleColumn", options.titleColumn ?? "title"),
    session: quoted("sessionColumn", options.sessionColumn ?? "upstream_session_id"),
  };
}

/** @throws RangeError */
export function checkedLockTimeout({ lockTimeoutMs = 60_000 }: TableOptions): number {
  if (Number.isSafeInteger(lockTimeoutMs) && lockTimeoutMs > 0 && lockTimeoutMs <= 86_400_000) return lockTimeoutMs;
  throw new RangeError(`lockTimeoutMs: ${lockTimeoutMs} is not a whole number of milliseconds from 1 to a day.`);
}

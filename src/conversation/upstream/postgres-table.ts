/**
 * Rows of the host's own PostgreSQL table. A lock is `SELECT … FOR UPDATE` in a transaction on a client of its own,
 * held while the backend makes a session; give the pool room for as many as are made at once.
 */
import { UpstreamError } from "./errors.ts";
import {
  checkedLockTimeout,
  type LockedRow,
  quotedNames,
  type Row,
  type Rows,
  type TableOptions,
  UpstreamTable,
} from "./table.ts";

/** As much of a client of `pg` as is used. */
export interface PostgresClient {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[]; rowCount: number | null }>;
  on(event: "error", listener: (error: Error) => void): unknown;
  off(event: "error", listener: (error: Error) => void): unknown;
  /** @param destroy the connection is in an unknown state: it is not used again */
  release(destroy?: boolean): void;
}

/** As much of `pg.Pool` as is used. */
export interface PostgresPool {
  connect(): Promise<PostgresClient>;
}

export interface PostgresTableOptions extends TableOptions {
  pool: PostgresPool;
}

/** Told by PostgreSQL when `lock_timeout` is over. */
const LOCK_NOT_AVAILABLE = "55P03";

/** @throws RangeError for a name or a timeout that cannot be */
export function postgresTable(options: PostgresTableOptions): UpstreamTable {
  return new UpstreamTable(postgresRows(options), options);
}

function postgresRows(options: PostgresTableOptions): Rows {
  const { table, id: idColumn, title, session } = quotedNames(options);
  const lockTimeoutMs = checkedLockTimeout(options);
  const select = `SELECT ${title} AS title, ${session} AS "upstreamSessionId" FROM ${table} WHERE ${idColumn} = $1`;
  const rowOf = async (client: PostgresClient, text: string, id: string): Promise<Row | undefined> =>
    (await client.query(text, [id])).rows[0] as Row | undefined;
  return {
    async read(id) {
      const client = await take(options.pool);
      try {
        const row = await rowOf(client.client, select, id);
        client.giveBack(false);
        return row;
      } catch (error) {
        client.giveBack(true);
        throw error;
      }
    },
    async lock(id): Promise<LockedRow> {
      const { client, giveBack } = await take(options.pool);
      const rollback = async (): Promise<void> => {
        try {
          await client.query("ROLLBACK");
          giveBack(false);
        } catch {
          // A connection that cannot even do that is not used again; what it had open ends with it.
          giveBack(true);
        }
      };
      let row: Row | undefined;
      try {
        await client.query("BEGIN");
        await client.query(`SET LOCAL lock_timeout = ${lockTimeoutMs}`);
        row = await rowOf(client, `${select} FOR UPDATE`, id);
      } catch (error) {
        await rollback();
        if ((error as { code?: unknown }).code !== LOCK_NOT_AVAILABLE) throw error;
        const message = `record ${id}: its row was locked for ${lockTimeoutMs} ms; try again`;
        throw new UpstreamError("conflict", id, message, { cause: error });
      }
      return {
        // As it was locked: nobody has changed it since.
        read: async () => row,
        write: async (upstreamSessionId) => {
          await client.query(`UPDATE ${table} SET ${session} = $1 WHERE ${idColumn} = $2`, [upstreamSessionId, id]);
          if (row !== undefined) row = { ...row, upstreamSessionId };
        },
        commit: async () => {
          await client.query("COMMIT");
          giveBack(false);
        },
        rollback,
      };
    },
  };
}

/** A client whose connection may break without taking the process along: the next query says so. */
async function take(pool: PostgresPool): Promise<{ client: PostgresClient; giveBack(destroy: boolean): void }> {
  const client = await pool.connect();
  const onError = () => undefined;
  client.on("error", onError);
  let given = false;
  return {
    client,
    giveBack(destroy) {
      if (given) return;
      given = true;
      client.off("error", onError);
      client.release(destroy);
    },
  };
}

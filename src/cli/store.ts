/**
 * The store that a command names with `--store`: the SQLite file of this machine, or a PostgreSQL database by its URL.
 * The URL's password is shown to nobody, and is better left to PGPASSWORD or PGPASSFILE: every user of the machine can
 * read a command line.
 */
import path from "node:path";
import type { Logger } from "../logger.ts";
import { postgres } from "../store/postgres/index.ts";
import { probeHints } from "../store/postgres/probe.ts";
import { sqlite } from "../store/sqlite/index.ts";
import type { Store } from "../store/store.ts";
import { Problem } from "./problem.ts";

export interface NamedStore {
  /** For people: the path, or the URL without its secrets. */
  readonly name: string;
  /** Where it is, of a SQLite one. */
  readonly file: string | undefined;
  /** @param options.look true: only to be looked at, so nothing is made where nothing is */
  open(options: { logger?: Logger; look?: boolean }): Store;
  /**
   * Tries whether processes on it can wake each other. Absent: they need nothing for that.
   *
   * @returns after how many milliseconds one heard the other; `undefined` when it did not
   */
  readonly hears: (() => Promise<number | undefined>) | undefined;
}

export const STORE_OPTION =
  "the SQLite file (default: holdfast.db in HOLDFAST_HOME or ~/.holdfast), or a postgres:// URL; HOLDFAST_STORE sets it too";

/** @param given what `--store` says */
export function namedStore(given: string | undefined, home: string, environment: NodeJS.ProcessEnv): NamedStore {
  const wanted = given ?? (environment["HOLDFAST_STORE"] || undefined);
  if (wanted !== undefined && /^[a-z][a-z0-9+.-]+:\/\//i.test(wanted)) return database(wanted);
  const file = path.resolve(wanted ?? path.join(home, "holdfast.db"));
  return {
    name: file,
    file,
    hears: undefined,
    open: ({ logger }) => sqlite(file, logger === undefined ? {} : { logger }),
  };
}

function database(text: string): NamedStore {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^postgres(ql)?:$/.test(url.protocol)) {
    throw new Problem("--store: the URL of a store is postgres://USER@HOST:PORT/DATABASE; anything else is a file.", 2);
  }
  // Ours, not the driver's.
  const schema = url.searchParams.get("schema") ?? undefined;
  url.searchParams.delete("schema");
  const shown = new URL(url);
  shown.password = "";
  shown.search = "";
  return {
    name: schema === undefined ? shown.href : `${shown.href} (schema ${schema})`,
    file: undefined,
    hears: () => probeHints({ url: url.href }, { timeoutMs: 3_000, ...(schema === undefined ? {} : { schema }) }),
    open: ({ logger, look = false }) =>
      postgres(
        { url: url.href },
        {
          migrate: !look,
          ...(schema === undefined ? {} : { schema }),
          ...(logger === undefined ? {} : { logger }),
        },
      ),
  };
}

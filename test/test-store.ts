/**
 * The store under a runtime's test: a SQLite file, or a PostgreSQL database where `HOLDFAST_TEST_STORE=postgres`, so
 * that the same cases run over both (over-postgres.test.ts).
 */
import { postgres } from "../src/store/postgres/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import type { Store } from "../src/store/store.ts";
import type { ManualClock } from "../src/testing/manual-clock.ts";
import { sharedPostgres } from "./shared-postgres.ts";

/** Makes stores over the same data: the one in use, and those that come after it or work beside it. */
export type StoreMaker = (clock: ManualClock) => Store;

/** Which database stands for which file. */
const databases = new Map<string, Promise<string>>();

export async function storeMaker(file: string): Promise<StoreMaker> {
  if (process.env["HOLDFAST_TEST_STORE"] !== "postgres") return (clock) => sqlite(file, { clock });
  const database = databases.get(file) ?? emptyStore();
  databases.set(file, database);
  const url = await database;
  // Its connections live in real time; only the times that are judged and kept are the test's.
  return (clock) => postgres({ url }, { dangerouslyUseTime: () => clock.wall() });
}

let template: Promise<string> | undefined;

/** The URL of a database whose schema is up to date, with nothing in it. */
export async function emptyStore(): Promise<string> {
  const server = await sharedPostgres();
  if ("reason" in server) throw new Error(server.reason);
  template ??= (async () => {
    const { name, url } = await server.createDatabase();
    const store = postgres({ url });
    await store.start();
    await store.stop();
    return name;
  })();
  return (await server.createDatabase(await template)).url;
}

/** For the `skip` of a case that says nothing over PostgreSQL. */
export const skippedOverPostgres = (reason: string): string | false =>
  process.env["HOLDFAST_TEST_STORE"] === "postgres" ? reason : false;

/**
 * Brings the schema up to date. Migrations are numbered, run in order, all in one transaction under a lock that is the
 * transaction's, so of several processes that start at once one migrates and the others find it done. A newer build
 * may have migrated already: that is fine unless one of its migrations is breaking, for then this build would misread
 * or damage the data (STO-10).
 */
import type { Transaction } from "./database.ts";
import { spine } from "./migrations/0001-spine.ts";
import { restarts } from "./migrations/0002-restarts.ts";
import { epochFloor } from "./migrations/0003-epoch-floor.ts";
import { deliveries } from "./migrations/0004-deliveries.ts";
import { shared } from "./migrations/0005-shared.ts";
import { passes } from "./migrations/0006-passes.ts";
import type { Migration } from "./migrations/migration.ts";

/** In order. */
const MIGRATIONS: readonly Migration[] = [spine, restarts, epochFloor, deliveries, shared, passes];

export interface MigrationOptions {
  schema: string;
  /** False: the role may not, somebody else has. */
  allowed: boolean;
  now: number;
}

/**
 * Within the caller's transaction.
 *
 * @throws Error when a newer breaking migration was applied, or one is missing and may not be applied
 */
export async function migrate(db: Transaction, { schema, allowed, now }: MigrationOptions): Promise<void> {
  const encoding = await db.get<{ server_encoding: string }>("SHOW server_encoding");
  if (encoding?.server_encoding !== "UTF8") {
    throw new Error(`the database's encoding is ${encoding?.server_encoding}, but the store needs UTF8`);
  }
  // Nearly always there is nothing to do, and no right to do anything is needed for that.
  if ((await missing(db, schema)).length === 0) return;
  if (!allowed) {
    const names = (await missing(db, schema)).map(({ number, name }) => `${number} (${name})`).join(", ");
    throw new Error(
      `the schema "${schema}" lacks the migrations ${names}, and \`migrate\` is false: start the store once with a ` +
        "role that may create tables there, and without that option",
    );
  }
  await db.script("SET LOCAL statement_timeout = 0");
  await db.run("SELECT pg_advisory_xact_lock(hashtextextended('holdfast migrations ' || $1, 0))", schema);
  const due = await missing(db, schema);
  if (due.length === 0) return;
  if (!(await hasSchema(db, schema))) await db.script(`CREATE SCHEMA ${quoted(schema)}`);
  await db.script(`CREATE TABLE IF NOT EXISTS $.migrations (
    number INT PRIMARY KEY,
    name TEXT NOT NULL,
    breaking BOOLEAN NOT NULL,
    applied_at FLOAT8 NOT NULL
  )`);
  for (const { number, name, breaking, sql } of due) {
    await db.script(sql);
    await db.run("INSERT INTO $.migrations VALUES ($1, $2, $3, $4)", number, name, breaking, now);
  }
}

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;

const hasSchema = async (db: Transaction, schema: string): Promise<boolean> =>
  (await db.get("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema)) !== undefined;

/** @throws Error when a newer breaking migration was applied */
async function missing(db: Transaction, schema: string): Promise<readonly Migration[]> {
  const table = await db.get(
    `SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = 'migrations'`,
    schema,
  );
  if (table === undefined) return MIGRATIONS;
  const applied = await db.all<{ number: number; name: string; breaking: boolean }>(
    "SELECT number, name, breaking FROM $.migrations ORDER BY number",
  );
  const known = MIGRATIONS.at(-1)?.number ?? 0;
  const tooNew = applied.find((migration) => migration.number > known && migration.breaking);
  if (tooNew !== undefined) {
    throw new Error(
      `this build knows the schema up to migration ${known} (${MIGRATIONS.at(-1)?.name}), but "${schema}" has the ` +
        `breaking migration ${tooNew.number} (${tooNew.name}) of a newer one: use a build that knows it`,
    );
  }
  const done = new Set(applied.map((migration) => migration.number));
  return MIGRATIONS.filter((migration) => !done.has(migration.number));
}

/**
 * Brings a file's schema up to date. Migrations are numbered, run in order, each recorded in the
 * transaction that applies it. A newer build may have migrated the file already: that is fine unless
 * one of its migrations is breaking, for then this build would misread or damage the data (STO-10).
 */
import type { Database } from "./database.ts";
import { spine } from "./migrations/0001-spine.ts";
import { delegation } from "./migrations/0002-delegation.ts";
import { credentials } from "./migrations/0003-credentials.ts";
import { questions } from "./migrations/0004-questions.ts";
import { conversations } from "./migrations/0005-conversations.ts";
import { bindings } from "./migrations/0006-bindings.ts";
import { deliveries } from "./migrations/0007-deliveries.ts";
import { restarts } from "./migrations/0008-restarts.ts";
import { epochFloor } from "./migrations/0009-epoch-floor.ts";
import { shared } from "./migrations/0010-shared.ts";
import { passes } from "./migrations/0011-passes.ts";
import type { Migration } from "./migrations/migration.ts";

/** In order. */
const MIGRATIONS: readonly Migration[] = [
  spine,
  delegation,
  credentials,
  questions,
  conversations,
  bindings,
  deliveries,
  restarts,
  epochFloor,
  shared,
  passes,
];

/**
 * All or nothing: on failure the caller closes the connection, which rolls back.
 *
 * @throws Error when a newer breaking migration was applied; engine errors, busy among them
 */
export function migrate(db: Database, now: number): void {
  db.run("BEGIN IMMEDIATE");
  db.script(`CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    breaking INTEGER NOT NULL,
    applied_at REAL NOT NULL
  ) STRICT`);
  const applied = db.all<{ number: number; name: string; breaking: number }>(
    "SELECT number, name, breaking FROM migrations ORDER BY number",
  );
  const known = MIGRATIONS.at(-1)?.number ?? 0;
  const tooNew = applied.find((migration) => migration.number > known && migration.breaking === 1);
  if (tooNew !== undefined) {
    throw new Error(
      `this build knows the schema up to migration ${known} (${MIGRATIONS.at(-1)?.name}), but the file has the ` +
        `breaking migration ${tooNew.number} (${tooNew.name}) of a newer one: use a build that knows it`,
    );
  }
  const done = new Set(applied.map((migration) => migration.number));
  for (const { number, name, breaking, sql } of MIGRATIONS) {
    if (!done.has(number)) {
      db.script(sql);
      db.run("INSERT INTO migrations VALUES (?, ?, ?, ?)", number, name, breaking ? 1 : 0, now);
    }
  }
  db.run("COMMIT");
}

/** Where to deliver for a route key, for all processes on the file. */
import type { Migration } from "./migration.ts";

export const routes: Migration = {
  number: 10,
  name: "routes",
  breaking: false,
  sql: `
CREATE TABLE routes (
  route_id TEXT PRIMARY KEY,
  key TEXT NOT NULL,
  route TEXT NOT NULL,           -- JSON
  updated_at REAL NOT NULL,
  expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX routes_by_age ON routes (updated_at, route_id);
CREATE INDEX routes_by_expiry ON routes (expires_at);
`,
};

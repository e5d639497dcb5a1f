/** What nodes share beside their work: where to deliver for a route key, and which version each of them is. */
import type { Migration } from "./migration.ts";

export const shared: Migration = {
  number: 10,
  name: "shared",
  breaking: false,
  sql: `
ALTER TABLE nodes ADD COLUMN version TEXT NOT NULL DEFAULT '';

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

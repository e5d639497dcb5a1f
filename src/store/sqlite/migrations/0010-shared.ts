/**
 * What nodes share beside their work: where to deliver for a route key, who is logged in, and
 * which version each of them is.
 */
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

CREATE TABLE passes (            -- logins and tickets
  pass_key INTEGER PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,     -- of what only its holder has
  kind TEXT NOT NULL,
  principal TEXT NOT NULL,
  content TEXT NOT NULL,
  expires_at REAL NOT NULL
) STRICT;
CREATE INDEX passes_by_principal ON passes (principal, kind, pass_key);
CREATE INDEX passes_by_expiry ON passes (expires_at);
`,
};

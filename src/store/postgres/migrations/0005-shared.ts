/** What nodes share beside their work: where to deliver for a route key, and which version each of them is. */
import type { Migration } from "./migration.ts";

export const shared: Migration = {
  number: 5,
  name: "shared",
  breaking: false,
  sql: `
ALTER TABLE $.nodes ADD COLUMN version TEXT NOT NULL DEFAULT '';

CREATE TABLE $.routes (
  route_id TEXT PRIMARY KEY,
  key TEXT NOT NULL,
  route TEXT NOT NULL,           -- JSON
  updated_at FLOAT8 NOT NULL,    -- by the server's clock, as the next
  expires_at FLOAT8 NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX routes_by_age ON $.routes (updated_at, route_id);
CREATE INDEX routes_by_expiry ON $.routes (expires_at);
`,
};

/** What stands for an identity for a while: logins of pages, and tickets. */
import type { Migration } from "./migration.ts";

export const passes: Migration = {
  number: 11,
  name: "passes",
  breaking: false,
  sql: `
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

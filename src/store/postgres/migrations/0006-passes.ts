/** What stands for an identity for a while: logins of pages, and tickets. */
import type { Migration } from "./migration.ts";

export const passes: Migration = {
  number: 6,
  name: "passes",
  breaking: false,
  sql: `
CREATE TABLE $.passes (          -- logins and tickets
  pass_key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,     -- of what only its holder has
  kind TEXT NOT NULL,
  principal TEXT NOT NULL,
  content TEXT NOT NULL,
  expires_at FLOAT8 NOT NULL     -- by the server's clock
);
CREATE INDEX passes_by_principal ON $.passes (principal, kind, pass_key);
CREATE INDEX passes_by_expiry ON $.passes (expires_at);
`,
};

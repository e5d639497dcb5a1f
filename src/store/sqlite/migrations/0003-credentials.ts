/** The ledger of provisioned credentials: ids and never a value. */
import type { Migration } from "./migration.ts";

export const credentials: Migration = {
  number: 3,
  name: "credentials",
  breaking: false,
  sql: `
CREATE TABLE credentials (
  credential_id TEXT PRIMARY KEY,
  job_id TEXT NOT NULL,          -- may name a job that is not stored, yet or any more
  node_id TEXT NOT NULL,         -- that holds the values
  state TEXT NOT NULL,           -- issuing, live, revoking, revoked
  attempts INTEGER NOT NULL,     -- to revoke it
  next_attempt_at REAL NOT NULL,
  noted_at REAL NOT NULL,
  issued_at REAL,
  revoked_at REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX credentials_by_job ON credentials (job_id);
CREATE INDEX credentials_to_revoke ON credentials (next_attempt_at) WHERE state <> 'revoked';
`,
};

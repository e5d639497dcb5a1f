/** Conversations' ties to upstream sessions, and the ledger of sessions that may have to be deleted. */
import type { Migration } from "./migration.ts";

export const bindings: Migration = {
  number: 6,
  name: "bindings",
  breaking: false,
  sql: `
CREATE TABLE bindings (
  conversation_id TEXT NOT NULL,
  backend TEXT NOT NULL,
  state TEXT NOT NULL,           -- unbound, binding, bound, lost, released
  generation INTEGER NOT NULL,   -- grows with every change of state
  upstream_id TEXT,              -- while binding: of the session that is good until it is replaced
  nonce TEXT,                    -- while binding: of the claim
  prior TEXT,                    -- while binding: the state before
  changed_at REAL NOT NULL,
  PRIMARY KEY (conversation_id, backend)
) STRICT, WITHOUT ROWID;
CREATE INDEX bindings_by_nonce ON bindings (nonce) WHERE nonce IS NOT NULL;

CREATE TABLE upstream_debts (
  debt_key INTEGER PRIMARY KEY AUTOINCREMENT,
  backend TEXT NOT NULL,
  owner TEXT NOT NULL,           -- conversation, or the user's table
  record_id TEXT NOT NULL,
  state TEXT NOT NULL,           -- creating, persisting, swept
  nonce TEXT,
  upstream_id TEXT,
  replaces TEXT,                 -- while persisting: the session that goes if this one stays
  made_at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX debts_by_nonce ON upstream_debts (nonce) WHERE nonce IS NOT NULL;
CREATE UNIQUE INDEX debts_by_upstream ON upstream_debts (backend, upstream_id) WHERE state = 'swept' AND upstream_id IS NOT NULL;
CREATE INDEX debts_in_order ON upstream_debts (backend, debt_key);
CREATE INDEX debts_by_record ON upstream_debts (owner, record_id);
`,
};

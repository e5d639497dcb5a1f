/** Conversations with their locks, and the turns that wait for them. */
import type { Migration } from "./migration.ts";

export const conversations: Migration = {
  number: 5,
  name: "conversations",
  breaking: false,
  sql: `
CREATE TABLE conversations (
  conversation_key INTEGER PRIMARY KEY AUTOINCREMENT,
  conversation_id TEXT NOT NULL UNIQUE,
  source TEXT NOT NULL,
  key TEXT,                      -- JSON; null for a fresh one
  principal TEXT,                -- whose it is; null for a channel's
  user_id TEXT NOT NULL,         -- who spoke first
  created_at REAL NOT NULL,
  active_at REAL NOT NULL,       -- when a turn was last added
  lock_epoch INTEGER NOT NULL,   -- grows with every acquisition
  lock_holder TEXT,              -- null, with the rest, while nobody holds it
  lock_node TEXT,
  lock_acquired_at REAL,
  lock_expires_at REAL,
  lock_job_key INTEGER,          -- the running turn's; null for a lock without one
  queued INTEGER NOT NULL        -- turns that wait
) STRICT;
CREATE INDEX conversations_by_activity ON conversations (active_at, conversation_key);
CREATE INDEX conversations_by_principal ON conversations (principal, active_at, conversation_key);
CREATE INDEX conversations_locked ON conversations (lock_node) WHERE lock_holder IS NOT NULL;
CREATE INDEX conversations_waiting ON conversations (coalesce(lock_expires_at, 0)) WHERE queued > 0;

CREATE TABLE turns (
  turn_key INTEGER PRIMARY KEY AUTOINCREMENT, -- grows in the order of submission
  conversation_key INTEGER NOT NULL,
  job_key INTEGER NOT NULL UNIQUE,
  message_id TEXT,
  user_id TEXT NOT NULL,
  ahead INTEGER NOT NULL,        -- 1 for a turn that interrupts: it goes before those that wait
  ttl_ms REAL NOT NULL,
  state TEXT NOT NULL,           -- queued, running, ended
  lock_epoch INTEGER             -- under which it runs or ran
) STRICT;
CREATE UNIQUE INDEX turns_by_message ON turns (conversation_key, message_id) WHERE message_id IS NOT NULL;
CREATE INDEX turns_queued ON turns (conversation_key, ahead DESC, turn_key) WHERE state = 'queued';
CREATE INDEX turns_by_conversation ON turns (conversation_key, turn_key);
`,
};

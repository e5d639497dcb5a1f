/**
 * The spine: nodes, sessions, jobs and their logs. Hot tables use integer keys, and what changes with
 * every batch sits apart from what never does. Appending an event touches one b-tree and one narrow row.
 */
import type { Migration } from "./migration.ts";

export const spine: Migration = {
  number: 1,
  name: "spine",
  breaking: true,
  sql: `
CREATE TABLE nodes (
  node_id TEXT PRIMARY KEY,
  pid INTEGER NOT NULL,
  host TEXT NOT NULL,
  started_at REAL NOT NULL,
  heartbeat INTEGER NOT NULL,
  beaten_at REAL NOT NULL,
  state TEXT NOT NULL,           -- alive, dead, left
  over_at REAL                   -- since when it is dead or has left
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
  session_key INTEGER PRIMARY KEY AUTOINCREMENT, -- never given again: jobs outlive their sessions
  session_id TEXT NOT NULL UNIQUE,
  principal TEXT NOT NULL,
  client_name TEXT NOT NULL,
  client_version TEXT NOT NULL,
  features TEXT NOT NULL,        -- JSON array, fixed at the first welcome
  resume_window_ms REAL NOT NULL,
  created_at REAL NOT NULL,
  connection_epoch INTEGER NOT NULL,
  node_id TEXT,                  -- that serves its connection; null while detached
  resumable_until REAL,          -- null while attached
  instance TEXT,
  attempt INTEGER,
  last_seq INTEGER NOT NULL,     -- the newest number given
  acked_seq INTEGER NOT NULL,
  seq_floor INTEGER NOT NULL     -- numbers up to this can no longer be replayed
) STRICT;
CREATE INDEX sessions_by_principal ON sessions (principal, resumable_until);
CREATE INDEX sessions_detached ON sessions (resumable_until) WHERE resumable_until IS NOT NULL;
CREATE INDEX sessions_by_node ON sessions (node_id) WHERE node_id IS NOT NULL;

CREATE TABLE session_tokens (
  session_key INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,      -- in the order of issue
  hash BLOB NOT NULL,
  PRIMARY KEY (session_key, ordinal)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
  job_key INTEGER PRIMARY KEY AUTOINCREMENT, -- grows in the order of submission
  job_id TEXT NOT NULL UNIQUE,
  principal TEXT NOT NULL,
  session_key INTEGER NOT NULL,  -- that submitted it
  agent TEXT NOT NULL,
  input TEXT NOT NULL,
  lease TEXT NOT NULL,
  lease_expires_at REAL,
  parent_job_id TEXT,
  trace_id TEXT NOT NULL,
  max_runtime_ms REAL,
  created_at REAL NOT NULL
) STRICT;
CREATE INDEX jobs_by_principal ON jobs (principal, job_key);

CREATE TABLE job_heads (
  job_key INTEGER PRIMARY KEY,
  principal TEXT NOT NULL,
  node_id TEXT NOT NULL,
  state TEXT NOT NULL,
  run_epoch INTEGER NOT NULL,
  last_n INTEGER NOT NULL,
  floor_n INTEGER NOT NULL,      -- events up to this are gone
  bytes INTEGER NOT NULL,        -- of the payloads that are kept
  result_n INTEGER,              -- the first chunk of its result; null while there is none
  cancel_requested INTEGER NOT NULL,
  cancel_reason TEXT,
  ended_at REAL                  -- null while the job is live
) STRICT;
CREATE INDEX job_heads_live_by_principal ON job_heads (principal, job_key) WHERE ended_at IS NULL;
CREATE INDEX job_heads_ended ON job_heads (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX job_heads_live_by_node ON job_heads (node_id, job_key) WHERE ended_at IS NULL;

CREATE TABLE events (
  job_key INTEGER NOT NULL,
  n INTEGER NOT NULL,
  run_epoch INTEGER NOT NULL,    -- of the attempt that wrote it
  kind TEXT NOT NULL,
  payload TEXT NOT NULL,
  PRIMARY KEY (job_key, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE follows (
  session_key INTEGER NOT NULL,
  job_key INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,      -- among the session's open follows, in the order of their beginning
  position_n INTEGER NOT NULL,   -- events up to this were numbered or left out
  last_seq INTEGER NOT NULL,     -- the newest number that an event of this job got; 0 for none
  can_cancel INTEGER NOT NULL,
  open INTEGER NOT NULL,
  PRIMARY KEY (session_key, job_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX follows_open ON follows (session_key, ordinal) WHERE open = 1;
CREATE INDEX follows_open_by_job ON follows (job_key) WHERE open = 1;

CREATE TABLE runs (
  session_key INTEGER NOT NULL,
  first_seq INTEGER NOT NULL,
  count INTEGER NOT NULL,
  job_key INTEGER NOT NULL,
  first_n INTEGER,               -- null, with last_n, for a notice of this session alone
  last_n INTEGER,
  payload TEXT,                  -- such a notice's
  PRIMARY KEY (session_key, first_seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_by_job ON runs (job_key, session_key, first_seq);

CREATE TABLE requests (
  session_key INTEGER NOT NULL,
  message_id TEXT NOT NULL,
  ordinal INTEGER NOT NULL,      -- among the replies that are owed, in the order of the requests
  event_seq INTEGER NOT NULL,    -- the session's newest number when the reply was stored
  frame TEXT,                    -- null when the request has no reply to be given again
  owed INTEGER NOT NULL,         -- 1 while nothing proves that the reply arrived
  PRIMARY KEY (session_key, message_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_owed ON requests (session_key, ordinal) WHERE owed = 1;

CREATE TABLE idempotency (
  principal TEXT NOT NULL,
  key TEXT NOT NULL,
  digest TEXT NOT NULL,
  job_key INTEGER NOT NULL,
  accepted_payload TEXT NOT NULL,
  expires_at REAL NOT NULL,
  PRIMARY KEY (principal, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);
CREATE INDEX idempotency_by_job ON idempotency (job_key);

CREATE TABLE hints (
  hint_key INTEGER PRIMARY KEY AUTOINCREMENT,
  session_id TEXT,               -- whose connection may have changed,
  job_id TEXT                    -- or whose log, state or wished end has
) STRICT;
`,
};

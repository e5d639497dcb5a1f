/**
 * The tables. What changes with every batch sits in narrow rows apart from what never does, with room in its pages to
 * be updated in place; no index holds a column that a batch changes. Payloads are text: they are returned as they came.
 * No table refers to another by a foreign key: its checks would lock rows in an order of their own.
 */
import type { Migration } from "./migration.ts";

export const spine: Migration = {
  number: 1,
  name: "spine",
  breaking: true,
  sql: `
CREATE TABLE $.nodes (
  node_id TEXT PRIMARY KEY,
  pid BIGINT NOT NULL,
  host TEXT NOT NULL,
  started_at FLOAT8 NOT NULL,
  heartbeat BIGINT NOT NULL,
  beaten_at FLOAT8 NOT NULL,
  state TEXT NOT NULL,           -- alive, dead, left
  over_at FLOAT8                 -- since when it is dead or has left
) WITH (fillfactor = 50);

CREATE TABLE $.sessions (
  session_key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  session_id TEXT NOT NULL UNIQUE,
  principal TEXT NOT NULL,
  connection_epoch BIGINT NOT NULL,
  node_id TEXT,                  -- that serves its connection; null while detached
  resumable_until FLOAT8,        -- null while attached
  resume_window_ms FLOAT8 NOT NULL,
  instance TEXT,
  attempt BIGINT,
  acks BOOLEAN NOT NULL,         -- whether the client acks
  last_seq BIGINT NOT NULL,      -- the newest number given
  acked_seq BIGINT NOT NULL,
  seq_floor BIGINT NOT NULL      -- numbers up to this can no longer be replayed
) WITH (fillfactor = 60);
CREATE INDEX sessions_by_principal ON $.sessions (principal, resumable_until);
CREATE INDEX sessions_detached ON $.sessions (resumable_until) WHERE resumable_until IS NOT NULL;
CREATE INDEX sessions_by_node ON $.sessions (node_id) WHERE node_id IS NOT NULL;

CREATE TABLE $.session_clients ( -- what the hot rows need not carry along
  session_key BIGINT PRIMARY KEY,
  client_name TEXT NOT NULL,
  client_version TEXT NOT NULL,
  features TEXT NOT NULL,        -- JSON array, fixed at the first welcome
  created_at FLOAT8 NOT NULL
);

CREATE TABLE $.session_tokens (
  session_key BIGINT NOT NULL,
  ordinal BIGINT NOT NULL,       -- in the order of issue
  hash BYTEA NOT NULL,
  PRIMARY KEY (session_key, ordinal)
);

CREATE TABLE $.jobs (
  job_key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- grows in the order of submission
  job_id TEXT NOT NULL UNIQUE,
  principal TEXT NOT NULL,
  session_key BIGINT NOT NULL,   -- that submitted it
  agent TEXT NOT NULL,
  input TEXT NOT NULL,
  lease TEXT NOT NULL,
  lease_expires_at FLOAT8,
  parent_job_id TEXT,
  trace_id TEXT NOT NULL,
  max_runtime_ms FLOAT8,
  created_at FLOAT8 NOT NULL,
  delegate_id TEXT,              -- the parent's name for it; null where a session submitted it
  accepted_payload TEXT          -- of a delegated job, and of a turn: told later
);
CREATE INDEX jobs_by_principal ON $.jobs (principal, job_key);
CREATE UNIQUE INDEX jobs_delegated ON $.jobs (parent_job_id, delegate_id) WHERE delegate_id IS NOT NULL;

CREATE TABLE $.job_heads (
  job_key BIGINT PRIMARY KEY,
  principal TEXT NOT NULL,
  node_id TEXT NOT NULL,
  state TEXT NOT NULL,
  run_epoch BIGINT NOT NULL,
  last_n BIGINT NOT NULL,
  floor_n BIGINT NOT NULL,       -- events up to this are gone
  bytes BIGINT NOT NULL,         -- of the payloads that are kept
  result_n BIGINT,               -- the first chunk of its result; null while there is none
  cancel_requested BOOLEAN NOT NULL,
  cancel_reason TEXT,
  ended_at FLOAT8,               -- null while the job is live
  answers BIGINT NOT NULL DEFAULT 0 -- questions that were ever answered
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX job_heads_live_by_principal ON $.job_heads (principal, job_key) WHERE ended_at IS NULL;
CREATE INDEX job_heads_ended ON $.job_heads (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX job_heads_live_by_node ON $.job_heads (node_id, job_key) WHERE ended_at IS NULL;

CREATE TABLE $.events (
  job_key BIGINT NOT NULL,
  n BIGINT NOT NULL,
  run_epoch BIGINT NOT NULL,     -- of the attempt that wrote it
  kind TEXT NOT NULL,
  payload TEXT NOT NULL,
  PRIMARY KEY (job_key, n)
);

CREATE TABLE $.follows (
  session_key BIGINT NOT NULL,
  job_key BIGINT NOT NULL,
  ordinal BIGINT NOT NULL,       -- among the session's open follows, in the order of their beginning
  position_n BIGINT NOT NULL,    -- events up to this were numbered or left out
  last_seq BIGINT NOT NULL,      -- the newest number that an event of this job got; 0 for none
  can_cancel BOOLEAN NOT NULL,
  open BOOLEAN NOT NULL,
  PRIMARY KEY (session_key, job_key)
) WITH (fillfactor = 70);
CREATE INDEX follows_open ON $.follows (session_key, ordinal) WHERE open;
CREATE INDEX follows_by_job ON $.follows (job_key, session_key);

CREATE TABLE $.runs (
  session_key BIGINT NOT NULL,
  first_seq BIGINT NOT NULL,
  count BIGINT NOT NULL,
  job_key BIGINT NOT NULL,
  first_n BIGINT,                -- null, with last_n, for a notice of this session alone
  last_n BIGINT,
  payload TEXT,                  -- such a notice's
  PRIMARY KEY (session_key, first_seq)
);
CREATE INDEX runs_by_job ON $.runs (job_key, session_key, first_seq);

CREATE TABLE $.requests (
  session_key BIGINT NOT NULL,
  message_id TEXT NOT NULL,
  ordinal BIGINT NOT NULL,       -- among the replies that are owed, in the order of the requests
  event_seq BIGINT NOT NULL,     -- the session's newest number when the reply was stored
  frame TEXT,                    -- null when the request has no reply to be given again
  owed BOOLEAN NOT NULL,         -- true while nothing proves that the reply arrived
  PRIMARY KEY (session_key, message_id)
);
CREATE INDEX requests_owed ON $.requests (session_key, ordinal) WHERE owed;

CREATE TABLE $.idempotency (
  principal TEXT NOT NULL,
  key TEXT NOT NULL,
  digest TEXT NOT NULL,
  job_key BIGINT NOT NULL,
  accepted_payload TEXT NOT NULL,
  expires_at FLOAT8 NOT NULL,
  PRIMARY KEY (principal, key)
);
CREATE INDEX idempotency_by_expiry ON $.idempotency (expires_at);
CREATE INDEX idempotency_by_job ON $.idempotency (job_key);

CREATE TABLE $.credentials (     -- ids and never a value
  credential_id TEXT PRIMARY KEY,
  job_id TEXT NOT NULL,          -- may name a job that is not stored, yet or any more
  node_id TEXT NOT NULL,         -- that holds the values
  state TEXT NOT NULL,           -- issuing, live, revoking, revoked
  attempts BIGINT NOT NULL,      -- to revoke it
  next_attempt_at FLOAT8 NOT NULL,
  noted_at FLOAT8 NOT NULL,
  issued_at FLOAT8,
  revoked_at FLOAT8
);
CREATE INDEX credentials_by_job ON $.credentials (job_id);
CREATE INDEX credentials_to_revoke ON $.credentials (next_attempt_at) WHERE state <> 'revoked';

CREATE TABLE $.questions (
  job_key BIGINT NOT NULL,
  ordinal BIGINT NOT NULL,       -- among the job's questions, in the order in which they were asked
  question_id TEXT NOT NULL,
  run_epoch BIGINT NOT NULL,     -- of the attempt that asked
  state TEXT NOT NULL,           -- open, answered, closed
  message TEXT NOT NULL,
  schema TEXT,
  addressee TEXT,
  asked_at FLOAT8 NOT NULL,
  answer TEXT,
  answered_by TEXT,
  settled_at FLOAT8,             -- null while it is open
  PRIMARY KEY (job_key, ordinal)
);
CREATE UNIQUE INDEX questions_by_id ON $.questions (job_key, question_id);

CREATE TABLE $.conversations (
  conversation_key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  conversation_id TEXT NOT NULL UNIQUE,
  source TEXT NOT NULL,
  key TEXT,                      -- JSON; null for a fresh one
  principal TEXT,                -- whose it is; null for a channel's
  user_id TEXT NOT NULL,         -- who spoke first
  created_at FLOAT8 NOT NULL,
  active_at FLOAT8 NOT NULL,     -- when a turn was last added
  lock_epoch BIGINT NOT NULL,    -- grows with every acquisition
  lock_holder TEXT,              -- null, with the rest, while nobody holds it
  lock_node TEXT,
  lock_acquired_at FLOAT8,       -- by the server's clock, as the expiry is
  lock_expires_at FLOAT8,
  lock_job_key BIGINT,           -- the running turn's; null for a lock without one
  queued BIGINT NOT NULL         -- turns that wait
) WITH (fillfactor = 70);
CREATE INDEX conversations_by_activity ON $.conversations (active_at, conversation_key);
CREATE INDEX conversations_by_principal ON $.conversations (principal, active_at, conversation_key);
CREATE INDEX conversations_locked ON $.conversations (lock_node) WHERE lock_holder IS NOT NULL;
CREATE INDEX conversations_waiting ON $.conversations (conversation_key) WHERE queued > 0;

CREATE TABLE $.turns (
  turn_key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- grows in the order of submission
  conversation_key BIGINT NOT NULL,
  job_key BIGINT NOT NULL UNIQUE,
  message_id TEXT,
  user_id TEXT NOT NULL,
  ahead BOOLEAN NOT NULL,        -- of a turn that interrupts: it goes before those that wait
  ttl_ms FLOAT8 NOT NULL,
  state TEXT NOT NULL,           -- queued, running, ended
  lock_epoch BIGINT              -- under which it runs or ran
);
CREATE UNIQUE INDEX turns_by_message ON $.turns (conversation_key, message_id) WHERE message_id IS NOT NULL;
CREATE INDEX turns_queued ON $.turns (conversation_key, ahead DESC, turn_key) WHERE state = 'queued';
CREATE INDEX turns_by_conversation ON $.turns (conversation_key, turn_key);

CREATE TABLE $.bindings (
  conversation_id TEXT NOT NULL,
  backend TEXT NOT NULL,
  state TEXT NOT NULL,           -- unbound, binding, bound, lost, released
  generation BIGINT NOT NULL,    -- grows with every change of state
  upstream_id TEXT,              -- while binding: of the session that is good until it is replaced
  nonce TEXT,                    -- while binding: of the claim
  prior TEXT,                    -- while binding: the state before
  changed_at FLOAT8 NOT NULL,
  PRIMARY KEY (conversation_id, backend)
);
CREATE INDEX bindings_by_nonce ON $.bindings (nonce) WHERE nonce IS NOT NULL;

CREATE TABLE $.upstream_debts (
  debt_key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  backend TEXT NOT NULL,
  owner TEXT NOT NULL,           -- conversation, or the user's table
  record_id TEXT NOT NULL,
  state TEXT NOT NULL,           -- creating, persisting, swept
  nonce TEXT,
  upstream_id TEXT,
  replaces TEXT,                 -- while persisting: the session that goes if this one stays
  made_at FLOAT8 NOT NULL
);
CREATE UNIQUE INDEX debts_by_nonce ON $.upstream_debts (nonce) WHERE nonce IS NOT NULL;
CREATE UNIQUE INDEX debts_by_upstream ON $.upstream_debts (backend, upstream_id)
  WHERE state = 'swept' AND upstream_id IS NOT NULL;
CREATE INDEX debts_in_order ON $.upstream_debts (backend, debt_key);
CREATE INDEX debts_by_record ON $.upstream_debts (owner, record_id);

-- The two functions of the hot path look up few rows of tables that grow, under plans that are kept, and made without
-- knowing how few. So nothing is left to choose: a lookup is a subquery for each of what was given, in its order, with a
-- LIMIT 1 that keeps conditions, and with them other indexes, out of it; and an update names its keys as a list as well,
-- so that at worst it reads those rows for each of them.

-- Appends to many logs in one round trip. An item is a batch of one job. Taken is what goes on where its job's log
-- ends, under the epoch that runs; an end only of what is no turn of a conversation. What is not taken changed nothing.
-- Returns the items that were taken.
CREATE FUNCTION $.append_events(
  job_ids TEXT[], run_epochs BIGINT[], first_ns BIGINT[], last_ns BIGINT[], sizes BIGINT[], result_ns BIGINT[],
  ends TEXT[], nows FLOAT8[],                  -- of the items; an end is the final status or null
  items INT[], ns BIGINT[], kinds TEXT[], starts INT[], lengths INT[], -- of the events
  payloads BYTEA                               -- of all events, as UTF-8
) RETURNS INT[] LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
DECLARE
  taken INT[];
  keys BIGINT[];
  keys_by_item BIGINT[] := array_fill(NULL::bigint, ARRAY[cardinality(job_ids)]);
BEGIN
  SELECT array_agg(given.item), array_agg(given.job_key) INTO taken, keys FROM (
    SELECT item::int, run_epoch, first_n, ending, (SELECT j.job_key FROM $.jobs j WHERE j.job_id = batch.job_id) AS job_key
    FROM unnest(job_ids, run_epochs, first_ns, ends) WITH ORDINALITY AS batch(job_id, run_epoch, first_n, ending, item)
    ORDER BY job_key
  ) AS given CROSS JOIN LATERAL (
    SELECT h.run_epoch, h.last_n, h.ended_at FROM $.job_heads h WHERE h.job_key = given.job_key
    LIMIT 1 FOR NO KEY UPDATE
  ) AS head
  WHERE head.run_epoch = given.run_epoch AND head.last_n = given.first_n - 1 AND head.ended_at IS NULL
    AND (given.ending IS NULL OR (SELECT t.turn_key FROM $.turns t WHERE t.job_key = given.job_key) IS NULL);
  IF taken IS NULL THEN
    RETURN '{}';
  END IF;
  FOR i IN 1 .. cardinality(taken) LOOP
    keys_by_item[taken[i]] := keys[i];
  END LOOP;
  INSERT INTO $.events (job_key, n, run_epoch, kind, payload)
  SELECT keys_by_item[given.item], given.n, run_epochs[given.item], given.kind,
    convert_from(substring(payloads FROM given.start FOR given.length), 'UTF8')
  FROM unnest(items, ns, kinds, starts, lengths) AS given(item, n, kind, start, length)
  WHERE keys_by_item[given.item] IS NOT NULL;
  UPDATE $.job_heads h SET last_n = last_ns[done.item], bytes = h.bytes + sizes[done.item],
    result_n = coalesce(h.result_n, result_ns[done.item]), state = coalesce(ends[done.item], h.state),
    ended_at = CASE WHEN ends[done.item] IS NOT NULL THEN nows[done.item] END,
    run_epoch = h.run_epoch + (ends[done.item] IS NOT NULL)::int
  FROM unnest(taken, keys) AS done(item, job_key) WHERE h.job_key = done.job_key AND h.job_key = ANY(keys);
  RETURN taken;
END
$body$;

-- Stores the runs of many sessions in one round trip. An item is a session with what it is about to send. Taken is
-- what continues its numbers and its follows; what is not taken changed nothing. Returns the items that were taken.
CREATE FUNCTION $.store_runs(
  session_ids TEXT[], epochs BIGINT[], first_seqs BIGINT[], last_seqs BIGINT[], -- of the items
  follow_items INT[], job_ids TEXT[], first_ns BIGINT[], last_ns BIGINT[], seqs BIGINT[], ending BOOLEAN[], -- of follows
  run_follows INT[], run_seqs BIGINT[], counts BIGINT[], run_first_ns BIGINT[], run_last_ns BIGINT[] -- of the runs
) RETURNS INT[] LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $body$
DECLARE
  moved INT[];
  session_keys BIGINT[];
  job_keys BIGINT[];
  session_by_follow BIGINT[] := array_fill(NULL::bigint, ARRAY[cardinality(follow_items)]);
  job_by_follow BIGINT[] := session_by_follow;
  fenced INT[];
  fenced_keys BIGINT[];
  broken INT[];
  taken INT[];
BEGIN
  -- The follows before their sessions: whoever trims a log has them in that order.
  SELECT array_agg(given.follow), array_agg(given.session_key), array_agg(given.job_key)
  INTO moved, session_keys, job_keys FROM (
    SELECT follow::int, first_n, (SELECT j.job_key FROM $.jobs j WHERE j.job_id = followed.job_id) AS job_key,
      (SELECT s.session_key FROM $.sessions s WHERE s.session_id = session_ids[followed.item]) AS session_key
    FROM unnest(follow_items, job_ids, first_ns) WITH ORDINALITY AS followed(item, job_id, first_n, follow)
    ORDER BY job_key, session_key
  ) AS given CROSS JOIN LATERAL (
    SELECT f.open, f.position_n FROM $.follows f
    WHERE f.session_key = given.session_key AND f.job_key = given.job_key
    LIMIT 1 FOR NO KEY UPDATE
  ) AS follow
  WHERE follow.open AND follow.position_n < given.first_n;
  SELECT array_agg(given.item), array_agg(given.session_key) INTO fenced, fenced_keys FROM (
    SELECT item::int, epoch, first_seq,
      (SELECT s.session_key FROM $.sessions s WHERE s.session_id = sending.session_id) AS session_key
    FROM unnest(session_ids, epochs, first_seqs) WITH ORDINALITY AS sending(session_id, epoch, first_seq, item)
    ORDER BY session_key
  ) AS given CROSS JOIN LATERAL (
    SELECT s.connection_epoch, s.last_seq FROM $.sessions s WHERE s.session_key = given.session_key
    LIMIT 1 FOR NO KEY UPDATE
  ) AS session
  WHERE session.connection_epoch = given.epoch AND session.last_seq = given.first_seq - 1;
  FOR i IN 1 .. coalesce(cardinality(moved), 0) LOOP
    session_by_follow[moved[i]] := session_keys[i];
    job_by_follow[moved[i]] := job_keys[i];
  END LOOP;
  -- A log that is trimmed now waits for the follows, or has been, and its floor is seen.
  broken := ARRAY(
    SELECT item FROM unnest(follow_items, job_by_follow, first_ns, last_ns) AS given(item, job_key, first_n, last_n)
    WHERE (SELECT h.floor_n < given.first_n AND h.last_n >= given.last_n FROM $.job_heads h
           WHERE h.job_key = given.job_key) IS NOT TRUE);
  SELECT array_agg(item) INTO taken FROM unnest(fenced) AS candidate(item) WHERE item <> ALL (broken);
  IF taken IS NULL THEN
    RETURN '{}';
  END IF;
  INSERT INTO $.runs (session_key, first_seq, count, job_key, first_n, last_n)
  SELECT session_by_follow[run.follow], run.first_seq, run.count, job_by_follow[run.follow], run.first_n, run.last_n
  FROM unnest(run_follows, run_seqs, counts, run_first_ns, run_last_ns) AS run(follow, first_seq, count, first_n, last_n)
  WHERE follow_items[run.follow] = ANY(taken);
  UPDATE $.follows f SET position_n = last_ns[done.follow], last_seq = coalesce(seqs[done.follow], f.last_seq),
    open = NOT ending[done.follow]
  FROM unnest(moved, session_keys, job_keys) AS done(follow, session_key, job_key)
  WHERE f.session_key = done.session_key AND f.job_key = done.job_key AND follow_items[done.follow] = ANY(taken)
    AND f.session_key = ANY(session_keys) AND f.job_key = ANY(job_keys);
  UPDATE $.sessions s SET last_seq = last_seqs[done.item]
  FROM unnest(fenced, fenced_keys) AS done(item, session_key)
  WHERE s.session_key = done.session_key AND s.session_key = ANY(fenced_keys) AND done.item = ANY(taken)
    AND s.last_seq <> last_seqs[done.item];
  RETURN taken;
END
$body$;
`,
};

/** Answers on their way out to people, each with the route that was pinned for it. */
import type { Migration } from "./migration.ts";

export const deliveries: Migration = {
  number: 4,
  name: "deliveries",
  breaking: false,
  sql: `
CREATE TABLE $.deliveries (
  delivery_key BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  delivery_id TEXT NOT NULL UNIQUE,
  job_key BIGINT NOT NULL UNIQUE,
  conversation_id TEXT NOT NULL, -- it outlives the conversation's row
  principal TEXT NOT NULL,
  channel TEXT NOT NULL,
  route_key TEXT NOT NULL,
  route TEXT NOT NULL,           -- JSON
  state TEXT NOT NULL,           -- open, pending, sending, delivered, failed, discarded
  turn_no BIGINT,                -- while pending or sending: the order within the conversation
  due_at FLOAT8,                 -- by the server's clock; while pending: when it is due; while sending: when the claim ends
  attempt BIGINT NOT NULL,       -- of the newest claim
  claim_node TEXT,               -- while sending
  failures BIGINT NOT NULL,
  last_error TEXT,
  unclear BOOLEAN NOT NULL,      -- whether a call was made of which nobody knows if it arrived
  parts TEXT NOT NULL,           -- JSON: what the channel has taken
  stream_epoch BIGINT,           -- the run that streams
  stream_until FLOAT8,           -- by the server's clock; while a call of that may be under way
  created_at FLOAT8 NOT NULL,
  changed_at FLOAT8 NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX deliveries_due ON $.deliveries (due_at, delivery_id) WHERE state IN ('pending', 'sending');
CREATE INDEX deliveries_in_order ON $.deliveries (conversation_id, turn_no) WHERE state IN ('pending', 'sending');
CREATE INDEX deliveries_by_principal ON $.deliveries (principal, delivery_key);
CREATE INDEX deliveries_by_state ON $.deliveries (state, delivery_key);
CREATE INDEX deliveries_by_conversation ON $.deliveries (conversation_id, delivery_key);
`,
};

/** Jobs that are run again when their node is lost, and what their attempts leave to the next. */
import type { Migration } from "./migration.ts";

export const restarts: Migration = {
  number: 8,
  name: "restarts",
  breaking: false,
  sql: `
ALTER TABLE job_heads ADD COLUMN restarts_left INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_heads ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
ALTER TABLE job_heads ADD COLUMN orphaned INTEGER NOT NULL DEFAULT 0; -- 1 while it waits, as no turn, for a node
CREATE INDEX job_heads_orphaned ON job_heads (job_key) WHERE orphaned = 1;
CREATE INDEX jobs_by_parent ON jobs (parent_job_id) WHERE parent_job_id IS NOT NULL;

CREATE TABLE checkpoints (
  job_key INTEGER PRIMARY KEY,
  value TEXT NOT NULL            -- JSON
) STRICT;
`,
};

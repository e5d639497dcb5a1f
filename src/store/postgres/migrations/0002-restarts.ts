/** Jobs that are run again when their node is lost, and what their attempts leave to the next. */
import type { Migration } from "./migration.ts";

export const restarts: Migration = {
  number: 2,
  name: "restarts",
  // A build that does not know it has a truth value for `ahead`.
  breaking: true,
  sql: `
ALTER TABLE $.job_heads
  ADD COLUMN restarts_left BIGINT NOT NULL DEFAULT 0,
  ADD COLUMN attempt BIGINT NOT NULL DEFAULT 1,
  ADD COLUMN orphaned BOOLEAN NOT NULL DEFAULT FALSE; -- while it waits, as no turn, for a node
CREATE INDEX job_heads_orphaned ON $.job_heads (job_key) WHERE orphaned;
CREATE INDEX jobs_by_parent ON $.jobs (parent_job_id) WHERE parent_job_id IS NOT NULL;

-- 1 for a turn that interrupts, and before those 2 for one that is to be run again.
ALTER TABLE $.turns ALTER COLUMN ahead TYPE SMALLINT USING ahead::int;

CREATE TABLE $.checkpoints (
  job_key BIGINT PRIMARY KEY,
  value TEXT NOT NULL            -- JSON
);
`,
};

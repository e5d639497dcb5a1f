/** Jobs that a job delegated: what names them within their parent, and the answer that tells of them. */
import type { Migration } from "./migration.ts";

export const delegation: Migration = {
  number: 2,
  name: "delegation",
  breaking: false,
  sql: `
ALTER TABLE jobs ADD COLUMN delegate_id TEXT;       -- the parent's name for it; null where a session submitted it
ALTER TABLE jobs ADD COLUMN accepted_payload TEXT;  -- of a delegated job: told when the parent's event is numbered
CREATE UNIQUE INDEX jobs_delegated ON jobs (parent_job_id, delegate_id) WHERE delegate_id IS NOT NULL;
`,
};

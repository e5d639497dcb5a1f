/** Questions that running jobs ask, and how many of a job's were ever answered, which its node looks at. */
import type { Migration } from "./migration.ts";

export const questions: Migration = {
  number: 4,
  name: "questions",
  breaking: false,
  sql: `
CREATE TABLE questions (
  job_key INTEGER NOT NULL,
  ordinal INTEGER NOT NULL,      -- among the job's questions, in the order in which they were asked
  question_id TEXT NOT NULL,
  run_epoch INTEGER NOT NULL,    -- of the attempt that asked
  state TEXT NOT NULL,           -- open, answered, closed
  message TEXT NOT NULL,
  schema TEXT,
  addressee TEXT,
  asked_at REAL NOT NULL,
  answer TEXT,
  answered_by TEXT,
  settled_at REAL,               -- null while it is open
  PRIMARY KEY (job_key, ordinal)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX questions_by_id ON questions (job_key, question_id);
ALTER TABLE job_heads ADD COLUMN answers INTEGER NOT NULL DEFAULT 0;
`,
};

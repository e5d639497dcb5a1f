import assert from "node:assert/strict";
import { test } from "node:test";
import type { ListedJob } from "../protocol/index.ts";
import { jobTree } from "./job-tree.ts";

const job = (job_id: string, parent_job_id: string | null = null): ListedJob => ({
  job_id,
  agent: "a@1",
  status: "running",
  lease: {},
  parent_job_id,
  created_at: "2026-01-01T00:00:00Z",
  last_event_seq: 0,
});

test("[DEL-5] children stand under their parents, and a child whose parent is not listed stands alone", () => {
  const page = [job("e", "gone"), job("d", "b"), job("c", "a"), job("b", "a"), job("a"), job("x")];
  assert.deepEqual(
    jobTree(page).map((row) => `${"-".repeat(row.depth)}${row.job.job_id}`),
    ["e", "a", "-b", "--d", "-c", "x"],
  );
  assert.deepEqual(jobTree([]), []);
});

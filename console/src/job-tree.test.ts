import assert from "node:assert/strict";
import { test } from "node:test";
import { type JobNode, treeOf } from "./job-tree.ts";
import type { JobShape } from "./shapes.ts";

const job = (id: string, parent: string | null, at = 0): JobShape => ({
  ...{ job_id: id, parent_job_id: parent, created_at: `2026-01-01T00:00:0${at}.000Z`, agent: "a", principal: "p" },
  ...{ status: "running", lease: {}, trace_id: "", cancel_requested: false, events: 0 },
});
const shown = (node: JobNode | undefined): unknown =>
  node === undefined
    ? undefined
    : node.children.length === 0
      ? node.job.job_id
      : [node.job.job_id, ...node.children.map(shown)];

test("[CON-4] delegation is a tree below a job, children by age, each job once", () => {
  const jobs = [
    job("late", "root", 2),
    job("early", "root", 1),
    job("deep", "late"),
    job("root", null),
    job("else", null),
  ];
  assert.deepEqual(shown(treeOf("root", jobs)), ["root", "early", ["late", "deep"]]);
  assert.deepEqual(shown(treeOf("late", jobs)), ["late", "deep"]);
  assert.equal(treeOf("none", jobs), undefined);
  assert.deepEqual(shown(treeOf("a", [job("a", "b"), job("b", "a")])), ["a", "b"]);
});

import type { ListedJob } from "../protocol/index.ts";

/** A job and how deep it stands below one that nobody in the list has delegated. */
export interface TreeRow {
  job: ListedJob;
  depth: number;
}

/** A page of jobs with each child under its parent, first come first; the rest stays in the page's order. */
export function jobTree(jobs: readonly ListedJob[]): TreeRow[] {
  const listed = new Set(jobs.map((job) => job.job_id));
  const children = Map.groupBy(
    jobs.filter((job) => job.parent_job_id !== null && listed.has(job.parent_job_id)),
    (job) => job.parent_job_id,
  );
  const rows: TreeRow[] = [];
  const add = (job: ListedJob, depth: number): void => {
    rows.push({ job, depth });
    for (const child of (children.get(job.job_id) ?? []).toReversed()) add(child, depth + 1);
  };
  for (const job of jobs) {
    if (job.parent_job_id === null || !listed.has(job.parent_job_id)) add(job, 0);
  }
  return rows;
}

/** Jobs and those that they handed work to, as a tree. */
import type { JobShape } from "./shapes.ts";

export interface JobNode {
  job: JobShape;
  /** Oldest first. */
  children: readonly JobNode[];
}

/** The tree below `rootId`, itself included, of the jobs that are known; `undefined` while it is none of them. */
export function treeOf(rootId: string, jobs: readonly JobShape[]): JobNode | undefined {
  const byId = new Map(jobs.map((job) => [job.job_id, job]));
  const below = Map.groupBy(byId.values(), (job) => job.parent_job_id);
  // Each job is shown once, whatever parents a server names.
  const shown = new Set<string>();
  const grow = (job: JobShape): JobNode => {
    shown.add(job.job_id);
    const children = (below.get(job.job_id) ?? [])
      .toSorted((one, other) => one.created_at.localeCompare(other.created_at))
      .filter((child) => !shown.has(child.job_id))
      .map(grow);
    return { job, children };
  };
  const root = byId.get(rootId);
  return root === undefined ? undefined : grow(root);
}

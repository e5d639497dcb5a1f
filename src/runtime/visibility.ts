/**
 * Who may see whose jobs. A principal's own are its own business; of others' it sees what the host's policy
 * says, and by default nothing: such a job does not exist for it (JOB-13, JOB-22).
 */
import { ArcpError } from "../protocol/index.ts";
import { type JobRecord, type ListEntry, type ListQuery, type Store, StoreRefusal } from "../store/store.ts";
import { type Asker, isOperator, principalOf } from "./auth.ts";

/**
 * - `none`: the job is not there.
 * - `listed`: it is listed and can be named; its events and its result cannot be had.
 * - `observable`: it can be subscribed to.
 */
export type Visibility = "none" | "listed" | "observable";

/** What `viewer` may see of a job of another principal. Synchronous; called for each such job that is asked for. */
export type VisibilityPolicy = (
  viewer: string,
  job: { readonly jobId: string; readonly principal: string; readonly agent: string },
) => Visibility;

/** Jobs that one list looks at, whatever it finds: the rest is for the next page. */
const SCANNED_AT_ONCE = 2_000;
const SCAN_PAGE = 200;

export class Viewing {
  readonly #jobs: Store["jobs"];
  readonly #policy: VisibilityPolicy | undefined;

  constructor(store: Store, policy: VisibilityPolicy | undefined) {
    this.#jobs = store.jobs;
    this.#policy = policy;
  }

  /** An operator observes all (SRV-19). */
  of(asker: Asker, job: JobRecord): Visibility {
    const viewer = principalOf(asker);
    if (job.principal === viewer || isOperator(asker)) return "observable";
    return this.#policy?.(viewer, { jobId: job.jobId, principal: job.principal, agent: job.agent }) ?? "none";
  }

  /** @throws ArcpError JOB_NOT_FOUND for an unknown job and for one that the viewer may not see */
  async visible(viewer: Asker, jobId: string): Promise<JobRecord> {
    const job = await this.#jobs.get(jobId);
    if (job === undefined || this.of(viewer, job) === "none") throw noJob(jobId);
    return job;
  }

  /** @throws ArcpError JOB_NOT_FOUND; PERMISSION_DENIED for one that may be seen and not observed */
  async observable(viewer: Asker, jobId: string): Promise<JobRecord> {
    const job = await this.visible(viewer, jobId);
    if (this.of(viewer, job) !== "observable") {
      throw new ArcpError("PERMISSION_DENIED", "job_id: you may see that the job exists, and not observe it.");
    }
    return job;
  }

  /**
   * A page of the jobs that the viewer may see, newest first.
   *
   * @throws ArcpError INVALID_REQUEST for a cursor that no list has given
   */
  async list(
    viewer: Asker,
    query: Omit<ListQuery, "principal">,
  ): Promise<{ jobs: ListEntry[]; nextCursor: string | undefined }> {
    if (isOperator(viewer)) return await this.#page({ ...query, principal: undefined });
    if (this.#policy === undefined) return await this.#page({ ...query, principal: principalOf(viewer) });
    const jobs: ListEntry[] = [];
    let { cursor } = query;
    for (let scanned = 0; scanned < SCANNED_AT_ONCE; scanned += SCAN_PAGE) {
      const page = await this.#page({ ...query, principal: undefined, limit: SCAN_PAGE, cursor });
      for (const job of page.jobs) {
        if (jobs.length === query.limit) return { jobs, nextCursor: cursor };
        cursor = job.cursor;
        if (this.of(viewer, job) !== "none") jobs.push(job);
      }
      if (page.nextCursor === undefined) return { jobs, nextCursor: undefined };
    }
    return { jobs, nextCursor: cursor };
  }

  async #page(query: ListQuery): Promise<{ jobs: ListEntry[]; nextCursor: string | undefined }> {
    try {
      return await this.#jobs.list(query);
    } catch (error) {
      if (!(error instanceof StoreRefusal) || error.reason !== "bad_cursor") throw error;
      throw new ArcpError("INVALID_REQUEST", "payload.cursor: is not one that a list has given; start without one.");
    }
  }
}

export const noJob = (jobId: string): ArcpError =>
  new ArcpError("JOB_NOT_FOUND", `job_id: no job ${JSON.stringify(jobId.slice(0, 256))}.`);

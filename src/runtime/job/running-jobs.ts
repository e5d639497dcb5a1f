import { type Clock, sleep } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import type { NewJob, SweepAnswer } from "../../store/store.ts";
import type { ResolvedAgent } from "../agents.ts";
import { JobLog, type LogWriter } from "./log-writer.ts";
import type { RecentEvents } from "./recent-events.ts";
import { JobRun } from "./run.ts";

/** The jobs that this process runs. */
export class RunningJobs {
  readonly #writer: LogWriter;
  readonly #recent: RecentEvents;
  readonly #limits: { cancelGraceMs: number; maxResultBytes: number };
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #runs = new Map<string, JobRun>();
  /** Submits that are being worked on; each may become a run. */
  readonly #admissions = new Set<Promise<void>>();

  constructor(parts: {
    writer: LogWriter;
    recent: RecentEvents;
    cancelGraceMs: number;
    maxResultBytes: number;
    clock: Clock;
    logger: Logger;
  }) {
    this.#writer = parts.writer;
    this.#recent = parts.recent;
    this.#limits = { cancelGraceMs: parts.cancelGraceMs, maxResultBytes: parts.maxResultBytes };
    this.#clock = parts.clock;
    this.#logger = parts.logger;
  }

  get size(): number {
    return this.#runs.size;
  }

  has(jobId: string): boolean {
    return this.#runs.has(jobId);
  }

  jobIds(): Iterable<string> {
    return this.#runs.keys();
  }

  /** Takes note of a submit until it is settled, the start of its job included: a drain waits for it. */
  admit(submit: Promise<void>): void {
    this.#admissions.add(submit);
    void submit.finally(() => this.#admissions.delete(submit));
  }

  /** Starts a job that the store has just taken as this node's, at `runEpoch` 1. */
  start(job: NewJob, agent: ResolvedAgent, input: unknown, principal: string): void {
    const run = new JobRun({
      log: new JobLog(this.#writer, job.jobId, 1, 0),
      agent: agent.label,
      handler: agent.handler,
      input,
      principal,
      traceId: job.traceId,
      lease: job.lease,
      leaseExpiresAt: job.leaseExpiresAt,
      maxRuntimeMs: job.maxRuntimeMs,
      ...this.#limits,
      clock: this.#clock,
      logger: this.#logger,
    });
    this.#runs.set(job.jobId, run);
    this.#recent.begin(job.jobId);
    void run.closed.then(() => {
      this.#runs.delete(job.jobId);
      run.drop("The store has given the job to somebody else.");
    });
    run.start();
  }

  /** Tells a job to stop. Answers whether it runs here. */
  cancel(jobId: string, reason: string | undefined): boolean {
    const why = reason === undefined || reason === "" ? "The job was cancelled." : `The job was cancelled: ${reason}`;
    const run = this.#runs.get(jobId);
    run?.stop(new ArcpError("CANCELLED", why));
    return run !== undefined;
  }

  /** Acts on what the store says and no wake-up told: cancels from elsewhere, jobs taken away. */
  reconcile(jobs: SweepAnswer["jobs"]): void {
    for (const { jobId, runEpoch, cancelReason } of jobs) {
      const run = this.#runs.get(jobId);
      if (run === undefined) continue;
      if (runEpoch !== run.runEpoch) {
        this.#runs.delete(jobId);
        run.drop("The job was ended by somebody else.");
        this.#recent.forget(jobId);
      } else if (cancelReason !== undefined) {
        this.cancel(jobId, cancelReason ?? undefined);
      }
    }
  }

  /** Lets go of every job without a word: they are no longer this process's. */
  dropAll(reason: string): void {
    for (const [jobId, run] of this.#runs) {
      run.drop(reason);
      this.#recent.forget(jobId);
    }
    this.#runs.clear();
  }

  /** Waits for the running jobs for `drainMs`, then ends what is left with `cause` (SRV-5). */
  async drain(drainMs: number, cause: ArcpError): Promise<void> {
    const all = async () => {
      await Promise.all(this.#admissions);
      await Promise.all([...this.#runs.values()].map((run) => run.closed));
    };
    const endAll = () => {
      for (const run of this.#runs.values()) run.end(cause);
    };
    const allEnded = new AbortController();
    void all().then(() => allEnded.abort());
    await sleep(this.#clock, drainMs, allEnded.signal).catch(() => undefined);
    endAll();
    await Promise.all(this.#admissions);
    endAll();
    await all();
  }
}

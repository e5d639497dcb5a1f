import { type Clock, sleep } from "../../clock.ts";
import { Authority } from "../../lease/index.ts";
import type { Logger } from "../../logger.ts";
import type { ArcpError } from "../../protocol/index.ts";
import type { AppendBatch, NewJob, Store, SweepAnswer } from "../../store/store.ts";
import type { ToolRegistry } from "../acting/tools.ts";
import type { ResolvedAgent } from "../agents.ts";
import type { CredentialKeeper } from "../credentials/keeper.ts";
import type { EventKinds } from "../event-kinds.ts";
import type { OpenQuestions } from "../questions/open-questions.ts";
import type { Stats } from "../stats.ts";
import { traceParentOf } from "../tracing/traceparent.ts";
import type { Tracing } from "../tracing/tracing.ts";
import type { RunningTurn, TurnKeeper } from "../turn-seam.ts";
import { cancellation } from "./cancelled.ts";
import { Delegation, type DelegationParts, type ParentRun } from "./delegation.ts";
import { JobLog, type LogWriter } from "./log-writer.ts";
import type { RecentEvents } from "./recent-events.ts";
import { JobRun } from "./run.ts";

/** A later attempt at a job. */
export interface Attempt {
  attempt: number;
  lastN: number;
  checkpoint: string | undefined;
  /** Charged with what the attempts before have spent. */
  authority: Authority;
}

/** A job that the store has just taken as this node's, at `runEpoch` 1. */
export interface JobStart {
  job: NewJob;
  agent: ResolvedAgent;
  input: unknown;
  principal: string;
  /** Of a delegated job, with its part of its parent's authority. */
  parent?: { run: ParentRun; authority: Authority };
  /** @default 1 */
  runEpoch?: number;
  /** Of one that was given back: what the attempts before have left. */
  again?: Attempt;
  /** Where the job is a turn of a conversation. */
  turn?: RunningTurn | undefined;
  /** Of a submitted job. */
  origin?: { sessionId: string; traceparent: string | undefined };
}

/** The jobs that this process runs. */
export class RunningJobs {
  readonly #store: Store;
  readonly #writer: LogWriter;
  readonly #recent: RecentEvents;
  readonly #limits: { cancelGraceMs: number; maxResultBytes: number };
  readonly #delegation: Delegation;
  readonly #tracing: Tracing;
  readonly #tools: ToolRegistry;
  readonly #questions: OpenQuestions;
  readonly #kinds: EventKinds;
  readonly #credentials: CredentialKeeper;
  readonly #stats: Stats;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #runs = new Map<string, JobRun>();
  /** Set where there are conversations. */
  turns: TurnKeeper | undefined;
  /** Who takes the next turn of a conversation whose turn ends here. */
  handOver: () => AppendBatch["handOver"] = () => undefined;
  /** Submits that are being worked on; each may become a run. */
  readonly #admissions = new Set<Promise<void>>();

  constructor(parts: {
    writer: LogWriter;
    recent: RecentEvents;
    cancelGraceMs: number;
    maxResultBytes: number;
    tracing: Tracing;
    delegation: Omit<DelegationParts, "recent" | "credentials" | "clock" | "start">;
    tools: ToolRegistry;
    questions: OpenQuestions;
    kinds: EventKinds;
    credentials: CredentialKeeper;
    stats: Stats;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = parts.delegation.store;
    this.#writer = parts.writer;
    this.#recent = parts.recent;
    this.#limits = { cancelGraceMs: parts.cancelGraceMs, maxResultBytes: parts.maxResultBytes };
    this.#clock = parts.clock;
    this.#logger = parts.logger;
    this.#tracing = parts.tracing;
    this.#tools = parts.tools;
    this.#questions = parts.questions;
    this.#kinds = parts.kinds;
    this.#credentials = parts.credentials;
    this.#stats = parts.stats;
    this.#delegation = new Delegation({
      ...parts.delegation,
      recent: parts.recent,
      credentials: parts.credentials,
      clock: parts.clock,
      start: ({ parent, authority, ...child }) =>
        this.start({ ...child, principal: parent.principal, parent: { run: parent, authority } }),
    });
  }

  get size(): number {
    return this.#runs.size;
  }

  /** Events that wait to be stored, of all of them. */
  get unstored(): number {
    let events = 0;
    for (const run of this.#runs.values()) events += run.unstored;
    return events;
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

  start({ job, agent, input, principal, parent, origin, turn, again, runEpoch = 1 }: JobStart): JobRun {
    const running = this.#runs.get(job.jobId);
    if (running !== undefined) return running;
    const { turns } = this;
    const authority =
      parent?.authority ?? again?.authority ?? new Authority({ lease: job.lease, expiresAtMs: job.leaseExpiresAt });
    const run = new JobRun({
      log: new JobLog(this.#writer, job.jobId, runEpoch, again?.lastN ?? 0, turn && this.handOver),
      restartable: (job.restarts ?? 0) > 0,
      attempt: again?.attempt ?? 1,
      lastCheckpoint: again?.checkpoint,
      jobs: this.#store.jobs,
      agent: agent.label,
      handler:
        turn === undefined || turns === undefined
          ? agent.handler
          : (given, context) => turns.within(turn, () => agent.handler(given, context)),
      turn,
      input,
      principal,
      traceId: job.traceId,
      trace: this.#tracing.jobStarted({
        jobId: job.jobId,
        agent: agent.label,
        sessionId: origin?.sessionId,
        parentJobId: parent?.run.jobId,
        parent: traceParentOf(job.traceId, parent?.run.traceparent ?? origin?.traceparent),
        lease: job.lease,
        leaseExpiresAt: job.leaseExpiresAt,
      }),
      lease: job.lease,
      authority,
      leaseExpiresAt: job.leaseExpiresAt,
      depth: parent === undefined ? 0 : parent.run.depth + 1,
      delegation: this.#delegation,
      tools: this.#tools,
      questions: this.#questions,
      kinds: this.#kinds,
      credentials: this.#credentials,
      maxRuntimeMs: job.maxRuntimeMs,
      ...this.#limits,
      clock: this.#clock,
      logger: this.#logger,
    });
    this.#runs.set(job.jobId, run);
    this.#stats.jobsStarted += 1;
    // The log of an attempt that goes on is not empty.
    if (again === undefined) this.#recent.begin(job.jobId);
    void run.closed.then(() => {
      this.#runs.delete(job.jobId);
      run.drop("The store has given the job to somebody else.");
      this.#credentials.release(job.jobId);
      authority.budget.settle();
      if (turn !== undefined) turns?.ended(job.jobId);
    });
    if (turn !== undefined) turns?.began(turn, runEpoch);
    run.start();
    return run;
  }

  /** Tells a job to stop. Answers whether it runs here. */
  cancel(jobId: string, reason: string | undefined): boolean {
    const run = this.#runs.get(jobId);
    run?.stop(cancellation(reason));
    return run !== undefined;
  }

  /** Ends a job here for `cause`; it unwinds as for a cancel. */
  stop(jobId: string, cause: ArcpError): void {
    this.#runs.get(jobId)?.stop(cause);
  }

  /** The store has ended these jobs, and not through their runs. */
  endedByStore(jobIds: readonly string[]): void {
    for (const jobId of jobIds) {
      const run = this.#runs.get(jobId);
      this.#recent.forget(jobId);
      // Also of a turn that was cancelled while it waited.
      this.#credentials.release(jobId);
      if (run === undefined) continue;
      this.#runs.delete(jobId);
      run.drop("The job was ended by somebody else.");
      this.turns?.ended(jobId);
    }
  }

  /** Acts on what the store says and no wake-up told: cancels from elsewhere, jobs taken away. */
  reconcile(jobs: SweepAnswer["jobs"]): void {
    for (const { jobId, runEpoch, cancelReason } of jobs) {
      const run = this.#runs.get(jobId);
      if (run === undefined) continue;
      if (runEpoch !== run.runEpoch) {
        this.endedByStore([jobId]);
      } else if (cancelReason !== undefined) {
        this.cancel(jobId, cancelReason ?? undefined);
      }
    }
  }

  /** Lets go of every job without a word: they are no longer this process's. */
  dropAll(reason: string): void {
    for (const [jobId, run] of this.#runs) {
      run.drop(reason);
      this.#credentials.release(jobId);
      this.#recent.forget(jobId);
      this.turns?.ended(jobId);
    }
    this.#runs.clear();
  }

  /** Waits for the running jobs for `drainMs`, then gives back what may run elsewhere and ends the rest with `cause` (SRV-5, CLU-5). */
  async drain(drainMs: number, cause: ArcpError): Promise<void> {
    const all = async () => {
      await Promise.all(this.#admissions);
      await Promise.all([...this.#runs.values()].map((run) => run.closed));
    };
    const endAll = async () => {
      const runs = [...this.#runs.values()];
      const given = runs.filter((run) => run.restartable).map((run) => run.giveBack());
      for (const run of runs) if (!run.restartable) run.end(cause);
      await Promise.all(given);
    };
    const allEnded = new AbortController();
    void all().then(() => allEnded.abort());
    await sleep(this.#clock, drainMs, allEnded.signal).catch(() => undefined);
    await endAll();
    await Promise.all(this.#admissions);
    await endAll();
    await all();
  }
}

import { type Clock, sleep, type Timer } from "../../clock.ts";
import type { Authority } from "../../lease/index.ts";
import type { Logger } from "../../logger.ts";
import {
  ArcpError,
  checkEventBody,
  type EventBody,
  type FinalStatus,
  jobErrorPayload,
  type Lease,
  newResultId,
  type ResultPayload,
} from "../../protocol/index.ts";
import { type JobFacet, StoreRefusal } from "../../store/store.ts";
import type { ToolRegistry } from "../acting/tools.ts";
import type { AgentHandler, ResolvedAgent } from "../agents.ts";
import { JobCredentials } from "../credentials/job-credentials.ts";
import type { CredentialKeeper } from "../credentials/keeper.ts";
import type { EventKinds } from "../event-kinds.ts";
import type { OpenQuestions, Question } from "../questions/open-questions.ts";
import type { JobTrace, SpanAttributes } from "../tracing/tracing.ts";
import type { RunningTurn } from "../turn-seam.ts";
import { ChunkedResult } from "./chunked-result.ts";
import { JobContext } from "./context.ts";
import { CostMeter } from "./cost-meter.ts";
import type { Delegated, DelegateOptions } from "./delegated.ts";
import type { ChildRun, Delegation, JobOutcome } from "./delegation.ts";
import { givenBackPayload } from "./given-back-payload.ts";
import type { JobLog } from "./log-writer.ts";
import { JobResultStream, type ResultStream, type StreamOptions } from "./result-stream.ts";

/** What an event or a result may come to as JSON, in bytes of UTF-8: a frame has to hold it. */
const MAX_PAYLOAD_BYTES = 1024 * 1024;
/** What may be around a chunk of the largest size in its payload; a frame has twice that to spare. */
const SPARE_BYTES = 32 * 1024;
/** A `job.error` is a message and some details. */
const MAX_ERROR_BYTES = 64 * 1024;
/** What a checkpoint may come to as JSON, in bytes of UTF-8: it is written whole each time. */
const MAX_CHECKPOINT_BYTES = 256 * 1024;
/** How long a job that is given back waits for a store that does not answer; whoever buries this node gives it back then. */
const GIVE_BACK_MS = 5_000;

export interface RunParts {
  log: JobLog;
  agent: string;
  handler: AgentHandler;
  input: unknown;
  principal: string;
  traceId: string;
  trace: JobTrace;
  lease: Lease;
  authority: Authority;
  /** Wall milliseconds. */
  leaseExpiresAt: number | undefined;
  /** Where the job is a turn of a conversation. */
  turn: RunningTurn | undefined;
  /** 0 for a job that a session submitted, one more for each delegation above it. */
  depth: number;
  delegation: Delegation;
  tools: ToolRegistry;
  questions: OpenQuestions;
  kinds: EventKinds;
  credentials: CredentialKeeper;
  maxRuntimeMs: number | undefined;
  /** Whether another process may run it again. */
  restartable: boolean;
  /** From 1. */
  attempt: number;
  /** JSON text that an attempt before has left. */
  lastCheckpoint: string | undefined;
  jobs: Pick<JobFacet, "checkpoint" | "giveBack">;
  cancelGraceMs: number;
  maxResultBytes: number;
  clock: Clock;
  logger: Logger;
}

/**
 * - `working`: the handler runs; moved on by its return, a stop, or the store.
 * - `stopping`: it was told to stop, for `cause`; moved on when it unwinds or the grace is over.
 * - `ended`: the terminal event was appended (or the store refused the attempt); nothing follows.
 */
type RunState = { phase: "working" } | { phase: "stopping"; cause: ArcpError; grace: Timer } | { phase: "ended" };

interface ErrorText {
  status: FinalStatus;
  text: string;
}

/** One attempt at a job: runs the handler, keeps the deadlines, and says exactly once how it ended. */
export class JobRun {
  readonly jobId: string;
  readonly agent: string;
  readonly principal: string;
  readonly traceId: string;
  readonly lease: Lease;
  readonly authority: Authority;
  readonly depth: number;
  readonly turn: RunningTurn | undefined;
  readonly tools: ToolRegistry;
  readonly credentials: JobCredentials;
  readonly clock: Clock;
  /** Settles when the terminal event is stored, or the store took the job away. */
  readonly closed: Promise<void>;
  readonly #parts: RunParts;
  readonly #abort = new AbortController();
  readonly #chunks: ChunkedResult;
  #stream: JobResultStream | undefined;
  readonly #cost: CostMeter | undefined;
  readonly #deadlines: Timer[] = [];
  readonly #children = new Set<ChildRun>();
  /** The names that the agent has given to its delegations. */
  readonly #delegations = new Set<string>();
  /** Delegations that were admitted, and whose child has yet to be adopted. */
  delegationsUnderWay = 0;
  #outcome: JobOutcome | undefined;
  #state: RunState = { phase: "working" };

  constructor(parts: RunParts) {
    this.#parts = parts;
    this.jobId = parts.log.jobId;
    this.agent = parts.agent;
    this.principal = parts.principal;
    this.traceId = parts.traceId;
    this.lease = parts.lease;
    this.authority = parts.authority;
    this.depth = parts.depth;
    this.turn = parts.turn;
    this.tools = parts.tools;
    this.credentials = new JobCredentials(parts.credentials, this.jobId, (body) => this.emit("status", body));
    this.clock = parts.clock;
    this.closed = parts.log.closed;
    this.#chunks = new ChunkedResult(parts.maxResultBytes);
    // Whoever has no budget of its own spends its parent's.
    this.#cost =
      Object.keys(parts.authority.budget.remaining()).length === 0 ? undefined : new CostMeter(parts.authority.budget);
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get traceparent(): string {
    return this.#parts.trace.traceparent;
  }

  /** Events that wait to be stored. */
  get unstored(): number {
    return this.#parts.log.unstored;
  }

  get runEpoch(): number {
    return this.#parts.log.runEpoch;
  }

  get attempt(): number {
    return this.#parts.attempt;
  }

  get lastCheckpoint(): unknown {
    const { lastCheckpoint } = this.#parts;
    return lastCheckpoint === undefined ? undefined : JSON.parse(lastCheckpoint);
  }

  get restartable(): boolean {
    return this.#parts.restartable;
  }

  start(): void {
    const { maxRuntimeMs, leaseExpiresAt, clock } = this.#parts;
    if (maxRuntimeMs !== undefined) {
      const seconds = maxRuntimeMs / 1000;
      this.#deadline(maxRuntimeMs, () => new ArcpError("TIMEOUT", `The job ran longer than its ${seconds} s.`));
    }
    if (leaseExpiresAt !== undefined) {
      const until = new Date(leaseExpiresAt).toISOString();
      this.#deadline(
        leaseExpiresAt - clock.wall(),
        () => new ArcpError("LEASE_EXPIRED", `The lease ended at ${until}.`),
      );
    }
    if (this.attempt > 1) void this.emit("status", { phase: "restarted", attempt: this.attempt });
    void this.#work();
  }

  /** How the job ended, once it has and its end is stored. */
  get outcome(): JobOutcome | undefined {
    return this.#parts.log.refusal === undefined ? this.#outcome : undefined;
  }

  get liveChildren(): number {
    return this.#children.size;
  }

  /** Appends one event (see `JobContext.emit`). */
  emit(kind: string, body: unknown): Promise<void> {
    const emitted = kind === "delegate" ? this.#delegateByEvent(body) : this.append(kind, body);
    // An agent that awaits nothing would otherwise end the process with an unhandled rejection.
    emitted.catch((error: unknown) => {
      this.#parts.logger.debug({ err: error, job_id: this.jobId, agent: this.agent, kind }, "emit rejected");
    });
    return emitted;
  }

  /** The one check of everything that needs authority (LEA-9). Returns the canonical target. */
  authorize(capability: string, target: string): string {
    // Code that is left over when the job has ended has no authority any more.
    if (this.#state.phase === "ended") throw new ArcpError("CANCELLED", "The job has ended; it may do nothing more.");
    return this.authority.check(capability, target, this.clock.wall());
  }

  /** An agent may be granted with its version or without. */
  authorizeAgent({ name, label }: ResolvedAgent): void {
    try {
      this.authorize("agent.delegate", label);
    } catch (error) {
      if (!(error instanceof ArcpError) || error.code !== "PERMISSION_DENIED") throw error;
      this.authorize("agent.delegate", name);
    }
  }

  /** Starts a child (see `JobContext.delegate`). */
  delegate(agent: string, input: unknown, options: DelegateOptions): Promise<Delegated> {
    if (this.#state.phase !== "working") {
      return Promise.reject(new ArcpError("CANCELLED", "The job has ended or was stopped; it delegates nothing more."));
    }
    const delegated = this.operation("agent.delegate", { "arcp.delegate.agent": agent }, () =>
      this.#parts.delegation.start(this, agent, input, options),
    );
    // An agent that awaits nothing would otherwise end the process with an unhandled rejection.
    delegated.catch(() => undefined);
    return delegated;
  }

  /** Takes note of a delegation's name. @returns false when it is taken */
  nameDelegation(delegateId: string): boolean {
    if (this.#delegations.has(delegateId)) return false;
    this.#delegations.add(delegateId);
    return true;
  }

  /** A delegation of that name came to nothing. */
  unnameDelegation(delegateId: string): void {
    this.#delegations.delete(delegateId);
  }

  /** A child that this job has started: it does not outlive its parent. */
  adopt(child: ChildRun): void {
    this.#children.add(child);
    void child.closed.then(() => this.#children.delete(child));
    if (this.#state.phase !== "working") this.#stopChildren();
  }

  async #delegateByEvent(body: unknown): Promise<void> {
    checkEventBody("delegate", body);
    const { delegate_id, agent, input, lease_request, lease_constraints } = body as EventBody<"delegate">;
    await this.delegate(agent, input, {
      delegateId: delegate_id,
      lease: lease_request,
      expiresAt: lease_constraints?.expires_at,
    });
  }

  #stopChildren(): void {
    for (const child of this.#children) {
      child.stop(new ArcpError("CANCELLED", "The job that delegated it has ended or was stopped."));
    }
  }

  /** Appends one event as it is; a cost is charged first. */
  append(kind: string, body: unknown): Promise<void> {
    if (kind === "metric" && this.#cost !== undefined) return this.#appendMetric(this.#cost, body);
    return this.#append(kind, body);
  }

  async #appendMetric(cost: CostMeter, body: unknown): Promise<void> {
    checkEventBody("metric", body);
    const remaining = cost.take(body as EventBody<"metric">);
    await this.#append("metric", body);
    for (const metric of remaining) await this.#append("metric", metric);
  }

  async #append(kind: string, body: unknown): Promise<void> {
    checkEventBody(kind, body);
    this.#parts.kinds.check(kind, body);
    const payload = JSON.stringify({ kind, ts: new Date(this.clock.wall()).toISOString(), body });
    if (isLonger(payload, MAX_PAYLOAD_BYTES + SPARE_BYTES)) {
      throw new ArcpError(
        "INVALID_REQUEST",
        `A ${kind} event of ${Buffer.byteLength(payload)} bytes is over the limit of ${MAX_PAYLOAD_BYTES}.`,
      );
    }
    if (kind === "result_chunk") this.#chunks.take(body as EventBody<"result_chunk">);
    try {
      await this.#parts.log.append(kind, payload);
    } catch (error) {
      if (error instanceof ArcpError && error.code === "INTERNAL_ERROR") this.stop(error);
      throw error;
    }
  }

  flush(): Promise<void> {
    return this.#parts.log.flush();
  }

  /** Keeps what the next attempt is to begin with (see `JobContext.checkpoint`). */
  async checkpoint(value: unknown): Promise<void> {
    if (this.#state.phase === "ended") throw new ArcpError("CANCELLED", "The job has ended; there is no next attempt.");
    const text = this.#parts.log.masked(JSON.stringify(value ?? null));
    if (isLonger(text, MAX_CHECKPOINT_BYTES)) {
      throw new ArcpError(
        "INVALID_REQUEST",
        `A checkpoint of ${Buffer.byteLength(text)} bytes is over the limit of ${MAX_CHECKPOINT_BYTES}; keep the rest elsewhere.`,
      );
    }
    await this.flush();
    const { jobs, log } = this.#parts;
    try {
      await jobs.checkpoint({ jobId: this.jobId, runEpoch: log.runEpoch, value: text });
    } catch (error) {
      if (error instanceof StoreRefusal) throw new ArcpError("CANCELLED", "The job is no longer this process's.");
      this.#parts.logger.error({ err: error, job_id: this.jobId }, "a checkpoint was not stored");
      throw ArcpError.detail("STORE_UNAVAILABLE", "The store did not answer; the checkpoint is not kept. Try again.");
    }
  }

  /**
   * Ends this attempt and not the job: this process stops, and another goes on. What the agent emitted is stored
   * first; where the store does not answer, whoever buries this node gives the job back.
   */
  async giveBack(): Promise<void> {
    if (this.#state.phase === "ended") return;
    // One that was told to stop is to end, here and now.
    if (this.#state.phase === "stopping") {
      this.#fail(this.#state.cause);
      return;
    }
    this.#enter({ phase: "ended" });
    this.#parts.trace.ended("lost");
    this.#abort.abort(new ArcpError("CANCELLED", "This process stops; another one goes on with the job."));
    this.#stopChildren();
    const { log, jobs, logger } = this.#parts;
    const payload = givenBackPayload(this.clock, {
      phase: "handed_over",
      message: "The process that ran this job stops; another one goes on with it.",
    });
    const given = log
      .flush()
      .then(() => jobs.giveBack({ jobId: this.jobId, runEpoch: log.runEpoch, payload }))
      .catch((error: unknown) => logger.warn({ err: error, job_id: this.jobId }, "a job was not given back"));
    const enough = new AbortController();
    await Promise.race([given, sleep(this.clock, GIVE_BACK_MS, enough.signal).catch(() => undefined)]);
    enough.abort();
    log.abandon("Another process goes on with the job.");
  }

  /** Opens the result for writing in pieces (see `JobContext.stream`). */
  stream(options: StreamOptions | undefined): ResultStream {
    if (this.#stream !== undefined) {
      throw new ArcpError("INTERNAL_ERROR", "The agent opened a second result stream; a job has one result.");
    }
    this.#stream = new JobResultStream(
      { resultId: newResultId(), signal: this.signal, emit: (body) => this.emit("result_chunk", body) },
      options,
    );
    return this.#stream;
  }

  /** Carries out one operation under a span of its own. */
  operation<T>(name: string, attributes: SpanAttributes, work: () => Promise<T>): Promise<T> {
    return this.#parts.trace.operation(name, attributes, work);
  }

  /** Asks, and waits for the answer (see `JobContext.ask`). */
  ask(question: Question): Promise<unknown> {
    return this.#parts.questions.ask(this, question);
  }

  /**
   * Tells the agent to stop and, when it has unwound or the grace is over, ends the job with `cause`.
   * The first cause counts.
   */
  stop(cause: ArcpError): void {
    if (this.#state.phase !== "working") return;
    const grace = this.clock.after(this.#parts.cancelGraceMs, () => {
      this.#parts.logger.warn({ job_id: this.jobId, agent: this.agent }, "agent did not unwind in time; job ended");
      this.#fail(cause);
    });
    this.#enter({ phase: "stopping", cause, grace });
    this.#abort.abort(cause);
    this.#stopChildren();
  }

  /** Ends the job at once with `cause`, whatever the agent does. */
  end(cause: ArcpError): void {
    if (this.#state.phase === "ended") return;
    this.#fail(cause);
    this.#abort.abort(cause);
  }

  /** The job is no longer this process's: stops the agent and says nothing about its end. */
  drop(reason: string): void {
    if (this.#state.phase === "ended") return;
    this.#enter({ phase: "ended" });
    this.#parts.trace.ended("lost");
    // Whoever ends a turn from outside frees its lock in the same commit (LCK-2).
    const { turn } = this;
    const cause =
      turn === undefined
        ? new ArcpError("INTERNAL_ERROR", reason)
        : ArcpError.detail("LOCK_LOST", reason, { conversation_id: turn.conversationId });
    this.#abort.abort(cause);
    this.#stopChildren();
    this.#parts.log.abandon(reason);
  }

  async #work(): Promise<void> {
    let result: unknown;
    try {
      const { trace, handler, input } = this.#parts;
      result = await trace.run(() => handler(input, new JobContext(this)));
      if (this.#stream !== undefined) await this.#stream.end();
    } catch (error) {
      this.#unwound(error);
      return;
    }
    if (this.#state.phase === "stopping") this.#fail(this.#state.cause);
    if (this.#state.phase === "ended") return;
    try {
      const streamed = this.#chunks.payload(result, this.#stream?.summary);
      const payload: ResultPayload = streamed ?? { final_status: "success", result: result ?? null };
      const text = JSON.stringify(payload);
      if (isLonger(text, MAX_PAYLOAD_BYTES)) {
        throw new ArcpError(
          "INTERNAL_ERROR",
          `The result of ${Buffer.byteLength(text)} bytes is over ${MAX_PAYLOAD_BYTES}; send it in result_chunk events.`,
        );
      }
      this.#outcome = { payload: text, lastN: this.#parts.log.lastN + 1 };
      this.#end("success", text);
    } catch (error) {
      this.#unwound(error);
    }
  }

  /** The handler threw. */
  #unwound(error: unknown): void {
    switch (this.#state.phase) {
      case "ended":
        return;
      case "stopping":
        this.#fail(this.#state.cause);
        return;
      case "working":
        if (error instanceof ArcpError) {
          this.#fail(error);
          return;
        }
        this.#parts.logger.error({ err: error, job_id: this.jobId, agent: this.agent }, "agent failed");
        this.#fail(this.#neutral());
    }
  }

  #fail(cause: ArcpError): void {
    const { status, text } = this.#errorText(cause) ?? (this.#errorText(this.#neutral()) as ErrorText);
    this.#outcome = cause;
    this.#end(status, text, cause);
  }

  /** The terminal payload of a failure; `undefined` for one that is not JSON or is too large, as an agent's may be. */
  #errorText(cause: ArcpError): ErrorText | undefined {
    const payload = jobErrorPayload(cause);
    try {
      const text = JSON.stringify(payload);
      if (!isLonger(text, MAX_ERROR_BYTES)) return { status: payload.final_status, text };
      throw new RangeError(`The error of ${Buffer.byteLength(text)} bytes is over ${MAX_ERROR_BYTES}.`, { cause });
    } catch (error) {
      this.#parts.logger.error({ err: error, job_id: this.jobId, agent: this.agent }, "agent's error cannot be sent");
      return undefined;
    }
  }

  #neutral(): ArcpError {
    return new ArcpError("INTERNAL_ERROR", `Agent "${this.agent}" failed; the runtime's log says why.`);
  }

  #end(status: FinalStatus, payload: string, cause?: ArcpError): void {
    this.#enter({ phase: "ended" });
    this.#parts.trace.ended(status, cause);
    this.#parts.log.end(status, payload);
    this.#stopChildren();
  }

  #deadline(delayMs: number, cause: () => ArcpError): void {
    this.#deadlines.push(this.clock.after(delayMs, () => this.stop(cause())));
  }

  #enter(next: RunState): void {
    if (this.#state.phase === "ended") throw new Error(`Job ${this.jobId} has ended and cannot be ${next.phase}.`);
    if (this.#state.phase === "stopping") this.#state.grace.cancel();
    if (next.phase === "ended") for (const timer of this.#deadlines) timer.cancel();
    this.#state = next;
  }
}

/** Whether a text is longer than that in UTF-8; one that cannot be is not measured. */
const isLonger = (text: string, bytes: number): boolean =>
  text.length > bytes || (text.length * 3 > bytes && Buffer.byteLength(text) > bytes);

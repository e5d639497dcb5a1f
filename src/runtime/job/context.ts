import type { Clock } from "../../clock.ts";
import { sleep } from "../../clock.ts";
import type { EventBody, EventKind, Lease } from "../../protocol/index.ts";
import { Acting } from "../acting/acting.ts";
import type { FetchInit } from "../acting/fetch.ts";
import type { JobFiles } from "../acting/files.ts";
import type { JobTools, ToolRegistry } from "../acting/tools.ts";
import type { JobCredentials } from "../credentials/job-credentials.ts";
import { handedOut } from "../handed-out.ts";
import type { Question } from "../questions/open-questions.ts";
import type { SpanAttributes } from "../tracing/tracing.ts";
import type { RunningTurn } from "../turn-seam.ts";
import type { Delegated, DelegateOptions } from "./delegated.ts";
import type { ResultStream, StreamOptions } from "./result-stream.ts";

/** What the context needs of the run behind it. */
export interface RunSeam {
  readonly jobId: string;
  readonly agent: string;
  readonly principal: string;
  readonly traceId: string;
  readonly traceparent: string;
  readonly lease: Lease;
  readonly turn: RunningTurn | undefined;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly tools: ToolRegistry;
  readonly credentials: JobCredentials;
  readonly attempt: number;
  readonly lastCheckpoint: unknown;
  emit(kind: string, body: unknown): Promise<void>;
  flush(): Promise<void>;
  checkpoint(value: unknown): Promise<void>;
  /** @throws ArcpError INTERNAL_ERROR when the job has its stream already */
  stream(options: StreamOptions | undefined): ResultStream;
  /** Carries out one operation under a span of its own (see `JobTrace.operation`). */
  operation<T>(name: string, attributes: SpanAttributes, work: () => Promise<T>): Promise<T>;
  ask(question: Question): Promise<unknown>;
  /** @throws ArcpError LEASE_EXPIRED, BUDGET_EXHAUSTED, PERMISSION_DENIED; returns the canonical target */
  authorize(capability: string, target: string): string;
  delegate(agent: string, input: unknown, options: DelegateOptions): Promise<Delegated>;
}

/**
 * What an agent works with. Every `emit`, and what is short for one, resolves when there is room for
 * the next event: await it, or the job is aborted for want of memory (JOB-16). All of them reject once
 * the job has ended, and with INVALID_REQUEST for a body that is not of its kind (JOB-14).
 */
export class JobContext {
  readonly #run: RunSeam;
  #acting: Acting | undefined;

  constructor(run: RunSeam) {
    this.#run = run;
  }

  get id(): string {
    return this.#run.jobId;
  }
  /** `name@version`. */
  get agent(): string {
    return this.#run.agent;
  }
  /** Who submitted the job. */
  get principal(): string {
    return this.#run.principal;
  }
  /** 32 hex digits; hand it on to what the job calls. */
  get traceId(): string {
    return this.#run.traceId;
  }
  /**
   * The same as a W3C header value, which also names the span that is under way: what the job calls hangs
   * its own under it.
   */
  get traceparent(): string {
    return this.#run.traceparent;
  }
  get lease(): Lease {
    return this.#run.lease;
  }
  /** Where the job is a turn: its conversation, and who spoke. */
  get turn(): { readonly conversationId: string; readonly userId: string; readonly lockEpoch: number } | undefined {
    return this.#run.turn;
  }
  /** Aborts when the job is cancelled, runs out of time or lease, or is no longer this process's. */
  get signal(): AbortSignal {
    return this.#run.signal;
  }

  /**
   * Asks whether the job may do something of its own under its lease, before it does it: expiry, budgets, then
   * patterns (LEA-9).
   *
   * @returns the target in its canonical spelling; use that one
   * @throws ArcpError LEASE_EXPIRED, BUDGET_EXHAUSTED, PERMISSION_DENIED
   */
  authorize(capability: string, target: string): string {
    return this.#run.authorize(capability, target);
  }

  /** The host's tools, as far as the lease's `tool.call` covers them (ACT-1). */
  get tools(): JobTools {
    return this.#acts.tools;
  }

  /** Files, as far as the lease's `fs.read` and `fs.write` cover them, wherever links lead (ACT-9). */
  get fs(): JobFiles {
    return this.#acts.fs;
  }

  /**
   * `fetch` under the lease's `net.fetch`, each redirect checked again, and nothing but the public Internet unless
   * the lease names the host itself (ACT-17). The body is read before it resolves, unless `init.stream` is set.
   *
   * @throws ArcpError PERMISSION_DENIED, LEASE_EXPIRED, BUDGET_EXHAUSTED; INVALID_REQUEST for what cannot be sent
   *   and an answer over its cap; INTERNAL_ERROR when the host is not reached in time (`details.reason: "timeout"`)
   *   or at all
   */
  fetch(url: string | URL, init?: FetchInit): Promise<Response> {
    return handedOut(this.#acts.network.fetch(url, init));
  }

  get #acts(): Acting {
    this.#acting ??= new Acting(this.#run, this.#run.tools);
    return this.#acting;
  }

  /**
   * Starts another agent under a part of this job's lease, in a job of its own (DEL). It ends with this job at
   * the latest.
   *
   * @param agent `name` or `name@version`; needs `agent.delegate`
   * @throws ArcpError what refuses it, which the log has as the `tool_result` of the delegation
   */
  delegate(agent: string, input?: unknown, options: DelegateOptions = {}): Promise<Delegated> {
    return this.#run.delegate(agent, input, options);
  }

  /** What was provisioned for this job alone, values included (CRD-2). */
  get credentials(): JobCredentials {
    return this.#run.credentials;
  }

  /** Appends an event of any kind; `x-vendor.*` kinds take any JSON body. */
  emit<K extends EventKind>(kind: K, body: EventBody<K>): Promise<void>;
  emit(kind: `x-vendor.${string}`, body: unknown): Promise<void>;
  emit(kind: string, body: unknown): Promise<void> {
    return this.#run.emit(kind, body);
  }

  /** @param options.level @default "info" */
  log(message: string, options: Partial<Omit<EventBody<"log">, "message">> = {}): Promise<void> {
    const { level = "info", attributes } = options;
    return this.#run.emit("log", attributes === undefined ? { level, message } : { level, message, attributes });
  }
  thought(text: string): Promise<void> {
    return this.#run.emit("thought", { text });
  }
  status(body: EventBody<"status">): Promise<void> {
    return this.#run.emit("status", body);
  }
  progress(body: EventBody<"progress">): Promise<void> {
    return this.#run.emit("progress", body);
  }
  metric(body: EventBody<"metric">): Promise<void> {
    return this.#run.emit("metric", body);
  }
  toolCall(body: EventBody<"tool_call">): Promise<void> {
    return this.#run.emit("tool_call", body);
  }
  toolResult(body: EventBody<"tool_result">): Promise<void> {
    return this.#run.emit("tool_result", body);
  }
  artifact(body: EventBody<"artifact_ref">): Promise<void> {
    return this.#run.emit("artifact_ref", body);
  }

  /**
   * Asks the submitter, or whom the runtime's policy names, and waits for the answer: JSON that satisfies the
   * question's schema (ASK). The log has a `status` event `input_required`, and `input_received` once it is
   * answered. An answer is data; it lets the job do nothing that its lease does not.
   *
   * @throws ArcpError TIMEOUT after `timeoutMs`; INVALID_REQUEST for a wrong question; INTERNAL_ERROR with
   *   `details.code: "LIMIT_EXCEEDED"` while 16 questions of the job are open; and what the job is stopped for
   */
  ask(question: Question): Promise<unknown> {
    return this.#run.ask(question);
  }

  /**
   * Opens the job's result for writing in pieces, instead of returning it; a job has one such stream, and
   * the agent's return ends it (JOB-20).
   *
   * @throws ArcpError INTERNAL_ERROR the second time
   */
  stream(options?: StreamOptions): ResultStream {
    return this.#run.stream(options);
  }

  /** Resolves when every event so far is stored. */
  flush(): Promise<void> {
    return handedOut(this.#run.flush());
  }

  /** From 1: how often the job was begun. Above 1 only for an agent that is `restartable`. */
  get attempt(): number {
    return this.#run.attempt;
  }

  /** What the attempt before left with {@link checkpoint}; `undefined` where there is nothing. */
  get lastCheckpoint(): unknown {
    return this.#run.lastCheckpoint;
  }

  /**
   * Keeps a JSON value for the attempt that goes on when this process is lost, in the place of the one before.
   * Resolves when it, and every event so far, is stored: so what the log says was done before is known to the next
   * attempt as done (CLU-2).
   *
   * @throws ArcpError INVALID_REQUEST for more than 256 KiB; CANCELLED when the job is no longer this process's;
   *   INTERNAL_ERROR with `details.code: "STORE_UNAVAILABLE"`
   */
  checkpoint(value: unknown): Promise<void> {
    return handedOut(this.#run.checkpoint(value));
  }

  /** Waits on the runtime's clock; rejects with the signal's reason when the job is stopped. */
  sleep(delayMs: number): Promise<void> {
    return handedOut(sleep(this.#run.clock, delayMs, this.signal));
  }
}

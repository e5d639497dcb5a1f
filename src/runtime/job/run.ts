import type { Clock, Timer } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import {
  ArcpError,
  checkEventBody,
  type EventBody,
  type FinalStatus,
  jobErrorPayload,
  type Lease,
  type ResultPayload,
} from "../../protocol/index.ts";
import type { AgentHandler } from "../agents.ts";
import { ChunkedResult } from "./chunked-result.ts";
import { JobContext } from "./context.ts";
import type { JobLog } from "./log-writer.ts";

/** What an event or a result may come to as JSON, in bytes of UTF-8: a frame has to hold it. */
const MAX_PAYLOAD_BYTES = 1024 * 1024;
/** What may be around a chunk of the largest size in its payload; a frame has twice that to spare. */
const SPARE_BYTES = 32 * 1024;
/** A `job.error` is a message and some details. */
const MAX_ERROR_BYTES = 64 * 1024;

export interface RunParts {
  log: JobLog;
  agent: string;
  handler: AgentHandler;
  input: unknown;
  principal: string;
  traceId: string;
  lease: Lease;
  /** Wall milliseconds. */
  leaseExpiresAt: number | undefined;
  maxRuntimeMs: number | undefined;
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
  readonly clock: Clock;
  /** Settles when the terminal event is stored, or the store took the job away. */
  readonly closed: Promise<void>;
  readonly #parts: RunParts;
  readonly #abort = new AbortController();
  readonly #chunks: ChunkedResult;
  readonly #deadlines: Timer[] = [];
  #state: RunState = { phase: "working" };

  constructor(parts: RunParts) {
    this.#parts = parts;
    this.jobId = parts.log.jobId;
    this.agent = parts.agent;
    this.principal = parts.principal;
    this.traceId = parts.traceId;
    this.lease = parts.lease;
    this.clock = parts.clock;
    this.closed = parts.log.closed;
    this.#chunks = new ChunkedResult(parts.maxResultBytes);
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get runEpoch(): number {
    return this.#parts.log.runEpoch;
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
    void this.#work();
  }

  /** Appends one event (see `JobContext.emit`). */
  emit(kind: string, body: unknown): Promise<void> {
    const emitted = this.#emit(kind, body);
    // An agent that awaits nothing would otherwise end the process with an unhandled rejection.
    emitted.catch((error: unknown) => {
      this.#parts.logger.debug({ err: error, job_id: this.jobId, agent: this.agent, kind }, "emit rejected");
    });
    return emitted;
  }

  async #emit(kind: string, body: unknown): Promise<void> {
    checkEventBody(kind, body);
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
    this.#abort.abort(new ArcpError("INTERNAL_ERROR", reason));
  }

  async #work(): Promise<void> {
    let result: unknown;
    try {
      result = await this.#parts.handler(this.#parts.input, new JobContext(this));
    } catch (error) {
      this.#unwound(error);
      return;
    }
    if (this.#state.phase === "stopping") this.#fail(this.#state.cause);
    if (this.#state.phase === "ended") return;
    try {
      const payload: ResultPayload = this.#chunks.payload() ?? { final_status: "success", result: result ?? null };
      const text = JSON.stringify(payload);
      if (isLonger(text, MAX_PAYLOAD_BYTES)) {
        throw new ArcpError(
          "INTERNAL_ERROR",
          `The result of ${Buffer.byteLength(text)} bytes is over ${MAX_PAYLOAD_BYTES}; send it in result_chunk events.`,
        );
      }
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
    this.#end(status, text);
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

  #end(status: FinalStatus, payload: string): void {
    this.#enter({ phase: "ended" });
    this.#parts.log.end(status, payload);
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

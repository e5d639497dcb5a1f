import type { Clock } from "../../clock.ts";
import { sleep } from "../../clock.ts";
import type { EventBody, EventKind, Lease } from "../../protocol/index.ts";

/** What the context needs of the run behind it. */
export interface RunSeam {
  readonly jobId: string;
  readonly agent: string;
  readonly principal: string;
  readonly traceId: string;
  readonly lease: Lease;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  emit(kind: string, body: unknown): Promise<void>;
  flush(): Promise<void>;
}

/**
 * What an agent works with. Every `emit`, and what is short for one, resolves when there is room for
 * the next event: await it, or the job is aborted for want of memory (JOB-16). All of them reject once
 * the job has ended, and with INVALID_REQUEST for a body that is not of its kind (JOB-14).
 */
export class JobContext {
  readonly #run: RunSeam;

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
  get lease(): Lease {
    return this.#run.lease;
  }
  /** Aborts when the job is cancelled, runs out of time or lease, or is no longer this process's. */
  get signal(): AbortSignal {
    return this.#run.signal;
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

  /** Resolves when every event so far is stored. */
  flush(): Promise<void> {
    return this.#run.flush();
  }

  /** Waits on the runtime's clock; rejects with the signal's reason when the job is stopped. */
  sleep(delayMs: number): Promise<void> {
    return sleep(this.#run.clock, delayMs, this.signal);
  }
}

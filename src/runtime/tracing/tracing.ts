/**
 * The seam for whoever watches: the runtime says when a session, a job or an operation begins and ends,
 * and a tracer makes spans of it. Without one nothing is made or allocated per operation. What is told
 * are names, ids and codes; never an input, a result, a header, a principal or a credential.
 */
import type { ArcpError, FinalStatus, Lease } from "../../protocol/index.ts";
import { formatTraceParent, type TraceParent } from "./traceparent.ts";

export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

/** A session's time on one connection. */
export interface TracedSession {
  sessionId: string;
  clientName: string;
  /** Whether the session was there before. */
  resumed: boolean;
}

export interface SessionTrace {
  /** The connection is gone; the session may come back on another. */
  ended(): void;
}

export interface TracedJob {
  jobId: string;
  /** `name@version`. */
  agent: string;
  /** Who submitted it; a job that was delegated has none. */
  sessionId: string | undefined;
  parentJobId: string | undefined;
  /** Its trace id is the job's. */
  parent: TraceParent;
  lease: Lease;
  /** Wall milliseconds. */
  leaseExpiresAt: number | undefined;
}

export interface JobTrace {
  /** W3C header value for what is called now: of the operation under way, else of the job. */
  readonly traceparent: string;
  /** Runs the agent, so that spans that it makes itself hang under the job's. */
  run<T>(work: () => T): T;
  /**
   * Carries out one operation (a tool call, a fetch, a delegation) under a span of its own.
   *
   * @param name as in `tool.call`
   */
  operation<T>(name: string, attributes: SpanAttributes, work: () => Promise<T>): Promise<T>;
  /** @param how `"lost"`: the job is no longer this process's. */
  ended(how: FinalStatus | "lost", error?: ArcpError): void;
}

/** Called synchronously, and must not throw. */
export interface Tracing {
  sessionStarted(session: TracedSession): SessionTrace;
  jobStarted(job: TracedJob): JobTrace;
}

const nothing: SessionTrace = { ended: () => undefined };

class UntracedJob implements JobTrace {
  readonly #parent: TraceParent;

  constructor(parent: TraceParent) {
    this.#parent = parent;
  }

  get traceparent(): string {
    return formatTraceParent(this.#parent);
  }

  run<T>(work: () => T): T {
    return work();
  }

  operation<T>(_name: string, _attributes: SpanAttributes, work: () => Promise<T>): Promise<T> {
    return work();
  }

  ended(): void {
    // Nobody watches.
  }
}

/** For a runtime that nobody watches. A job still hands its trace on (TRC-3). */
export const noTracing: Tracing = {
  sessionStarted: () => nothing,
  jobStarted: ({ parent }) => new UntracedJob(parent),
};

/**
 * Spans for OpenTelemetry. The API is handed in rather than imported, so that nobody has to have it, and
 * only as much of it is named here as is used. Without an SDK behind it the API makes no spans, at the
 * cost of a few small objects per job and operation.
 */
import { ArcpError, type FinalStatus } from "../../protocol/index.ts";
import { formatTraceParent } from "./traceparent.ts";
import type { JobTrace, SessionTrace, SpanAttributes, TracedJob, TracedSession, Tracing } from "./tracing.ts";

interface SpanContext {
  traceId: string;
  spanId: string;
  traceFlags: number;
  isRemote?: boolean;
}

interface Span {
  spanContext(): SpanContext;
  setAttribute(name: string, value: string | number | boolean): unknown;
  setStatus(status: { code: number }): unknown;
  end(): void;
}

/** What is used of `@opentelemetry/api` 1.x. */
export interface OpenTelemetryApi<Context> {
  readonly ROOT_CONTEXT: Context;
  readonly context: {
    active(): Context;
    with<R>(context: Context, work: () => R): R;
  };
  readonly trace: {
    getTracer(
      name: string,
      version?: string,
    ): {
      startSpan(
        name: string,
        options: { kind: number; attributes: Record<string, string | number | boolean> },
        context: Context,
      ): Span;
    };
    setSpan(context: Context, span: Span): Context;
    setSpanContext(context: Context, spanContext: SpanContext): Context;
    getSpanContext(context: Context): SpanContext | undefined;
  };
}

type Tracer<Context> = ReturnType<OpenTelemetryApi<Context>["trace"]["getTracer"]>;

/** `SpanKind` and `SpanStatusCode` of the API. */
const INTERNAL = 0;
const SERVER = 1;
const FAILED = 2;

const SCOPE = "holdfast";

/**
 * What `RuntimeOptions.tracing` takes:
 *
 * `new Runtime({ ..., tracing: openTelemetry(api) })`, with `import * as api from "@opentelemetry/api"`.
 *
 * Register the SDK with a context manager (as `NodeSDK` does), or spans of the agent's own are not nested.
 */
export function openTelemetry<Context>(api: OpenTelemetryApi<Context>): Tracing {
  const tracer = api.trace.getTracer(SCOPE);
  return {
    sessionStarted: (session) => sessionSpan(api, tracer, session),
    jobStarted: (job) => new JobSpan(api, tracer, job),
  };
}

function sessionSpan<Context>(
  api: OpenTelemetryApi<Context>,
  tracer: Tracer<Context>,
  session: TracedSession,
): SessionTrace {
  const attributes = {
    "arcp.session_id": session.sessionId,
    "arcp.client": session.clientName,
    "arcp.resumed": session.resumed,
  };
  // A trace of its own: its jobs belong to the traces of those who submitted them.
  const span = tracer.startSpan("arcp.session", { kind: SERVER, attributes }, api.ROOT_CONTEXT);
  return { ended: () => span.end() };
}

function jobAttributes(job: TracedJob): Record<string, string | number | boolean> {
  const capabilities = Object.keys(job.lease).sort().join(",");
  return {
    "arcp.job_id": job.jobId,
    "arcp.agent": job.agent,
    "arcp.trace_id": job.parent.traceId,
    ...(job.sessionId === undefined ? {} : { "arcp.session_id": job.sessionId }),
    ...(job.parentJobId === undefined ? {} : { "arcp.parent_job_id": job.parentJobId }),
    ...(capabilities === "" ? {} : { "arcp.lease.capabilities": capabilities }),
    ...(job.leaseExpiresAt === undefined
      ? {}
      : { "arcp.lease.expires_at": new Date(job.leaseExpiresAt).toISOString() }),
  };
}

class JobSpan<Context> implements JobTrace {
  readonly #api: OpenTelemetryApi<Context>;
  readonly #tracer: Tracer<Context>;
  readonly #jobId: string;
  readonly #traceId: string;
  readonly #span: Span;
  readonly #context: Context;

  constructor(api: OpenTelemetryApi<Context>, tracer: Tracer<Context>, job: TracedJob) {
    this.#api = api;
    this.#tracer = tracer;
    this.#jobId = job.jobId;
    const { traceId, spanId, flags } = job.parent;
    this.#traceId = traceId;
    const parent = api.trace.setSpanContext(api.ROOT_CONTEXT, { traceId, spanId, traceFlags: flags, isRemote: true });
    this.#span = tracer.startSpan(`arcp.job ${job.agent}`, { kind: SERVER, attributes: jobAttributes(job) }, parent);
    this.#context = api.trace.setSpan(parent, this.#span);
  }

  get traceparent(): string {
    const { traceId, spanId, traceFlags } = this.#api.trace.getSpanContext(this.#within()) ?? this.#span.spanContext();
    return formatTraceParent({ traceId, spanId, flags: traceFlags });
  }

  run<T>(work: () => T): T {
    return this.#api.context.with(this.#context, work);
  }

  async operation<T>(name: string, attributes: SpanAttributes, work: () => Promise<T>): Promise<T> {
    const within = this.#within();
    const span = this.#tracer.startSpan(
      `arcp.${name}`,
      { kind: INTERNAL, attributes: { "arcp.job_id": this.#jobId, ...attributes } },
      within,
    );
    try {
      return await this.#api.context.with(this.#api.trace.setSpan(within, span), work);
    } catch (error) {
      fail(span, error);
      throw error;
    } finally {
      span.end();
    }
  }

  ended(how: FinalStatus | "lost", error?: ArcpError): void {
    this.#span.setAttribute("arcp.job.status", how);
    if (error !== undefined) fail(this.#span, error);
    this.#span.end();
  }

  /** What is active, if it is of this trace: an agent may be called from elsewhere, or make spans of its own. */
  #within(): Context {
    const active = this.#api.context.active();
    return this.#api.trace.getSpanContext(active)?.traceId === this.#traceId ? active : this.#context;
  }
}

/** A message may hold anything, so only the kind is told. */
function fail(span: Span, error: unknown): void {
  span.setAttribute(
    "error.type",
    error instanceof ArcpError ? error.code : error instanceof Error ? error.name : typeof error,
  );
  span.setStatus({ code: FAILED });
}

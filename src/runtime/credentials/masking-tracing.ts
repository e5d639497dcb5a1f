import type { ArcpError } from "../../protocol/index.ts";
import type { JobTrace, SpanAttributes, Tracing } from "../tracing/tracing.ts";
import type { Masking } from "./masking.ts";

/** A tracer that never gets to see a known secret: not in an attribute, and not in an error (CRD-7). */
export function maskingTracing(tracing: Tracing, masking: Masking): Tracing {
  return {
    sessionStarted: (session) => tracing.sessionStarted(session),
    jobStarted: (job) => new MaskingJobTrace(tracing.jobStarted(job), masking),
  };
}

class MaskingJobTrace implements JobTrace {
  readonly #inner: JobTrace;
  readonly #masking: Masking;

  constructor(inner: JobTrace, masking: Masking) {
    this.#inner = inner;
    this.#masking = masking;
  }

  get traceparent(): string {
    return this.#inner.traceparent;
  }

  run<T>(work: () => T): T {
    return this.#inner.run(work);
  }

  /** The tracer sees a masked copy of what went wrong, the caller the error itself. */
  async operation<T>(name: string, attributes: SpanAttributes, work: () => Promise<T>): Promise<T> {
    const masking = this.#masking;
    let failure: { error: unknown } | undefined;
    try {
      return await this.#inner.operation(name, masking.value(attributes) as SpanAttributes, async () => {
        try {
          return await work();
        } catch (error) {
          failure = { error };
          throw masking.value(error);
        }
      });
    } catch (error) {
      throw failure === undefined ? error : failure.error;
    }
  }

  ended(how: Parameters<JobTrace["ended"]>[0], error?: ArcpError): void {
    this.#inner.ended(how, this.#masking.value(error) as ArcpError | undefined);
  }
}

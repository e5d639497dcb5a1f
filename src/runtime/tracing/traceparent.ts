/**
 * W3C trace context as the runtime needs it: where a job's span hangs, and what the job hands on. The
 * wire's `trace_id` may be bare (ENV-10), and a bare one names no span; a header has to.
 */
import { parseTraceId } from "../../protocol/index.ts";

export interface TraceParent {
  /** 32 hex digits. */
  readonly traceId: string;
  /** 16 hex digits, never all zero. */
  readonly spanId: string;
  /** Bit 0: whoever began the trace records it. */
  readonly flags: number;
}

const SAMPLED = 1;
const NOT_SET = /^0+$/;

/**
 * The span that a job continues: the one in its submit's `traceparent`; else one that nobody ever sees,
 * with the last half of the trace id as its id, so that all jobs of a bare trace id hang on the same.
 *
 * @param header as it came; ignored unless it is of this trace and names a span
 */
export function traceParentOf(traceId: string, header?: string): TraceParent {
  const [, , spanId = "", flags = ""] = header?.split("-") ?? [];
  if (header !== undefined && parseTraceId(header) === traceId && spanId.length === 16 && !NOT_SET.test(spanId)) {
    return { traceId, spanId, flags: Number.parseInt(flags, 16) & SAMPLED };
  }
  const half = traceId.slice(16);
  return { traceId, spanId: NOT_SET.test(half) ? traceId.slice(0, 16) : half, flags: SAMPLED };
}

/** The value of a `traceparent` header. */
export const formatTraceParent = ({ traceId, spanId, flags }: TraceParent): string =>
  `00-${traceId}-${spanId}-${(flags & 0xff).toString(16).padStart(2, "0")}`;

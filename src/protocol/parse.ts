/** Frames that come in are validated here, at the edge: shape first, then type, then payload (ENV-1 to ENV-5). */
import { z } from "zod";
import { ARCP_VERSION, type Envelope } from "./envelope.ts";
import { ArcpError } from "./errors.ts";
import { parseTraceId } from "./ids.ts";
import { text } from "./scalars.ts";

/** What an error quotes of a name that it complains about (ENV-13). */
const MAX_QUOTED_CHARS = 64;

const EXTENSION_KEY = /^(optional|x-vendor\.[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+)$/;

const extensions = z
  .record(z.string().regex(EXTENSION_KEY, "must be `optional` or `x-vendor.<vendor>.<name>`"), z.unknown())
  .refine((value) => value["optional"] === undefined || typeof value["optional"] === "boolean", {
    message: "`optional` must be a boolean",
    path: ["optional"],
  });

const id = text(256);

const traceId = z.string().transform((value, context) => {
  const parsed = parseTraceId(value);
  if (parsed === undefined) context.addIssue("must be 32 lowercase hex digits or a W3C traceparent");
  return parsed ?? z.NEVER;
});

const EnvelopeSchema = z.object({
  arcp: z.literal(ARCP_VERSION),
  id,
  type: z.string().min(1).max(128),
  session_id: id.optional(),
  job_id: id.optional(),
  trace_id: traceId.optional(),
  event_seq: z.int().min(1).optional(),
  extensions: extensions.optional(),
  payload: z.record(z.string(), z.unknown()),
});

/** `payload.agent: expected string` for the first thing that is wrong; names the field (ENV-3). */
export function describeIssue(error: z.ZodError, prefix: string): string {
  const issue = error.issues[0];
  if (issue === undefined) return `${prefix || "message"}: invalid`;
  const path = [prefix, ...issue.path.map((part) => cut(String(part)))].filter((part) => part !== "").join(".");
  return `${path || "message"}: ${issue.message}`;
}

/** A name that a client made up, short enough to be repeated to it. */
const cut = (name: string): string => (name.length <= MAX_QUOTED_CHARS ? name : `${name.slice(0, MAX_QUOTED_CHARS)}…`);

/**
 * A frame as an envelope of the right shape.
 *
 * @throws ArcpError INVALID_REQUEST naming the field (malformed JSON: the frame as a whole).
 */
export function parseEnvelope(frame: string): Envelope {
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    throw new ArcpError("INVALID_REQUEST", "The frame is not JSON; send one JSON object per message.");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ArcpError("INVALID_REQUEST", "The frame is not a JSON object; send one JSON object per message.");
  }
  const result = EnvelopeSchema.safeParse(value);
  if (!result.success) {
    const requestId = id.safeParse((value as { id?: unknown }).id);
    throw new ArcpError("INVALID_REQUEST", `Invalid envelope: ${describeIssue(result.error, "")}.`, {
      details: requestId.success ? { request_id: requestId.data } : {},
    });
  }
  const { trace_id: given } = value as { trace_id?: string };
  return given === result.data.trace_id ? result.data : { ...result.data, traceparent: given };
}

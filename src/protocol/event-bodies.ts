/** The event kinds of the draft and what their bodies hold; checked before an event is logged (JOB-14). */
import { z } from "zod";
import { ArcpError } from "./errors.ts";
import { describeIssue } from "./parse.ts";
import { nonNegative, utc } from "./scalars.ts";

/** The bodies of the draft's event kinds, as an agent may emit them (JOB-14). */
export const EVENT_BODIES = {
  log: z.object({
    level: z.enum(["debug", "info", "warn", "error"]),
    message: z.string(),
    attributes: z.record(z.string(), z.unknown()).optional(),
  }),
  thought: z.object({ text: z.string() }),
  tool_call: z.object({ tool: z.string().min(1), args: z.unknown().optional(), call_id: z.string().min(1) }),
  tool_result: z
    .object({ call_id: z.string().min(1), result: z.unknown().optional(), error: z.unknown().optional() })
    .refine((body) => body.result === undefined || body.error === undefined, {
      message: "a tool_result carries `result` or `error`, not both",
    }),
  status: z.looseObject({ phase: z.string().min(1), message: z.string().optional() }),
  metric: z.object({
    name: z.string().min(1),
    value: z.number(),
    unit: z.string().optional(),
    dimensions: z.record(z.string(), z.unknown()).optional(),
  }),
  artifact_ref: z.object({
    uri: z.string().min(1),
    content_type: z.string().min(1),
    byte_size: nonNegative.optional(),
    sha256: z.string().optional(),
  }),
  delegate: z.object({
    delegate_id: z.string().min(1),
    agent: z.string().min(1),
    input: z.unknown(),
    lease_request: z.record(z.string(), z.array(z.string())).optional(),
    lease_constraints: z.object({ expires_at: utc.optional() }).optional(),
  }),
  progress: z.object({
    current: z.number().min(0),
    total: z.number().min(0).optional(),
    units: z.string().optional(),
    message: z.string().optional(),
  }),
  result_chunk: z.object({
    result_id: z.string().min(1),
    chunk_seq: nonNegative,
    data: z.string(),
    encoding: z.enum(["utf8", "base64"]),
    more: z.boolean(),
    /** Of the first chunk, where the agent says what its result is. */
    content_type: z.string().min(1).max(256).optional(),
  }),
} as const;

export type EventKind = keyof typeof EVENT_BODIES;
export type EventBody<K extends EventKind> = z.input<(typeof EVENT_BODIES)[K]>;

/**
 * Checks a body before it is logged. `x-vendor.*` kinds pass as they are.
 *
 * @throws ArcpError INVALID_REQUEST naming the kind and the field.
 */
export function checkEventBody(kind: string, body: unknown): void {
  if (kind.startsWith("x-vendor.")) return;
  if (!Object.hasOwn(EVENT_BODIES, kind)) {
    throw new ArcpError(
      "INVALID_REQUEST",
      `kind: ${JSON.stringify(kind)} is unknown; your own kinds start with "x-vendor.".`,
    );
  }
  const result = EVENT_BODIES[kind as EventKind].safeParse(body);
  if (!result.success) {
    throw new ArcpError("INVALID_REQUEST", `Invalid ${kind} event: ${describeIssue(result.error, "body")}.`);
  }
}

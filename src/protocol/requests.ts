/** What a client may send: the payloads by message type, validated strictly at the edge (ENV-3, ENV-4). */
import { z } from "zod";
import type { Envelope } from "./envelope.ts";
import { ArcpError } from "./errors.ts";
import { describeIssue } from "./parse.ts";
import { data, nonNegative, text, utc } from "./scalars.ts";

/** Capabilities that one submit may ask for. */
const MAX_CAPABILITIES = 256;

const Auth = z.object({ scheme: z.literal("bearer"), token: text(16_384) });

const ClientInfo = z.object({
  name: text(256),
  version: text(256),
  fingerprint: text(256, 0).optional(),
  principal: text(256, 0).optional(),
});

const ClientCapabilities = z.object({
  encodings: z.array(z.string().max(64)).max(32).optional(),
  features: z.array(z.string().max(128)).max(128).optional(),
  agents: z.unknown().optional(),
});

const Resume = z.object({
  session_id: text(256),
  resume_token: text(512),
  last_event_seq: nonNegative,
});

const reason = text(1024, 0).optional();

/** A record drops this key without a word, and a capability that is asked for is never dropped. */
const LeaseRequest = z
  .unknown()
  .refine((value) => typeof value !== "object" || value === null || !Object.hasOwn(value, "__proto__"), {
    error: "`__proto__` is not a capability",
  })
  .pipe(z.record(text(256), z.array(text(4096, 0)).max(1024)))
  .refine((value) => Object.keys(value).length <= MAX_CAPABILITIES, {
    error: `at most ${MAX_CAPABILITIES} capabilities`,
  });

/** What a client may ask for, by message type. */
export const REQUESTS = {
  "session.hello": z.object({
    client: ClientInfo,
    auth: Auth,
    capabilities: ClientCapabilities.optional(),
    resume: Resume.optional(),
  }),
  "session.resume": Resume.extend({
    auth: Auth,
    client: ClientInfo.optional(),
    capabilities: ClientCapabilities.optional(),
  }),
  "session.ping": z.object({ nonce: z.string().max(256), sent_at: z.string().max(64).optional() }),
  "session.pong": z.object({ ping_nonce: z.string().max(256), received_at: z.string().max(64).optional() }),
  "session.ack": z.object({ last_processed_seq: nonNegative }),
  "session.list_jobs": z.object({
    filter: z
      .object({
        status: z
          .array(z.enum(["pending", "running", "success", "error", "cancelled", "timed_out"]))
          .max(16)
          .optional(),
        agent: text(256, 0).optional(),
        created_after: utc.optional(),
        created_before: utc.optional(),
      })
      .optional(),
    limit: z.int().min(1).max(1000).optional(),
    cursor: text(256, 0).nullable().optional(),
  }),
  "session.close": z.object({ reason }),
  "session.bye": z.object({ reason }),
  "job.submit": z.object({
    agent: text(256),
    input: data,
    lease_request: LeaseRequest.optional(),
    lease_constraints: z.object({ expires_at: utc.optional() }).optional(),
    idempotency_key: text(256).optional(),
    max_runtime_sec: z.number().positive().max(31_536_000).optional(),
  }),
  "job.cancel": z.object({ reason, job_id: text(256).optional() }),
  "job.subscribe": z.object({
    job_id: text(256),
    from_event_seq: nonNegative.optional(),
    history: z.boolean().optional(),
  }),
  "job.unsubscribe": z.object({ job_id: text(256) }),
  "x-vendor.holdfast.answer": z.object({
    job_id: text(256),
    question_id: text(256),
    answer: data,
  }),
} as const;

export type RequestType = keyof typeof REQUESTS;
export type RequestPayload<T extends RequestType> = z.infer<(typeof REQUESTS)[T]>;

/** Types that only a runtime sends; from a client they are `INVALID_REQUEST` (ENV-4). */
const RUNTIME_ONLY: readonly string[] = [
  "session.welcome",
  "session.error",
  "session.jobs",
  "session.closed",
  "job.accepted",
  "job.event",
  "job.result",
  "job.error",
  "job.cancelled",
  "job.subscribed",
  "x-vendor.holdfast.answered",
];

/** A message type that a vendor gave: ours, or one that the host registered (EXT-1). */
export type VendorType = `x-vendor.${string}`;

/** What to do with an inbound type (ENV-4, ENV-5). */
export type TypeDisposition = { kind: "request"; type: RequestType | VendorType } | { kind: "drop" };

/**
 * @param isRegistered whether the host has registered the type
 * @throws ArcpError INVALID_REQUEST with `details.type` for a type that a client may not send.
 */
export function classifyType(envelope: Envelope, isRegistered: (type: string) => boolean): TypeDisposition {
  const { type } = envelope;
  if (Object.hasOwn(REQUESTS, type)) return { kind: "request", type: type as RequestType };
  if (isRegistered(type)) return { kind: "request", type: type as VendorType };
  if (type.startsWith("x-vendor.") && envelope.extensions?.["optional"] === true) return { kind: "drop" };
  const why = RUNTIME_ONLY.includes(type) ? "is sent by runtimes only" : "is not a known message type";
  throw new ArcpError("INVALID_REQUEST", `type: ${JSON.stringify(type)} ${why}.`, {
    details: { type, request_id: envelope.id },
  });
}

/** @throws ArcpError INVALID_REQUEST naming the field (ENV-3). */
export function parsePayload<T extends RequestType>(type: T, envelope: Envelope): RequestPayload<T> {
  const result = REQUESTS[type].safeParse(envelope.payload);
  if (!result.success) {
    throw new ArcpError("INVALID_REQUEST", `Invalid ${type}: ${describeIssue(result.error, "payload")}.`, {
      details: { type, request_id: envelope.id },
    });
  }
  return result.data as RequestPayload<T>;
}

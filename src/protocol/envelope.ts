/**
 * The envelope: one JSON object per message (SPEC.md, ENV). Encoding puts an envelope around a payload
 * that was serialised once, when it was stored. Free of dependencies: clients carry this file into
 * browsers.
 */
export const ARCP_VERSION = "1.1";

/** The largest frame that is read: 1 MiB of content and 64 KiB for what is around it. */
export const MAX_FRAME_BYTES = 1024 * 1024 + 64 * 1024;

/** Where an answer names the request it answers (ENV-7). */
export const IN_REPLY_TO = "x-vendor.holdfast.in_reply_to";
/** Of a `job.submit` that is a turn of a conversation, and of its `job.accepted` (TRN-7). */
export const TURN = "x-vendor.holdfast.turn";
/** Where our client says which instance it is and how often it has tried (RES-8). */
export const CLIENT_INSTANCE = "x-vendor.holdfast.client";

/** One message of the wire; unknown top-level fields are dropped. */
export interface Envelope {
  arcp: string;
  id: string;
  type: string;
  session_id?: string | undefined;
  job_id?: string | undefined;
  trace_id?: string | undefined;
  /** The whole of a `trace_id` that came as a W3C header value; never sent. */
  traceparent?: string | undefined;
  event_seq?: number | undefined;
  extensions?: Record<string, unknown> | undefined;
  payload: Record<string, unknown>;
}

/** The fields of a message that is not a numbered event. */
export interface MessageFields {
  id: string;
  type: string;
  session_id?: string | undefined;
  job_id?: string | undefined;
  trace_id?: string | undefined;
  extensions?: Record<string, unknown> | undefined;
  payload: object;
}

export const encodeMessage = (fields: MessageFields): string => JSON.stringify({ arcp: ARCP_VERSION, ...fields });

/**
 * Puts envelopes around the stored payloads of one job for one session, with the id
 * `<session_id>.<event_seq>`, the same at every sending (ENV-6). `payload` is the JSON text that is in
 * the log; it is copied, never parsed.
 */
export function eventEncoder(
  sessionId: string,
  jobId: string,
  traceId: string,
): (type: string, eventSeq: number, payload: string) => string {
  const head = `{"arcp":"${ARCP_VERSION}","id":${JSON.stringify(`${sessionId}.`).slice(0, -1)}`;
  const ids = `","session_id":${JSON.stringify(sessionId)},"job_id":${JSON.stringify(jobId)},"trace_id":${JSON.stringify(traceId)},"event_seq":`;
  return (type, eventSeq, payload) => `${head}${eventSeq}","type":"${type}${ids}${eventSeq},"payload":${payload}}`;
}

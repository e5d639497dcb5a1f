import { monotonicFactory } from "ulid";

/** Ids are ULIDs: sortable by time, unique without coordination. They are names, never secrets. */
const ulid = monotonicFactory();

/** The id of an envelope that is not a numbered event. */
export const newMessageId = (): string => ulid();
export const newSessionId = (): string => `sess_${ulid()}`;
export const newJobId = (): string => `job_${ulid()}`;
export const newQuestionId = (): string => `q_${ulid()}`;
export const newCredentialId = (): string => `cred_${ulid()}`;
export const newResultId = (): string => `res_${ulid()}`;
export const newDeliveryId = (): string => `dlv_${ulid()}`;
export const newNodeId = (): string => `node_${ulid()}`;

/** 32 lowercase hex digits (W3C trace id). */
export function newTraceId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const TRACE_ID = /^[0-9a-f]{32}$/;
const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** A trace id, bare or inside a W3C `traceparent`; `undefined` when it is neither. */
export function parseTraceId(value: string): string | undefined {
  const id = TRACEPARENT.exec(value)?.[1] ?? value;
  return TRACE_ID.test(id) && !/^0+$/.test(id) ? id : undefined;
}

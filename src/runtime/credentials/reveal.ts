/**
 * Where stored messages hold ids of credentials, the values are put in here, at the very moment of sending
 * (law 8, CRD-8). What holds none passes as it is, and at once. For whoever may not see them, and where there
 * are none any more, they are left out.
 */
import type { Credential } from "../../protocol/index.ts";
import type { NewEvent } from "../../store/store.ts";
import type { CredentialKeeper, Viewer } from "./keeper.ts";

/** Whether a stored reply may hold any; a look that costs next to nothing. */
export const holdsCredentials = (frame: string): boolean => frame.includes('"credentials":[');

/** A reply as it was stored, made ready for a session. */
export function revealReply(keeper: CredentialKeeper, viewer: Viewer, frame: string): string | Promise<string> {
  if (!holdsCredentials(frame)) return frame;
  const message = JSON.parse(frame) as { type: string; payload: { job_id: string; credentials?: unknown } };
  if (message.type !== "job.accepted" && message.type !== "job.subscribed") return frame;
  if (message.payload.credentials === undefined) return frame;
  const filled = (credentials: readonly Credential[] | undefined): string => {
    const { credentials: _, ...rest } = message.payload;
    return JSON.stringify({ ...message, payload: credentials === undefined ? rest : { ...rest, credentials } });
  };
  const seen = keeper.view(message.payload.job_id, viewer);
  return seen instanceof Promise ? seen.then(filled) : filled(seen);
}

/** The payload of a `status` event as it was stored, made ready for a session. */
export function revealEvent(
  keeper: CredentialKeeper,
  viewer: Viewer,
  jobId: string,
  event: NewEvent,
): string | Promise<string> {
  if (event.kind !== "status" || !event.payload.includes('"credential_rotated"')) return event.payload;
  const payload = JSON.parse(event.payload) as { body: { phase: string; credential_id?: unknown } };
  if (payload.body.phase !== "credential_rotated") return event.payload;
  const filled = (credentials: readonly Credential[] | undefined): string => {
    const credential = credentials?.find(({ id }) => id === payload.body.credential_id);
    if (credential === undefined) return event.payload;
    return JSON.stringify({ ...payload, body: { ...payload.body, value: credential.value } });
  };
  const seen = keeper.view(jobId, viewer);
  return seen instanceof Promise ? seen.then(filled) : filled(seen);
}

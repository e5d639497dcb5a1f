import { ArcpError, jobErrorPayload } from "../../protocol/index.ts";

/** A cancel as the job's end tells it. */
export function cancellation(reason: string | undefined): ArcpError {
  const why = reason === undefined || reason === "" ? "The job was cancelled." : `The job was cancelled: ${reason}`;
  return new ArcpError("CANCELLED", why);
}

/** JSON text of the `job.error` of a job that is cancelled before it runs. */
export const cancelledPayload = (reason: string | undefined): string =>
  JSON.stringify(jobErrorPayload(cancellation(reason)));

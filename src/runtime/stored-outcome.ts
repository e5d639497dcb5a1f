/** How a job ended, as its log tells it. */
import type { FinalStatus, JobErrorPayload, JobStatus, ResultPayload } from "../protocol/index.ts";
import type { JobFacet, JobRecord } from "../store/store.ts";
import { wholeResult } from "./session/inline-result.ts";

export type JobOutcome =
  /** The job has not ended. */
  { status: Exclude<JobStatus, FinalStatus> } | EndedJob;

export type EndedJob =
  /**
   * As `job.result` told it; a chunked result is put together, as text or, where the agent sent bytes, as
   * base64, and `result_encoding` says which; `content_type` is what the agent said that it is.
   */
  | (Omit<ResultPayload, "result_id" | "result_size"> & {
      status: "success";
      result_encoding?: "utf8" | "base64";
      content_type?: string;
    })
  /** As `job.error` told it. */
  | (JobErrorPayload & { status: JobErrorPayload["final_status"] });

/** Of a job that has ended. Holds the result in memory. @throws StoreRefusal where its retention has passed meanwhile */
export async function storedOutcome(jobs: JobFacet, job: JobRecord): Promise<EndedJob> {
  const read = async (afterN: number, throughN: number) => (await jobs.read(job.jobId, afterN, throughN)).events;
  const floorN = async () => (await jobs.get(job.jobId))?.floorN ?? job.floorN;
  const [end] = await read(job.lastN - 1, job.lastN);
  if (end === undefined) throw new Error(`${job.jobId} has ended, and its last event is not there.`);
  if (end.kind === "job.error") {
    const payload = JSON.parse(end.payload) as JobErrorPayload;
    return { status: payload.final_status, ...payload };
  }
  const { result_id, result_size, ...payload } = JSON.parse(end.payload) as ResultPayload;
  if (result_id === undefined) return { status: "success", ...payload };
  const { result, encoding, contentType } = await wholeResult({ floorN, read }, job.lastN);
  return {
    status: "success",
    ...payload,
    result,
    result_encoding: encoding,
    ...(contentType === undefined ? {} : { content_type: contentType }),
  };
}

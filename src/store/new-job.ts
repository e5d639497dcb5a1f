/** A job as it is stored when it is submitted, delegated, or waits for its turn. */
import type { Lease } from "../protocol/index.ts";

export interface NewJob {
  jobId: string;
  /** `name` or `name@version`, as resolved. */
  agent: string;
  /** JSON text. */
  input: string;
  lease: Lease;
  /** Wall milliseconds; the lease's expiry. */
  leaseExpiresAt?: number | undefined;
  traceId: string;
  maxRuntimeMs?: number | undefined;
}

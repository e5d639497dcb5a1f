/** What a runtime sends (protocol: Handshake and session, Jobs), as types; a client reads it leniently. */
import type { ArcpError, ErrorCode, ErrorPayload } from "./errors.ts";

export const FINAL_STATUSES = ["success", "error", "cancelled", "timed_out"] as const;
/** How a job ended. */
export type FinalStatus = (typeof FINAL_STATUSES)[number];
/** `pending → running → success | error | cancelled | timed_out` (JOB-1). */
export type JobStatus = "pending" | "running" | FinalStatus;

export const isFinal = (status: JobStatus): status is FinalStatus => status !== "pending" && status !== "running";

/** Capability to patterns, e.g. `{"fs.read": ["/srv/docs/**"]}`. */
export type Lease = Record<string, string[]>;

/** Offered agents, as the welcome lists them. */
export interface AgentInfo {
  name: string;
  versions: string[];
  default?: string;
}

export interface WelcomePayload {
  runtime: { name: string; version: string };
  resume_token: string;
  resume_window_sec: number;
  heartbeat_interval_sec?: number;
  capabilities: { encodings: string[]; features: string[]; agents: AgentInfo[] };
}

/** A credential that was provisioned for one job (CRD-2). */
export interface Credential {
  /** The same through all rotations; of this job alone. */
  id: string;
  scheme: "bearer";
  /** The secret. */
  value: string;
  /** Where it is good. */
  endpoint: string;
  profile?: string;
  constraints?: Record<string, unknown>;
}

/** A credential as it is stored: `value` is put in when a message is sent (CRD-8). */
export type StoredCredential = Omit<Credential, "value">;

/** A payload as it is stored. */
export type Stored<Payload extends { credentials?: Credential[] }> = Omit<Payload, "credentials"> & {
  credentials?: StoredCredential[];
};

export interface AcceptedPayload {
  job_id: string;
  agent: string;
  lease: Lease;
  lease_constraints?: { expires_at?: string };
  /** What the job may spend of each currency. */
  budget?: Record<string, number>;
  credentials?: Credential[];
  accepted_at: string;
  parent_job_id?: string;
  delegate_id?: string;
  trace_id: string;
}

export interface SubscribedPayload {
  job_id: string;
  current_status: JobStatus;
  agent: string;
  lease: Lease;
  lease_constraints?: { expires_at?: string };
  budget?: Record<string, number>;
  credentials?: Credential[];
  parent_job_id: string | null;
  trace_id?: string;
  /** In the submitter's sequence: the first event that this subscription delivers, or would. */
  subscribed_from: number;
  /** Whether events from before the subscription are sent. */
  replayed: boolean;
}

export interface ListedJob {
  job_id: string;
  agent: string;
  status: JobStatus;
  lease: Lease;
  parent_job_id: string | null;
  created_at: string;
  trace_id?: string;
  /** The submitting session's number of the job's newest numbered event, else 0. */
  last_event_seq: number;
}

export interface JobsPayload {
  request_id: string;
  jobs: ListedJob[];
  next_cursor: string | null;
}

export interface ResultPayload {
  final_status: "success";
  result?: unknown;
  result_id?: string;
  result_size?: number;
  summary?: string;
}

export interface JobErrorPayload extends ErrorPayload {
  final_status: Exclude<FinalStatus, "success">;
}

/** A `job.error` payload for a failure with that code. */
export function jobErrorPayload(error: ArcpError): JobErrorPayload {
  return { final_status: FINAL_STATUS_OF[error.code] ?? "error", ...error.toPayload() };
}

const FINAL_STATUS_OF: Partial<Record<ErrorCode, JobErrorPayload["final_status"]>> = {
  CANCELLED: "cancelled",
  TIMEOUT: "timed_out",
};

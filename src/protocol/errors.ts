/**
 * The one error table. Wire codes are the draft's fifteen only: clients drop what they do not know
 * and hang. What is ours is said in `details.code`. See SPEC.md, ENV-9.
 */

/** One row of the error table. */
export interface ErrorRow {
  /** What it tells the reader. */
  readonly meaning: string;
  /** Whether the same request may succeed later. `undefined`: the case decides, by default not. */
  readonly retryable: boolean;
  /** True where a case may not say otherwise. */
  readonly fixed: boolean;
  /** HTTP status of the same failure over `/v1`. */
  readonly httpStatus: number;
  /** WebSocket close code, where the failure ends the connection. */
  readonly closeCode?: number;
}

const row = (
  meaning: string,
  retryable: boolean,
  httpStatus: number,
  rest: { fixed?: boolean; closeCode?: number } = {},
): ErrorRow => ({ meaning, retryable, httpStatus, fixed: false, ...rest });

export const ERROR_TABLE = {
  PERMISSION_DENIED: row("The principal or the lease does not allow it.", false, 403),
  LEASE_SUBSET_VIOLATION: row("A child's lease asks for more than its parent's holds.", false, 403),
  JOB_NOT_FOUND: row("No such job, or none that this principal may see.", false, 404),
  DUPLICATE_KEY: row("The idempotency key was used with other parameters.", false, 409),
  AGENT_NOT_AVAILABLE: row("No agent of that name is registered, or it cannot take the job.", false, 404),
  AGENT_VERSION_NOT_AVAILABLE: row("The agent exists, that version does not.", false, 404),
  CANCELLED: row("The job was cancelled.", false, 409),
  TIMEOUT: row("The job ran longer than it may.", true, 504),
  RESUME_WINDOW_EXPIRED: row("The session cannot be resumed from there.", false, 410, { closeCode: 4410 }),
  HEARTBEAT_LOST: row("Nothing was heard from the peer for two intervals.", true, 408, { closeCode: 4408 }),
  LEASE_EXPIRED: row("The job's lease is over.", false, 403, { fixed: true }),
  BUDGET_EXHAUSTED: row("The job's budget is spent.", false, 403, { fixed: true }),
  INVALID_REQUEST: row("The request is malformed or out of place.", false, 400, { closeCode: 4400 }),
  UNAUTHENTICATED: row("The token is missing, wrong, expired, or somebody else's.", false, 401, { closeCode: 4401 }),
  INTERNAL_ERROR: row("The runtime failed; the same request may succeed later.", true, 500, {
    fixed: true,
    closeCode: 4500,
  }),
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERROR_TABLE;

export interface DetailRow {
  /** The wire code that it travels under. */
  readonly code: ErrorCode;
  readonly meaning: string;
  /** Over `/v1`, where it says more than the wire code's own. */
  readonly httpStatus?: number;
}

/** Holdfast's own codes, sent as `details.code` under a wire code. */
export const DETAIL_CODES = {
  LIMIT_EXCEEDED: {
    code: "INTERNAL_ERROR",
    meaning: "A limit on sessions, jobs, requests or messages is reached; retry after `retry_after_ms`.",
    httpStatus: 429,
  },
  STORE_UNAVAILABLE: {
    code: "INTERNAL_ERROR",
    meaning: "The store did not answer; nothing was done.",
    httpStatus: 503,
  },
  ALREADY_ANSWERED: {
    code: "INVALID_REQUEST",
    meaning: "Somebody answered the question first; their answer stands.",
    httpStatus: 409,
  },
  QUESTION_CLOSED: {
    code: "INVALID_REQUEST",
    meaning: "Nobody waits for an answer to the question any more.",
    httpStatus: 409,
  },
  QUESTION_NOT_FOUND: {
    code: "INVALID_REQUEST",
    meaning: "The job has asked no such question.",
    httpStatus: 404,
  },
  CONVERSATION_BUSY: {
    code: "AGENT_NOT_AVAILABLE",
    meaning: "A turn of the conversation runs, or its queue is full; `job_id` names the running one.",
    httpStatus: 409,
  },
  LOCK_LOST: {
    code: "INTERNAL_ERROR",
    meaning: "The conversation's lock went to somebody else, or could not be kept; what was under way was stopped.",
  },
  BACKEND_UNAVAILABLE: {
    code: "INTERNAL_ERROR",
    meaning: "The agent's backend does not answer now; its session stays as it is.",
    httpStatus: 503,
  },
  BACKEND_REFUSED: {
    code: "AGENT_NOT_AVAILABLE",
    meaning: "The agent's backend does not take the turn, or answers what cannot be understood.",
    httpStatus: 502,
  },
  OUTCOME_UNKNOWN: {
    code: "INTERNAL_ERROR",
    meaning: "Said by the client: the session is gone and nobody can tell whether the request was carried out.",
  },
} as const satisfies Record<string, DetailRow>;

export type DetailCode = keyof typeof DETAIL_CODES;

/** The error payload of the wire (protocol: Errors). */
export interface ErrorPayload {
  code: ErrorCode;
  message: string;
  retryable: boolean;
  details?: Record<string, unknown>;
}

export const isErrorCode = (value: unknown): value is ErrorCode =>
  typeof value === "string" && Object.hasOwn(ERROR_TABLE, value);

/** A failure with a wire code. Its message reaches clients: no stack trace, no path, no secret. */
export class ArcpError extends Error {
  override readonly name = "ArcpError";
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly details: Record<string, unknown> | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: { details?: Record<string, unknown> | undefined; retryable?: boolean; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    const { retryable, fixed } = ERROR_TABLE[code];
    this.code = code;
    this.retryable = fixed ? retryable : (options.retryable ?? retryable);
    this.details = options.details;
  }

  /** One of Holdfast's own codes, under the wire code it travels with. */
  static detail(
    detail: DetailCode,
    message: string,
    details: Record<string, unknown> = {},
    cause?: unknown,
  ): ArcpError {
    return new ArcpError(DETAIL_CODES[detail].code, message, { details: { code: detail, ...details }, cause });
  }

  toPayload(): ErrorPayload {
    return {
      code: this.code,
      message: this.message,
      retryable: this.retryable,
      ...(this.details === undefined ? {} : { details: this.details }),
    };
  }
}

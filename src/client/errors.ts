/** How the client says that something failed: errors of the wire as they came, and those of its own. */
import { ArcpError, type DetailCode, ERROR_TABLE, isErrorCode } from "../protocol/index.ts";

/** The session is closed, so this could not be done or will not be answered. */
export class SessionClosedError extends Error {
  override readonly name = "SessionClosedError";
  /** As in the session's `closed` status. */
  readonly reason: string;

  constructor(reason: string, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.reason = reason;
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** The error that a runtime sent; a code that is not in the table becomes `INTERNAL_ERROR` and is kept in the details. */
export function errorFromPayload(payload: Record<string, unknown>): ArcpError {
  const { code, message, retryable, details } = payload;
  const known = isErrorCode(code);
  return new ArcpError(
    known ? code : "INTERNAL_ERROR",
    typeof message === "string" && message !== ""
      ? message
      : known
        ? ERROR_TABLE[code].meaning
        : `The runtime sent ${String(code)}.`,
    {
      details: known
        ? isObject(details)
          ? details
          : undefined
        : { ...(isObject(details) ? details : {}), wire_code: code },
      ...(typeof retryable === "boolean" ? { retryable } : {}),
    },
  );
}

/** True for a request or job whose fate nobody can tell (CLT-7). */
export const outcomeUnknown = (message: string, cause: unknown): ArcpError =>
  ArcpError.detail("OUTCOME_UNKNOWN" satisfies DetailCode, message, {}, cause);

/** Another connection has the session; coming back would only throw it out in turn (CLT-6). */
export const isSuperseded = (error: ArcpError): boolean =>
  error.code === "INVALID_REQUEST" && error.details?.["reason"] === "superseded";

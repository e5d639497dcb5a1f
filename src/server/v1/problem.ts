/**
 * Failures over HTTP: RFC 9457 problems made of the error table, so that a client finds the code, the
 * message and whether to try again under the same names as on the wire (SRV-14).
 */
import { type ServerResponse, STATUS_CODES } from "node:http";
import { type ArcpError, DETAIL_CODES, type DetailRow, ERROR_TABLE } from "../../protocol/index.ts";

export const PROBLEM_TYPE = "application/problem+json";

/** What is the same on every answer under `/v1`. */
export const COMMON_HEADERS: Readonly<Record<string, string>> = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
};

export interface Problem {
  status: number;
  headers: Record<string, string>;
  /** JSON text. */
  body: string;
}

/** @param status where HTTP has a name for the failure that the table has not */
export function problemOf(error: ArcpError, status = statusOf(error)): Problem {
  const { code, message, retryable, details } = error.toPayload();
  const retryAfterMs = details?.["retry_after_ms"];
  return {
    status,
    headers: {
      ...COMMON_HEADERS,
      "content-type": PROBLEM_TYPE,
      ...(status === 401 ? { "www-authenticate": "Bearer" } : {}),
      ...(typeof retryAfterMs === "number" ? { "retry-after": String(Math.ceil(retryAfterMs / 1_000)) } : {}),
    },
    body: JSON.stringify({
      type: "about:blank",
      title: STATUS_CODES[status] ?? "Error",
      status,
      detail: message,
      code,
      retryable,
      ...(details === undefined ? {} : { details }),
    }),
  };
}

export function tellProblem(
  response: ServerResponse,
  error: ArcpError,
  status?: number,
  headers: Record<string, string> = {},
): void {
  const problem = problemOf(error, status);
  response.writeHead(problem.status, { ...problem.headers, ...headers }).end(problem.body);
}

export function problemResponse(error: ArcpError, status?: number, headers: Record<string, string> = {}): Response {
  const problem = problemOf(error, status);
  return new Response(problem.body, { status: problem.status, headers: { ...problem.headers, ...headers } });
}

/** Where neither table has a status of its own: `details.reason`, as conversations give it. */
const STATUS_OF_REASON: ReadonlyMap<unknown, number> = new Map([
  ["unknown_conversation", 404],
  ["not_locked", 409],
  ["unknown_delivery", 404],
  ["wrong_state", 409],
]);

function statusOf(error: ArcpError): number {
  const own = error.details?.["code"];
  const rows: Readonly<Record<string, DetailRow>> = DETAIL_CODES;
  const detail = typeof own === "string" && Object.hasOwn(rows, own) ? rows[own] : undefined;
  const named = STATUS_OF_REASON.get(error.details?.["reason"]);
  return detail?.httpStatus ?? named ?? ERROR_TABLE[error.code].httpStatus;
}

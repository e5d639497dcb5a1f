/** What goes wrong between a record and its upstream session, told with the record's id. */
import { StoreRefusal } from "../../store/store.ts";
import { BackendError, type BackendErrorKind } from "./backend.ts";

export type UpstreamErrorKind =
  | BackendErrorKind
  /** Somebody else was faster, and yet the record holds no session: trying again may help. */
  | "conflict"
  /** The record lacks what is needed, or is not there. */
  | "invalid_record";

export class UpstreamError extends Error {
  override readonly name = "UpstreamError";
  readonly kind: UpstreamErrorKind;
  readonly recordId: string;

  constructor(kind: UpstreamErrorKind, recordId: string, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.kind = kind;
    this.recordId = recordId;
  }
}

/** Thrown by a record's `update` when another worker's session is, or may be, the record's by now. */
export class AnotherWorkerWon extends Error {
  override readonly name = "AnotherWorkerWon";
}

/** What a backend threw, with the record's id; anything else passes as it is. */
export function ofRecord(error: unknown, recordId: string, what: string): unknown {
  if (!(error instanceof BackendError)) return error;
  return new UpstreamError(error.kind, recordId, `record ${recordId}: ${what}: ${error.message}`, { cause: error });
}

/**
 * Create calls of one record whose end is not known. More are not made until the sweep has looked after them, so a
 * backend that makes sessions and never answers does not get one for each attempt.
 */
export const MAX_NOTED = 10;

/** What the store refuses to note, with the record's id. */
export function ofNote(error: unknown, recordId: string): unknown {
  if (!(error instanceof StoreRefusal)) return error;
  if (error.reason !== "limit_exceeded") {
    return new UpstreamError("invalid_record", recordId, `record ${recordId}: there is no such conversation`, {
      cause: error,
    });
  }
  const message = `record ${recordId}: the backend did not answer ${MAX_NOTED} times; try again when they were swept`;
  return new UpstreamError("unavailable", recordId, message, { cause: error });
}

/** `23505` is PostgreSQL's, 2067 and 1555 are SQLite's for a unique index and a primary key. */
export function isAnotherWorkersWin(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof AnotherWorkerWon) return true;
    const { code, errcode } = cause as Error & { code?: unknown; errcode?: unknown };
    if (code === "23505" || code === "SQLITE_CONSTRAINT_UNIQUE" || code === "SQLITE_CONSTRAINT_PRIMARYKEY") return true;
    if (errcode === 2067 || errcode === 1555) return true;
  }
  return false;
}

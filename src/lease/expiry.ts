import { ArcpError } from "../protocol/index.ts";
import { utc } from "../protocol/scalars.ts";
import { quote } from "./refusal.ts";

/**
 * When a lease ends (LEA-13).
 *
 * @param nowMs wall time
 * @param field where the text stands, for messages
 * @returns wall time in milliseconds
 * @throws ArcpError INVALID_REQUEST for what is not ISO 8601 in UTC, or not in the future
 */
export function parseExpiry(text: string, nowMs: number, field = "payload.lease_constraints.expires_at"): number {
  const isUtc = utc.safeParse(text).success;
  const expiresAtMs = isUtc ? Date.parse(text) : Number.NaN;
  if (expiresAtMs > nowMs) return expiresAtMs;
  const problem = isUtc ? "is not in the future" : "is not ISO 8601 in UTC, such as 2030-01-31T12:00:00Z";
  throw new ArcpError("INVALID_REQUEST", `${field}: ${quote(text)} ${problem}.`);
}

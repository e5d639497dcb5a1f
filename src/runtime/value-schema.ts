/** Schemas that a host hands in, of whatever library, and what they complain about, as errors of the wire. */
import { ArcpError } from "../protocol/index.ts";

/** Whatever can check a value: a zod schema, or anything else that throws when it does not fit. */
export interface ValueSchema<T = unknown> {
  parse(value: unknown): T;
}

/** What an error repeats of a schema's complaint (ENV-13). */
const MAX_COMPLAINT_CHARS = 256;

/**
 * @param what what the value is, e.g. `payload`
 * @throws ArcpError INVALID_REQUEST with the schema's first complaint, shortened
 */
export function checked<T>(schema: ValueSchema<T>, value: unknown, what: string): T {
  try {
    return schema.parse(value);
  } catch (error) {
    if (error instanceof ArcpError) throw error;
    const { path, message } = complaintOf(error);
    const text = `${[what, ...path].join(".")}: ${message}`;
    throw new ArcpError("INVALID_REQUEST", `${text.slice(0, MAX_COMPLAINT_CHARS)}.`, { cause: error });
  }
}

/** Schemas of most libraries throw errors with `issues`: the first one says where and what. */
function complaintOf(error: unknown): { path: string[]; message: string } {
  const { issues } = (error ?? {}) as { issues?: unknown };
  const first: unknown = Array.isArray(issues) ? issues[0] : undefined;
  if (typeof first === "object" && first !== null) {
    const { path, message } = first as { path?: unknown; message?: unknown };
    return { path: Array.isArray(path) ? path.map(String) : [], message: String(message) };
  }
  return { path: [], message: error instanceof Error ? (error.message.split("\n", 1)[0] ?? "") : String(error) };
}

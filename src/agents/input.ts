/** What a demo agent is given, checked: a stranger wrote it. */
import type { z } from "zod";
import { ArcpError, describeIssue } from "../protocol/index.ts";

/** @throws ArcpError INVALID_REQUEST naming the field (ENV-3) */
export function parseInput<T extends z.ZodType>(agent: string, schema: T, input: unknown): z.output<T> {
  const result = schema.safeParse(input);
  if (!result.success) {
    throw new ArcpError("INVALID_REQUEST", `Invalid input for ${agent}: ${describeIssue(result.error, "input")}.`);
  }
  return result.data;
}

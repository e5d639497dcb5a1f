import { z } from "zod";

/** The scalars that several messages share. */
export const nonNegative = z.int().min(0);
export const utc = z.iso.datetime({ error: "must be ISO 8601 in UTC, ending in `Z`" });

/**
 * Text that names something or is stored as it is. Half a surrogate pair has no bytes in UTF-8: two such
 * names would become one in a store (ENV-12).
 */
export const text = (max: number, min = 1) =>
  z
    .string()
    .min(min)
    .max(max)
    .refine((value) => value.isWellFormed(), { error: "must be well-formed Unicode, without half a surrogate pair" });

/** How deep data of any shape may nest (ENV-12): more than anybody needs, less than a recursion bears. */
const MAX_NESTING = 256;

/** Looks at one level after the other: recursion is what this keeps others from. */
function nestsWithin(value: unknown, most: number): boolean {
  const isNested = (part: unknown) => typeof part === "object" && part !== null;
  let level = [value].filter(isNested);
  for (let depth = 1; level.length > 0; depth += 1) {
    if (depth > most) return false;
    level = level.flatMap((part) => Object.values(part as object).filter(isNested));
  }
  return true;
}

/** Data of any shape that is stored, or handed to whoever may go through it in a recursion. */
export const data = z
  .unknown()
  .refine((value) => nestsWithin(value, MAX_NESTING), { error: `nests deeper than ${MAX_NESTING} levels` });

import { z } from "zod";

/** The scalars that several messages share. */
export const nonNegative = z.int().min(0);
export const utc = z.iso.datetime({ error: "must be ISO 8601 in UTC, ending in `Z`" });

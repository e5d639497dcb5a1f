/** What a person may begin an answer with: a value that has the fields that a question's schema names. */
import { record } from "./format.ts";

const MAX_DEPTH = 4;

export function draftOf(schema: unknown, depth = 0): unknown {
  const { type, enum: choices, const: only, default: preset, properties, required } = record(schema);
  if (preset !== undefined) return preset;
  if (only !== undefined) return only;
  if (Array.isArray(choices)) return choices[0] ?? null;
  switch (type) {
    case "boolean":
      return true;
    case "string":
      return "";
    case "number":
    case "integer":
      return 0;
    case "array":
      return [];
    case "object": {
      if (depth >= MAX_DEPTH) return {};
      const needed = Array.isArray(required) ? required : Object.keys(record(properties));
      const fields = Object.entries(record(properties)).filter(([name]) => needed.includes(name));
      return Object.fromEntries(fields.map(([name, inner]) => [name, draftOf(inner, depth + 1)]));
    }
    default:
      return null;
  }
}

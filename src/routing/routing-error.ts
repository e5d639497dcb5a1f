/**
 * What is wrong with a key or a route that somebody gave: which field, which value, and what to do. A class of its
 * own, since routing is usable without the wire and its error table.
 */
export class RoutingError extends Error {
  override readonly name = "RoutingError";
  readonly code: "invalid_key" | "invalid_route";

  constructor(code: RoutingError["code"], message: string) {
    super(message);
    this.code = code;
  }
}

const MAX_SHOWN_CHARS = 80;

/** A value as a message shows it: short, and on one line. */
export function shown(value: unknown): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value.slice(0, MAX_SHOWN_CHARS)) + (value.length > MAX_SHOWN_CHARS ? "…" : "");
    case "number":
    case "boolean":
    case "bigint":
    case "undefined":
      return String(value);
    case "object":
      return value === null ? "null" : Array.isArray(value) ? "a list" : "an object";
    default:
      return `a ${typeof value}`;
  }
}

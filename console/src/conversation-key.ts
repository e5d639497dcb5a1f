/** How a conversation's key reads in a list: its parts, one after the other, as they came. */
import { line, record } from "./format.ts";

export function keyText(key: unknown): string {
  if (key === null || key === undefined) return "–";
  const parts = Object.entries(record(key))
    .filter(([name]) => name !== "source")
    .map(([, value]) => (Array.isArray(value) ? value.map((part) => line(part, 80)).join(" / ") : line(value, 80)));
  return parts.length === 0 ? line(key, 120) : parts.join(" / ");
}

/** An event as one readable line. Bodies are a stranger's: nothing is taken for granted of them. */
import type { JobEvent } from "../client/index.ts";
import { shortened } from "./terminal.ts";

const MAX_TEXT = 400;
const KIND_WIDTH = 11;

const asRecord = (body: unknown): Record<string, unknown> =>
  typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};

const asText = (value: unknown): string =>
  value === undefined ? "" : typeof value === "string" ? value : (JSON.stringify(value) ?? "");

const joined = (...parts: unknown[]): string =>
  parts
    .map(asText)
    .filter((part) => part !== "")
    .join(" ");

/** `12 of 80 files, 15 %: counting`. */
export function progressText(body: unknown): string {
  const { current, total, units, message } = asRecord(body);
  const share =
    typeof current === "number" && typeof total === "number" && total > 0
      ? `, ${Math.floor((100 * current) / total)} %`
      : "";
  const amount = joined(current, total === undefined ? undefined : `of ${asText(total)}`, units) + share;
  return message === undefined ? amount : `${amount}: ${asText(message)}`;
}

function textOf(kind: string, body: unknown): string {
  const fields = asRecord(body);
  switch (kind) {
    case "log":
      return joined(fields["level"] === "info" ? undefined : `[${asText(fields["level"])}]`, fields["message"]);
    case "thought":
      return asText(fields["text"]);
    case "status":
      return joined(fields["phase"], fields["message"]);
    case "progress":
      return progressText(body);
    case "metric":
      return joined(`${asText(fields["name"])} =`, fields["value"], fields["unit"], fields["dimensions"]);
    case "tool_call":
      return joined(fields["tool"], fields["args"]);
    case "tool_result":
      return fields["error"] === undefined ? joined("->", fields["result"]) : joined("-> failed:", fields["error"]);
    case "artifact_ref":
      return joined(fields["uri"], fields["content_type"]);
    case "result_chunk":
      return `part ${asText(fields["chunk_seq"])} of the result`;
    default:
      return asText(body);
  }
}

/** The time of day in UTC, the kind, and what it says. */
export function eventLine(event: JobEvent): string {
  const time = event.ts.slice(11, 19);
  return `${time}  ${shortened(event.kind, 40).padEnd(KIND_WIDTH)}  ${shortened(textOf(event.kind, event.body), MAX_TEXT)}`;
}

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

/** Questions of the job and what became of them in words, all else as its phase. */
function statusText(fields: Record<string, unknown>): string {
  switch (fields["phase"]) {
    case "input_required":
      return joined(fields["to"] === undefined ? "asks:" : `asks ${asText(fields["to"])}:`, fields["message"]);
    case "input_received":
      return joined("was answered by", fields["answered_by"]);
    default:
      return joined(fields["phase"], fields["message"]);
  }
}

/** An error of the wire as code and message, any other as it is. */
function errorText(error: unknown): unknown {
  const { code, message } = asRecord(error);
  return code === undefined || message === undefined ? error : `${asText(code)}: ${asText(message)}`;
}

function textOf(kind: string, body: unknown): string {
  const fields = asRecord(body);
  switch (kind) {
    case "log":
      return joined(fields["level"] === "info" ? undefined : `[${asText(fields["level"])}]`, fields["message"]);
    case "thought":
      return asText(fields["text"]);
    case "status":
      return statusText(fields);
    case "progress":
      return progressText(body);
    case "metric":
      return joined(`${asText(fields["name"])} =`, fields["value"], fields["unit"], fields["dimensions"]);
    case "tool_call":
      return joined(fields["tool"], fields["args"]);
    case "tool_result":
      return fields["error"] === undefined
        ? joined("->", fields["result"])
        : joined("-> failed:", errorText(fields["error"]));
    case "delegate":
      return joined(fields["agent"], fields["input"], `(${asText(fields["delegate_id"])})`);
    case "artifact_ref":
      return joined(fields["uri"], fields["content_type"]);
    default:
      return asText(body);
  }
}

/** The time of day in UTC, the kind, and what it says. */
export function eventLine(event: JobEvent): string {
  const time = event.ts.slice(11, 19);
  return `${time}  ${shortened(event.kind, 40).padEnd(KIND_WIDTH)}  ${shortened(textOf(event.kind, event.body), MAX_TEXT)}`;
}

/** What a row of a timeline says on its one line, and the word it stands under. Bodies are a stranger's. */
import { amount, bytes, line, record } from "./format.ts";
import type { Row } from "./timeline-rows.ts";

export type Tone = "plain" | "good" | "bad" | "warn" | "quiet" | "accent";

export interface RowText {
  label: string;
  text: string;
  tone: Tone;
}

const joined = (...parts: unknown[]): string =>
  parts
    .map((part) => line(part))
    .filter((part) => part !== "")
    .join(" ");

/** An error of the wire as code and message, any other as it is. */
export function errorText(error: unknown): string {
  const { code, message } = record(error);
  return code === undefined || message === undefined ? line(error) : `${line(code)}: ${line(message)}`;
}

export function progressOf(body: unknown): { current: number; total: number | undefined; text: string } {
  const { current, total, units, message } = record(body);
  const now = typeof current === "number" ? current : 0;
  const all = typeof total === "number" && total > 0 ? total : undefined;
  return {
    current: now,
    total: all,
    text: joined(
      amount(now),
      all === undefined ? undefined : `of ${amount(all)}`,
      units,
      message && `· ${line(message)}`,
    ),
  };
}

const LEVEL_TONE: Readonly<Record<string, Tone>> = { debug: "quiet", warn: "warn", error: "bad" };

export function rowText(row: Row): RowText {
  switch (row.kind) {
    case "tool": {
      const { tool, args } = record(row.call.body);
      const { result, error } = record(row.result?.body);
      const outcome =
        row.result === undefined ? "…" : error === undefined ? `→ ${line(result ?? null)}` : `✗ ${errorText(error)}`;
      return {
        label: "tool",
        text: joined(tool, args, outcome),
        tone: row.result === undefined ? "accent" : error === undefined ? "good" : "bad",
      };
    }
    case "progress":
      return { label: "progress", text: progressOf(row.event.body).text, tone: "accent" };
    case "chunks":
      return {
        label: "result",
        text: `${bytes(row.result.size)} in ${amount(row.count)} chunks${row.done ? "" : ", more to come"} · ${line(row.result.pieces.find((piece) => typeof piece === "string"))}`,
        tone: row.done ? "good" : "accent",
      };
    case "question": {
      const { message, to } = record(row.event.body);
      const { phase, answered_by: by } = record(row.outcome?.body);
      const outcome = phase === undefined ? "" : by === undefined ? `· ${line(phase)}` : `· answered by ${line(by)}`;
      return {
        label: "asks",
        text: joined(to === undefined ? undefined : `${line(to)}:`, message, outcome),
        tone: row.outcome === undefined ? "warn" : "plain",
      };
    }
    case "end": {
      const { final_status: status, code, message, summary, result } = row.terminal;
      const text = status === "success" ? joined(summary ?? result) : joined(code && `${code}:`, message);
      return { label: status, text, tone: status === "success" ? "good" : status === "cancelled" ? "warn" : "bad" };
    }
    case "plain":
      return plainText(row.event.kind, record(row.event.body), row.event.body);
  }
}

function plainText(kind: string, fields: Record<string, unknown>, body: unknown): RowText {
  switch (kind) {
    case "log":
      return {
        label: line(fields["level"] ?? "log", 12),
        text: joined(fields["message"], fields["attributes"]),
        tone: LEVEL_TONE[String(fields["level"])] ?? "plain",
      };
    case "thought":
      return { label: "thought", text: line(fields["text"]), tone: "quiet" };
    case "status":
      return { label: "status", text: joined(fields["phase"], fields["message"]), tone: "accent" };
    case "metric":
      return {
        label: "metric",
        text: joined(fields["name"], "=", fields["value"], fields["unit"], fields["dimensions"]),
        tone: "quiet",
      };
    case "delegate":
      return { label: "delegate", text: joined(fields["agent"], fields["input"]), tone: "accent" };
    case "artifact_ref":
      return { label: "artifact", text: joined(fields["uri"], fields["content_type"]), tone: "plain" };
    case "tool_result":
      return {
        label: "tool",
        text: joined("→", fields["error"] === undefined ? fields["result"] : errorText(fields["error"])),
        tone: "plain",
      };
    default:
      return { label: line(kind, 24), text: line(body), tone: "plain" };
  }
}

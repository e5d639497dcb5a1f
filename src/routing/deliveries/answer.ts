/** What an answer says: how a job ended, as text and files for people (DLV-12). */
import type { JobErrorPayload } from "../../protocol/index.ts";
import type { OutgoingFile } from "./channel.ts";

/** How a job ended, with its result in one piece. */
export type Ending =
  | {
      readonly status: "success";
      readonly result?: unknown;
      /** Of a result that came in pieces: text, or bytes as base64. */
      readonly result_encoding?: "utf8" | "base64";
      readonly content_type?: string;
    }
  | (Omit<JobErrorPayload, "final_status"> & { readonly status: JobErrorPayload["final_status"] });

export interface Answer {
  readonly text: string;
  readonly files?: readonly OutgoingFile[] | undefined;
}

/** What is said when there is nothing to say: no channel takes an empty message. */
const NOTHING = "Done.";
const MAX_FILE_NAME_CHARS = 128;

/**
 * A result that is a text, as it is; an object with a string `text`, and perhaps `files` of `{name, content_type?, text}`
 * or `{name, content_type?, base64}`, as those; bytes, as a file; anything else, as JSON. A failure, in words.
 */
export function answerOf(ending: Ending): Answer {
  switch (ending.status) {
    case "success":
      return ending.result_encoding === "base64" ? bytesOf(ending) : resultOf(ending.result);
    case "cancelled":
      return { text: "Stopped." };
    case "timed_out":
    case "error": {
      const { code, message, retryable, details } = ending;
      const own = details?.["code"];
      const advice = retryable ? "\nSend your message again to try once more." : "";
      return { text: `${typeof own === "string" ? own : code}: ${message}${advice}` };
    }
  }
}

function resultOf(result: unknown): Answer {
  if (result === undefined || result === null || result === "") return { text: NOTHING };
  if (typeof result === "string") return { text: result };
  const message = messageOf(result);
  if (message !== undefined) return message;
  return { text: JSON.stringify(result, undefined, 2) };
}

/** `undefined` for what has another shape: nothing of it is left out then. */
function messageOf(result: unknown): Answer | undefined {
  const { text, files = [], ...rest } = result as { text?: unknown; files?: unknown };
  if (typeof text !== "string" || !Array.isArray(files) || Object.keys(rest).length > 0) return undefined;
  const read = files.map(fileOf);
  if (!read.every((file) => file !== undefined)) return undefined;
  return { text: text === "" ? NOTHING : text, files: read };
}

function fileOf(value: unknown): OutgoingFile | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { name, content_type: type, text, base64 } = value as Readonly<Record<string, unknown>>;
  if (typeof name !== "string" || (type !== undefined && typeof type !== "string")) return undefined;
  if (typeof text === "string" && base64 === undefined) {
    return { name: fileName(name), contentType: type ?? "text/plain", data: new TextEncoder().encode(text) };
  }
  if (typeof base64 === "string" && text === undefined) {
    return { name: fileName(name), contentType: type ?? "application/octet-stream", data: fromBase64(base64) };
  }
  return undefined;
}

const bytesOf = ({ result, content_type: type }: Ending & { status: "success" }): Answer => ({
  text: "The answer is a file.",
  files: [{ name: "answer", contentType: type ?? "application/octet-stream", data: fromBase64(String(result)) }],
});

const fromBase64 = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"));

/** A name and no path, on one line. */
function fileName(name: string): string {
  const last = name.split(/[\\/]/).at(-1) ?? "";
  const plain = last.replace(/\p{C}/gu, "").trim().slice(0, MAX_FILE_NAME_CHARS).toWellFormed();
  return plain === "" || plain === "." || plain === ".." ? "file" : plain;
}

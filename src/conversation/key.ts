/**
 * Conversation keys: where somebody talks to an agent, as a value. A shared place (a thread of a channel) has one
 * id whoever computes it; what is one person's own is bound to that principal, so that nobody reaches another's
 * conversation by its name (CNV-1 to CNV-4).
 */
import { createHash } from "node:crypto";
import { ArcpError } from "../protocol/index.ts";

export type ConversationKey =
  /** A thread of a Slack channel. The team is an attribute: a shared channel is one place in all its workspaces. */
  | {
      readonly source: "slack";
      readonly team?: string | undefined;
      readonly channel: string;
      readonly thread: string;
      readonly ticket?: string | undefined;
    }
  /** A chat on a page, named by its owner. */
  | { readonly source: "web"; readonly chat: string }
  /** A conversation of somebody's command line. */
  | { readonly source: "cli"; readonly name: string }
  /** The host's own: the parts say which. */
  | { readonly source: `x-${string}`; readonly parts: readonly string[] };

export type ConversationSource = ConversationKey["source"];

const MAX_PART_CHARS = 256;
const MAX_PARTS = 16;
/** 160 of the hash's 256 bits: 32 characters. */
const ID_BYTES = 20;
const CUSTOM = /^x-[a-z0-9][a-z0-9_-]{0,31}$/;
const CONTROL = /\p{Cc}/u;

/** Whether keys of that source are of a channel that several people share. */
export const isChannel = (source: string): boolean => source === "slack";

/** The parts that make the place, in order; what is left out is an empty text, which no part may be. */
function partsOf(key: ConversationKey): readonly string[] {
  switch (key.source) {
    case "slack":
      return [key.channel, key.thread, key.ticket ?? ""];
    case "web":
      return [key.chat];
    case "cli":
      return [key.name];
    default:
      return key.parts;
  }
}

/**
 * Checks a key that came from anywhere.
 *
 * @param field where it stands, for messages
 * @throws ArcpError INVALID_REQUEST naming the part, the value and the remedy
 */
export function parseKey(value: unknown, field = "key"): ConversationKey {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalid(field, value, 'is not an object such as {"source": "cli", "name": "notes"}');
  }
  const given = value as Readonly<Record<string, unknown>>;
  const { source } = given;
  switch (source) {
    case "slack":
      only(given, ["source", "team", "channel", "thread", "ticket"], field);
      return {
        source,
        channel: part(given["channel"], `${field}.channel`),
        thread: part(given["thread"], `${field}.thread`),
        ...optional("team", given, field),
        ...optional("ticket", given, field),
      };
    case "web":
      only(given, ["source", "chat"], field);
      return { source, chat: part(given["chat"], `${field}.chat`) };
    case "cli":
      only(given, ["source", "name"], field);
      return { source, name: part(given["name"], `${field}.name`) };
    default: {
      if (typeof source !== "string" || !isCustom(source)) {
        throw invalid(
          `${field}.source`,
          source,
          "is none of slack, web, cli, and no name of your own such as x-tickets",
        );
      }
      only(given, ["source", "parts"], field);
      const { parts } = given;
      if (!Array.isArray(parts) || parts.length === 0 || parts.length > MAX_PARTS) {
        throw invalid(`${field}.parts`, parts, `is not a list of 1 to ${MAX_PARTS} texts`);
      }
      return { source, parts: parts.map((text: unknown, index) => part(text, `${field}.parts[${index}]`)) };
    }
  }
}

const isCustom = (source: string): source is `x-${string}` => CUSTOM.test(source);

function part(value: unknown, field: string): string {
  if (typeof value !== "string") throw invalid(field, value, "is not a text");
  if (value === "") throw invalid(field, value, "is empty");
  if (value.length > MAX_PART_CHARS) throw invalid(field, value, `has more than ${MAX_PART_CHARS} characters`);
  if (CONTROL.test(value)) throw invalid(field, value, "holds a control character");
  if (!value.isWellFormed()) throw invalid(field, value, "is not well-formed Unicode");
  return value;
}

function optional<K extends string>(
  name: K,
  given: Readonly<Record<string, unknown>>,
  field: string,
): { [P in K]?: string } {
  return given[name] === undefined ? {} : ({ [name]: part(given[name], `${field}.${name}`) } as { [P in K]: string });
}

function only(given: object, names: readonly string[], field: string): void {
  const odd = Object.keys(given).find((name) => !names.includes(name));
  if (odd !== undefined) throw invalid(field, odd, `is no part of such a key; it has ${names.join(", ")}`);
}

function invalid(field: string, value: unknown, reason: string): ArcpError {
  const shown = (JSON.stringify(value) ?? "undefined").slice(0, 80).toWellFormed();
  return new ArcpError("INVALID_REQUEST", `${field}: ${shown} ${reason}.`);
}

/**
 * The id of the place that a key names: the source, then a hash over its parts, each with its length before it, so
 * that no two keys read alike. One's own place is hashed with its owner.
 *
 * @param principal whose key it is; of no account for a channel's
 */
export function conversationIdOf(key: ConversationKey, principal: string): string {
  const { source } = key;
  const owner = isChannel(source) ? "" : principal;
  const hash = createHash("sha256");
  for (const text of [source, owner, ...partsOf(key)]) {
    const bytes = Buffer.from(text, "utf8");
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    hash.update(length).update(bytes);
  }
  return `${source}_${base32(hash.digest().subarray(0, ID_BYTES))}`;
}

/** JSON text that says the same of equal keys. */
export const keyText = (key: ConversationKey): string =>
  JSON.stringify(key.source.startsWith("x-") || key.source !== "slack" ? key : sorted(key));

const sorted = (key: object): object => Object.fromEntries(Object.entries(key).sort(([a], [b]) => (a < b ? -1 : 1)));

const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

function base32(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += ALPHABET[(value >> bits) & 31];
    }
    value &= (1 << bits) - 1;
  }
  return text;
}

/**
 * A key as a command line writes it: `slack:CHANNEL/THREAD[/TICKET]`, `web:CHAT`, `cli:NAME`, `x-SOURCE:PART/PART`.
 * Within a part `/` and `%` are percent-encoded.
 *
 * @throws ArcpError INVALID_REQUEST
 */
export function readKey(text: string): ConversationKey {
  const at = text.indexOf(":");
  const source = text.slice(0, Math.max(0, at));
  const parts = text
    .slice(at + 1)
    .split("/")
    .map((escaped) => unescaped(escaped, text));
  const [first, second, third, ...more] = parts;
  switch (source) {
    case "slack":
      if (more.length > 0 || second === undefined) {
        throw invalid("key", text, "is not slack:CHANNEL/THREAD or slack:CHANNEL/THREAD/TICKET");
      }
      return parseKey({ source, channel: first, thread: second, ...(third === undefined ? {} : { ticket: third }) });
    case "web":
    case "cli":
      if (second !== undefined) throw invalid("key", text, "has more than one part; write a slash in it as %2F");
      return parseKey(source === "web" ? { source, chat: first } : { source, name: first });
    default:
      return parseKey({ source, parts });
  }
}

function unescaped(text: string, whole: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid("key", whole, "holds a % that encodes nothing; write it as %25");
  }
}

/** The text that {@link readKey} reads as this key; a Slack key's team is left out. */
export function writeKey(key: ConversationKey): string {
  const parts = partsOf(key).filter((text) => text !== "");
  return `${key.source}:${parts.map((text) => text.replace(/[%/]/g, encodeURIComponent)).join("/")}`;
}

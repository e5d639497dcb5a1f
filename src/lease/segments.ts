/**
 * Patterns and targets are texts of segments between slashes, and what is suspicious in one is so in the
 * other. Everything here refuses; nothing repairs.
 */
import { refuse } from "./refusal.ts";

/**
 * Paths nest no deeper, and no segment is longer. Both bound what one match may cost: some ten thousand steps
 * for a pattern.
 */
const MAX_SEGMENTS = 128;
const MAX_SEGMENT_CHARS = 1_024;

/**
 * Control characters, and the two that end a line for a regular expression: `*` has to mean any character
 * for the matcher and for the automaton alike.
 */
const CONTROL = /[\p{Cc}\p{Zl}\p{Zp}]/u;

/** A `%` that somebody would decode. */
export const ESCAPE = /%[0-9a-f]{2}/i;

/** Of a host: another spelling of the same one, which some compare as if it were another. */
export const DOT_AT_END = /\.(?::\d*)?$/;

/** For a text as it came, and again for what decoding made of it. */
export function checkCharacters(text: string, maxChars: number): void {
  if (text === "") refuse("is empty");
  if (text.length > maxChars) refuse(`has more than ${maxChars} characters`);
  if (!text.isWellFormed()) refuse("holds half a surrogate pair");
  if (CONTROL.test(text)) refuse("holds a control character");
  if (text.includes("\\")) refuse("holds a backslash");
}

export function checkSegments(segments: readonly string[]): void {
  if (segments.length > MAX_SEGMENTS) refuse(`has more than ${MAX_SEGMENTS} segments`);
  for (const segment of segments) {
    if (segment === "") refuse("holds an empty segment");
    if (segment === "." || segment === "..") refuse(`holds the segment \`${segment}\``);
    if (segment.length > MAX_SEGMENT_CHARS) refuse(`holds a segment of more than ${MAX_SEGMENT_CHARS} characters`);
  }
}

/** Some file systems drop these at the end of a name: two names would be one. Not for URLs, which end in dots at times. */
export function checkEnds(segments: readonly string[]): void {
  if (segments.some((segment) => /[. ]$/.test(segment))) refuse("holds a segment that ends in a dot or a space");
}

/** A segment with its percent-encoding decoded, once; what is encoded again, or hides a separator, is refused. */
export function decodeSegment(segment: string): string {
  if (!ESCAPE.test(segment)) return segment;
  const decoded = segment.replace(/(?:%[0-9a-f]{2})+/gi, decodeRun);
  if (decoded.includes("/")) refuse("holds an encoded slash");
  checkCharacters(decoded, segment.length);
  if (ESCAPE.test(decoded)) refuse("is percent-encoded twice");
  return decoded;
}

function decodeRun(run: string): string {
  try {
    return decodeURIComponent(run);
  } catch {
    return refuse("is percent-encoded, and not as UTF-8");
  }
}

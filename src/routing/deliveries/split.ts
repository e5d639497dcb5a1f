/**
 * Long texts in parts that a channel takes (DLV-13): cut between paragraphs where that leaves no tiny part, else
 * between lines, else between words, else anywhere but within a character. A block of code that is cut is closed, and
 * opened again in the next part.
 */

/** A cut nearer to a part's begin than this share of it would leave a tiny part. */
const LEAST_SHARE = 1 / 4;
const FENCE = "```";
const CLOSED = `\n${FENCE}`;
/** An opening line beyond this is opened again without what stands behind it. */
const MAX_OPENING_CHARS = 40;
/** Below this there is no room for fences: the least part is to be longer than an opening line. */
const LEAST_CHARS_FOR_FENCES = 8 * MAX_OPENING_CHARS;

/** At least one part; each of at most `maxChars` characters. */
export function split(text: string, maxChars: number): string[] {
  const parts: string[] = [];
  let rest = text;
  const fences = maxChars >= LEAST_CHARS_FOR_FENCES;
  while (rest.length > maxChars) {
    const room = fences ? maxChars - CLOSED.length : maxChars;
    const at = cutOf(rest, Math.max(1, room));
    const opening = fences ? openAt(rest.slice(0, at)) : undefined;
    if (opening === undefined) {
      parts.push(rest.slice(0, at).trimEnd());
      rest = rest
        .slice(at)
        .replace(/^\s*\n/, "")
        .trimStart();
    } else {
      parts.push(`${rest.slice(0, at).replace(/\n$/, "")}${CLOSED}`);
      rest = `${opening}\n${rest.slice(at).replace(/^\n/, "")}`;
    }
  }
  parts.push(rest);
  const said = parts.filter((part) => part.trim() !== "");
  return said.length > 0 ? said : [text.slice(0, maxChars)];
}

/** Where to cut within the first `room` characters: behind the separator. */
function cutOf(text: string, room: number): number {
  const window = text.slice(0, room + 1);
  const least = room * LEAST_SHARE;
  for (const separator of ["\n\n", "\n", " "]) {
    const found = window.lastIndexOf(separator, room - separator.length + 1);
    if (found >= least && found > 0) return Math.min(found + separator.length, room);
  }
  return isPairAt(text, room) && room > 1 ? room - 1 : room;
}

/** Whether a cut there would go through one character. */
const isPairAt = (text: string, at: number): boolean =>
  /[\uD800-\uDBFF]/.test(text.charAt(at - 1)) && /[\uDC00-\uDFFF]/.test(text.charAt(at));

/** The line that opened the block of code in which a text ends; `undefined` where it ends in none. */
function openAt(text: string): string | undefined {
  let opening: string | undefined;
  for (const line of text.split("\n")) {
    const trimmed = line.trimStart();
    if (!trimmed.startsWith(FENCE)) continue;
    if (opening !== undefined) opening = undefined;
    else opening = trimmed.length > MAX_OPENING_CHARS ? FENCE : trimmed.trimEnd();
  }
  return opening;
}

/** A text on its way to being one: at most `maxChars`, and a sign that it goes on. */
export function beginning(text: string, maxChars: number): string {
  if (text.length <= maxChars) return text;
  const room = maxChars - 1;
  return `${text.slice(0, isPairAt(text, room) ? room - 1 : room)}…`;
}

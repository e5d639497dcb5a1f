/**
 * The one place where text reaches a terminal (CLI-4). What agents, servers and other users can name is
 * stripped first: control characters would move the cursor or set the title, and overrides of the
 * writing direction would show another text than the one that is there.
 */
import type { Writable } from "node:stream";

/**
 * C0 and C1 controls, DEL, line and paragraph separators, bidirectional marks, embeddings, overrides and
 * isolates, zero-width characters that hide text, lone surrogates, and the invisible tag characters.
 */
const UNPRINTABLE =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\p{Cs}]/gu;

/** A stranger's text on one line: line breaks and tabs become spaces, all else unprintable goes. */
export const clean = (text: string): string => text.replace(/[\r\n\t]+/g, " ").replace(UNPRINTABLE, "");

/** A stranger's text, shortened to `max` characters. */
export function shortened(text: string, max: number): string {
  const printable = clean(text.length > max * 4 ? text.slice(0, max * 4) : text);
  return printable.length <= max ? printable : `${printable.slice(0, max - 1)}…`;
}

/** Where a command writes. */
export interface Terminal {
  /** One line of what was asked for, on standard output. Control characters are stripped. */
  line(text: string): void;
  /** One machine-readable value (CLI-2). JSON escapes C0 controls by itself; the rest are escaped here. */
  json(value: unknown): void;
  /** Text that the program made itself, with its line breaks: a table, a report. */
  block(text: string): void;
  /** One line that is no answer, on standard error. */
  remark(text: string): void;
  /** Whether a person reads standard output. */
  readonly interactive: boolean;
  readonly columns: number;
}

const jsonEscaped = (text: string): string =>
  text.replace(UNPRINTABLE, (character) =>
    [...Array(character.length).keys()]
      .map((index) => `\\u${character.charCodeAt(index).toString(16).padStart(4, "0")}`)
      .join(""),
  );

type Output = Writable & { isTTY?: boolean; columns?: number };

export function terminalOn(out: Output, err: Output): Terminal {
  return {
    line: (text) => void out.write(`${clean(text)}\n`),
    json: (value) => void out.write(`${jsonEscaped(JSON.stringify(value))}\n`),
    block: (text) => void out.write(`${text.split("\n").map(clean).join("\n")}\n`),
    remark: (text) => void err.write(`${clean(text)}\n`),
    interactive: out.isTTY === true,
    columns: out.columns ?? 100,
  };
}

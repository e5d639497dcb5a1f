/**
 * The one place where text reaches a terminal (CLI-4). What agents, servers and other users can name is
 * stripped first: control characters would move the cursor or set the title, and overrides of the
 * writing direction would show another text than the one that is there.
 */
import { once } from "node:events";
import type { Writable } from "node:stream";
import { Problem } from "./problem.ts";

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

/** An ISO 8601 time in UTC, as a table shows it: `2026-01-31 12:00:00 UTC`. */
export const readableTime = (iso: string): string => shortened(iso.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC"), 24);

/** Where a command writes. */
export interface Terminal {
  /** One line of what was asked for, on standard output. Control characters are stripped. */
  line(text: string): void;
  /** One machine-readable value (CLI-2). JSON escapes C0 controls by itself; the rest are escaped here. */
  json(value: unknown): void;
  /** JSON text as somebody laid it out, with its line breaks; escaped like {@link json}. */
  jsonText(text: string): void;
  /** Text that the program made itself, with its line breaks: a table, a report. */
  block(text: string): void;
  /**
   * A piece of a result as it is, for whatever program or file standard output is; for a person, text without
   * control characters. Resolves when there is room for the next.
   *
   * @throws Problem for bytes that a person would read
   */
  raw(piece: string | Uint8Array): Promise<void>;
  /** After the last piece: a person's prompt gets a line of its own. */
  endRaw(): void;
  /** The same in the place of what was there before, where a person watches; else one after the other. */
  screen(text: string): void;
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
  let midLine = false;
  return {
    raw: async (piece) => {
      if (out.isTTY === true && typeof piece !== "string") {
        throw new Problem("The result is bytes, which a terminal cannot show; send them to a file with `> FILE`.");
      }
      const written = out.isTTY === true && typeof piece === "string" ? piece.split("\n").map(clean).join("\n") : piece;
      if (written.length === 0) return;
      midLine = typeof written === "string" && !written.endsWith("\n");
      if (!out.write(written)) await once(out, "drain");
    },
    endRaw: () => {
      if (midLine && out.isTTY === true) out.write("\n");
      midLine = false;
    },
    line: (text) => void out.write(`${clean(text)}\n`),
    json: (value) => void out.write(`${jsonEscaped(JSON.stringify(value))}\n`),
    // Outside of its strings JSON has no other white space than these; within, it escapes them.
    jsonText: (text) => {
      const lines = text.replaceAll(/[\r\t]+/g, " ").split("\n");
      out.write(`${lines.map(jsonEscaped).join("\n")}\n`);
    },
    block: (text) => void out.write(`${text.split("\n").map(clean).join("\n")}\n`),
    screen: (text) => {
      const lines = text.split("\n").map(clean);
      // From the top left corner, each line to its end, then to the end of the screen: nothing flickers.
      if (out.isTTY === true) out.write(`\u001b[H${lines.join("\u001b[K\n")}\u001b[K\n\u001b[J`);
      else out.write(`${lines.join("\n")}\n`);
    },
    remark: (text) => void err.write(`${clean(text)}\n`),
    interactive: out.isTTY === true,
    columns: out.columns ?? 100,
  };
}

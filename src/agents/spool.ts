/** Returns its result in pieces, as it makes them: the smallest agent whose result is a stream. */
import { z } from "zod";
import type { AgentHandler } from "../runtime/index.ts";
import { parseInput } from "./input.ts";

const Input = z.strictObject({
  /** How many lines. */
  lines: z.int().min(0).max(100_000),
  /** Characters of each line, two bytes each, besides its number and its end. */
  chars: z.int().min(0).max(100_000).default(20),
  /** The same as bytes that are no text to the client. */
  binary: z.boolean().default(false),
});

/** Line `index` of a spool: its number, then as many of a letter of two bytes. */
const spoolLine = (index: number, chars: number): string => `${index} ${"ž".repeat(chars)}\n`;

/** `{lines, chars?, binary?}`: streams that many numbered lines, and says `N lines` as its summary. */
export const spool: AgentHandler = async (input, job) => {
  const { lines, chars, binary } = parseInput("spool", Input, input);
  const out = job.stream({ contentType: binary ? "application/octet-stream" : "text/plain" });
  for (let index = 0; index < lines; index += 1) {
    job.signal.throwIfAborted();
    const line = spoolLine(index, chars);
    await out.write(binary ? Buffer.from(line) : line);
  }
  await out.end(`${lines} lines`);
};

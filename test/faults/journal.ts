/**
 * What a client process writes down, a line at a time and at once, so that its own SIGKILL loses nothing
 * that it has seen. The checker reads this and nothing else of a run (but who started which job).
 */
import { appendFileSync, closeSync, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import type { ResumeState, Terminal } from "../../src/client/index.ts";

export type Entry =
  /** A process begins; a later one goes on in the same journal. */
  | { t: "start" }
  /** The wire, below the client: `c` is a connection of this process. */
  | { t: "in" | "out"; c: number; frame: string }
  /** The session, above the client. */
  | { t: "state"; state: ResumeState }
  | { t: "submit"; label: string; input: JobInput; key?: string | undefined }
  | { t: "accepted"; label: string; jobId: string }
  | { t: "rejected"; label: string; code: string; retryable: boolean; message: string }
  /** The process that sent it was killed before the answer, and nobody may send it again. */
  | { t: "abandoned"; label: string }
  | { t: "cancel"; jobId: string }
  /** `h` is a handle of this process; `whole` says that it must begin with the job's first event. */
  | { t: "follow"; h: number; jobId: string; whole: boolean }
  | { t: "event"; h: number; seq: number; message: string }
  | { t: "terminal"; h: number; jobId: string; terminal: Terminal }
  | { t: "broken"; h: number; jobId: string; why: string }
  | { t: "closed"; reason: string }
  /** Everything was settled, and the session closed. */
  | { t: "done" };

export interface JobInput {
  label: string;
  n: number;
  bytes: number;
  everyMs: number;
}

/** The message of an event: what tells loss, doubling and order by content. */
export const messageOf = (label: string, index: number, bytes: number): string =>
  `${label}:${index}:`.padEnd(bytes, ".");

export function readMessage(message: string): { label: string; index: number } | undefined {
  const [, label, index] = /^([^:]+):(\d+):\.*$/.exec(message) ?? [];
  return label === undefined || index === undefined ? undefined : { label, index: Number(index) };
}

export class Journal {
  readonly #fd: number;

  constructor(file: string) {
    // A killed writer may have left half a line.
    if (existsSync(file)) appendFileSync(file, "\n");
    this.#fd = openSync(file, "a");
  }

  write(entry: Entry): void {
    writeSync(this.#fd, `${JSON.stringify(entry)}\n`);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** @throws Error for a line that is no entry, unless its writer was killed in the middle of it */
export function readJournal(file: string): Entry[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, "utf8").split("\n");
  const entries: Entry[] = [];
  for (const [index, line] of lines.entries()) {
    if (line === "") continue;
    try {
      entries.push(JSON.parse(line) as Entry);
    } catch (error) {
      const next = lines[index + 1];
      if (next !== undefined && next !== "") throw new Error(`${file}:${index + 1} is no entry.`, { cause: error });
    }
  }
  return entries;
}

/**
 * What a client process writes down, a line at a time and at once, so that its own SIGKILL loses nothing
 * that it has seen. The checker reads this and nothing else of a run (but who started which job).
 */
import { appendFileSync, closeSync, existsSync, openSync, readFileSync, writeSync } from "node:fs";
import type { ResumeState, Terminal } from "../../src/client/index.ts";
import { systemClock } from "../../src/clock.ts";
import type { TurnInput } from "./turns/plan.ts";

export type Entry =
  /** A process begins; a later one goes on in the same journal. */
  | { t: "start" }
  /** The wire, below the client: `c` is a connection of this process. */
  | { t: "in" | "out"; c: number; frame: string }
  /** The session, above the client. */
  | { t: "state"; state: ResumeState }
  | { t: "submit"; label: string; submission: Submission }
  | { t: "accepted"; label: string; jobId: string }
  | { t: "rejected"; label: string; code: string; retryable: boolean; message: string }
  /** It is certain that nothing was stored, and it is not tried again. */
  | { t: "refused"; label: string; code: string }
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

/** With the wall milliseconds at which it was written. */
export type Written = Entry & { at: number };

/** What is submitted: under a key, or in a conversation under its label, it may be submitted again. */
export interface Submission {
  agent: string;
  input: JobInput | TurnInput;
  key?: string | undefined;
  turn?: { key: string; onBusy: "reject" | "enqueue" | "interrupt" } | undefined;
}

export const repeatable = ({ key, turn }: Submission): boolean => key !== undefined || turn !== undefined;

export interface JobInput {
  label: string;
  n: number;
  bytes: number;
  everyMs: number;
}

/** The message of an event: what tells loss, doubling and order by content. */
export const messageOf = (label: string, index: number, bytes: number, attempt = 1): string =>
  `${label}${attempt === 1 ? "" : `#${attempt}`}:${index}:`.padEnd(bytes, ".");

export interface Message {
  label: string;
  /** Which run of its job said it. */
  attempt: number;
  index: number;
}

export function readMessage(message: string): Message | undefined {
  const [, label, attempt = "1", index] = /^([^:#]+)(?:#(\d+))?:(\d+):\.*$/.exec(message) ?? [];
  return label === undefined || index === undefined
    ? undefined
    : { label, attempt: Number(attempt), index: Number(index) };
}

/** A run of an agent that has begun. */
export interface Start {
  label: string;
  jobId: string;
  attempt: number;
}

export function readStarts(file: string): Start[] {
  return readLines<Start>(file);
}

export class Journal {
  readonly #fd: number;

  constructor(file: string) {
    // A killed writer may have left half a line.
    if (existsSync(file)) appendFileSync(file, "\n");
    this.#fd = openSync(file, "a");
  }

  write(entry: Entry): void {
    writeSync(this.#fd, `${JSON.stringify({ ...entry, at: systemClock.wall() } satisfies Written)}\n`);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** @throws Error for a line that is no entry, unless its writer was killed in the middle of it */
export function readJournal(file: string): Written[] {
  return readLines<Written>(file);
}

function readLines<Line>(file: string): Line[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, "utf8").split("\n");
  const entries: Line[] = [];
  for (const [index, line] of lines.entries()) {
    if (line === "") continue;
    try {
      entries.push(JSON.parse(line) as Line);
    } catch (error) {
      const next = lines[index + 1];
      if (next !== undefined && next !== "") throw new Error(`${file}:${index + 1} is no entry.`, { cause: error });
    }
  }
  return entries;
}

/**
 * Real work for the demo: walks a directory, counts lines by language, finds the largest files and
 * those of equal content.
 *
 * Costs one read of every file, in pieces of 64 KiB whatever their size, and one entry in memory per
 * file, 200,000 at most. Content is hashed only where another file has the same size. Never follows a
 * symbolic link, never leaves the directory; names in the report are relative to it.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, opendir } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { ArcpError } from "../protocol/index.ts";
import type { AgentHandler, JobContext } from "../runtime/index.ts";
import { parseInput } from "./input.ts";
import { languageOf } from "./languages.ts";

/** Directories that hold what others made; skipped unless `everything` is set, and said so. */
const SKIPPED_BY_DEFAULT: ReadonlySet<string> = new Set(["node_modules", ".git", "dist"]);
const MAX_FILES = 200_000;
const CHUNK_BYTES = 64 * 1024;
/** A NUL this early means that lines mean nothing. */
const BINARY_PROBE_BYTES = 8 * 1024;
const NUL = 0;
const NEWLINE = 10;

const Input = z.strictObject({
  /** How many of the largest files to name. */
  largest: z.int().min(1).max(100).default(5),
  /** Looks into node_modules, .git and dist as well. */
  everything: z.boolean().default(false),
});

interface LanguageCount {
  language: string;
  files: number;
  lines: number;
  bytes: number;
}

/** What the survey returns. Names are relative to the directory, with `/` between their parts. */
export interface SurveyReport {
  files: number;
  bytes: number;
  lines: number;
  /** Most lines first. Files that are not text count under "binary", with no lines. */
  languages: LanguageCount[];
  largest: { path: string; bytes: number }[];
  /** Files of equal content, most wasted bytes first. Empty files are left out. */
  equal: { bytes: number; sha256: string; paths: string[] }[];
  /** Bytes that copies take beyond the first of each content. */
  wasted_bytes: number;
  /** Directories that were not looked into. */
  skipped: string[];
  symbolic_links: number;
  /** Files that could not be read, or changed their kind meanwhile. */
  unreadable: number;
  /** True when there were more than 200,000 files, and the rest was left out. */
  truncated: boolean;
}

interface FoundFile {
  path: string;
  bytes: number;
}

interface Found {
  files: FoundFile[];
  skipped: string[];
  symbolicLinks: number;
  unreadable: number;
  truncated: boolean;
}

/** Opens without following a link that somebody put there after the listing (0 where there is no such flag). */
const OPEN_FLAGS = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);

async function openRegular(file: string): Promise<{ handle: FileHandle; bytes: number } | undefined> {
  const handle = await open(file, OPEN_FLAGS);
  const stats = await handle.stat();
  if (stats.isFile()) return { handle, bytes: stats.size };
  await handle.close();
  return undefined;
}

async function note(job: JobContext, name: string, error: unknown): Promise<void> {
  const reason = (error as NodeJS.ErrnoException).code ?? "unknown";
  await job.log(`cannot read ${name}: ${reason}`, { level: "warn" });
}

async function walk(root: string, everything: boolean, job: JobContext): Promise<Found> {
  const found: Found = { files: [], skipped: [], symbolicLinks: 0, unreadable: 0, truncated: false };
  const pending = [""];
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    job.signal.throwIfAborted();
    try {
      for await (const entry of await opendir(path.join(root, directory))) {
        job.signal.throwIfAborted();
        const name = path.posix.join(directory, entry.name);
        if (entry.isSymbolicLink()) {
          found.symbolicLinks += 1;
        } else if (entry.isDirectory()) {
          if (!everything && SKIPPED_BY_DEFAULT.has(entry.name)) found.skipped.push(name);
          else pending.push(name);
        } else if (entry.isFile()) {
          if (found.files.length === MAX_FILES) {
            found.truncated = true;
            return found;
          }
          found.files.push({ path: name, bytes: 0 });
        }
      }
    } catch (error) {
      job.signal.throwIfAborted();
      if (directory === "") throw new ArcpError("INTERNAL_ERROR", "The directory cannot be read.", { cause: error });
      found.unreadable += 1;
      await note(job, directory, error);
    }
  }
  found.files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return found;
}

/** Runs over a file's content in pieces; the buffer is the caller's and is used again. */
async function eachChunk(
  file: string,
  buffer: Buffer,
  signal: AbortSignal,
  take: (chunk: Buffer, position: number) => void,
): Promise<number | undefined> {
  const opened = await openRegular(file);
  if (opened === undefined) return undefined;
  try {
    let position = 0;
    for (;;) {
      signal.throwIfAborted();
      const { bytesRead } = await opened.handle.read(buffer, 0, buffer.length, position);
      if (bytesRead === 0) return position;
      take(buffer.subarray(0, bytesRead), position);
      position += bytesRead;
    }
  } finally {
    await opened.handle.close();
  }
}

interface Content {
  bytes: number;
  /** `undefined`: not text. */
  lines: number | undefined;
}

async function readContent(file: string, buffer: Buffer, signal: AbortSignal): Promise<Content | undefined> {
  let newlines = 0;
  let binary = false;
  let last = NEWLINE;
  const bytes = await eachChunk(file, buffer, signal, (chunk, position) => {
    if (position < BINARY_PROBE_BYTES) binary ||= chunk.subarray(0, BINARY_PROBE_BYTES - position).includes(NUL);
    if (binary) return;
    for (let at = chunk.indexOf(NEWLINE); at !== -1; at = chunk.indexOf(NEWLINE, at + 1)) newlines += 1;
    last = chunk[chunk.length - 1] ?? NEWLINE;
  });
  if (bytes === undefined) return undefined;
  return { bytes, lines: binary ? undefined : newlines + (last === NEWLINE ? 0 : 1) };
}

async function sha256(file: string, buffer: Buffer, signal: AbortSignal): Promise<string | undefined> {
  const hash = createHash("sha256");
  const bytes = await eachChunk(file, buffer, signal, (chunk) => {
    hash.update(chunk);
  });
  return bytes === undefined ? undefined : hash.digest("hex");
}

async function countLines(
  root: string,
  found: Found,
  buffer: Buffer,
  job: JobContext,
): Promise<{ read: FoundFile[]; languages: LanguageCount[] }> {
  const read: FoundFile[] = [];
  const languages = new Map<string, LanguageCount>();
  const total = found.files.length;
  const every = Math.max(1, Math.ceil(total / 100));
  for (const [index, file] of found.files.entries()) {
    if (index % every === 0) await job.progress({ current: index, total, units: "files", message: "counting lines" });
    try {
      const content = await readContent(path.join(root, file.path), buffer, job.signal);
      if (content === undefined) {
        found.unreadable += 1;
        continue;
      }
      file.bytes = content.bytes;
      read.push(file);
      const language = content.lines === undefined ? "binary" : languageOf(file.path);
      const count = languages.get(language) ?? { language, files: 0, lines: 0, bytes: 0 };
      languages.set(language, count);
      count.files += 1;
      count.lines += content.lines ?? 0;
      count.bytes += content.bytes;
    } catch (error) {
      job.signal.throwIfAborted();
      found.unreadable += 1;
      await note(job, file.path, error);
    }
  }
  await job.progress({ current: total, total, units: "files", message: "counting lines" });
  return { read, languages: [...languages.values()].sort((a, b) => b.lines - a.lines || b.bytes - a.bytes) };
}

/** The groups of two and more that `key` puts together. */
function groups<T, K>(items: readonly T[], key: (item: T) => K): T[][] {
  return [...Map.groupBy(items, key).values()].filter((group) => group.length > 1);
}

async function findEqual(
  root: string,
  files: readonly FoundFile[],
  found: Found,
  buffer: Buffer,
  job: JobContext,
): Promise<SurveyReport["equal"]> {
  const suspects = groups(
    files.filter((file) => file.bytes > 0),
    (file) => file.bytes,
  );
  if (suspects.length > 0) {
    await job.thought(`${suspects.flat().length} files share their size with another; only their content is compared.`);
  }
  const equal: SurveyReport["equal"] = [];
  for (const sameSize of suspects) {
    const hashed: { file: FoundFile; hash: string }[] = [];
    for (const file of sameSize) {
      try {
        const hash = await sha256(path.join(root, file.path), buffer, job.signal);
        if (hash !== undefined) hashed.push({ file, hash });
      } catch (error) {
        job.signal.throwIfAborted();
        found.unreadable += 1;
        await note(job, file.path, error);
      }
    }
    for (const same of groups(hashed, ({ hash }) => hash)) {
      const [first] = same;
      if (first === undefined) continue;
      equal.push({ bytes: first.file.bytes, sha256: first.hash, paths: same.map(({ file }) => file.path) });
    }
  }
  return equal.sort((a, b) => wasted(b) - wasted(a));
}

const wasted = (group: SurveyReport["equal"][number]): number => group.bytes * (group.paths.length - 1);
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** @param directory the only directory that the agent looks into */
export function survey(directory: string): AgentHandler {
  return async (input, job): Promise<SurveyReport> => {
    const { largest, everything } = parseInput("survey", Input, input ?? {});
    const buffer = Buffer.allocUnsafe(CHUNK_BYTES);

    await job.status({ phase: "walking" });
    const found = await walk(directory, everything, job);
    await job.log(`found ${found.files.length} files`);
    if (found.skipped.length > 0) await job.log(`skipped ${found.skipped.join(", ")}`);
    if (found.truncated) await job.log(`stopped looking at ${MAX_FILES} files`, { level: "warn" });

    await job.status({ phase: "counting" });
    const { read, languages } = await countLines(directory, found, buffer, job);
    for (const { language, lines } of languages) {
      await job.metric({ name: "survey.lines", value: lines, unit: "lines", dimensions: { language } });
    }

    await job.status({ phase: "comparing" });
    const equal = await findEqual(directory, read, found, buffer, job);
    const wastedBytes = sum(equal.map(wasted));
    await job.metric({ name: "survey.wasted", value: wastedBytes, unit: "bytes" });

    return {
      files: read.length,
      bytes: sum(read.map((file) => file.bytes)),
      lines: sum(languages.map((count) => count.lines)),
      languages,
      largest: read.toSorted((a, b) => b.bytes - a.bytes).slice(0, largest),
      equal,
      wasted_bytes: wastedBytes,
      skipped: found.skipped,
      symbolic_links: found.symbolicLinks,
      unreadable: found.unreadable,
      truncated: found.truncated,
    };
  };
}

/**
 * Real work for the demo: walks a directory, counts lines by language, finds the largest files and
 * those of equal content. Everything is read through `job.fs`, so the lease decides what it gets to see
 * ({@link surveyLease}), and the report goes out in pieces while it is made.
 *
 * Costs one read of every file, in pieces of 64 KiB whatever their size, and one entry in memory per
 * file, 200,000 at most. Content is hashed only where another file has the same size. Symbolic links are
 * counted and never followed; one that takes a file's place meanwhile leads nowhere but within the lease.
 * Never leaves the directory; names in the report are relative to it.
 */
import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { parseLease } from "../lease/index.ts";
import { ArcpError, type Lease } from "../protocol/index.ts";
import type { AgentHandler, JobContext } from "../runtime/index.ts";
import { parseInput } from "./input.ts";
import { languageOf } from "./languages.ts";
import { ObjectWriter } from "./object-writer.ts";

/** Directories that hold what others made; skipped unless `everything` is set, and said so. */
const SKIPPED_BY_DEFAULT: ReadonlySet<string> = new Set(["node_modules", ".git", "dist"]);
const MAX_FILES = 200_000;
/** Of one directory; what a listing gives at the most. */
const MAX_ENTRIES = 100_000;
/** Thousands of reads would be two events each; a refusal is told all the same. */
const QUIET = { quiet: true };
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

/** What the survey returns, as JSON text. Names are relative to the directory, with `/` between their parts. */
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
  /** True when there were more than 200,000 files, or 100,000 in one directory, and the rest was left out. */
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

/** A directory as the grammar of leases spells it: from the root, with slashes. */
const spelt = (directory: string): string =>
  `/${directory.slice(path.parse(directory).root.length).split(path.sep).join("/")}`;

/** Where it really is: `job.fs` asks for real paths. One that is not there is said so when it is read. */
function realDirectory(directory: string): string {
  const absolute = path.resolve(directory);
  try {
    return spelt(realpathSync(absolute));
  } catch {
    return spelt(absolute);
  }
}

/**
 * What {@link survey} of that directory has to be granted. Nothing where the directory's name has a character
 * that means something else in a lease: the survey is refused then.
 */
export function surveyLease(directory: string): Lease {
  const root = realDirectory(directory);
  if (root.includes("*")) return {};
  try {
    return parseLease({ "fs.read": [root === "/" ? "/**" : `${root}/**`] }, "lease");
  } catch (error) {
    if (error instanceof ArcpError) return {};
    throw error;
  }
}

/** A name in the directory as `job.fs` takes it: it decodes what looks percent-encoded, which names are not. */
const targetOf = (root: string, name: string): string =>
  path.posix.join(root, name).replaceAll(/%(?=[0-9a-f]{2})/gi, "%25");

/** The system's word for what went wrong with a file, where it was the system. */
const errnoOf = (error: ArcpError): unknown => error.details?.["errno"];

/** Tells of a file that cannot be read. @throws the error, when it is none of the file's */
async function note(job: JobContext, name: string, error: unknown): Promise<void> {
  job.signal.throwIfAborted();
  if (!(error instanceof ArcpError)) throw error;
  if (error.code === "LEASE_EXPIRED" || error.code === "BUDGET_EXHAUSTED") throw error;
  await job.log(`cannot read ${name}: ${String(errnoOf(error) ?? error.code)}`, { level: "warn" });
}

/** The directory itself cannot be read. Where it is, is told by the lease or not at all. */
function unreadableRoot(error: unknown): unknown {
  if (!(error instanceof ArcpError)) return error;
  if (errnoOf(error) !== undefined) {
    return new ArcpError("INTERNAL_ERROR", "The directory cannot be read.", { cause: error });
  }
  const { code, message, details } = error;
  return new ArcpError(code, `A survey needs fs.read for all of its directory: ${message}`, { details, cause: error });
}

async function walk(root: string, everything: boolean, job: JobContext): Promise<Found> {
  const found: Found = { files: [], skipped: [], symbolicLinks: 0, unreadable: 0, truncated: false };
  const pending = [""];
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    try {
      const listing = await job.fs.list(targetOf(root, directory), { ...QUIET, maxEntries: MAX_ENTRIES });
      found.truncated ||= listing.truncated;
      for (const { name: base, kind } of listing.entries) {
        const name = path.posix.join(directory, base);
        if (kind === "link") {
          found.symbolicLinks += 1;
        } else if (kind === "directory") {
          if (!everything && SKIPPED_BY_DEFAULT.has(base)) found.skipped.push(name);
          else pending.push(name);
        } else if (kind === "file") {
          if (found.files.length === MAX_FILES) {
            found.truncated = true;
            return found;
          }
          found.files.push({ path: name, bytes: 0 });
        }
      }
    } catch (error) {
      job.signal.throwIfAborted();
      if (directory === "") throw unreadableRoot(error);
      await note(job, directory, error);
      found.unreadable += 1;
    }
  }
  found.files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return found;
}

interface Content {
  bytes: number;
  /** `undefined`: not text. */
  lines: number | undefined;
}

async function readContent(target: string, job: JobContext): Promise<Content> {
  let bytes = 0;
  let newlines = 0;
  let binary = false;
  let last = NEWLINE;
  for await (const piece of job.fs.readChunks(target, QUIET)) {
    if (bytes < BINARY_PROBE_BYTES) binary ||= piece.subarray(0, BINARY_PROBE_BYTES - bytes).includes(NUL);
    bytes += piece.length;
    if (binary) continue;
    for (let at = piece.indexOf(NEWLINE); at !== -1; at = piece.indexOf(NEWLINE, at + 1)) newlines += 1;
    last = piece[piece.length - 1] ?? NEWLINE;
  }
  return { bytes, lines: binary ? undefined : newlines + (last === NEWLINE ? 0 : 1) };
}

async function sha256(target: string, job: JobContext): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of job.fs.readChunks(target, QUIET)) hash.update(piece);
  return hash.digest("hex");
}

async function countLines(
  root: string,
  found: Found,
  job: JobContext,
): Promise<{ read: FoundFile[]; languages: LanguageCount[] }> {
  const read: FoundFile[] = [];
  const languages = new Map<string, LanguageCount>();
  const total = found.files.length;
  const every = Math.max(1, Math.ceil(total / 100));
  for (const [index, file] of found.files.entries()) {
    if (index % every === 0) await job.progress({ current: index, total, units: "files", message: "counting lines" });
    try {
      const content = await readContent(targetOf(root, file.path), job);
      file.bytes = content.bytes;
      read.push(file);
      const language = content.lines === undefined ? "binary" : languageOf(file.path);
      const count = languages.get(language) ?? { language, files: 0, lines: 0, bytes: 0 };
      languages.set(language, count);
      count.files += 1;
      count.lines += content.lines ?? 0;
      count.bytes += content.bytes;
    } catch (error) {
      await note(job, file.path, error);
      found.unreadable += 1;
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
        hashed.push({ file, hash: await sha256(targetOf(root, file.path), job) });
      } catch (error) {
        await note(job, file.path, error);
        found.unreadable += 1;
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

/** @param directory the only directory that the agent looks into; its jobs need {@link surveyLease} */
export function survey(directory: string): AgentHandler {
  return async (input, job) => {
    const { largest, everything } = parseInput("survey", Input, input ?? {});
    const root = realDirectory(directory);

    await job.status({ phase: "walking" });
    const found = await walk(root, everything, job);
    await job.log(`found ${found.files.length} files`);
    if (found.skipped.length > 0) await job.log(`skipped ${found.skipped.join(", ")}`);
    if (found.truncated) {
      const limits = `${MAX_FILES} files, and ${MAX_ENTRIES} entries of one directory`;
      await job.log(`left out what is beyond ${limits}`, { level: "warn" });
    }

    await job.status({ phase: "counting" });
    const { read, languages } = await countLines(root, found, job);
    for (const { language, lines } of languages) {
      await job.metric({ name: "survey.lines", value: lines, unit: "lines", dimensions: { language } });
    }
    const lines = sum(languages.map((count) => count.lines));
    const out = job.stream({ contentType: "application/json" });
    const report = new ObjectWriter<SurveyReport>(out);
    await report.field("files", read.length);
    await report.field("bytes", sum(read.map((file) => file.bytes)));
    await report.field("lines", lines);
    await report.list("languages", languages);
    await report.list("largest", read.toSorted((a, b) => b.bytes - a.bytes).slice(0, largest));
    await report.flush();

    await job.status({ phase: "comparing" });
    const equal = await findEqual(root, read, found, job);
    const wastedBytes = sum(equal.map(wasted));
    await job.metric({ name: "survey.wasted", value: wastedBytes, unit: "bytes" });
    await report.list("equal", equal);
    await report.field("wasted_bytes", wastedBytes);
    await report.list("skipped", found.skipped);
    await report.field("symbolic_links", found.symbolicLinks);
    await report.field("unreadable", found.unreadable);
    await report.field("truncated", found.truncated);
    await report.end();
    await out.end(`${read.length} files, ${lines} lines, ${wastedBytes} bytes in copies`);
  };
}

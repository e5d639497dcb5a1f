/**
 * The files of a job: reading under `fs.read`, changing under `fs.write`, each path checked before it is resolved
 * and again where it really leads (ACT-9 to ACT-16). Both are asked for real paths: a grant of a directory that is
 * a link covers nothing, grant the directory that it leads to.
 *
 * The stream tells the path as the agent named it and the number of bytes, never content. Reading may be `quiet`:
 * an agent that looks at thousands of files would otherwise put two events in the log for each; a refusal is told
 * all the same. Memory holds what a read returns, 16 MiB unless the agent asks for more.
 */
import { constants, type Dirent, type Stats } from "node:fs";
import { type FileHandle, lstat, mkdir, opendir, rmdir, unlink } from "node:fs/promises";
import path from "node:path";
import { ArcpError, type ErrorCode } from "../../protocol/index.ts";
import { handedOut } from "../handed-out.ts";
import { type ActingSeam, type Acts, wholeNumber } from "./acts.ts";
import { Directory, errnoOf, type Grant, Moved, openFile, openPlace, resolveWay, spelt } from "./place.ts";

export type FileKind = "file" | "directory" | "link" | "other";

export interface FileStat {
  /** Of what the path leads to; `link` where that is not there. */
  readonly kind: FileKind;
  readonly bytes: number;
  readonly modifiedAt: Date;
}

export interface DirectoryEntry {
  readonly name: string;
  /** Of the entry itself; a link is not followed. */
  readonly kind: FileKind;
}

export interface DirectoryListing {
  /** By name. */
  readonly entries: DirectoryEntry[];
  /** True when the directory holds more than was asked for. */
  readonly truncated: boolean;
}

export interface ReadOptions {
  /** Keeps a success out of the stream. @default false */
  quiet?: boolean;
}

export interface ReadFileOptions extends ReadOptions {
  /** A longer file is an error. @default 16_777_216 (16 MiB), at most 268_435_456 */
  maxBytes?: number;
}

const DEFAULT_READ_BYTES = 16 * 1024 * 1024;
const MAX_READ_BYTES = 256 * 1024 * 1024;
/** What one write takes; more goes in several. */
const MAX_WRITE_BYTES = 64 * 1024 * 1024;
const PIECE_BYTES = 64 * 1024;
/** For small files, and for those that do not know their size. */
const SMALL_PIECE_BYTES = 4 * 1024;
const DEFAULT_ENTRIES = 10_000;
const MAX_ENTRIES = 100_000;

type Capability = "fs.read" | "fs.write";

/** `job.fs`. Paths are absolute, with slashes. Every method throws what the lease refuses, as an `ArcpError`. */
export class JobFiles {
  readonly #run: ActingSeam;
  readonly #acts: Acts;

  constructor(run: ActingSeam, acts: Acts) {
    this.#run = run;
    this.#acts = acts;
  }

  /** @throws ArcpError INVALID_REQUEST for a file that is not there, is none, or is longer than `maxBytes` */
  readFile(file: string, options: ReadFileOptions = {}): Promise<Buffer> {
    return handedOut(this.#readFile(file, options));
  }

  async #readFile(file: string, options: ReadFileOptions): Promise<Buffer> {
    const maxBytes = wholeNumber("maxBytes", options.maxBytes ?? DEFAULT_READ_BYTES, MAX_READ_BYTES);
    return this.#act(
      "fs.read",
      file,
      options,
      (content) => ({ bytes: content.length }),
      async (canonical, grant) => {
        await using opened = await this.#openToRead(canonical, grant);
        return await this.#readAll(opened.handle, canonical, maxBytes);
      },
    );
  }

  /** The same as UTF-8 text. */
  readText(file: string, options?: ReadFileOptions): Promise<string> {
    return handedOut(this.readFile(file, options).then((content) => content.toString("utf8")));
  }

  /**
   * A file of any size in pieces of up to 64 KiB. The stream tells of the opening. Run it to its end or break out
   * of it: until then the file is open, and counts as an act under way (ACT-8).
   */
  readChunks(file: string, options: ReadOptions = {}): AsyncGenerator<Uint8Array, void, void> {
    const chunks = this.#readChunks(file, options);
    const next = chunks.next.bind(chunks);
    return Object.assign(chunks, { next: () => handedOut(next()) });
  }

  async *#readChunks(file: string, options: ReadOptions): AsyncGenerator<Uint8Array, void, void> {
    await using opened = await this.#act(
      "fs.read",
      file,
      options,
      ({ bytes }: OpenFile) => ({ bytes }),
      (canonical, grant) => this.#openToRead(canonical, grant),
      ({ closed }) => closed,
    );
    const pieceBytes = Math.min(Math.max(opened.bytes + 1, SMALL_PIECE_BYTES), PIECE_BYTES);
    for (;;) {
      this.#run.signal.throwIfAborted();
      const piece = Buffer.allocUnsafeSlow(pieceBytes);
      const { bytesRead } = await explained("fs.read", file, () => opened.handle.read(piece));
      if (bytesRead === 0) return;
      yield piece.subarray(0, bytesRead);
    }
  }

  /** @param options.maxEntries what is left out beyond is said by `truncated`. @default 10_000, at most 100_000 */
  list(directory: string, options: ReadOptions & { maxEntries?: number } = {}): Promise<DirectoryListing> {
    return handedOut(this.#list(directory, options));
  }

  async #list(directory: string, options: ReadOptions & { maxEntries?: number }): Promise<DirectoryListing> {
    const maxEntries = wholeNumber("maxEntries", options.maxEntries ?? DEFAULT_ENTRIES, MAX_ENTRIES);
    const tell = ({ entries, truncated }: DirectoryListing) => ({ entries: entries.length, truncated });
    return this.#act("fs.list", directory, options, tell, async (canonical, grant) => {
      await using opened = await Directory.open((await this.#resolve(canonical, grant)).real);
      if (spelt(opened.real) !== canonical) grant(opened.real);
      const entries: DirectoryEntry[] = [];
      let truncated = false;
      for await (const entry of await opendir(opened.itself)) {
        this.#run.signal.throwIfAborted();
        truncated = entries.length === maxEntries;
        if (truncated) break;
        entries.push({ name: entry.name, kind: kindOf(entry) });
      }
      await opened.confirm();
      return { entries: entries.sort((a, b) => (a.name < b.name ? -1 : 1)), truncated };
    });
  }

  stat(file: string, options: ReadOptions = {}): Promise<FileStat> {
    const tell = ({ kind, bytes }: FileStat) => ({ kind, bytes });
    return handedOut(this.#act("fs.stat", file, options, tell, (canonical, grant) => this.#stat(canonical, grant)));
  }

  /** Whether a path leads to something; one that the lease does not cover is refused all the same. */
  exists(file: string, options: ReadOptions = {}): Promise<boolean> {
    return handedOut(
      this.#act(
        "fs.exists",
        file,
        options,
        (exists) => ({ exists }),
        async (canonical, grant) => {
          try {
            return (await this.#stat(canonical, grant)).kind !== "link";
          } catch (error) {
            if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR") return false;
            throw error;
          }
        },
      ),
    );
  }

  /** Makes the file, or replaces its content. @throws ArcpError INVALID_REQUEST for more than 64 MiB at once */
  writeFile(file: string, data: string | Uint8Array): Promise<void> {
    return handedOut(this.#write("fs.write", file, data, 0));
  }

  /** Makes the file, or adds to its end. */
  appendFile(file: string, data: string | Uint8Array): Promise<void> {
    return handedOut(this.#write("fs.append", file, data, constants.O_APPEND));
  }

  /** @param options.recursive makes the directories above it as well, and one that is there is none too many */
  mkdir(directory: string, options: { recursive?: boolean } = {}): Promise<void> {
    const { recursive = false } = options;
    return handedOut(
      this.#act(
        "fs.mkdir",
        directory,
        {},
        () => null,
        async (canonical, grant) => {
          const { existing, missing } = await this.#resolve(canonical, grant);
          if (missing.length === 0 && !(recursive && (await lstat(existing)).isDirectory())) throw errno("EEXIST");
          if (missing.length > 1 && !recursive) throw errno("ENOENT");
          let real = existing;
          for (const name of missing) {
            real = path.join(real, name);
            if (spelt(real) !== canonical) grant(real);
            await using place = await openPlace(real, grant);
            await mkdir(place.directory.entry(name));
            await place.directory.confirm();
          }
        },
      ),
    );
  }

  /** Removes a file, a link (not what it leads to), or an empty directory. */
  remove(file: string): Promise<void> {
    return handedOut(
      this.#act(
        "fs.remove",
        file,
        {},
        () => null,
        async (canonical, grant) => {
          const above = await resolveWay(path.dirname(path.resolve(canonical)));
          const real = path.join(above.real, path.basename(canonical));
          if (spelt(real) !== canonical) grant(real);
          await using place = await openPlace(real, grant);
          const entry = place.directory.entry(place.name);
          await ((await lstat(entry)).isDirectory() ? rmdir(entry) : unlink(entry));
          await place.directory.confirm();
        },
      ),
    );
  }

  async #write(tool: string, file: string, data: string | Uint8Array, flags: number): Promise<void> {
    const bytes = typeof data === "string" ? Buffer.from(data, "utf8") : data;
    if (bytes.length > MAX_WRITE_BYTES) {
      throw new ArcpError(
        "INVALID_REQUEST",
        `data: ${bytes.length} bytes are over the ${MAX_WRITE_BYTES} that one write takes; append the rest.`,
        { details: { bytes: bytes.length, limit: MAX_WRITE_BYTES } },
      );
    }
    return this.#act(
      tool,
      file,
      {},
      () => ({ bytes: bytes.length }),
      async (canonical, grant) => {
        await using place = await openPlace((await this.#resolve(canonical, grant)).real, grant);
        const handle = await openFile(place, constants.O_WRONLY | constants.O_CREAT | flags, grant);
        try {
          await place.directory.confirm();
          // Only now: a file that turned out to lie elsewhere keeps what it holds.
          if ((flags & constants.O_APPEND) === 0) await handle.truncate(0);
          await handle.writeFile(bytes);
        } finally {
          await handle.close();
        }
      },
    );
  }

  async #stat(canonical: string, grant: Grant): Promise<FileStat> {
    await using place = await openPlace((await this.#resolve(canonical, grant)).real, grant);
    const stats = await lstat(place.directory.entry(place.name));
    await place.directory.confirm();
    return { kind: kindOf(stats), bytes: stats.size, modifiedAt: stats.mtime };
  }

  async #openToRead(canonical: string, grant: Grant): Promise<OpenFile> {
    await using place = await openPlace((await this.#resolve(canonical, grant)).real, grant);
    const handle = await openFile(place, constants.O_RDONLY, grant);
    try {
      const { promise: closed, resolve } = Promise.withResolvers<void>();
      const close = () => handle.close().finally(resolve);
      return { handle, bytes: (await handle.stat()).size, closed, [Symbol.asyncDispose]: close };
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async #readAll(handle: FileHandle, canonical: string, maxBytes: number): Promise<Buffer> {
    const { size } = await handle.stat();
    const pieces: Buffer[] = [];
    let total = 0;
    while (size <= maxBytes) {
      this.#run.signal.throwIfAborted();
      // One byte more than is expected, so that the end is usually seen by the second read.
      const piece = Buffer.allocUnsafeSlow(Math.min(Math.max(size - total, PIECE_BYTES), maxBytes - total) + 1);
      const { bytesRead } = await handle.read(piece);
      if (bytesRead === 0) return pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces);
      total += bytesRead;
      if (total > maxBytes) break;
      pieces.push(piece.subarray(0, bytesRead));
    }
    throw new ArcpError(
      "INVALID_REQUEST",
      `fs.read: ${JSON.stringify(canonical)} is longer than ${maxBytes} bytes; read it with readChunks, or raise maxBytes.`,
      { details: { path: canonical, limit: maxBytes } },
    );
  }

  /** The real path behind a canonical one, granted. */
  async #resolve(canonical: string, grant: Grant) {
    const way = await resolveWay(canonical);
    if (spelt(way.real) !== canonical) grant(way.real);
    return way;
  }

  /** One act on one path: the check, the work, and errors that name the path as the agent did. */
  #act<T>(
    tool: string,
    given: string,
    { quiet }: ReadOptions,
    tell: (outcome: T) => unknown,
    work: (canonical: string, grant: Grant) => Promise<T>,
    closed?: (outcome: T) => Promise<void>,
  ): Promise<T> {
    const capability = capabilityOf(tool);
    return this.#acts.act({
      tool,
      args: { path: given },
      tell,
      quiet,
      closed,
      work: () => {
        const canonical = this.#run.authorize(capability, given);
        return explained(tool, canonical, () => work(canonical, (real) => this.#grant(capability, canonical, real)));
      },
    });
  }

  /** @throws ArcpError for a real path that the lease does not cover; the error names the path that was asked for */
  #grant(capability: Capability, canonical: string, real: string): void {
    const target = spelt(real);
    const sameRoot = path.parse(real).root === path.parse(path.resolve(canonical)).root;
    let granted = false;
    try {
      granted = sameRoot && this.#run.authorize(capability, target) === target;
    } catch (error) {
      if (!(error instanceof ArcpError)) throw error;
    }
    if (granted) return;
    // A lease that has ended meanwhile says so, in terms of the path that was asked for.
    this.#run.authorize(capability, canonical);
    throw leadsOutside(capability, canonical);
  }
}

interface OpenFile extends AsyncDisposable {
  readonly handle: FileHandle;
  readonly bytes: number;
  readonly closed: Promise<void>;
}

const READS: ReadonlySet<string> = new Set(["fs.read", "fs.list", "fs.stat", "fs.exists"]);

const capabilityOf = (tool: string): Capability => (READS.has(tool) ? "fs.read" : "fs.write");

const leadsOutside = (capability: string, target: string): ArcpError =>
  new ArcpError("PERMISSION_DENIED", `${capability}: ${JSON.stringify(target)} leads out of what the lease grants.`, {
    details: { capability, target },
  });

function kindOf(entry: Dirent | Stats): FileKind {
  if (entry.isFile()) return "file";
  if (entry.isDirectory()) return "directory";
  return entry.isSymbolicLink() ? "link" : "other";
}

const errno = (code: string): Error => Object.assign(new Error(code), { code });

/** What the system's errors mean to an agent. Any other is the machine's trouble, and may pass. */
const ERRNOS: Readonly<Record<string, readonly [ErrorCode, string]>> = {
  ENOENT: ["INVALID_REQUEST", "is not there"],
  ENOTDIR: ["INVALID_REQUEST", "is not there: a part of the path is no directory"],
  EISDIR: ["INVALID_REQUEST", "is a directory"],
  ENODEV: ["INVALID_REQUEST", "is no regular file"],
  ENXIO: ["INVALID_REQUEST", "is no regular file"],
  EEXIST: ["INVALID_REQUEST", "is there already"],
  ENOTEMPTY: ["INVALID_REQUEST", "is a directory that is not empty"],
  ELOOP: ["INVALID_REQUEST", "is a link that leads nowhere"],
  ENAMETOOLONG: ["INVALID_REQUEST", "is too long for the file system"],
  EACCES: ["PERMISSION_DENIED", "is closed to the runtime by the system"],
  EPERM: ["PERMISSION_DENIED", "is closed to the runtime by the system"],
  EROFS: ["PERMISSION_DENIED", "is on a file system that cannot be written"],
};

/** Does it, and makes an error of the system one that names the path as the agent did, and nothing else. */
async function explained<T>(tool: string, target: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ArcpError) throw error;
    if (error instanceof Moved) throw leadsOutside(capabilityOf(tool), target);
    const code = errnoOf(error);
    if (code === undefined || !/^E[A-Z0-9]+$/.test(code)) throw error;
    const [wire, what] = ERRNOS[code] ?? (["INTERNAL_ERROR", `cannot be used (${code})`] as const);
    throw new ArcpError(wire, `${tool}: ${JSON.stringify(target)} ${what}.`, {
      details: { path: target, errno: code },
      cause: error,
    });
  }
}

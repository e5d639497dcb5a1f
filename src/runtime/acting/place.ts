/**
 * Where a path leads, found so that nobody can move the goal afterwards. A lease is held against names, a file
 * system opens whatever a name means at that moment, and links make it mean something else; so what counts is
 * the place that was opened (ACT-10 to ACT-12).
 *
 * A path is resolved to its real one, the real one must be granted as well, and then the directory that holds
 * the entry is opened and asked where it is. On Linux everything else goes through that open directory
 * (`/proc/self/fd/N/name`), which no rename or link can exchange. Elsewhere there is no such path: the directory
 * is looked at before and after, by its real path and inode, which leaves a moment in which somebody who may write
 * there could have an empty file made outside, and never one with content.
 *
 * A hard link is the file itself, wherever else it has a name. Costs some seven system calls for each operation.
 */
import { type BigIntStats, constants } from "node:fs";
import { type FileHandle, lstat, open, readlink, realpath, stat } from "node:fs/promises";
import path from "node:path";

/** Asks the lease about a real path; throws when it is not granted. */
export type Grant = (real: string) => void;

/** A real path: the part that is there, and the names below it that are not. */
export interface Way {
  readonly existing: string;
  readonly missing: readonly string[];
  readonly real: string;
}

/** Somebody exchanged what was looked at for something else. */
export class Moved extends Error {
  override readonly name = "Moved";
}

/** 0 where the platform has no such flag. */
const NOFOLLOW = constants.O_NOFOLLOW ?? 0;
const DIRECTORY = constants.O_DIRECTORY ?? 0;
/** Opening never waits for the other end of a pipe. */
const NONBLOCK = constants.O_NONBLOCK ?? 0;

/** Errors of a way that ends before its last name. */
const NOT_THERE: ReadonlySet<string | undefined> = new Set(["ENOENT", "ENOTDIR"]);

export const errnoOf = (error: unknown): string | undefined =>
  error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;

/** Follows every link on the way, as far as the way is there. */
export async function resolveWay(canonical: string): Promise<Way> {
  const missing: string[] = [];
  for (let at = path.resolve(canonical); ; at = path.dirname(at)) {
    try {
      const existing = await realpath(at);
      return { existing, missing, real: path.join(existing, ...missing) };
    } catch (error) {
      if (!NOT_THERE.has(errnoOf(error)) || at === path.dirname(at)) throw error;
      missing.unshift(path.basename(at));
    }
  }
}

/** A real path as the lease spells it: from the root, with slashes. */
export const spelt = (real: string): string => `/${real.slice(path.parse(real).root.length).split(path.sep).join("/")}`;

/** An open directory, and where it was when it was opened. */
export class Directory implements AsyncDisposable {
  readonly real: string;
  readonly #base: string;
  readonly #handle: FileHandle | undefined;
  readonly #identity: BigIntStats | undefined;

  private constructor(real: string, base: string, handle: FileHandle | undefined, identity: BigIntStats | undefined) {
    this.real = real;
    this.#base = base;
    this.#handle = handle;
    this.#identity = identity;
  }

  /** @param real as {@link resolveWay} found it; no link is followed at its end */
  static async open(real: string): Promise<Directory> {
    if (process.platform !== "linux") {
      const identity = await lstat(real, { bigint: true });
      if (!identity.isDirectory()) throw Object.assign(new Error("not a directory"), { code: "ENOTDIR" });
      return new Directory(await realpath(real), real, undefined, identity);
    }
    const handle = await open(real, constants.O_RDONLY | DIRECTORY | NOFOLLOW);
    try {
      return new Directory(await readlink(descriptorPath(handle)), descriptorPath(handle), handle, undefined);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** The path by which the system finds an entry of this very directory. */
  entry(name: string): string {
    return `${this.#base}/${name === "" ? "." : name}`;
  }

  /** The path of the directory itself, for a listing. */
  get itself(): string {
    return this.#base;
  }

  /** @throws Moved when what was done may have been done elsewhere */
  async confirm(): Promise<void> {
    if (this.#identity === undefined) return;
    const now = await lstat(this.real, { bigint: true });
    if (!sameFile(now, this.#identity) || (await realpath(this.real)) !== this.real) throw new Moved();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle?.close();
  }
}

/** An entry of an open directory; the entry itself need not be there. */
export interface Place extends AsyncDisposable {
  readonly directory: Directory;
  readonly name: string;
  readonly real: string;
}

/** @throws what `grant` throws for the place where the directory turned out to be */
export async function openPlace(real: string, grant: Grant): Promise<Place> {
  const name = path.basename(real);
  const directory = await Directory.open(path.dirname(real));
  try {
    const place = path.join(directory.real, name);
    if (place !== real) grant(place);
    return { directory, name, real: place, [Symbol.asyncDispose]: () => directory[Symbol.asyncDispose]() };
  } catch (error) {
    await directory[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Opens the regular file at a place. Pipes and devices are not opened at all: that alone can have effects.
 *
 * @param flags of `open`; a link at the place is never followed, and nothing is truncated by opening
 * @throws Moved for a file that is not where it was looked for; an errno otherwise
 */
export async function openFile(place: Place, flags: number, grant: Grant): Promise<FileHandle> {
  const entry = place.directory.entry(place.name);
  const before = await lstat(entry).catch((error: unknown) => {
    if (errnoOf(error) === "ENOENT" && (flags & constants.O_CREAT) !== 0) return undefined;
    throw error;
  });
  if (before !== undefined) checkRegular(before);
  const handle = await open(entry, flags | NOFOLLOW | NONBLOCK);
  try {
    checkRegular(await handle.stat());
    const opened = await pathOf(handle, place);
    if (opened !== place.real) grant(opened);
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function pathOf(handle: FileHandle, place: Place): Promise<string> {
  if (process.platform === "linux") return readlink(descriptorPath(handle));
  const opened = await realpath(place.real);
  if (!sameFile(await stat(opened, { bigint: true }), await handle.stat({ bigint: true }))) throw new Moved();
  return opened;
}

function checkRegular(stats: { isFile(): boolean; isDirectory(): boolean; isSymbolicLink(): boolean }): void {
  if (stats.isFile()) return;
  const code = stats.isDirectory() ? "EISDIR" : stats.isSymbolicLink() ? "ELOOP" : "ENODEV";
  throw Object.assign(new Error("not a regular file"), { code });
}

const descriptorPath = (handle: FileHandle): string => `/proc/self/fd/${handle.fd}`;

const sameFile = (a: BigIntStats, b: BigIntStats): boolean => a.dev === b.dev && a.ino === b.ino;

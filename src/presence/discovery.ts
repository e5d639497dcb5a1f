/**
 * The discovery file: how a process finds the owner. It holds the owner's token, so it is its user's alone, and one
 * that somebody else could have read or written is not believed (PRS-5). Reading it again while it has not changed
 * costs a look at its metadata and its folder's.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { checkFolder, hasOwners } from "./place.ts";

export const DISCOVERY_FILENAME = "holdfast-active-sessions.json";

export interface Discovery {
  owner_pid: number;
  auth_token: string;
  port: number;
  /** When the owner wrote it, epoch seconds. */
  updated_at: number;
}

const OWN_FILE = 0o600;
const OTHERS = 0o077;
const MAX_BYTES = 4_096;

/** A FIFO would keep its reader waiting, a link may lead anywhere. Neither exists on Windows. */
const FLAGS = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);

type Stats = Awaited<ReturnType<typeof stat>>;

const versionOf = ({ dev, ino, size, mode, uid, mtimeMs, ctimeMs }: Stats): string =>
  [dev, ino, size, mode, uid, mtimeMs, ctimeMs].join(" ");

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === "ENOENT";

function parsed(text: string): Discovery | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { owner_pid, auth_token, port, updated_at } = value as Record<string, unknown>;
  const whole = (number: unknown): number is number => Number.isSafeInteger(number) && (number as number) > 0;
  if (!whole(owner_pid) || !whole(port) || port > 65_535 || !whole(updated_at)) return undefined;
  return typeof auth_token === "string" && auth_token !== "" ? { owner_pid, auth_token, port, updated_at } : undefined;
}

export class DiscoveryFile {
  readonly path: string;
  #last: { version: string; discovery: Discovery } | undefined;

  constructor(folder: string) {
    this.path = path.join(folder, DISCOVERY_FILENAME);
  }

  /**
   * @returns nothing when there is none
   * @throws Error when there is one that is not believed, saying why
   */
  async read(): Promise<Discovery | undefined> {
    try {
      await checkFolder(path.dirname(this.path));
      if (this.#last !== undefined && versionOf(await stat(this.path)) === this.#last.version) {
        return this.#last.discovery;
      }
      this.#last = await this.#readAnew();
      return this.#last.discovery;
    } catch (error) {
      this.#last = undefined;
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  async #readAnew(): Promise<{ version: string; discovery: Discovery }> {
    const handle = await open(this.path, FLAGS);
    try {
      // Of what was opened, not of what has the name now.
      const stats = await handle.stat();
      if (!stats.isFile()) throw new Error(`${this.path} is no regular file`);
      if (hasOwners && stats.uid !== process.getuid?.()) throw new Error(`${this.path} belongs to another user`);
      if (hasOwners && (stats.mode & OTHERS) !== 0) throw new Error(`${this.path} is open to others`);
      if (stats.size > MAX_BYTES) throw new Error(`${this.path} is too large`);
      const discovery = parsed(await handle.readFile("utf8"));
      if (discovery === undefined) throw new Error(`${this.path} is damaged`);
      return { version: versionOf(stats), discovery };
    } finally {
      await handle.close();
    }
  }

  /** Written beside and renamed, so that nobody reads half of it. Only the holder of the lock may call it. */
  async write(discovery: Discovery): Promise<void> {
    const draft = `${this.path}.${process.pid}.${randomBytes(4).toString("hex")}`;
    try {
      const handle = await open(draft, "wx", OWN_FILE);
      try {
        await handle.writeFile(`${JSON.stringify(discovery)}\n`);
      } finally {
        await handle.close();
      }
      await rename(draft, this.path);
    } catch (error) {
      await rm(draft, { force: true });
      throw error;
    }
  }

  /** Removes the file if it names this owner. Only the holder of the lock may call it. */
  async removeOf(token: string): Promise<void> {
    const found = await this.read().catch(() => undefined);
    if (found?.auth_token === token) await rm(this.path, { force: true });
  }
}

/**
 * The discovery file: how a command on this machine finds the server and its token without anything
 * being typed (CLI-1). It holds a token, so it is its user's alone: a 0600 file in a 0700 directory, and
 * one that somebody else could have written is not believed.
 */
import { chmod, mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";
import { z } from "zod";
import { Problem } from "./problem.ts";

const Discovery = z.object({
  url: z.string().min(1),
  token: z.string().min(1),
  pid: z.int().positive(),
  started_at: z.string(),
});

export type Discovery = z.infer<typeof Discovery>;

/** HOLDFAST_HOME, or `.holdfast` in the user's home. */
export const homeDirectory = (environment: NodeJS.ProcessEnv): string =>
  environment["HOLDFAST_HOME"] || path.join(homedir(), ".holdfast");

const fileIn = (home: string): string => path.join(home, "server.json");

const OWN_DIRECTORY = 0o700;
const OWN_FILE = 0o600;
const OTHERS = 0o077;
const hasModes = process.platform !== "win32";

/** Makes the directory, for its user only. */
export async function ensureHome(home: string): Promise<void> {
  await mkdir(home, { recursive: true, mode: OWN_DIRECTORY });
  if (hasModes) await chmod(home, OWN_DIRECTORY);
}

/** Written beside and renamed, so that nobody reads half of it. Replaces an older server's. */
export async function writeDiscovery(home: string, discovery: Discovery): Promise<void> {
  await ensureHome(home);
  const draft = `${fileIn(home)}.${discovery.pid}`;
  await rm(draft, { force: true });
  const handle = await open(draft, "wx", OWN_FILE);
  try {
    await handle.writeFile(`${JSON.stringify(discovery, null, 2)}\n`);
  } finally {
    await handle.close();
  }
  await rename(draft, fileIn(home));
}

/** Whether a process of that id exists, ours or not. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

async function read(home: string): Promise<Discovery | undefined> {
  const file = fileIn(home);
  let text: string;
  try {
    const stats = await stat(file);
    if (hasModes && stats.uid !== process.getuid?.()) {
      throw new Problem(`${file} belongs to another user and is not believed; remove it, or give --url and --token.`);
    }
    if (hasModes && (stats.mode & OTHERS) !== 0) {
      throw new Problem(`${file} can be read by others and is not believed; start the server again to rewrite it.`);
    }
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const parsed = Discovery.safeParse(value);
  if (!parsed.success) throw new Problem(`${file} is damaged; start the server again to rewrite it.`);
  return parsed.data;
}

/**
 * The server that runs on this machine.
 *
 * @throws Problem when there is none, or the file cannot be believed
 */
export async function discover(home: string): Promise<Discovery> {
  const found = await read(home);
  if (found === undefined) {
    throw new Problem("No server is running here; start one with `holdfast serve --demo`, or give --url and --token.");
  }
  if (!isAlive(found.pid)) {
    throw new Problem(
      `The server of ${fileIn(home)} (process ${found.pid}) is gone; start one with \`holdfast serve\`, or give --url and --token.`,
    );
  }
  return found;
}

/** Another server of this user that is still running, if the file knows one. */
export async function runningServer(home: string): Promise<Discovery | undefined> {
  const found = await read(home);
  return found !== undefined && isAlive(found.pid) ? found : undefined;
}

/** Removes the file if it is still this process's. */
export async function removeDiscovery(home: string, pid: number): Promise<void> {
  const found = await read(home);
  if (found?.pid === pid) await rm(fileIn(home), { force: true });
}

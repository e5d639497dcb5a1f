/**
 * Where the presence service of this user is found: one folder, which only its user may write, so that whoever could
 * put a file there is that user already. In order: what an option names, HOLDFAST_PRESENCE_DIR, XDG_RUNTIME_DIR,
 * `/run/user/UID` (where the latter usually points, for processes that did not inherit it), else `~/.holdfast/run`.
 */
import { mkdir, stat } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";

const OWN_FOLDER = 0o700;
const OTHERS_WRITE = 0o022;
export const hasOwners = process.platform !== "win32";

/** @returns what is wrong with the folder, or nothing */
async function faultOf(folder: string): Promise<string | undefined> {
  const stats = await stat(folder);
  if (!stats.isDirectory()) return "is no folder";
  if (!hasOwners) return undefined;
  if (stats.uid !== process.getuid?.()) return "belongs to another user";
  return (stats.mode & OTHERS_WRITE) === 0 ? undefined : "can be written by others";
}

async function isGood(folder: string): Promise<boolean> {
  try {
    return path.isAbsolute(folder) && (await faultOf(folder)) === undefined;
  } catch {
    return false;
  }
}

/** Nothing is made, and what was named is not looked at yet. */
export async function presenceFolder(named: string | undefined, environment: NodeJS.ProcessEnv): Promise<string> {
  const given = named || environment["HOLDFAST_PRESENCE_DIR"];
  if (given) return path.resolve(given);
  const runtime = environment["XDG_RUNTIME_DIR"];
  // What another user's login left in the environment (su, sudo) is not ours to use.
  if (runtime && (await isGood(runtime))) return runtime;
  const usual = `/run/user/${process.getuid?.()}`;
  if (process.platform === "linux" && (await isGood(usual))) return usual;
  return path.join(homedir(), ".holdfast", "run");
}

export async function makeFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: OWN_FOLDER });
}

/** @throws Error for a folder that is missing, or that somebody else could write */
export async function checkFolder(folder: string): Promise<void> {
  const fault = await faultOf(folder);
  if (fault !== undefined) throw new Error(`${folder} ${fault}; presence needs a folder that only its user can write`);
}

/**
 * Whether a process runs, and whether it is still the same one: pids are given out again, and what tells two owners of
 * one apart is when they started. Linux tells that in `/proc`, at about 15 µs a look; other systems do not without
 * starting a program, so there a pid that somebody else got counts as alive until that one ends.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";

export type ProcessLook =
  | { state: "alive" /** `undefined` where the system does not tell. */; startTime: string | undefined }
  /** It ended, also if nobody has collected it yet. */
  | { state: "gone" }
  /** It runs, as another user. */
  | { state: "foreign" };

export interface ProcessTable {
  /** All that there is to know of a process. */
  look(pid: number): ProcessLook;
  /** At about 1 µs: whether the pid is in use. */
  inUse(pid: number): boolean;
}

const isLinux = process.platform === "linux";
const stat = Buffer.alloc(1_024);

function signalled(pid: number): "alive" | "gone" | "foreign" {
  try {
    process.kill(pid, 0);
    return "alive";
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM" ? "foreign" : "gone";
  }
}

function lookOnLinux(pid: number): ProcessLook {
  let line: string;
  try {
    const file = openSync(`/proc/${pid}/stat`, "r");
    try {
      line = stat.toString("latin1", 0, readSync(file, stat, 0, stat.length, 0));
    } finally {
      closeSync(file);
    }
    // Root may signal everybody; whose process it is says the owner of its folder. 0 is also whoever hides theirs.
    const owner = statSync(`/proc/${pid}`).uid;
    if (owner !== 0 && owner !== process.getuid?.()) return { state: "foreign" };
  } catch {
    // It ended while it was looked at, or `/proc` is hidden here.
    return signalled(pid) === "gone" ? { state: "gone" } : { state: "alive", startTime: undefined };
  }
  // `pid (name) state …`, and a name may hold anything; the 22nd field is the start, in ticks since boot.
  const [state, ...rest] = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return state === "Z" || state === "X" ? { state: "gone" } : { state: "alive", startTime: rest[18] };
}

export const systemProcesses: ProcessTable = {
  look(pid) {
    const state = signalled(pid);
    if (state !== "alive") return { state };
    return isLinux ? lookOnLinux(pid) : { state: "alive", startTime: undefined };
  },
  inUse: (pid) => signalled(pid) !== "gone",
};

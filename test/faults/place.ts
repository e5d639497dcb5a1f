/** Where one scenario keeps its files: a temporary folder, with a small disk of its own in it where asked for. */
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const DISK_SIZE = "24m";
const BLOCK_BYTES = 4_096;

const places = new Set<Place>();

/** For the end of the program, however it comes. */
export function removeAll(): void {
  for (const place of places) place.remove();
}

export class Place {
  readonly path = mkdtempSync(join(tmpdir(), "holdfast-faults-"));
  /** The folder of the database. */
  readonly data = join(this.path, "data");
  /** Whether the database has a disk of its own: only root can have one, and only on Linux. */
  readonly ownDisk: boolean;

  constructor(wantsDisk: boolean) {
    mkdirSync(this.data);
    this.ownDisk = wantsDisk && mounted(this.data);
    places.add(this);
  }

  /** Fills the disk to its last block. */
  fill(): void {
    const block = Buffer.alloc(BLOCK_BYTES);
    const filler = openSync(this.#filler, "w");
    try {
      for (;;) writeSync(filler, block);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    } finally {
      closeSync(filler);
    }
  }

  empty(): void {
    rmSync(this.#filler, { force: true });
  }

  /** Lazily, as its processes may be about to end. */
  remove(): void {
    places.delete(this);
    if (this.ownDisk) execFileSync("umount", ["-l", this.data]);
    rmSync(this.path, { recursive: true, force: true });
  }

  get #filler(): string {
    return join(this.data, "filler");
  }
}

function mounted(path: string): boolean {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return false;
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${DISK_SIZE}`, "tmpfs", path], { stdio: "ignore" });
    return true;
  } catch {
    // A container may forbid it; SQLite's own limit does then.
    return false;
  }
}

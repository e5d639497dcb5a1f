import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** A server under measurement, in a process and on a file of its own. */
export class ServerProcess {
  readonly url: string;
  readonly #child: ChildProcess;
  readonly #directory: string;

  private constructor(url: string, child: ChildProcess, directory: string) {
    this.url = url;
    this.#child = child;
    this.#directory = directory;
  }

  /** @param script a file of this folder that takes a store file and prints its URL as the first line */
  static async start(script: string): Promise<ServerProcess> {
    const directory = await mkdtemp(join(tmpdir(), "holdfast-bench-"));
    const child = spawn(process.execPath, [join(import.meta.dirname, script), join(directory, "bench.db")], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const lines = createInterface({ input: child.stdout });
    const [url] = (await Promise.race([
      once(lines, "line"),
      once(child, "exit").then(() => {
        throw new Error(`${script} ended before it was ready.`);
      }),
    ])) as [string];
    return new ServerProcess(url, child, directory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) {
      this.#child.kill("SIGTERM");
      await once(this.#child, "exit");
    }
    await rm(this.#directory, { recursive: true, force: true });
  }
}

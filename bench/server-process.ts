import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { globSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Memory, ProbeQuestion } from "./probe.ts";

export type ServerKind = "baseline" | "holdfast";

/** A server under measurement, in a process and on a file of its own. */
export class ServerProcess {
  readonly url: string;
  readonly #child: ChildProcess;
  readonly #directory: string;
  #profiling = false;

  private constructor(url: string, child: ChildProcess, directory: string) {
    this.url = url;
    this.#child = child;
    this.#directory = directory;
  }

  /** @param options of the `Runtime`; the baseline has none */
  static async start(kind: ServerKind, options: object = {}): Promise<ServerProcess> {
    const directory = await mkdtemp(join(tmpdir(), "holdfast-bench-"));
    const script = join(import.meta.dirname, `${kind}-server.ts`);
    const child = spawn(
      process.execPath,
      ["--expose-gc", script, join(directory, "bench.db"), JSON.stringify(options)],
      { stdio: ["ignore", "pipe", "inherit", "ipc"] },
    );
    const { stdout } = child;
    if (stdout === null) throw new Error(`${kind} has no output.`);
    const [url] = (await Promise.race([
      once(createInterface({ input: stdout }), "line"),
      once(child, "exit").then(() => {
        throw new Error(`${kind} ended before it was ready.`);
      }),
    ])) as [string];
    return new ServerProcess(url, child, directory);
  }

  async memory(): Promise<Memory> {
    return (await this.#ask({ ask: "memory" })) as Memory;
  }

  async startProfile(): Promise<void> {
    this.#profiling = true;
    await this.#ask({ ask: "profile" });
  }

  /** What came before was preparation: a profile that is being taken starts anew. */
  async prepared(): Promise<void> {
    if (this.#profiling) await this.#ask({ ask: "profile" });
  }

  /** @param file gets the profile; Chrome's developer tools read it */
  async stopProfile(file: string): Promise<void> {
    await this.#ask({ ask: "profiled", file });
  }

  /** The store's file with its WAL, in bytes. */
  fileBytes(): number {
    return globSync("bench.db{,-wal}", { cwd: this.#directory }).reduce(
      (sum, file) => sum + statSync(join(this.#directory, file)).size,
      0,
    );
  }

  async #ask(question: ProbeQuestion): Promise<unknown> {
    const answered = once(this.#child, "message");
    this.#child.send(question);
    return (await answered)[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) {
      const ended = once(this.#child, "exit");
      this.#child.kill("SIGTERM");
      await ended;
    }
    await rm(this.#directory, { recursive: true, force: true });
  }
}

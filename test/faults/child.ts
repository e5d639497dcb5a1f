/** A child process that takes its settings as JSON and commands as lines, and says things as lines. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { sleep, systemClock } from "../../src/clock.ts";

const living = new Set<ChildProcess>();

/** For the end of the program, however it comes: nothing that it started is left. */
export function killAll(): void {
  for (const child of living) child.kill("SIGKILL");
}

/** What is done to a process: one thing at a time, and what comes meanwhile is left out. */
export class Handling {
  #busy = false;

  async run(work: () => Promise<void>): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    await work().finally(() => {
      this.#busy = false;
    });
  }
}

export class Child<Command extends object> {
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;
  readonly #firstLine: Promise<string | undefined>;
  #errors = "";
  #ended = false;

  /** @param script a file of this folder */
  constructor(script: string, settings: object, onLine: (line: string) => void = () => undefined) {
    this.#child = spawn(process.execPath, [join(import.meta.dirname, script), JSON.stringify(settings)], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    const { stdin, stdout, stderr } = this.#child;
    if (stdin === null || stdout === null || stderr === null) throw new Error("pipes were asked for");
    living.add(this.#child);
    // A child that was killed takes no more commands.
    stdin.on("error", () => undefined);
    stderr.on("data", (chunk: Buffer) => {
      this.#errors = (this.#errors + chunk.toString()).slice(-4_000);
    });
    const lines = createInterface({ input: stdout });
    lines.on("line", onLine);
    this.exited = once(this.#child, "exit").then(() => {
      this.#ended = true;
      living.delete(this.#child);
    });
    this.#firstLine = Promise.race([
      once(lines, "line").then(([line]) => String(line)),
      this.exited.then(() => undefined),
    ]);
  }

  /** Its first line. @throws Error when it ends without one */
  async ready(): Promise<string> {
    const line = await this.#firstLine;
    if (line === undefined) throw new Error(`A child process did not start: ${this.#errors.trim()}`);
    return line;
  }

  send(command: Command): void {
    if (!this.#ended) this.#child.stdin?.write(`${JSON.stringify(command)}\n`);
  }

  signal(name: "SIGKILL" | "SIGSTOP" | "SIGCONT" | "SIGTERM"): void {
    if (!this.#ended) this.#child.kill(name);
  }

  /** Stops it for so long, and lets it go on. */
  async pause(forMs: number): Promise<void> {
    this.signal("SIGSTOP");
    await sleep(systemClock, forMs);
    this.signal("SIGCONT");
  }

  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.exited;
  }
}

/** A real server in a process of its own, that can be killed like one. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Clock, sleep } from "../../clock.ts";
import { Problem } from "../problem.ts";

export interface ServerProcessOptions {
  /** HOLDFAST_HOME of the child; its store lies there too. */
  home: string;
  /** What `survey` walks. */
  directory: string;
  token: string;
  /** 0 for any free one. */
  port: number;
  clock: Clock;
}

const PRINCIPAL = "demo";
const STOP_MS = 5_000;
/** The last lines of the child's log that are told when it does not start. */
const LOG_BYTES = 2_000;

/** The program's entry: the built one when this is built, the source otherwise. */
const main = fileURLToPath(new URL(`../main${path.extname(import.meta.url)}`, import.meta.url));

export class ServerProcess implements AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #clock: Clock;

  private constructor(
    child: ChildProcess,
    exited: Promise<unknown>,
    ready: { url: string; port: number },
    clock: Clock,
  ) {
    this.#child = child;
    this.#exited = exited;
    this.#clock = clock;
    this.url = ready.url;
    this.port = ready.port;
  }

  /** Resolves once the server says where it listens. */
  static async start(options: ServerProcessOptions): Promise<ServerProcess> {
    const store = path.join(options.home, "demo.db");
    const child = spawn(
      process.execPath,
      [main, "serve", "--demo", "--json", "--port", String(options.port), "--store", store, "--drain", "1"],
      {
        cwd: options.directory,
        env: { ...process.env, HOLDFAST_HOME: options.home, HOLDFAST_TOKENS: `${options.token}=${PRINCIPAL}` },
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    let log = "";
    child.stderr.on("data", (chunk: Buffer) => {
      log = (log + chunk.toString()).slice(-LOG_BYTES);
    });
    const exited = once(child, "exit");
    const lines = createInterface({ input: child.stdout });
    const ready = await Promise.race([
      once(lines, "line").then(([line]) => JSON.parse(String(line)) as { url: string; port: number }),
      exited.then(() => undefined),
    ]);
    if (ready === undefined)
      throw new Problem(`The demo's server did not start: ${log.trim().split("\n").at(-1) ?? ""}`);
    return new ServerProcess(child, exited, ready, options.clock);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** SIGKILL: nothing in the process learns of it. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    const inTime = new AbortController();
    const late = sleep(this.#clock, STOP_MS, inTime.signal).then(
      () => this.#child.kill("SIGKILL"),
      () => undefined,
    );
    await this.#exited;
    inTime.abort();
    await late;
  }
}

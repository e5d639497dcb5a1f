/**
 * An OpenCode server of Holdfast's own: spawned, waited for, started again when it dies, and gone with its process
 * group when Holdfast stops or is killed (keeper.ts). It listens on loopback under a password made for this start,
 * keeps its data below `home`, apart from the user's own OpenCode, and never updates itself. Costs two processes and
 * some 300 MB of memory.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Clock, sleep, systemClock } from "../../clock.ts";
import { BackendError } from "../../conversation/index.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import { type OpencodeOptions, opencode } from "./backend.ts";

export interface OpencodeServerOptions {
  /** Where its sessions, its settings and its cache are kept: absolute, and the same one after a restart. */
  home: string;
  /** The directory that its sessions work in. */
  directory: string;
  /**
   * What would be in its `opencode.json`. Must name a `model`, with its provider: without one OpenCode sends
   * everything to a hosted one.
   */
  config: Readonly<Record<string, unknown>>;
  /** @default "opencode", as found on the PATH */
  command?: string | undefined;
  /** What the server is to see of the environment. @default all but Holdfast's own variables */
  env?: NodeJS.ProcessEnv | undefined;
  /** @default any free one */
  port?: number | undefined;
  /** How long it may take until it answers. @default 60_000 */
  startMs?: number | undefined;
  /** How often in a row it is started again; a run of a minute begins a new row. @default 8 */
  maxRestarts?: number | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
}

/** One run of the server. */
interface Run {
  child: ChildProcess;
  exited: Promise<unknown>;
}

type State =
  | { phase: "starting" }
  | { phase: "listening"; url: string; run: Run; since: number }
  | { phase: "waiting"; restarts: number }
  | { phase: "failed"; why: string }
  | { phase: "stopped" };

/** Where a server that was spawned says how it is reached: `{url, password}`, for its user alone. */
export const connectionFile = (home: string): string => path.join(home, "connection.json");

const LISTENING = /^opencode server listening on (http:\/\/\S+)/;
const FIRST_BACKOFF_MS = 250;
const LONGEST_BACKOFF_MS = 30_000;
const STABLE_MS = 60_000;
const STOP_MS = 5_000;
const HEALTH_MS = 2_000;
const MAX_LOG_CHARS = 2_000;

const KEEPER = fileURLToPath(new URL(`./keeper${path.extname(import.meta.url)}`, import.meta.url));

export class OpencodeServer implements AsyncDisposable {
  readonly #options: OpencodeServerOptions;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #password = randomBytes(24).toString("base64url");
  readonly #stopping = new AbortController();
  #state: State = { phase: "starting" };
  /** Of the run that is starting or listening. */
  #run: Run | undefined;
  #supervised: Promise<void> = Promise.resolve();

  private constructor(options: OpencodeServerOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
  }

  /**
   * Resolves once it answers.
   *
   * @throws TypeError for a configuration without a model; BackendError unavailable with the end of its log
   */
  static async start(options: OpencodeServerOptions): Promise<OpencodeServer> {
    const { model } = options.config;
    if (typeof model !== "string" || !model.includes("/")) {
      throw new TypeError('config.model: names no model as "provider/model"; without one OpenCode asks a hosted one.');
    }
    if (!path.isAbsolute(options.home)) throw new TypeError(`home: ${options.home} is no absolute path.`);
    const server = new OpencodeServer(options);
    await mkdir(options.home, { recursive: true, mode: 0o700 });
    const url = await server.#start();
    server.#supervised = server.#supervise(url);
    return server;
  }

  /** Where it listens now. @throws BackendError unavailable while it does not */
  get url(): string {
    const state = this.#state;
    if (state.phase === "listening") return state.url;
    throw new BackendError("unavailable", whyNot(state));
  }

  /** What {@link opencode} needs to reach it, wherever it listens by then. */
  get connection(): Pick<OpencodeOptions, "baseUrl" | "password" | "directory"> {
    return { baseUrl: () => this.url, password: this.#password, directory: this.#options.directory };
  }

  /** The process that its group is named by, while it runs. */
  get pid(): number | undefined {
    return this.#state.phase === "listening" ? this.#state.run.child.pid : undefined;
  }

  /** Ends it and whatever it has started; resolves when they are gone. Idempotent. */
  async stop(): Promise<void> {
    this.#stopping.abort(new BackendError("unavailable", "OpenCode was stopped."));
    if (this.#run !== undefined) await this.#end(this.#run);
    await this.#supervised;
    this.#state = { phase: "stopped" };
    await rm(connectionFile(this.#options.home), { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #supervise(first: string): Promise<void> {
    let url = first;
    let restarts = 0;
    while (!this.#stopping.signal.aborted) {
      const run = this.#run as Run;
      const since = this.#clock.monotonic();
      this.#state = { phase: "listening", url, run, since };
      await run.exited;
      if (this.#stopping.signal.aborted) return;
      // A keeper that was killed leaves the server; nobody else would end it.
      signalGroup(run.child, "SIGKILL");
      // From here on its number may be another's.
      this.#run = undefined;
      if (this.#clock.monotonic() - since >= STABLE_MS) restarts = 0;
      const again = await this.#startAgain(restarts);
      if (again === undefined) return;
      ({ url, restarts } = again);
    }
  }

  /** @returns nothing when it was stopped, or given up */
  async #startAgain(before: number): Promise<{ url: string; restarts: number } | undefined> {
    const { maxRestarts = 8 } = this.#options;
    let why = "it ended by itself";
    for (let restarts = before + 1; restarts <= maxRestarts; restarts += 1) {
      this.#state = { phase: "waiting", restarts };
      const delayMs = Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (restarts - 1));
      this.#logger.warn({ why, restarts, delay_ms: delayMs }, "OpenCode has ended; it is started again");
      try {
        await sleep(this.#clock, delayMs, this.#stopping.signal);
        return { url: await this.#start(), restarts };
      } catch (error) {
        if (this.#stopping.signal.aborted) return undefined;
        why = error instanceof Error ? error.message : String(error);
      }
    }
    this.#logger.error({ why, restarts: maxRestarts }, "OpenCode keeps ending; it is not started any more");
    this.#state = { phase: "failed", why };
    return undefined;
  }

  /** One start: its line, then its first answer. A request that comes before the line would hang. */
  async #start(): Promise<string> {
    this.#stopping.signal.throwIfAborted();
    const { startMs = 60_000 } = this.#options;
    const run = this.#spawn();
    this.#run = run;
    const inTime = new AbortController();
    const signal = AbortSignal.any([inTime.signal, this.#stopping.signal]);
    let tail = "";
    const keep = (line: string) => {
      tail = `${tail}${line}\n`.slice(-MAX_LOG_CHARS);
      this.#logger.debug({ line: line.slice(0, MAX_LOG_CHARS) }, "opencode");
    };
    const listening = Promise.withResolvers<string>();
    if (run.child.stderr !== null) createInterface({ input: run.child.stderr }).on("line", keep);
    if (run.child.stdout !== null) {
      createInterface({ input: run.child.stdout }).on("line", (line) => {
        keep(line);
        const url = LISTENING.exec(line)?.[1];
        if (url !== undefined) listening.resolve(url);
      });
    }
    try {
      const url = await Promise.race([
        listening.promise,
        run.exited.then(() => undefined),
        sleep(this.#clock, startMs, signal).then(() => undefined),
      ]);
      if (url === undefined) {
        throw new BackendError("unavailable", `OpenCode did not start: ${lastLine(tail) ?? "it said nothing"}`);
      }
      await opencode({
        ...this.connection,
        baseUrl: url,
        clock: this.#clock,
        timeouts: { requestMs: HEALTH_MS },
      }).health({ signal });
      await this.#announce(url);
      return url;
    } catch (error) {
      await this.#end(run);
      throw error;
    } finally {
      inTime.abort();
    }
  }

  #spawn(): Run {
    const { home, directory, config, command = "opencode", port = 0 } = this.#options;
    const child = spawn(
      process.execPath,
      [KEEPER, command, "serve", "--hostname", "127.0.0.1", "--port", String(port)],
      {
        cwd: directory,
        detached: true,
        stdio: ["pipe", "pipe", "pipe"],
        env: {
          ...withoutOurs(this.#options.env ?? process.env),
          HOME: home,
          USERPROFILE: home,
          XDG_DATA_HOME: path.join(home, "data"),
          XDG_CONFIG_HOME: path.join(home, "config"),
          XDG_STATE_HOME: path.join(home, "state"),
          XDG_CACHE_HOME: path.join(home, "cache"),
          OPENCODE_CONFIG_CONTENT: JSON.stringify(config),
          OPENCODE_SERVER_PASSWORD: this.#password,
          OPENCODE_DISABLE_AUTOUPDATE: "1",
          OPENCODE_DISABLE_MODELS_FETCH: "1",
        },
      },
    );
    // Closing the pipe is how the keeper learns; a keeper that is gone already is no failure of ours.
    child.stdin?.on("error", () => undefined);
    const exited = once(child, "exit").catch((error: unknown) => {
      this.#logger.error({ err: error }, "OpenCode's keeper could not be run");
    });
    return { child, exited };
  }

  /** Tells other programs of this user where it is. */
  async #announce(url: string): Promise<void> {
    const file = connectionFile(this.#options.home);
    const draft = `${file}.${process.pid}`;
    try {
      await writeFile(draft, JSON.stringify({ url, password: this.#password }), { mode: 0o600 });
      await rename(draft, file);
    } catch (error) {
      this.#logger.warn({ err: error }, "where OpenCode listens could not be written down");
    }
  }

  async #end(run: Run): Promise<void> {
    const gone = new AbortController();
    signalGroup(run.child, "SIGTERM");
    const late = sleep(this.#clock, STOP_MS, gone.signal).then(
      () => signalGroup(run.child, "SIGKILL"),
      () => undefined,
    );
    await run.exited;
    gone.abort();
    await late;
    // The leader is gone; what it left in its group goes too.
    signalGroup(run.child, "SIGKILL");
    if (this.#run === run) this.#run = undefined;
  }
}

function whyNot(state: Exclude<State, { phase: "listening" }>): string {
  switch (state.phase) {
    case "starting":
    case "waiting":
      return "OpenCode is being started.";
    case "failed":
      return `OpenCode does not start: ${state.why}`;
    case "stopped":
      return "OpenCode was stopped.";
  }
}

function signalGroup({ pid, exitCode }: ChildProcess, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(process.platform === "win32" ? pid : -pid, signal);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ESRCH: there is nobody left.
    if (code !== "ESRCH" && exitCode === null) throw error;
  }
}

/** Tokens of ours are not for what an agent runs. */
function withoutOurs(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^(HOLDFAST|OPENCODE|XDG)_/.test(name)));
}

const lastLine = (text: string): string | undefined => text.trim().split("\n").at(-1);

/** A machine of the presence tests: a folder of its own, real processes with sessions in it, and who is there. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { sleep, systemClock } from "../../src/clock.ts";
import {
  ActiveSessions,
  type ActiveSessionsOptions,
  DISCOVERY_FILENAME,
  type Snapshot,
} from "../../src/presence/index.ts";
import type { SessionCommand, SessionEvent, SessionSettings } from "./session-process.ts";

const SCRIPT = join(import.meta.dirname, "session-process.ts");
/** Far beyond what anything takes: what is not there by then does not come. */
export const DEADLINE_MS = 30_000;
const LOOK_EVERY_MS = 10;

/** Resolves with what `look` finds, once that is something. @throws Error after the deadline */
export async function found<T>(
  what: string,
  look: () => Promise<T | undefined | false> | T | undefined | false,
  deadlineMs = DEADLINE_MS,
): Promise<T> {
  const deadline = systemClock.monotonic() + deadlineMs;
  for (;;) {
    const value = await look();
    if (value !== undefined && value !== false) return value;
    if (systemClock.monotonic() > deadline) throw new Error(`${what}: not within ${deadlineMs} ms`);
    await sleep(systemClock, LOOK_EVERY_MS);
  }
}

export class SessionProcess {
  readonly exited: Promise<unknown>;
  /** How often it became the owner. */
  reigns = 0;
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  readonly #ready: Promise<unknown>;

  constructor(settings: SessionSettings, env: NodeJS.ProcessEnv) {
    this.#child = spawn(process.execPath, [SCRIPT, JSON.stringify(settings)], {
      stdio: ["pipe", "pipe", "inherit"],
      env,
    });
    const { stdin, stdout } = this.#child;
    if (stdin === null || stdout === null) throw new Error("pipes were asked for");
    stdin.on("error", () => undefined);
    this.#lines = createInterface({ input: stdout });
    this.#lines.on("line", (line) => {
      const event = JSON.parse(line) as SessionEvent;
      if (event.event === "owner") this.reigns += 1;
      else this.#lines.emit(event.event, event);
    });
    this.exited = once(this.#child, "exit");
    this.#ready = Promise.race([
      once(this.#lines, "ready"),
      this.exited.then(() => {
        throw new Error("a process with a session did not start");
      }),
    ]);
    this.#ready.catch(() => undefined);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async ready(): Promise<this> {
    await this.#ready;
    return this;
  }

  async ask(command: SessionCommand): Promise<{ value: unknown; tookMs: number }> {
    const answered = once(this.#lines, "answer");
    this.#child.stdin?.write(`${command}\n`);
    const [answer] = (await answered) as [{ value: unknown; tookMs: number }];
    return answer;
  }

  signal(name: "SIGSTOP" | "SIGCONT" | "SIGTERM"): void {
    this.#child.kill(name);
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }

  /** The regular end. */
  async end(): Promise<void> {
    this.#child.stdin?.write("end\n");
    await this.exited;
  }
}

export class Machine implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), "holdfast-presence-"));
  readonly discoveryFile = join(this.directory, DISCOVERY_FILENAME);
  readonly #settings: Partial<SessionSettings>;
  readonly #all: SessionProcess[] = [];
  readonly #here: ActiveSessions[] = [];
  #count = 0;

  /** @param settings of every process; a port of 0 is any */
  constructor(settings: Partial<SessionSettings> = {}) {
    this.#settings = { port: 0, ...settings };
  }

  spawn(env: NodeJS.ProcessEnv = { PATH: process.env["PATH"] }): SessionProcess {
    this.#count += 1;
    const child = new SessionProcess({ ...this.#settings, directory: this.directory, name: `s${this.#count}` }, env);
    this.#all.push(child);
    return child;
  }

  spawnMany(count: number): SessionProcess[] {
    return Array.from({ length: count }, () => this.spawn());
  }

  /** Presence in the process of the test. */
  here(options: ActiveSessionsOptions = {}): ActiveSessions {
    const sessions = new ActiveSessions({ ...this.#settings, enabled: true, directory: this.directory, ...options });
    this.#here.push(sessions);
    return sessions;
  }

  discovery(): { owner_pid: number; auth_token: string; port: number; updated_at: number } {
    return JSON.parse(readFileSync(this.discoveryFile, "utf8"));
  }

  /** Which process serves, once one of them answers. */
  async owner(sessions: ActiveSessions, among: readonly SessionProcess[]): Promise<SessionProcess> {
    return await found("an owner", async () => {
      const info = await sessions.serviceInfo();
      return info.service_available && among.find(({ pid }) => pid === info.owner_pid);
    });
  }

  /** The snapshot, once it lists exactly these processes. */
  async whole(sessions: ActiveSessions, wanted: readonly { pid: number }[], deadlineMs?: number): Promise<Snapshot> {
    const pids = wanted.map(({ pid }) => pid).sort((a, b) => a - b);
    let last: Snapshot | undefined;
    const complete = async () => {
      last = await sessions.querySnapshot();
      return last.error === undefined && last.sessions.map(({ pid }) => pid).join() === pids.join() && last;
    };
    return await found(`a snapshot of ${pids.length}`, complete, deadlineMs).catch((error: unknown) => {
      throw new Error(
        `${String(error)}; wanted ${pids.join()}, have ${last?.error ?? last?.sessions.map(({ pid }) => pid)}`,
      );
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#all) await child.kill();
    for (const sessions of this.#here) await sessions.stopService();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

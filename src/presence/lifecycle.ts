/**
 * One session's presence, from its start to its stop: registered with each change and every heartbeat, so that a new
 * owner of the service knows it within one. Nothing here waits, throws or keeps the process alive, but `stop`, which
 * waits for the session to be out.
 *
 * Each start has a generation of its own. It travels with every heartbeat and with the removal, so that a heartbeat
 * that was under way when the session stopped, and arrives after all, is refused (PRS-8).
 */
import { type Clock, systemClock, type Timer } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import type { ActiveSessions } from "./active-sessions.ts";
import { DEFAULT_HEARTBEAT_MS } from "./active-sessions.ts";
import type { SessionPayload, SessionRole } from "./record.ts";

export interface LifecycleOptions {
  /** @default 2_000 */
  heartbeatMs?: number | undefined;
  clock?: Clock | undefined;
  logger?: Logger | undefined;
}

export interface SessionStart {
  sessionName: string;
  role: SessionRole;
  /** @default false */
  connected?: boolean | undefined;
  frontend?: string | undefined;
  gameCode?: string | undefined;
  /** Whether listings for people leave it out. @default false */
  hidden?: boolean | undefined;
  /** Asked at each heartbeat: whatever else is to be known of the session. */
  metadata?: (() => Record<string, unknown>) | undefined;
}

export interface Listener {
  host: string;
  port: number;
  /** Whether it accepts anybody. */
  connected: boolean;
}

interface Run {
  readonly generation: number;
  readonly start: SessionStart;
  readonly startedAt: number;
  readonly over: AbortController;
  connected: boolean;
  listener: Listener | undefined;
}

const LONGEST_WAIT_MS = 1_000;

/** Of this process, which may have several lifecycles one after the other. */
let lastGeneration = 0;

export class Lifecycle implements AsyncDisposable {
  readonly #sessions: ActiveSessions;
  readonly #heartbeatMs: number;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #run: Run | undefined;
  #timer: Timer | undefined;
  #sending: Promise<void> | undefined;
  /** Something has changed since what is being sent. */
  #changed = false;

  constructor(sessions: ActiveSessions, options: LifecycleOptions = {}) {
    this.#sessions = sessions;
    this.#heartbeatMs = options.heartbeatMs ?? DEFAULT_HEARTBEAT_MS;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
  }

  /** From now on this process is a session of that name. A session that it was before is over. */
  start(start: SessionStart): void {
    this.#end();
    lastGeneration += 1;
    this.#run = {
      generation: lastGeneration,
      start,
      startedAt: Math.floor(this.#clock.wall() / 1_000),
      over: new AbortController(),
      connected: start.connected ?? false,
      listener: undefined,
    };
    this.#beat();
    this.#schedule();
  }

  updateConnected(connected: boolean): void {
    this.#change((run) => {
      run.connected = connected;
    });
  }

  /** Where others can reach this session. */
  updateListener(listener: Listener): void {
    this.#change((run) => {
      run.listener = listener;
    });
  }

  clearListener(): void {
    this.#change((run) => {
      run.listener = undefined;
    });
  }

  /**
   * Takes the session out, and the service with it if it is this process's and has no other.
   *
   * @param options.background whether the process may end before that
   */
  async stop(options: { background?: boolean } = {}): Promise<void> {
    const run = this.#run;
    if (run === undefined) return;
    this.#end();
    await this.#sent(options.background ?? false);
    // Somebody has started it again meanwhile.
    if (this.#run !== undefined) return;
    await this.#sessions.unregisterSession(process.pid, { ...options, generation: run.generation });
    await this.#sessions.cleanupDiscoveryIfLastSession(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** A heartbeat that is under way has been given up, and is done with soon: a removal is best sent after it. */
  async #sent(background: boolean): Promise<void> {
    if (this.#sending === undefined) return;
    const late = Promise.withResolvers<void>();
    const timer = this.#clock.after(LONGEST_WAIT_MS, late.resolve, { keepAlive: !background });
    await Promise.race([this.#sending, late.promise]);
    timer.cancel();
  }

  #end(): void {
    this.#timer?.cancel();
    this.#run?.over.abort();
    this.#run = undefined;
  }

  #change(change: (run: Run) => void): void {
    if (this.#run === undefined) return;
    change(this.#run);
    this.#beat();
  }

  #schedule(): void {
    this.#timer = this.#clock.after(this.#heartbeatMs, () => {
      this.#beat();
      this.#schedule();
    });
  }

  /** One at a time: of changes that come meanwhile the last state is sent. */
  #beat(): void {
    this.#changed = true;
    this.#sending ??= this.#send().finally(() => {
      this.#sending = undefined;
    });
  }

  async #send(): Promise<void> {
    while (this.#changed && this.#run !== undefined) {
      this.#changed = false;
      const run = this.#run;
      const told = await this.#sessions.registerSession(this.#payloadOf(run), {
        background: true,
        signal: run.over.signal,
      });
      if (!told) this.#logger.debug({}, "the presence service did not take a heartbeat");
    }
  }

  #payloadOf({ start, generation, startedAt, connected, listener }: Run): SessionPayload {
    return {
      ...this.#metadataOf(start),
      pid: process.pid,
      session_name: start.sessionName,
      role: start.role,
      frontend: start.frontend,
      game_code: start.gameCode,
      started_at: startedAt,
      connected: connected && (listener?.connected ?? true),
      listener_host: listener?.host ?? null,
      listener_port: listener?.port ?? null,
      hidden: start.hidden ?? false,
      generation,
    };
  }

  #metadataOf(start: SessionStart): Record<string, unknown> {
    try {
      return start.metadata?.() ?? {};
    } catch (error) {
      this.#logger.warn({ err: error }, "a session's metadata could not be had");
      return {};
    }
  }
}

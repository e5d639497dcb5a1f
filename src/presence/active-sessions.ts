/**
 * Which sessions run on this machine? One local service for each user answers, and nobody installs, starts or cleans up
 * after it: the first process that needs it becomes its owner, and when that one dies, another does (PRS-2, PRS-4).
 *
 * For the host it is a bystander. No call throws, none takes longer than its time limit, and none keeps a process alive
 * that is done. Without the feature flag nothing is read, written or opened.
 */
import { type Clock, systemClock } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { Client, readAnswer, requestLine } from "./client.ts";
import { type Discovery, DiscoveryFile } from "./discovery.ts";
import { Owner } from "./owner.ts";
import { presenceFolder } from "./place.ts";
import { type ProcessTable, systemProcesses } from "./process-table.ts";
import { emptySnapshot, type SessionPayload, type Snapshot, SOURCE } from "./record.ts";
import type { Answer } from "./registry.ts";

/** What a host's own feature flags call this. */
export const FEATURE_FLAG = "active_sessions_api";
export const DEFAULT_PORT = 42_857;
export const DEFAULT_HEARTBEAT_MS = 2_000;
const DEFAULT_TIMEOUT_MS = 1_000;
const UNAVAILABLE = "active sessions service unavailable";

/** Of which it is remembered that they were told. */
const MAX_COMPLAINTS = 32;

/** Between two tries to find or become the owner; of several that try at once each takes another time. */
const PAUSE_MS = { least: 5, more: 25 };

export interface ActiveSessionsOptions {
  /**
   * The feature flag; `HOLDFAST_ACTIVE_SESSIONS=0` switches off in any case.
   *
   * @default whether HOLDFAST_ACTIVE_SESSIONS is 1
   */
  enabled?: boolean | ((flag: typeof FEATURE_FLAG) => boolean) | undefined;
  /** Where the discovery file is. @default HOLDFAST_PRESENCE_DIR, else the user's runtime directory (docs/presence.md) */
  directory?: string | undefined;
  /** Where an owner listens if it can. @default 42857 */
  port?: number | undefined;
  /** What a call may take. @default 1_000 */
  timeoutMs?: number | undefined;
  /** How often an owner looks after its files. @default 2_000 */
  heartbeatMs?: number | undefined;
  environment?: NodeJS.ProcessEnv | undefined;
  clock?: Clock | undefined;
  logger?: Logger | undefined;
  /** Which processes there are. @default the system's */
  processes?: ProcessTable | undefined;
}

export interface CallOptions {
  /** The process may end while it is under way. @default false */
  background?: boolean | undefined;
  /** Whatever has not been sent when it aborts is not. */
  signal?: AbortSignal | undefined;
}

export interface ServiceInfo {
  source: typeof SOURCE;
  owner_pid?: number;
  port?: number;
  /** When the owner wrote the discovery file, epoch seconds. */
  updated_at?: number;
  /** Whether it answers now. */
  service_available: boolean;
}

interface Call {
  deadline: number;
  background: boolean;
  signal: AbortSignal | undefined;
}

export class ActiveSessions implements AsyncDisposable {
  readonly #flag: ActiveSessionsOptions["enabled"];
  readonly #directory: string | undefined;
  readonly #port: number;
  readonly #timeoutMs: number;
  readonly #heartbeatMs: number;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #processes: ProcessTable;
  #place: Promise<{ folder: string; file: DiscoveryFile }> | undefined;
  #client: { client: Client; ownerStart: string | undefined } | undefined;
  #owner: Owner | undefined;
  #electing: Promise<boolean> | undefined;
  /** The changes under way: what is asked after them waits for them. */
  #changes: Promise<void> = Promise.resolve();
  /** What was complained of: a fault that lasts is told once. */
  readonly #complaints = new Set<string>();

  constructor(options: ActiveSessionsOptions = {}) {
    this.#flag = options.enabled;
    this.#directory = options.directory;
    this.#port = options.port ?? DEFAULT_PORT;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#heartbeatMs = options.heartbeatMs ?? DEFAULT_HEARTBEAT_MS;
    this.#environment = options.environment ?? process.env;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    this.#processes = options.processes ?? systemProcesses;
  }

  /** The feature flag. A check of the host's that throws counts as off. */
  get enabled(): boolean {
    const switched = this.#environment["HOLDFAST_ACTIVE_SESSIONS"];
    if (switched === "0") return false;
    try {
      const flag = typeof this.#flag === "function" ? this.#flag(FEATURE_FLAG) : this.#flag;
      return flag === undefined ? switched === "1" : flag === true;
    } catch (error) {
      this.#logger.warn({ err: error }, "the check of the feature flag active_sessions_api failed; it counts as off");
      return false;
    }
  }

  /** Whether the service answers, in this process or another one; it is started where there is none. */
  async ensureService(options: CallOptions = {}): Promise<boolean> {
    if (!this.enabled) return false;
    return await this.#inTime(false, options, async (call) => {
      const answer = await this.#ask("ping", undefined, call);
      return answer?.ok === true || (await this.#ensure());
    });
  }

  /** Adds a session, or changes what is known of it. May start the service. */
  async registerSession(payload: SessionPayload, options: CallOptions = {}): Promise<boolean> {
    return await this.#change("upsert", payload, options);
  }

  /**
   * Takes a session out. May start the service.
   *
   * @param options.generation of the session: with it, whatever was sent for it before and arrives later is refused
   */
  async unregisterSession(pid: number, options: CallOptions & { generation?: number } = {}): Promise<boolean> {
    return await this.#change("remove", { pid, generation: options.generation }, options);
  }

  /** Which sessions run. May start the service. */
  async snapshot(options: CallOptions = {}): Promise<Snapshot> {
    return this.enabled ? await this.#snapshot(true, options) : emptySnapshot();
  }

  /** Which sessions run, whatever the flag says. Never starts the service. */
  async querySnapshot(options: CallOptions = {}): Promise<Snapshot> {
    return await this.#snapshot(false, options);
  }

  /** Who serves, and whether it answers. Never starts the service. */
  async serviceInfo(options: CallOptions = {}): Promise<ServiceInfo> {
    const known: ServiceInfo = { source: SOURCE, service_available: false };
    return await this.#inTime(known, options, async (call) => {
      const discovery = await this.#discovery();
      if (discovery === undefined) return known;
      const { owner_pid, port, updated_at } = discovery;
      Object.assign(known, { owner_pid, port, updated_at });
      return { ...known, service_available: (await this.#ask("ping", undefined, call))?.ok === true };
    });
  }

  /** Ends the service if it is this process's, and forgets the way to another one's. */
  async stopService(options: CallOptions = {}): Promise<void> {
    await this.#inTime(undefined, options, async () => {
      await this.#electing?.catch(() => false);
      this.#client = undefined;
      const owner = this.#owner;
      this.#owner = undefined;
      await owner?.stop();
    });
  }

  /** Ends this process's service when it has no sessions any more. */
  async cleanupDiscoveryIfLastSession(options: CallOptions = {}): Promise<void> {
    await this.#inTime(undefined, options, async () => {
      if ((await this.#discovery())?.owner_pid !== process.pid) return;
      const { error, source, total } = await this.querySnapshot(options);
      if (error === undefined && source === SOURCE && total === 0) await this.stopService(options);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopService();
  }

  async #change(command: "upsert" | "remove", payload: unknown, options: CallOptions): Promise<boolean> {
    if (!this.enabled) return false;
    const change = this.#inTime(false, options, async (call) => {
      const answer = await this.#request(command, payload, call);
      if (answer?.ok === false) this.#complain(answer.error, `the presence service refused: ${command}`);
      return answer?.ok === true;
    });
    this.#changes = Promise.allSettled([this.#changes, change]).then(() => undefined);
    return await change;
  }

  async #snapshot(start: boolean, options: CallOptions): Promise<Snapshot> {
    const changes = this.#changes;
    return await this.#inTime(emptySnapshot(UNAVAILABLE), options, async (call) => {
      await changes;
      const answer = start
        ? await this.#request("snapshot", undefined, call)
        : await this.#ask("snapshot", undefined, call);
      if (answer?.ok === false) return emptySnapshot(answer.error);
      return isSnapshot(answer?.payload) ? answer.payload : emptySnapshot(UNAVAILABLE);
    });
  }

  /** Never rejects, and takes no longer than the limit; what goes on after that sends nothing more. */
  async #inTime<T>(fallback: T, options: CallOptions, work: (call: Call) => Promise<T>): Promise<T> {
    const background = options.background ?? false;
    const late = Promise.withResolvers<T>();
    const timer = this.#clock.after(this.#timeoutMs, () => late.resolve(fallback), { keepAlive: !background });
    try {
      const deadline = this.#clock.monotonic() + this.#timeoutMs;
      return await Promise.race([work({ deadline, background, signal: options.signal }), late.promise]);
    } catch (error) {
      this.#complain(error, "the presence service cannot be used");
      return fallback;
    } finally {
      timer.cancel();
    }
  }

  /** Asks whoever serves, and starts the service where nobody does. */
  async #request(command: string, payload: unknown, call: Call): Promise<Answer | undefined> {
    const first = await this.#ask(command, payload, call);
    // An owner that does not know the token is another one than the file named a moment ago.
    if (first !== undefined && (first.ok || first.error !== "unauthorized")) return first;
    if (!(await this.#ensure())) return first;
    return await this.#ask(command, payload, call);
  }

  async #ask(command: string, payload: unknown, call: Call): Promise<Answer | undefined> {
    const json = payload === undefined ? undefined : JSON.stringify(payload);
    if (this.#owner?.reigns) {
      if (call.signal?.aborted) return undefined;
      return readAnswer(this.#owner.answerTo(requestLine(command, this.#owner.token, json)));
    }
    const client = await this.#clientOf(await this.#discovery());
    const timeoutMs = call.deadline - this.#clock.monotonic();
    if (client === undefined || timeoutMs <= 0 || call.signal?.aborted) return undefined;
    return await client.request(command, json, { timeoutMs, background: call.background, signal: call.signal });
  }

  /** The file that is believed; a complaint where there is one that is not. */
  async #discovery(): Promise<Discovery | undefined> {
    const { file } = await this.#placed();
    try {
      return await file.read();
    } catch (error) {
      this.#complain(error, "the discovery file of the presence service is not believed");
      return undefined;
    }
  }

  /** A way to the owner; none to one that is gone, whoever has its port or its pid now. */
  #clientOf(discovery: Discovery | undefined): Client | undefined {
    if (discovery === undefined) return undefined;
    const { owner_pid: pid, auth_token: token, port } = discovery;
    const found = this.#processes.look(pid);
    if (found.state !== "alive") return undefined;
    const cached = this.#client;
    if (cached?.client.token === token && cached.client.port === port) {
      return cached.ownerStart === found.startTime ? cached.client : undefined;
    }
    const client = new Client({ token, port, clock: this.#clock });
    this.#client = { client, ownerStart: found.startTime };
    return client;
  }

  async #ensure(): Promise<boolean> {
    if (this.#owner?.reigns) return true;
    this.#electing ??= this.#elect().finally(() => {
      this.#electing = undefined;
    });
    return await this.#electing;
  }

  /** Finds the owner, or becomes it. */
  async #elect(): Promise<boolean> {
    const deadline = this.#clock.monotonic() + this.#timeoutMs;
    const call: Call = { deadline, background: true, signal: undefined };
    const { folder, file } = await this.#placed();
    await this.#owner?.stop();
    this.#owner = undefined;
    while (this.#clock.monotonic() < deadline) {
      // The lock first: whoever has it is the owner, whatever the file says and whoever listens there.
      this.#owner = await Owner.tryStart({
        folder,
        file,
        port: this.#port,
        timeoutMs: this.#timeoutMs,
        heartbeatMs: this.#heartbeatMs,
        processes: this.#processes,
        clock: this.#clock,
        logger: this.#logger,
      });
      if (this.#owner !== undefined) {
        this.#logger.debug({ folder }, "this process is the owner of the presence service now");
        return true;
      }
      if ((await this.#ask("ping", undefined, call))?.ok) return true;
      // Somebody else has the lock, and is about to say where it serves.
      await new Promise<void>((resolve) => {
        this.#clock.after(PAUSE_MS.least + Math.random() * PAUSE_MS.more, resolve);
      });
    }
    return false;
  }

  #placed(): Promise<{ folder: string; file: DiscoveryFile }> {
    this.#place ??= presenceFolder(this.#directory, this.#environment).then((folder) => ({
      folder,
      file: new DiscoveryFile(folder),
    }));
    return this.#place;
  }

  #complain(what: unknown, message: string): void {
    const text = what instanceof Error ? what.message : String(what);
    if (this.#complaints.has(text)) return;
    if (this.#complaints.size === MAX_COMPLAINTS) this.#complaints.clear();
    this.#complaints.add(text);
    this.#logger.warn({ reason: text }, message);
  }
}

function isSnapshot(value: unknown): value is Snapshot {
  if (typeof value !== "object" || value === null) return false;
  const { source, sessions } = value as Record<string, unknown>;
  return source === SOURCE && Array.isArray(sessions);
}

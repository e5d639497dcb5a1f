/**
 * The session in which the page looks at jobs: our own client over a WebSocket, let in by a ticket for each connection. The client resumes
 * what breaks; a session that is over for good is replaced by a new one, whose logs are read from their start.
 */

import {
  type ConnectOptions,
  connect,
  type JobHandle,
  type Session,
  type SessionStatus,
} from "../../src/client/index.ts";
import { sleep, systemClock } from "../../src/clock.ts";
import { newTicket } from "./api.ts";
import { JobLog } from "./job-log.ts";
import { Observable } from "./observable.ts";

export interface Connection {
  status: SessionStatus | { state: "idle" };
  /** How often it was resumed. */
  resumed: number;
}

/** Logs that are kept and followed; of one more, the one that was looked at longest ago is let go. */
const MAX_LOGS = 24;
const RETRY_MS = 3_000;

const OPTIONS: Omit<ConnectOptions, "token"> = {
  client: { name: "holdfast-console", version: "1" },
  reconnect: { initialMs: 250, maxMs: 3_000 },
  maxResultBytes: 1024 * 1024,
};

const arcp = (): string => `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/arcp`;

export class Live {
  readonly connection = new Observable<Connection>({ status: { state: "idle" }, resumed: 0 });
  /** `undefined` until there is one. */
  readonly session = new Observable<Session | undefined>(undefined);
  /** In the order in which they were looked at. */
  readonly #logs = new Map<string, JobLog>();
  #run: { principal: string; stopped: AbortController } | undefined;

  /** Opens the session of whoever is logged in, and keeps one open; idempotent for the same one. */
  start(principal: string): void {
    if (this.#run?.principal === principal) return;
    if (this.#run !== undefined) void this.stop();
    const stopped = new AbortController();
    this.#run = { principal, stopped };
    void this.#keepOpen(stopped.signal);
  }

  /** Ends the session, for a logout. */
  async stop(): Promise<void> {
    this.#run?.stopped.abort();
    this.#run = undefined;
    this.#logs.clear();
    const session = this.session.value;
    this.session.set(undefined);
    this.connection.set({ status: { state: "idle" }, resumed: 0 });
    await session?.close({ timeoutMs: 500 });
  }

  /** The log of a job, followed from now on. */
  logOf(jobId: string): JobLog {
    const known = this.#logs.get(jobId);
    const log = known ?? new JobLog(jobId);
    this.#keep(log);
    const failed = log.state.value.phase === "failed";
    if (failed) log.reset();
    if ((known === undefined || failed) && this.session.value !== undefined) this.#follow(log, this.session.value);
    return log;
  }

  /** @throws ArcpError as the session's own */
  async submit(agent: string, input: unknown, budget: string | undefined): Promise<string> {
    const leaseRequest = budget === undefined ? undefined : { "cost.budget": [budget] };
    return this.#own(await this.#need().submit(agent, input, { leaseRequest }));
  }

  #need(): Session {
    const session = this.session.value;
    if (session === undefined) throw new Error("There is no connection yet; wait until the page is live.");
    return session;
  }

  #own(handle: JobHandle): string {
    if (!this.#logs.has(handle.id)) {
      const log = new JobLog(handle.id);
      this.#keep(log);
      void log.read(handle);
    }
    return handle.id;
  }

  #keep(log: JobLog): void {
    this.#logs.delete(log.jobId);
    this.#logs.set(log.jobId, log);
    for (const oldest of this.#logs.values()) {
      if (this.#logs.size <= MAX_LOGS) return;
      if (oldest.watched) continue;
      this.#logs.delete(oldest.jobId);
      this.session.value?.unsubscribe(oldest.jobId).catch(() => undefined);
    }
  }

  #follow(log: JobLog, session: Session): void {
    session.subscribe(log.jobId, { history: true }).then(
      (handle) => log.read(handle),
      (error: unknown) => {
        if (session === this.session.value) log.fail(error);
      },
    );
  }

  /** Session after session, for as long as somebody is logged in. */
  async #keepOpen(stopped: AbortSignal): Promise<void> {
    while (!stopped.aborted) {
      try {
        await using session = await openSession(stopped);
        if (stopped.aborted) return;
        this.session.set(session);
        for (const log of this.#logs.values()) {
          log.reset();
          this.#follow(log, session);
        }
        await this.#watch(session, stopped);
      } catch (error) {
        if (stopped.aborted) return;
        const status = { state: "closed", reason: "refused", ...(error instanceof Error ? { error } : {}) } as const;
        this.connection.set({ status, resumed: 0 });
      }
      if (stopped.aborted) return;
      this.session.set(undefined);
      await sleep(systemClock, RETRY_MS, stopped).catch(() => undefined);
    }
  }

  async #watch(session: Session, stopped: AbortSignal): Promise<void> {
    let resumed = 0;
    let lost = false;
    for await (const status of session.statuses()) {
      if (stopped.aborted) return;
      if (status.state === "connected" && lost) resumed += 1;
      lost = status.state === "reconnecting";
      this.connection.set({ status, resumed });
    }
  }
}

/** A session of whoever is logged in, which ends with the page at the latest. */
export async function openSession(stopped: AbortSignal): Promise<Session> {
  const session = await connect(arcp(), { ...OPTIONS, token: newTicket, signal: stopped });
  // A page that goes leaves no session behind that the server would have to keep for its return.
  const onLeave = (event: PageTransitionEvent) => {
    if (!event.persisted) void session.close({ reason: "the page was closed", timeoutMs: 100 });
  };
  addEventListener("pagehide", onLeave, { signal: stopped });
  return session;
}

export const live = new Live();

import type { Clock } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError, type FinalStatus } from "../../protocol/index.ts";
import {
  type AppendBatch,
  type AppendResult,
  type ClaimedTurn,
  type NewEvent,
  type Store,
  StoreRefusal,
} from "../../store/store.ts";
import type { Masking } from "../credentials/masking.ts";
import type { Stats } from "../stats.ts";
import type { RunningTurn } from "../turn-seam.ts";
import type { Wakeups } from "../wakeups.ts";
import type { RecentEvents } from "./recent-events.ts";

/** `emit` resolves below these (JOB-16). */
const WINDOW_EVENTS = 256;
const WINDOW_CHARS = 1024 * 1024;
/** At these `emit` rejects and the job is aborted (JOB-16). */
const LIMIT_EVENTS = 1_024;
const LIMIT_CHARS = 4 * 1024 * 1024;
/** One append of one job, and of all jobs together. */
const BATCH_EVENTS = 512;
const BATCH_CHARS = 1024 * 1024;
const BATCH_JOBS = 64;
/** Between two tries while the store is down. */
const RETRY_FIRST_MS = 50;
const RETRY_LAST_MS = 2_000;

const DONE = Promise.resolve();

/**
 * The log of one attempt at one job: numbers its events, holds those that are not yet stored, and
 * makes a writer that runs ahead wait. Its numbers have this one writer (law 2).
 */
export class JobLog {
  readonly jobId: string;
  readonly runEpoch: number;
  /** Settles when the terminal event is stored, or when the store has refused this attempt. */
  readonly closed: Promise<void>;
  readonly #writer: LogWriter;
  readonly #handOver: (() => AppendBatch["handOver"]) | undefined;
  #resolveClosed: () => void = () => undefined;
  #nextN: number;
  /** Not yet handed to the store, oldest first. */
  #pending: NewEvent[] = [];
  /** Handed to the store and not yet answered. */
  #inFlight: NewEvent[] = [];
  #chars = 0;
  #end: FinalStatus | undefined;
  #refusal: StoreRefusal | undefined;
  /** Resolved, in order, when there is room; and, when all is stored, those of `flush`. */
  #waitingForRoom: (() => void)[] = [];
  #waitingForAll: (() => void)[] = [];

  /** @param handOver where the job is a turn: who takes the conversation's next one when it ends */
  constructor(
    writer: LogWriter,
    jobId: string,
    runEpoch: number,
    lastN: number,
    handOver?: () => AppendBatch["handOver"],
  ) {
    this.#writer = writer;
    this.#handOver = handOver;
    this.jobId = jobId;
    this.runEpoch = runEpoch;
    this.#nextN = lastN + 1;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  /** Why the store refused this attempt, once it has. */
  get refusal(): StoreRefusal | undefined {
    return this.#refusal;
  }

  /** A text as it may be stored: without a secret that is known (CRD-7). */
  masked(text: string): string {
    return this.#writer.masked(text);
  }

  /** The newest event that was appended. */
  get lastN(): number {
    return this.#nextN - 1;
  }

  /** Events that wait to be stored. */
  get unstored(): number {
    return this.#pending.length + this.#inFlight.length;
  }

  /**
   * Takes one event. The promise resolves when there is room for the next.
   *
   * @throws ArcpError INTERNAL_ERROR when too much is not yet stored: the caller did not wait (JOB-16)
   */
  append(kind: string, text: string): Promise<void> {
    const payload = this.#writer.masked(text);
    if (this.#end !== undefined || this.#refusal !== undefined) {
      throw new ArcpError("CANCELLED", "The job has ended; nothing more can be emitted.");
    }
    if (this.unstored >= LIMIT_EVENTS || this.#chars + payload.length > LIMIT_CHARS) {
      throw new ArcpError(
        "INTERNAL_ERROR",
        `The agent emitted ${this.unstored} events without waiting for them to be stored; await each emit.`,
      );
    }
    this.#push(kind, payload);
    return this.#hasRoom() ? DONE : new Promise((resolve) => this.#waitingForRoom.push(resolve));
  }

  /** Resolves when everything that was appended is stored (or refused: see `refusal`). */
  flush(): Promise<void> {
    return this.unstored === 0 ? DONE : new Promise((resolve) => this.#waitingForAll.push(resolve));
  }

  /** Takes the terminal event; nothing follows it. Never refuses for lack of room. */
  end(status: FinalStatus, payload: string): void {
    if (this.#end !== undefined) throw new Error(`Job ${this.jobId} was ended twice.`);
    this.#push(status === "success" ? "job.result" : "job.error", this.#writer.masked(payload));
    this.#end = status;
    this.#writer.hurry(this);
  }

  /** The attempt is no longer this process's: what is not stored never will be, and nobody waits for it. */
  abandon(reason: string): void {
    this.#refusal ??= new StoreRefusal("stale_run", reason);
    this.#pending = [];
    this.#releaseAll();
    this.#resolveClosed();
  }

  /** For the writer: the next batch, unless one is on its way. */
  take(now: number): AppendBatch | undefined {
    if (this.#inFlight.length > 0 || this.#pending.length === 0) return undefined;
    let chars = 0;
    let count = 0;
    for (const event of this.#pending) {
      chars += event.payload.length;
      if (count > 0 && (count === BATCH_EVENTS || chars > BATCH_CHARS)) break;
      count += 1;
    }
    if (count === this.#pending.length) {
      this.#inFlight = this.#pending;
      this.#pending = [];
    } else {
      this.#inFlight = this.#pending.splice(0, count);
    }
    const last = this.#pending.length === 0 ? this.#end : undefined;
    const handOver = last === undefined ? undefined : this.#handOver?.();
    return { jobId: this.jobId, runEpoch: this.runEpoch, events: this.#inFlight, end: last, handOver, now };
  }

  /** For the writer: what the store said of the batch on its way. Answers whether there is another. */
  settle(result: AppendResult): boolean {
    if (result.ok) {
      for (const event of this.#inFlight) this.#chars -= event.payload.length;
      this.#inFlight = [];
    } else {
      this.#refusal = result.refusal;
      this.#inFlight = [];
      this.#pending = [];
      this.#chars = 0;
    }
    while (this.#waitingForRoom.length > 0 && this.#hasRoom()) this.#waitingForRoom.shift()?.();
    if (this.unstored > 0) return true;
    this.#releaseAll();
    if (this.#end !== undefined || this.#refusal !== undefined) this.#resolveClosed();
    return false;
  }

  #releaseAll(): void {
    for (const resolve of this.#waitingForRoom.splice(0)) resolve();
    for (const resolve of this.#waitingForAll.splice(0)) resolve();
  }

  #hasRoom(): boolean {
    return this.unstored < WINDOW_EVENTS && this.#chars < WINDOW_CHARS;
  }

  #push(kind: string, payload: string): void {
    this.#pending.push({ n: this.#nextN, kind, payload });
    this.#nextN += 1;
    this.#chars += payload.length;
    this.#writer.mark(this);
  }
}

/**
 * Carries the logs of all running jobs to the store: what was appended in one turn of the event loop
 * goes in one call. While the store is down it tries again, with the same events under the same
 * numbers, which the store takes once (STO-1).
 */
export class LogWriter {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #recent: RecentEvents;
  readonly #wakeups: Wakeups;
  readonly #masking: Masking;
  readonly #stats: Stats;
  readonly #handedOver: (turn: ClaimedTurn, askedAt: RunningTurn["askedAt"]) => void;
  readonly #dirty = new Set<JobLog>();
  #scheduled = false;
  #stopped = false;

  constructor(parts: {
    store: Store;
    clock: Clock;
    logger: Logger;
    recent: RecentEvents;
    wakeups: Wakeups;
    masking: Masking;
    stats: Stats;
    /** A turn was handed over to this node in the commit that ended the one before it. */
    handedOver(turn: ClaimedTurn, askedAt: RunningTurn["askedAt"]): void;
  }) {
    this.#store = parts.store;
    this.#clock = parts.clock;
    this.#logger = parts.logger;
    this.#recent = parts.recent;
    this.#wakeups = parts.wakeups;
    this.#masking = parts.masking;
    this.#stats = parts.stats;
    this.#handedOver = parts.handedOver;
  }

  /** A payload as it may be stored: without a secret that is known (CRD-7). */
  masked(payload: string): string {
    return this.#masking.json(payload);
  }

  /** The store is about to be closed: what it does not take now is not tried again. */
  stop(): void {
    this.#stopped = true;
  }

  /** A log has something to be stored. */
  mark(log: JobLog): void {
    this.#dirty.add(log);
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.#flush());
  }

  /** Writes a log that has ended without waiting for the turn to end: nothing will join its last batch. */
  hurry(log: JobLog): void {
    const batch = log.take(this.#clock.wall());
    if (batch !== undefined) void this.#write([log], [batch], RETRY_FIRST_MS);
  }

  #flush(): void {
    this.#scheduled = false;
    let logs: JobLog[] = [];
    let batches: AppendBatch[] = [];
    const now = this.#clock.wall();
    for (const log of this.#dirty) {
      this.#dirty.delete(log);
      const batch = log.take(now);
      if (batch === undefined) continue;
      logs.push(log);
      batches.push(batch);
      if (batches.length === BATCH_JOBS) {
        void this.#write(logs, batches, RETRY_FIRST_MS);
        logs = [];
        batches = [];
      }
    }
    if (batches.length > 0) void this.#write(logs, batches, RETRY_FIRST_MS);
  }

  async #write(logs: JobLog[], batches: AppendBatch[], retryMs: number): Promise<void> {
    let results: AppendResult[];
    const askedAt = { monotonic: this.#clock.monotonic(), wall: this.#clock.wall() };
    try {
      results = await this.#store.jobs.append(batches);
      this.#stats.onAppend?.(this.#clock.monotonic() - askedAt.monotonic);
    } catch (error) {
      this.#stats.storeErrors.append += 1;
      if (this.#stopped) {
        this.#logger.error(
          { err: error, jobs: logs.length },
          "append failed at the stop; whoever buries this node ends the jobs",
        );
        return;
      }
      this.#logger.error({ err: error, jobs: logs.length, retryMs }, "append failed; trying again");
      this.#clock.after(retryMs, () => {
        // Asked anew: a lock that is handed over is good from then, not from the first try.
        const now = this.#clock.wall();
        const again = batches.map((batch) => ({ ...batch, now }));
        void this.#write(logs, again, Math.min(retryMs * 2, RETRY_LAST_MS));
      });
      return;
    }
    for (const [index, log] of logs.entries()) {
      const result = results[index];
      const batch = batches[index];
      if (result === undefined || batch === undefined) continue;
      if (result.ok) {
        // An attempt that was abandoned meanwhile: what it wrote, kept here, would hide what somebody else adds.
        if (log.refusal === undefined) this.#recent.add(log.jobId, batch.events);
        this.#stats.eventsAppended += batch.events.length;
        if (batch.end !== undefined) this.#stats.jobsEnded[batch.end] += 1;
      } else {
        this.#logger.warn({ job_id: log.jobId, reason: result.refusal.reason }, "append refused");
        this.#recent.forget(log.jobId);
      }
      if (result.ok && result.next !== undefined) this.#handedOver(result.next, askedAt);
      const more = log.settle(result);
      this.#wakeups.wake(log.jobId);
      if (more) this.mark(log);
    }
  }
}

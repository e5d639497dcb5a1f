/**
 * Reads one job's log for whoever has no session: from a position to the terminal event, a page at a time, when it
 * is asked for one (law 1). It registers for wake-ups before its first read, so that an empty one can wait; the sweep
 * finds what no wake-up told. Costs a listener; holds one page.
 */
import { type Clock, sleep } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { type JobFacet, type NewEvent, StoreRefusal, StoreUnavailable } from "../store/store.ts";
import type { RecentEvents } from "./job/recent-events.ts";
import type { Stats } from "./stats.ts";
import type { Wakeups } from "./wakeups.ts";

const PAGE_EVENTS = 512;
const RETRY_MS = 100;

export type FollowedPage =
  /** Consecutive events; payloads are JSON text, as on the wire. */
  | { kind: "events"; events: readonly NewEvent[] }
  /** The events `fromN` to `throughN` were removed before they were read (STO-15). */
  | { kind: "gap"; fromN: number; throughN: number }
  /** Nothing happened for as long as the reader would wait. */
  | { kind: "quiet" }
  /** The terminal event was read, the job is gone, or somebody closed this. */
  | { kind: "end" };

export interface JobFollowParts {
  jobs: JobFacet;
  recent: RecentEvents;
  wakeups: Wakeups;
  stats: Stats;
  clock: Clock;
  logger: Logger;
}

export class JobFollow {
  readonly #parts: JobFollowParts;
  readonly #jobId: string;
  readonly #closed = new AbortController();
  /** Aborts at the end. */
  readonly closed = this.#closed.signal;
  readonly #stop: () => void;
  #positionN: number;
  #woken = false;
  #wake: (() => void) | undefined;
  #ended = false;
  #idle = false;
  #waitingForIdle: (() => void)[] = [];

  /** @param afterN what the reader has */
  constructor(parts: JobFollowParts, jobId: string, afterN: number) {
    this.#parts = parts;
    this.#jobId = jobId;
    this.#positionN = afterN;
    this.#stop = parts.wakeups.on(jobId, () => this.#wakeUp());
  }

  /**
   * The next page; waits for one at most `patienceMs`. One call at a time.
   *
   * @throws StoreRefusal and errors of the store, except that it is down: then it waits for it
   */
  async next(patienceMs: number): Promise<FollowedPage> {
    while (!this.#ended && !this.#closed.signal.aborted) {
      this.#idle = false;
      this.#woken = false;
      const page = await this.#read();
      if (page.kind === "end") this.close();
      if (page.kind !== "quiet") return page;
      if (!this.#woken && !(await this.#wait(patienceMs))) return page;
    }
    this.close();
    return { kind: "end" };
  }

  /** Resolves when nothing is left to read, as far as is known, or this was closed. */
  whenIdle(): Promise<void> {
    if (this.#idle || this.#closed.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => this.#waitingForIdle.push(resolve));
  }

  close(): void {
    this.#closed.abort();
    this.#stop();
    this.#wakeUp();
    this.#becameIdle();
  }

  async #read(): Promise<FollowedPage> {
    const { recent, jobs, stats, clock, logger } = this.#parts;
    const afterN = this.#positionN;
    try {
      const events = await recent.read(this.#jobId, afterN, afterN + PAGE_EVENTS);
      const last = events.at(-1);
      if (last === undefined) return { kind: "quiet" };
      this.#positionN = last.n;
      stats.eventsFollowed += events.length;
      this.#ended = last.kind === "job.result" || last.kind === "job.error";
      return { kind: "events", events };
    } catch (error) {
      if (error instanceof StoreUnavailable) {
        stats.storeErrors.delivery += 1;
        logger.warn({ err: error, job_id: this.#jobId }, "store down; a follower waits");
        await sleep(clock, RETRY_MS, this.#closed.signal).catch(() => undefined);
        this.#woken = true;
        return { kind: "quiet" };
      }
      if (!(error instanceof StoreRefusal)) throw error;
      if (error.reason === "unknown_job") return { kind: "end" };
      if (error.reason !== "below_floor") throw error;
      recent.forget(this.#jobId);
      const floorN = (await jobs.get(this.#jobId))?.floorN ?? 0;
      if (floorN <= afterN) return { kind: "end" };
      this.#positionN = floorN;
      return { kind: "gap", fromN: afterN + 1, throughN: floorN };
    }
  }

  /** @returns whether something may have happened */
  async #wait(patienceMs: number): Promise<boolean> {
    this.#becameIdle();
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#wake = () => resolve(true);
    const timer = this.#parts.clock.after(patienceMs, () => resolve(false));
    const happened = await promise;
    timer.cancel();
    this.#wake = undefined;
    return happened;
  }

  #wakeUp(): void {
    this.#woken = true;
    this.#wake?.();
  }

  #becameIdle(): void {
    this.#idle = true;
    const waiting = this.#waitingForIdle;
    this.#waitingForIdle = [];
    for (const resolve of waiting) resolve();
  }
}

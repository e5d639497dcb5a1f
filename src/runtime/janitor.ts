import { type Clock, sleep, type Timer } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { RetentionPolicy, Store } from "../store/store.ts";

/** Between two steps, so that whoever appends goes first. */
const BETWEEN_STEPS_MS = 5;

export interface JanitorParts {
  store: Store;
  clock: Clock;
  logger: Logger;
  intervalMs: number;
  policy: Omit<RetentionPolicy, "now">;
}

/**
 * Removes what is over, by the store's rules (STO-13 to STO-15): one small step after the other until
 * nothing is left, then nothing for an interval. Several processes on one store may each have one.
 */
export class Janitor {
  readonly #parts: JanitorParts;
  #timer: Timer | undefined;
  #stopped = new AbortController();
  #round: Promise<void> = Promise.resolve();

  constructor(parts: JanitorParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#timer = this.#parts.clock.after(this.#parts.intervalMs, () => {
      this.#round = this.#clean().finally(() => {
        if (!this.#stopped.signal.aborted) this.start();
      });
    });
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    this.#timer?.cancel();
    await this.#round;
  }

  async #clean(): Promise<void> {
    const { store, clock, logger, policy } = this.#parts;
    const removed = { events: 0, jobs: 0, sessions: 0 };
    try {
      for (let more = true; more && !this.#stopped.signal.aborted; ) {
        const step = await store.retain({ ...policy, now: clock.wall() });
        removed.events += step.events;
        removed.jobs += step.jobs;
        removed.sessions += step.sessions;
        more = step.more;
        if (more) await sleep(clock, BETWEEN_STEPS_MS, this.#stopped.signal).catch(() => undefined);
      }
    } catch (error) {
      logger.warn({ err: error }, "the janitor was held up; it goes on at its next round");
    }
    if (removed.events + removed.jobs + removed.sessions > 0)
      logger.debug(removed, "the janitor removed what was over");
  }
}

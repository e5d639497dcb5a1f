/**
 * Jobs that nobody runs: those whose node was lost, or stopped, and that may be run again (CLU). Each process looks
 * for them once in an interval, one small indexed query, and takes those whose agent it offers; turns come back
 * through their conversation's queue instead.
 */
import type { Clock, Timer } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { ClaimedJob, JobFacet, TurnClaim } from "../store/store.ts";

/** Jobs that one look takes. */
const CLAIMED_AT_ONCE = 64;

export interface GivenBackParts {
  jobs: JobFacet;
  clock: Clock;
  logger: Logger;
  intervalMs: number;
  /** Who takes jobs here; `undefined` while nobody does, because the runtime stops. */
  claim(): Omit<TurnClaim, "now"> | undefined;
  run(job: ClaimedJob): void;
}

export class GivenBackJobs {
  readonly #parts: GivenBackParts;
  #timer: Timer | undefined;
  #looking: Promise<void> | undefined;
  #stopped = false;

  constructor(parts: GivenBackParts) {
    this.#parts = parts;
  }

  start(): void {
    this.look();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#looking;
  }

  /** Looks now; a look that is under way will do. */
  look(): void {
    if (this.#looking !== undefined || this.#stopped) return;
    const { clock, logger, intervalMs } = this.#parts;
    this.#timer?.cancel();
    this.#looking = this.#look()
      .catch((error: unknown) => logger.warn({ err: error }, "jobs that were given back could not be looked for"))
      .finally(() => {
        this.#looking = undefined;
        if (!this.#stopped) this.#timer = clock.after(intervalMs, () => this.look());
      });
  }

  async #look(): Promise<void> {
    const { jobs, claim, run } = this.#parts;
    for (;;) {
      const claimer = claim();
      if (claimer === undefined || claimer.agents.length === 0) return;
      const claimed = await jobs.claim({ ...claimer, limit: CLAIMED_AT_ONCE });
      for (const job of claimed) run(job);
      if (claimed.length < CLAIMED_AT_ONCE) return;
    }
  }
}

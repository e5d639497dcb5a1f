/**
 * Jobs that nobody runs: those whose node was lost, or stopped, and that may be run again (CLU). A process takes those
 * whose agent it offers, whenever the sweep says that there are some; turns come back through their conversation's
 * queue instead.
 */
import type { Logger } from "../logger.ts";
import type { ClaimedJob, JobFacet, TurnClaim } from "../store/store.ts";

/** Jobs that one look takes. */
const CLAIMED_AT_ONCE = 64;

export interface GivenBackParts {
  jobs: JobFacet;
  logger: Logger;
  /** Who takes jobs here; `undefined` while nobody does, because the runtime stops. */
  claim(): Omit<TurnClaim, "now"> | undefined;
  run(job: ClaimedJob): void;
}

export class GivenBackJobs {
  readonly #parts: GivenBackParts;
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
    await this.#looking;
  }

  /** Looks now; a look that is under way will do. */
  look(): void {
    if (this.#looking !== undefined || this.#stopped) return;
    const { logger } = this.#parts;
    this.#looking = this.#look()
      .catch((error: unknown) => logger.warn({ err: error }, "jobs that were given back could not be looked for"))
      .finally(() => {
        this.#looking = undefined;
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

/**
 * Deletes what is upstream and nobody's: sessions whose maker died before they were bound, those that were replaced,
 * lost or released, and those whose deletion failed before. Costs one query a round while there is nothing; a list of
 * the backend's sessions only where one is known by its nonce alone. Several processes may each have one.
 */
import { type Clock, systemClock, type Timer } from "../../clock.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import { isFinal } from "../../protocol/index.ts";
import type { BindingFacet, JobFacet, UpstreamDebt } from "../../store/store.ts";
import type { Backend } from "./backend.ts";
import { JOB_OWNER } from "./job-record.ts";
import type { UpstreamTable } from "./table.ts";

export interface UpstreamJanitorOptions {
  /** Our store's. */
  bindings: BindingFacet;
  backends: readonly Backend[];
  /** The host's own tables: what was about to be committed to one that is not among them waits. */
  tables?: readonly UpstreamTable[] | undefined;
  /** Our store's: without them, the sessions of jobs that were killed wait. */
  jobs?: Pick<JobFacet, "get"> | undefined;
  /** @default 30_000 */
  intervalMs?: number | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
}

const PAGE = 100;
/** Nonces that are looked for in one list; the next round takes more. */
const MAX_UNNAMED = 1_000;

export class UpstreamJanitor implements AsyncDisposable {
  readonly #options: UpstreamJanitorOptions;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #intervalMs: number;
  readonly #stopped = new AbortController();
  #timer: Timer | undefined;
  #round: Promise<number> = Promise.resolve(0);

  /** @throws RangeError */
  constructor(options: UpstreamJanitorOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    this.#intervalMs = options.intervalMs ?? 30_000;
    if (!(this.#intervalMs > 0)) throw new RangeError(`intervalMs: ${this.#intervalMs} is not above 0.`);
  }

  start(): void {
    if (this.#stopped.signal.aborted) return;
    this.#timer?.cancel();
    this.#timer = this.#clock.after(this.#intervalMs, () => {
      void this.sweep().finally(() => this.start());
    });
  }

  /** Ends the round that is under way. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    this.#timer?.cancel();
    await this.#round;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /**
   * One round, after the one that is under way. Never rejects: what could not be done is logged, and due again.
   *
   * @returns how many sessions were found to be nobody's and are gone
   */
  sweep(): Promise<number> {
    this.#round = this.#round.then(async () => {
      let deleted = 0;
      for (const backend of this.#options.backends) {
        try {
          deleted += await this.#sweep(backend);
        } catch (error) {
          this.#logger.warn(
            { err: error, backend: backend.name },
            "upstream sessions could not be swept; tried again later",
          );
        }
      }
      if (deleted > 0) this.#logger.info({ deleted }, "upstream sessions that were nobody's were deleted");
      return deleted;
    });
    return this.#round;
  }

  async #sweep(backend: Backend): Promise<number> {
    const { bindings } = this.#options;
    const unnamed = new Set<string>();
    let deleted = 0;
    for (let after = 0; !this.#stopped.signal.aborted && unnamed.size < MAX_UNNAMED; ) {
      const now = this.#clock.wall();
      const madeBefore = now - 2 * backend.createTimeoutMs;
      const due = await bindings.sweep({ backend: backend.name, madeBefore, after, limit: PAGE, now });
      for (const debt of due) {
        if (this.#stopped.signal.aborted) return deleted;
        after = debt.debtId;
        if (debt.state === "persisting") await this.#ask(debt);
        else if (debt.upstreamId !== undefined) deleted += await this.#delete(backend, debt.upstreamId);
        else if (debt.nonce !== undefined) unnamed.add(debt.nonce);
      }
      // What a row said is nobody's stands behind the last.
      if (due.length === 0) break;
    }
    if (unnamed.size > 0 && !this.#stopped.signal.aborted) deleted += await this.#deleteByNonce(backend, unnamed);
    return deleted;
  }

  /** Its row, or its job, knows; what then is nobody's is found behind this one. */
  async #ask(debt: UpstreamDebt): Promise<void> {
    const { bindings, jobs, tables = [] } = this.#options;
    if (debt.owner === JOB_OWNER && jobs !== undefined && debt.nonce !== undefined) {
      const job = await jobs.get(debt.recordId);
      if (job !== undefined && !isFinal(job.status)) return;
      await bindings.settle({ nonce: debt.nonce, holds: undefined, now: this.#clock.wall() });
      return;
    }
    const table = tables.find(({ owner }) => owner === debt.owner);
    if (table === undefined || debt.nonce === undefined) {
      this.#logger.warn({ owner: debt.owner, record_id: debt.recordId }, "a janitor needs this table to clean up");
      return;
    }
    try {
      const holds = await table.held(debt.recordId);
      await bindings.settle({ nonce: debt.nonce, holds, now: this.#clock.wall() });
    } catch (error) {
      this.#logger.warn({ err: error, owner: debt.owner, record_id: debt.recordId }, "a row could not be asked");
    }
  }

  async #delete(backend: Backend, upstreamId: string): Promise<number> {
    try {
      await backend.delete(upstreamId, { signal: this.#stopped.signal });
      await this.#options.bindings.gone({ backend: backend.name, upstreamId });
      return 1;
    } catch (error) {
      if (isDown(error)) throw error;
      this.#logger.warn({ err: error, backend: backend.name, upstream_id: upstreamId }, "a session was not deleted");
      return 0;
    }
  }

  async #deleteByNonce(backend: Backend, nonces: ReadonlySet<string>): Promise<number> {
    const failed = new Set<string>();
    let deleted = 0;
    const { signal } = this.#stopped;
    for await (const { id, nonce } of backend.list({ signal })) {
      signal.throwIfAborted();
      if (nonce === undefined || !nonces.has(nonce)) continue;
      try {
        await backend.delete(id, { signal });
        deleted += 1;
      } catch (error) {
        if (isDown(error)) throw error;
        this.#logger.warn({ err: error, backend: backend.name, upstream_id: id }, "a session was not deleted");
        failed.add(nonce);
      }
    }
    for (const nonce of nonces) {
      if (!failed.has(nonce)) await this.#options.bindings.gone({ backend: backend.name, nonce });
    }
    return deleted;
  }
}

const isDown = (error: unknown): boolean => error instanceof Error && "kind" in error && error.kind === "unavailable";

/**
 * One partition of a table: its entries, its counters, and what becomes of it when its entries fail (RTE-9).
 *
 * - **running**: operations go to the entries. One that throws takes the partition down, with all it held.
 * - **down**: nothing is taken and nothing found. The next operation after the pause opens new entries; when that
 *   fails too, the pause doubles, up to half a minute.
 *
 * No partition knows of another, so none can take another with it.
 */
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { Entry, PartitionEntries } from "./entries.ts";

/** What happened in a partition since the table was made. */
export interface PartitionCounters {
  set: number;
  hits: number;
  misses: number;
  fallbacks: number;
  stale: number;
  evicted: number;
  pruned: number;
  failures: number;
}

/** A partition that runs, as {@link Routes.partition} shows it. */
export interface PartitionWorker {
  readonly index: number;
  readonly size: number;
  readonly counters: Readonly<PartitionCounters>;
  /** Takes it down, as an error of its entries does: what it held is lost, and it starts anew after a pause. */
  fail(error: Error): void;
}

export interface PartitionParts {
  index: number;
  clock: Clock;
  logger: Logger;
  open(index: number): PartitionEntries;
  onDown(index: number, error: unknown): void;
  onUp(index: number): void;
}

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 30_000;
/** After so long without a failure the next pause is the first one again. */
const SOUND_MS = 60_000;

export class Partition implements PartitionWorker {
  readonly index: number;
  readonly counters: PartitionCounters = {
    set: 0,
    hits: 0,
    misses: 0,
    fallbacks: 0,
    stale: 0,
    evicted: 0,
    pruned: 0,
    failures: 0,
  };
  readonly #parts: PartitionParts;
  #entries: PartitionEntries | undefined;
  #openAgainAt = 0;
  #pauseMs = 0;
  #failedAt = 0;

  constructor(parts: PartitionParts) {
    this.#parts = parts;
    this.index = parts.index;
    this.#open();
  }

  /** The entries, if it runs or can be started now. */
  get entries(): PartitionEntries | undefined {
    if (this.#entries === undefined && this.#parts.clock.monotonic() >= this.#openAgainAt) {
      this.#open();
      if (this.#entries !== undefined) this.#parts.onUp(this.index);
    }
    return this.#entries;
  }

  get size(): number {
    try {
      return this.entries?.size ?? 0;
    } catch (error) {
      this.fail(error);
      return 0;
    }
  }

  /** The newest written entries, as many as are wanted; none while it is down. */
  newest(limit: number): Entry[] {
    const newest: Entry[] = [];
    try {
      for (const entry of this.entries?.newest() ?? []) {
        if (newest.length >= limit) break;
        newest.push(entry);
      }
    } catch (error) {
      this.fail(error);
    }
    return newest;
  }

  fail(error: unknown): void {
    const { clock, logger } = this.#parts;
    const now = clock.monotonic();
    this.#pauseMs =
      this.#pauseMs === 0 || now - this.#failedAt > SOUND_MS
        ? FIRST_PAUSE_MS
        : Math.min(this.#pauseMs * 2, LONGEST_PAUSE_MS);
    this.#failedAt = now;
    this.#openAgainAt = now + this.#pauseMs;
    this.#entries = undefined;
    this.counters.failures += 1;
    logger.error(
      { err: error, partition: this.index, pause_ms: this.#pauseMs },
      "a partition of the routes failed; it starts anew, empty",
    );
    this.#parts.onDown(this.index, error);
  }

  #open(): void {
    try {
      this.#entries = this.#parts.open(this.index);
    } catch (error) {
      this.fail(error);
    }
  }
}

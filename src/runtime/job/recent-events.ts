import type { JobFacet, NewEvent } from "../../store/store.ts";

/** What one job may keep here; older events are read from the store. */
const MAX_EVENTS_PER_JOB = 2_048;
const MAX_CHARS_PER_JOB = 2 * 1024 * 1024;
/** What all jobs together may keep here. */
const MAX_CHARS = 32 * 1024 * 1024;
/** The store's page, so that both sources read alike (STO-7). */
const PAGE_EVENTS = 512;
const PAGE_CHARS = 1024 * 1024;

/** What an event and a stretch weigh beside their payloads, about: many short jobs are as heavy as a long one. */
const EVENT_CHARS = 128;
const STRETCH_CHARS = 512;

const weightOf = (event: NewEvent): number => event.payload.length + EVENT_CHARS;

interface Stretch {
  /** Consecutive n. */
  events: NewEvent[];
  /** Index of the oldest event that counts; what is before it waits to be cut off in one go. */
  start: number;
  chars: number;
}

/**
 * The newest stretch of the logs that this process writes, in front of the store: a live tail reads
 * here what was committed a moment ago. It holds only what is stored (law 1), is bounded, and losing
 * any of it costs a query.
 */
export class RecentEvents {
  readonly #jobs: JobFacet;
  /** In order of last growth, so that the first is the one to give up. */
  readonly #stretches = new Map<string, Stretch>();
  #chars = 0;

  constructor(jobs: JobFacet) {
    this.#jobs = jobs;
  }

  /** A log that this process begins: it is empty, and nobody need ask the store. */
  begin(jobId: string): void {
    this.#stretches.set(jobId, this.#newStretch());
    this.#giveUp();
  }

  /** Takes events that have been stored. */
  add(jobId: string, events: readonly NewEvent[]): void {
    const first = events[0];
    if (first === undefined) return;
    let stretch = this.#stretches.get(jobId);
    if (stretch !== undefined) {
      this.#stretches.delete(jobId);
      const newest = stretch.events.at(-1);
      if (newest !== undefined && newest.n + 1 !== first.n) {
        this.#chars -= stretch.chars;
        stretch = undefined;
      }
    }
    stretch ??= this.#newStretch();
    this.#stretches.set(jobId, stretch);
    for (const event of events) {
      stretch.events.push(event);
      stretch.chars += weightOf(event);
      this.#chars += weightOf(event);
    }
    this.#trim(stretch);
    this.#giveUp();
  }

  /** Lets go of a job that is no longer this process's: somebody else has added to its log. */
  forget(jobId: string): void {
    const stretch = this.#stretches.get(jobId);
    if (stretch !== undefined) this.#chars -= stretch.chars;
    this.#stretches.delete(jobId);
  }

  /** The newest n that is here; 0 for none. */
  newestN(jobId: string): number {
    return this.#stretches.get(jobId)?.events.at(-1)?.n ?? 0;
  }

  /** A page as the store would give it: from here where possible, else from there. */
  async read(jobId: string, afterN: number, throughN: number): Promise<NewEvent[]> {
    return this.#peek(jobId, afterN, throughN) ?? (await this.#jobs.read(jobId, afterN, throughN)).events;
  }

  #peek(jobId: string, afterN: number, throughN: number): NewEvent[] | undefined {
    const stretch = this.#stretches.get(jobId);
    const oldest = stretch?.events[stretch.start];
    if (stretch === undefined) return undefined;
    // Only a log that has just begun has none.
    if (oldest === undefined) return afterN === 0 ? [] : undefined;
    if (afterN + 1 < oldest.n) return undefined;
    const from = stretch.start + (afterN + 1 - oldest.n);
    const limit = Math.min(stretch.events.length, from + PAGE_EVENTS, stretch.start + (throughN - oldest.n) + 1);
    let chars = 0;
    let to = from;
    while (to < limit) {
      chars += stretch.events[to]?.payload.length ?? 0;
      if (chars > PAGE_CHARS && to > from) break;
      to += 1;
    }
    return stretch.events.slice(from, to);
  }

  #newStretch(): Stretch {
    this.#chars += STRETCH_CHARS;
    return { events: [], start: 0, chars: STRETCH_CHARS };
  }

  /** Lets go of the logs that grew longest ago, while there is too much. */
  #giveUp(): void {
    for (const [id, oldest] of this.#stretches) {
      if (this.#chars <= MAX_CHARS) break;
      this.#chars -= oldest.chars;
      this.#stretches.delete(id);
    }
  }

  #trim(stretch: Stretch): void {
    while (
      stretch.events.length - stretch.start > MAX_EVENTS_PER_JOB ||
      (stretch.chars > MAX_CHARS_PER_JOB && stretch.events.length - stretch.start > 1)
    ) {
      const oldest = stretch.events[stretch.start];
      const chars = oldest === undefined ? 0 : weightOf(oldest);
      stretch.chars -= chars;
      this.#chars -= chars;
      stretch.start += 1;
    }
    if (stretch.start > MAX_EVENTS_PER_JOB) {
      stretch.events.splice(0, stretch.start);
      stretch.start = 0;
    }
  }
}

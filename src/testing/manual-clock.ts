/**
 * A clock that moves only when a test says so: deadlines of hours are tested in microseconds, and
 * never depend on how busy the machine is. Between two timers it lets everything that is ready run
 * (microtasks, then a few turns of the event loop), so that work which a timer starts can set the
 * next timer before time goes on. Real I/O takes as long as it takes: wait for its outcome, not for
 * this clock.
 */
import { setImmediate as turn } from "node:timers/promises";
import type { Clock, Timer } from "../clock.ts";

/** Work that a timer starts often needs more than one turn: a group commit, then its continuation. */
const TURNS_BETWEEN_TIMERS = 4;

interface PendingTimer {
  dueAt: number;
  /** Timers that are due together fire in the order in which they were set. */
  order: number;
  fn: () => void;
}

export class ManualClock implements Clock {
  #wall: number;
  #monotonic = 0;
  #order = 0;
  readonly #pending = new Set<PendingTimer>();
  #lastAdvance: Promise<void> = Promise.resolve();

  /**
   * @param wall where the wall clock starts, milliseconds since the epoch
   * @default 2026-01-01T00:00:00Z
   */
  constructor(wall: number = Date.UTC(2026, 0, 1)) {
    this.#wall = wall;
  }

  /** Timers that were set, and neither fired nor were cancelled. */
  get pendingTimers(): number {
    return this.#pending.size;
  }

  wall(): number {
    return this.#wall;
  }

  monotonic(): number {
    return this.#monotonic;
  }

  after(delayMs: number, fn: () => void): Timer {
    const timer: PendingTimer = { dueAt: this.#monotonic + Math.max(0, delayMs), order: this.#order++, fn };
    this.#pending.add(timer);
    return { cancel: () => void this.#pending.delete(timer) };
  }

  /** Steps the wall clock alone, as an operator or NTP does. No timer fires. */
  stepWall(ms: number): void {
    this.#wall += ms;
  }

  /**
   * Moves both times on by `ms` and fires what becomes due, in order, each timer at its own time. An
   * advance that is called while another is under way starts after it. Rejects with what a timer threw.
   */
  advance(ms: number): Promise<void> {
    if (!(ms >= 0)) {
      throw new RangeError(`time moves forward only: advance(${ms})`);
    }
    const advance = this.#lastAdvance.then(() => this.#advance(ms));
    this.#lastAdvance = advance.catch(() => undefined);
    return advance;
  }

  async #advance(ms: number): Promise<void> {
    const target = this.#monotonic + ms;
    await this.#settle();
    for (let next = this.#next(target); next !== undefined; next = this.#next(target)) {
      this.#pending.delete(next);
      this.#moveTo(next.dueAt);
      next.fn();
      await this.#settle();
    }
    this.#moveTo(target);
    await this.#settle();
  }

  #next(target: number): PendingTimer | undefined {
    let next: PendingTimer | undefined;
    for (const timer of this.#pending) {
      if (timer.dueAt > target) {
        continue;
      }
      if (next === undefined || timer.dueAt < next.dueAt || (timer.dueAt === next.dueAt && timer.order < next.order)) {
        next = timer;
      }
    }
    return next;
  }

  #moveTo(monotonic: number): void {
    const step = Math.max(0, monotonic - this.#monotonic);
    this.#monotonic += step;
    this.#wall += step;
  }

  async #settle(): Promise<void> {
    for (let i = 0; i < TURNS_BETWEEN_TIMERS; i++) {
      await turn();
    }
  }
}

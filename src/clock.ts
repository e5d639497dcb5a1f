/**
 * Time, injected. Nothing in Holdfast reads the system clock or sets a timer
 * except through a `Clock`, so every deadline can be tested without waiting.
 */

/** A timer that was set on a {@link Clock}. */
export interface Timer {
  /** Stops the timer. Does nothing once it has fired. */
  cancel(): void;
}

export interface Clock {
  /** Wall time in milliseconds since the epoch; may step. For timestamps. */
  wall(): number;
  /** Milliseconds from an arbitrary origin; never steps back. For durations. */
  monotonic(): number;
  /**
   * Calls `fn` once, `delayMs` from now. The timer never keeps the process alive by itself, unless
   * `keepAlive` is set.
   */
  after(delayMs: number, fn: () => void, options?: { keepAlive?: boolean }): Timer;
}

/** The longest delay a platform timer takes; a longer one would fire at once. */
const LONGEST_TIMER_MS = 2_147_483_647;

/** A class rather than closures: every idle connection holds one. */
class SystemTimer implements Timer {
  readonly #fn: () => void;
  readonly #dueAt: number;
  readonly #keepAlive: boolean;
  #handle: unknown;

  constructor(delayMs: number, fn: () => void, keepAlive: boolean) {
    this.#fn = fn;
    this.#dueAt = performance.now() + delayMs;
    this.#keepAlive = keepAlive;
    this.#arm(delayMs);
  }

  cancel(): void {
    clearTimeout(this.#handle as Parameters<typeof clearTimeout>[0]);
  }

  #arm(leftMs: number): void {
    const delayMs = Math.min(Math.max(0, leftMs), LONGEST_TIMER_MS);
    this.#handle = setTimeout(SystemTimer.#elapsed, delayMs, this, leftMs <= LONGEST_TIMER_MS);
    // Browsers answer a number, Node an object that can be taken off the loop's count.
    if (!this.#keepAlive) (this.#handle as { unref?: () => void }).unref?.();
  }

  static #elapsed(timer: SystemTimer, due: boolean): void {
    if (due) timer.#fn();
    else timer.#arm(timer.#dueAt - performance.now());
  }
}

/** The real clock: `Date.now`, `performance.now`, platform timers. */
export const systemClock: Clock = {
  wall: () => Date.now(),
  monotonic: () => performance.now(),
  after: (delayMs, fn, options) => new SystemTimer(delayMs, fn, options?.keepAlive === true),
};

/**
 * Resolves after `delayMs` on `clock`; rejects with the signal's reason when `signal` aborts first.
 * Keeps the process alive while somebody waits.
 */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const onAbort = () => {
      timer.cancel();
      reject(signal?.reason);
    };
    const timer = clock.after(
      delayMs,
      () => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      },
      { keepAlive: true },
    );
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

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

/** The real clock: `Date.now`, `performance.now`, platform timers. */
export const systemClock: Clock = {
  wall: () => Date.now(),
  monotonic: () => performance.now(),
  after(delayMs, fn, options) {
    const dueAt = performance.now() + delayMs;
    const arm = (): unknown => {
      const left = Math.max(0, dueAt - performance.now());
      const handle: unknown = setTimeout(
        () => {
          if (left <= LONGEST_TIMER_MS) fn();
          else armed = arm();
        },
        Math.min(left, LONGEST_TIMER_MS),
      );
      // Browsers answer a number, Node an object that can be taken off the loop's count.
      if (options?.keepAlive !== true) (handle as { unref?: () => void }).unref?.();
      return handle;
    };
    let armed = arm();
    return { cancel: () => clearTimeout(armed as Parameters<typeof clearTimeout>[0]) };
  },
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

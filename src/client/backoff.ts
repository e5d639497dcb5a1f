/**
 * How long to wait before the next attempt: full jitter over a window that doubles, so that the clients
 * of a node that went down do not come back all at once.
 */
export interface Backoff {
  initialMs: number;
  maxMs: number;
  /** In [0, 1). */
  random(): number;
}

/** @param attempt 1 for the first */
export const backoffDelayMs = (attempt: number, { initialMs, maxMs, random }: Backoff): number =>
  Math.round(random() * Math.min(maxMs, initialMs * 2 ** (attempt - 1)));

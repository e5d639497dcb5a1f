/**
 * The bus between nodes: it wakes, and does nothing else (law 4). What it carries are ids, of jobs that have grown and
 * of sessions that have changed; whoever hears one looks into the store. A hint that is lost costs up to a second,
 * never an event, so a bus needs no acknowledgement, no order and no memory, and a node without one works all the same.
 *
 * One {@link Bus} is one node's end of it. A store tells it what its commits have touched while other nodes live, and
 * stops it when it is stopped itself.
 */
import type { Hint } from "../store/store.ts";

export interface Bus {
  /**
   * Tells the other nodes. Never waits and never throws: what cannot be told now may be dropped. The same hint, told
   * again while it is on its way, may be told once.
   */
  tell(hints: Iterable<Hint>): void;
  /**
   * Calls `listener` with what the other nodes tell, never from within a call of {@link tell}. One that throws harms
   * no other. What this end has told itself does not come back.
   *
   * @returns what takes the listener off again
   */
  on(listener: (hint: Hint) => void): () => void;
  /** Whether what others tell arrives now: somebody listens here, and the way is there. */
  readonly hears: boolean;
  /** From now on nothing is told and nothing heard. Idempotent. */
  stop(): void;
}

/** One key for each hint, a job's never a session's. */
export const hintKey = (hint: Hint): string => ("jobId" in hint ? `j${hint.jobId}` : `s${hint.sessionId}`);

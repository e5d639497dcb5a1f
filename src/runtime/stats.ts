/**
 * What this process has done since its start, as plain numbers that whoever likes may read: metrics, a test. Counting
 * costs an addition; nobody is told anything.
 */
import type { FinalStatus } from "../protocol/index.ts";

/** What was under way when the store failed. */
export type StoreErrorWhile = "append" | "delivery" | "request";

export class Stats {
  /** Jobs that began to run here. */
  jobsStarted = 0;
  /** Jobs whose end this process stored. */
  readonly jobsEnded: Record<FinalStatus, number> = { success: 0, error: 0, cancelled: 0, timed_out: 0 };
  /** Events of jobs that are stored. */
  eventsAppended = 0;
  /** Frames of events that were handed to connections of sessions. */
  eventsSent = 0;
  /** Events that were handed to followers without a session. */
  eventsFollowed = 0;
  readonly storeErrors: Record<StoreErrorWhile, number> = { append: 0, delivery: 0, request: 0 };
  /** Called with each append's time, from the call to the store to its answer, in milliseconds. */
  onAppend: ((ms: number) => void) | undefined;
}

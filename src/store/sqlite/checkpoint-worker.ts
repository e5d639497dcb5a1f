/**
 * The worker thread that checkpoints one file, at the orders of checkpointer.ts.
 */
import { parentPort, workerData } from "node:worker_threads";
import type { CheckpointOrder, CheckpointReport } from "./checkpointer.ts";
import { Database } from "./database.ts";

/**
 * How long to wait for other processes when the log is to start over. This process waits meanwhile;
 * what does not come about is ordered again.
 */
const BUSY_TIMEOUT_MS = 20;

/** Frame header and page. */
const FRAME_BYTES = 24 + 4096;

const port = parentPort;
if (port === null) {
  throw new Error("this file is the entry of a worker thread");
}

const db = new Database(String(workerData), { busyTimeoutMs: BUSY_TIMEOUT_MS });

/** What is done after a passive checkpoint, which comes first: it copies all or nearly all, and holds up nobody. */
const MODES = { checkpoint: undefined, restart: "RESTART", stop: "TRUNCATE" } as const;

/** @returns the size of the log */
function checkpoint(mode: "PASSIVE" | "RESTART" | "TRUNCATE"): number {
  const progress = db.get<{ log: number }>(`PRAGMA wal_checkpoint(${mode})`);
  return (progress?.log ?? 0) * FRAME_BYTES;
}

port.on("message", (order: CheckpointOrder) => {
  let report: CheckpointReport;
  try {
    const walBytes = checkpoint("PASSIVE");
    const mode = MODES[order];
    report = { walBytes: mode === undefined ? walBytes : checkpoint(mode) };
  } catch (error) {
    report = { error: error instanceof Error ? error.message : String(error) };
  }
  port.postMessage(report);
  if (order === "stop") {
    db.close();
    port.close();
  }
});

/**
 * Keeps the write-ahead log short without stalling the event loop: a checkpoint copies and syncs
 * megabytes, so it runs in a worker thread. A passive checkpoint disturbs nobody, but the log starts
 * over only when a writer finds all of it copied, which under steady writing never happens. So once the
 * log is above its cap, the writes of this process pause for the few milliseconds in which the worker
 * copies the rest. The file is then written again from its beginning: a write over what is there costs
 * half as much as one that makes a file longer. What is above the cap is cut off.
 *
 * The worker starts when there is first something to do, never keeps the process alive, and when it
 * fails the connection falls back to SQLite's own checkpoints on the main thread, which are slower for
 * everybody but always there.
 */
import { Worker } from "node:worker_threads";
import type { Logger } from "../../logger.ts";
import type { Database } from "./database.ts";

/** A checkpoint is asked for after about this much was committed. */
const CHECKPOINT_BYTES = 4 * 1024 * 1024;

/** Above this size the log is made to start over; its file keeps this much until the last process closes it. */
export const WAL_CAP_BYTES = 64 * 1024 * 1024;

/** What a commit writes besides its payloads: whole pages for rows of a few bytes. */
const BYTES_PER_COMMIT = 8 * 4096;
const BYTES_PER_WRITE = 2 * 4096;

/** SQLite's own default, in pages. */
const FALLBACK_AUTOCHECKPOINT_PAGES = 1_000;

/** `"checkpoint"` copies what it can, `"restart"` makes the log start over, `"stop"` empties it and ends. */
export type CheckpointOrder = "checkpoint" | "restart" | "stop";

/** What one order came to: the size of the log, or why it failed. */
export type CheckpointReport = { walBytes: number } | { error: string };

export class Checkpointer {
  readonly #file: string;
  readonly #logger: Logger;
  #state: "idle" | "working" | "failed" | "stopped" = "idle";
  #worker: Worker | undefined;
  #committedBytes = 0;
  #pause: { over: Promise<void>; end: () => void } | undefined;
  #restarting = false;

  constructor(file: string, logger: Logger) {
    this.#file = file;
    this.#logger = logger;
  }

  /** While it is set, no transaction is to begin: the log is made to start over, or has outgrown the worker. */
  get pause(): Promise<void> | undefined {
    return this.#pause?.over;
  }

  /** Takes note of a commit on `db` of so many writes and payload bytes, outside of any transaction. */
  committed(db: Database, writes: number, payloadBytes: number): void {
    this.#committedBytes += payloadBytes + writes * BYTES_PER_WRITE + BYTES_PER_COMMIT;
    if (this.#state === "working" && this.#committedBytes >= WAL_CAP_BYTES) {
      // The worker does not keep up (it may still be starting): wait for its report.
      this.#startPause();
      return;
    }
    if (this.#committedBytes < CHECKPOINT_BYTES || this.#state !== "idle") {
      return;
    }
    this.#committedBytes = 0;
    this.#state = "working";
    this.#worker ??= this.#startWorker(db);
    this.#order("checkpoint");
  }

  /** A last checkpoint, if there is a worker for it; a short log is left to the close of the file. */
  async stop(): Promise<void> {
    const worker = this.#worker;
    const failed = this.#state === "failed";
    this.#state = "stopped";
    if (worker !== undefined && !failed) {
      const exited = new Promise((resolve) => worker.once("exit", resolve));
      worker.ref();
      this.#order("stop");
      await exited;
    }
  }

  #order(order: CheckpointOrder): void {
    this.#worker?.postMessage(order);
  }

  #startWorker(db: Database): Worker {
    // Run from source it is a .ts file beside this one, built a .js file.
    const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
    const worker = new Worker(new URL(`./checkpoint-worker.${extension}`, import.meta.url), { workerData: this.#file });
    worker.unref();
    worker.on("message", (report: CheckpointReport) => this.#reported(report));
    worker.on("error", (error) => this.#fail(db, error));
    worker.on("exit", (code) => {
      // An error was told already, and after "stop" an exit is what was asked for.
      if (this.#state !== "failed" && this.#state !== "stopped") {
        this.#fail(db, new Error(`exit code ${code}`));
      }
    });
    return worker;
  }

  #reported(report: CheckpointReport): void {
    const restarted = this.#restarting;
    this.#restarting = false;
    this.#endPause();
    if ("error" in report) {
      this.#logger.warn({ file: this.#file, reason: report.error }, "a checkpoint failed and will be tried again");
    }
    if (this.#state !== "working") {
      return;
    }
    if ("walBytes" in report && report.walBytes > WAL_CAP_BYTES && !restarted) {
      this.#restarting = true;
      this.#startPause();
      this.#order("restart");
    } else {
      this.#state = "idle";
    }
  }

  #startPause(): void {
    if (this.#pause !== undefined) return;
    const { promise: over, resolve: end } = Promise.withResolvers<void>();
    this.#pause = { over, end };
  }

  #endPause(): void {
    this.#pause?.end();
    this.#pause = undefined;
  }

  #fail(db: Database, error: Error): void {
    this.#logger.error({ err: error, file: this.#file }, "the checkpoint worker failed");
    this.#endPause();
    if (this.#state !== "stopped") {
      this.#state = "failed";
      db.script(`PRAGMA wal_autocheckpoint = ${FALLBACK_AUTOCHECKPOINT_PAGES}`);
    }
  }
}

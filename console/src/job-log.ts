/** One job as this page follows it: its rows, told to views at most thirty times a second however fast events come. */

import { ArcpError, type JobHandle, type Terminal } from "../../src/client/index.ts";
import { systemClock } from "../../src/clock.ts";
import { Observable } from "./observable.ts";
import { TimelineRows } from "./timeline-rows.ts";

export interface LogState {
  phase: "opening" | "live" | "ended" | "failed";
  /** The code and the message of what failed. */
  failure: { code: string; message: string } | undefined;
  terminal: Terminal | undefined;
  rows: TimelineRows;
  /** Grows whenever `rows` has. */
  version: number;
}

const TOLD_EVERY_MS = 33;

const opening = (): LogState => ({
  phase: "opening",
  failure: undefined,
  terminal: undefined,
  rows: new TimelineRows(),
  version: 0,
});

export class JobLog {
  readonly jobId: string;
  readonly state = new Observable<LogState>(opening());
  /** The handle that it reads, for answers; `undefined` while there is none. */
  handle: JobHandle | undefined;
  #watchers = 0;
  #telling = false;

  constructor(jobId: string) {
    this.jobId = jobId;
  }

  get watched(): boolean {
    return this.#watchers > 0;
  }

  /** Somebody looks, until the function that is returned is called. */
  watch(): () => void {
    this.#watchers += 1;
    return () => {
      this.#watchers -= 1;
    };
  }

  /** A new session reads it from its start. */
  reset(): void {
    this.handle = undefined;
    this.state.set(opening());
  }

  fail(error: unknown): void {
    const failure =
      error instanceof ArcpError
        ? { code: error.code, message: error.message }
        : { code: "ERROR", message: error instanceof Error ? error.message : String(error) };
    this.state.set({ ...this.state.value, phase: "failed", failure });
  }

  async read(handle: JobHandle): Promise<void> {
    this.handle = handle;
    const { rows } = this.state.value;
    rows.setBudget(handle.accepted.budget);
    this.state.set({ ...this.state.value, phase: "live" });
    let newestTs = "";
    try {
      for await (const event of handle) {
        rows.add(event);
        newestTs = event.ts;
        this.#tell();
      }
      const terminal = await handle.terminal;
      if (this.handle !== handle) return;
      rows.end(terminal, newestTs);
      this.state.set({ ...this.state.value, phase: "ended", terminal, version: rows.version });
    } catch (error) {
      // A session that is over is replaced, and the log read anew.
      if (this.handle === handle) this.fail(error);
    }
  }

  #tell(): void {
    if (this.#telling) return;
    this.#telling = true;
    systemClock.after(TOLD_EVERY_MS, () => {
      this.#telling = false;
      const state = this.state.value;
      this.state.set({ ...state, version: state.rows.version });
    });
  }
}

/**
 * Hints between the processes on one file (law 4). A commit leaves a row for each job and session that
 * it touched, as long as somebody else is there to read it; a process that waits looks at the file's
 * `data_version` every 25 ms, which costs microseconds and moves when another connection commits, and
 * then reads the rows above its last. A row that was trimmed before it was read costs latency: the
 * sweep finds what it would have told.
 */
import type { Clock, Timer } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import type { Hint } from "../store.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";

const LOOK_EVERY_MS = 25;
/** Hints that one look takes; the rest waits for the next. */
const HINTS_PER_LOOK = 1_000;

interface HintRow {
  hint_key: number;
  session_id: string | null;
  job_id: string | null;
}

export class HintReader {
  readonly #engine: Engine;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #listeners = new Set<(hint: Hint) => void>();
  #timer: Timer | undefined;
  #version: number | undefined;
  #lastKey: number | undefined;

  constructor(engine: Engine, clock: Clock, logger: Logger) {
    this.#engine = engine;
    this.#clock = clock;
    this.#logger = logger;
  }

  on(listener: (hint: Hint) => void): () => void {
    this.#listeners.add(listener);
    if (this.#timer === undefined) this.#schedule();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.stop();
    };
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #schedule(): void {
    this.#timer = this.#clock.after(LOOK_EVERY_MS, () => {
      this.#engine
        .read((db) => this.#look(db))
        .then(
          (hints) => {
            for (const hint of hints) for (const listener of this.#listeners) listener(hint);
          },
          (error: unknown) => this.#logger.warn({ err: error }, "hints could not be read"),
        )
        .finally(() => {
          if (this.#timer !== undefined) this.#schedule();
        });
    });
  }

  #look(db: Database): Hint[] {
    const version = db.get<{ data_version: number }>("PRAGMA data_version")?.data_version;
    if (version === this.#version && this.#lastKey !== undefined) return [];
    this.#version = version;
    if (this.#lastKey === undefined) {
      this.#lastKey = db.get<{ key: number | null }>("SELECT max(hint_key) AS key FROM hints")?.key ?? 0;
      return [];
    }
    const rows = db.all<HintRow>(
      "SELECT hint_key, session_id, job_id FROM hints WHERE hint_key > ? ORDER BY hint_key LIMIT ?",
      this.#lastKey,
      HINTS_PER_LOOK,
    );
    this.#lastKey = rows.at(-1)?.hint_key ?? this.#lastKey;
    if (rows.length === HINTS_PER_LOOK) this.#version = undefined;
    return rows.map(({ session_id, job_id }) =>
      job_id === null ? { sessionId: session_id ?? "" } : { jobId: job_id },
    );
  }
}

/** What a session tells about itself, now and as it changes. */

export type SessionStatus =
  /** The first connection is being made. */
  | { state: "connecting" }
  | { state: "connected" }
  /** The connection is gone; the `attempt`-th try to resume starts `delayMs` after this was said. */
  | { state: "reconnecting"; attempt: number; delayMs: number }
  /**
   * The end. `reason` is what `close` was given (`"closed"` by default), or one of `"superseded"`,
   * `"unauthenticated"`, `"resume_refused"`, `"refused"`, `"gave_up"`, each of which has an error.
   */
  | { state: "closed"; reason: string; error?: Error };

/** A slow reader of statuses misses the oldest ones beyond so many. */
const KEPT = 64;

/** Hands each change to every reader. */
export class StatusFeed {
  #current: SessionStatus = { state: "connecting" };
  readonly #readers = new Set<{ queue: SessionStatus[]; wake: (() => void) | undefined }>();

  get current(): SessionStatus {
    return this.#current;
  }

  set(status: SessionStatus): void {
    this.#current = status;
    for (const reader of this.#readers) {
      reader.queue.push(status);
      if (reader.queue.length > KEPT) reader.queue.shift();
      reader.wake?.();
    }
  }

  /** The current status, then each change, up to `closed`. */
  async *read(): AsyncGenerator<SessionStatus, void, undefined> {
    const reader: { queue: SessionStatus[]; wake: (() => void) | undefined } = {
      queue: [this.#current],
      wake: undefined,
    };
    this.#readers.add(reader);
    try {
      for (;;) {
        for (let status = reader.queue.shift(); status !== undefined; status = reader.queue.shift()) {
          yield status;
          if (status.state === "closed") return;
        }
        await new Promise<void>((resolve) => {
          reader.wake = resolve;
        });
      }
    } finally {
      this.#readers.delete(reader);
    }
  }
}

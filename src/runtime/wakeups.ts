/**
 * Hints that a job's log has grown, from whoever stored to whoever reads (law 4). A hint carries no
 * data and may be lost: the sweep finds what it would have told. This is the bus within one process.
 */
export class Wakeups {
  readonly #listeners = new Map<string, Set<() => void>>();

  /** Calls `listener` on every hint for the job until the returned function is called. */
  on(jobId: string, listener: () => void): () => void {
    let set = this.#listeners.get(jobId);
    if (set === undefined) {
      set = new Set();
      this.#listeners.set(jobId, set);
    }
    set.add(listener);
    return () => {
      set.delete(listener);
      if (set.size === 0 && this.#listeners.get(jobId) === set) this.#listeners.delete(jobId);
    };
  }

  wake(jobId: string): void {
    const set = this.#listeners.get(jobId);
    if (set !== undefined) for (const listener of set) listener();
  }

  has(jobId: string): boolean {
    return this.#listeners.has(jobId);
  }

  /** The jobs that somebody waits for. */
  jobIds(): Iterable<string> {
    return this.#listeners.keys();
  }
}

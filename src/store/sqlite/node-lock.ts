/**
 * The proof that a node lives: a small SQLite file of its own beside the store's, `<file>.node-<id>.lock`,
 * in which its process keeps an exclusive transaction open. The kernel frees the lock at the process's
 * death, however it dies, so whoever can read the file knows (STO-11). SQLite does the locking, because
 * its locks work alike on every platform and between connections of one process.
 */
import { existsSync, rmSync } from "node:fs";
import type { Logger } from "../../logger.ts";
import { StoreUnavailable } from "../store.ts";
import { Database, isBusy, isEngineError } from "./database.ts";

export class NodeLocks {
  readonly #file: string;
  readonly #logger: Logger;
  readonly #held = new Map<string, Database>();

  constructor(file: string, logger: Logger) {
    this.#file = file;
    this.#logger = logger;
  }

  /**
   * Holds the lock of a node of this process until it is removed or released.
   *
   * @throws StoreUnavailable e.g. on a full disk
   */
  take(nodeId: string): void {
    let lock: Database | undefined;
    try {
      lock = new Database(this.#path(nodeId));
      lock.run("BEGIN EXCLUSIVE");
    } catch (error) {
      lock?.close();
      if (!isEngineError(error)) throw error;
      throw new StoreUnavailable(`the lock of ${nodeId} cannot be taken: ${(error as Error).message}`, {
        cause: error,
      });
    }
    this.#held.set(nodeId, lock);
  }

  /** Whether a node is this process's own. */
  holds(nodeId: string): boolean {
    return this.#held.has(nodeId);
  }

  /** `undefined` when the file says nothing, which is logged. */
  provenDead(nodeId: string): boolean | undefined {
    if (this.#held.has(nodeId)) {
      return false;
    }
    const path = this.#path(nodeId);
    if (!existsSync(path)) {
      return true;
    }
    try {
      const lock = new Database(path, { readOnly: true });
      try {
        // Reading needs a shared lock only: two that look at once do not take each other for the owner.
        lock.get("SELECT count(*) FROM sqlite_schema");
        return true;
      } finally {
        lock.close();
      }
    } catch (error) {
      if (isBusy(error)) {
        return false;
      }
      this.#logger.warn({ err: error, nodeId }, "the lock of a node cannot be looked at");
      return undefined;
    }
  }

  /** The node is over: frees the lock if it is held here, and removes its file. */
  remove(nodeId: string): void {
    this.#held.get(nodeId)?.close();
    this.#held.delete(nodeId);
    try {
      rmSync(this.#path(nodeId), { force: true });
    } catch (error) {
      // Some platforms do not remove a file that is open elsewhere. It is tiny, and harmless.
      this.#logger.info({ err: error, nodeId }, "the lock file of a node stays behind");
    }
  }

  /** Frees what is held, as the end of the process would; the files stay as proof. */
  release(): void {
    for (const lock of this.#held.values()) {
      lock.close();
    }
    this.#held.clear();
  }

  #path(nodeId: string): string {
    return `${this.#file}.node-${nodeId}.lock`;
  }
}

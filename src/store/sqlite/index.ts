/**
 * The embedded store: one SQLite file, which several processes on one machine may share. Nothing to
 * install or run. A commit costs tens of microseconds and blocks the event loop that long; a disk that
 * hangs blocks the process.
 */
import { resolve } from "node:path";
import { type Clock, systemClock } from "../../clock.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import type { Durability, Store } from "../store.ts";
import { bindingFacet } from "./bindings.ts";
import { conversationFacet } from "./conversations.ts";
import { credentialFacet } from "./credentials.ts";
import { deliveryFacet } from "./deliveries.ts";
import { Engine } from "./engine.ts";
import { HintReader } from "./hints.ts";
import { jobFacet } from "./jobs.ts";
import { NodeLocks } from "./node-lock.ts";
import { nodeFacet } from "./nodes.ts";
import { passFacet } from "./passes.ts";
import { questionFacet } from "./questions.ts";
import { requestFacet } from "./requests.ts";
import { retain } from "./retention.ts";
import { routeFacet } from "./routes.ts";
import { sessionFacet } from "./sessions.ts";
import { sweeper } from "./sweep.ts";

export interface SqliteOptions {
  /** What a resolved promise survives: a crash of the process, or the loss of power. @default "process" */
  durability?: Durability;
  /** @default systemClock */
  clock?: Clock;
  /** @default silentLogger */
  logger?: Logger;
  /**
   * How long, in milliseconds, an operation tries again while another process holds the file, before it
   * rejects with StoreUnavailable (STO-9). @default 5_000
   */
  busyTimeoutMs?: number;
}

/**
 * A store in `file`, which `start` creates when it is not there; its directory must be. Beside it live
 * `<file>-wal`, `<file>-shm` and, for each live node, `<file>.node-<id>.lock`. Not for network file systems.
 *
 * `start` rejects when the file cannot be opened, is no database, or was migrated by a newer build in a
 * way that this one cannot work with (STO-10).
 */
export function sqlite(file: string, options: SqliteOptions = {}): Store {
  const logger = options.logger ?? silentLogger;
  // A relative path means one file, wherever the process goes later.
  const path = resolve(file);
  const engine = new Engine({
    file: path,
    durability: options.durability ?? "process",
    busyTimeoutMs: options.busyTimeoutMs ?? 5_000,
    clock: options.clock ?? systemClock,
    logger,
  });
  const locks = new NodeLocks(path, logger);
  const sweep = sweeper();
  const hints = new HintReader(engine, options.clock ?? systemClock, logger);
  return {
    sessions: sessionFacet(engine),
    requests: requestFacet(engine),
    jobs: jobFacet(engine),
    nodes: nodeFacet(engine, locks),
    credentials: credentialFacet(engine),
    conversations: conversationFacet(engine),
    bindings: bindingFacet(engine),
    deliveries: deliveryFacet(engine),
    questions: questionFacet(engine),
    routes: routeFacet(engine),
    passes: passFacet(engine),
    start: () => engine.start(),
    sweep: (query) => engine.read((db) => sweep(db, query)),
    retain: (policy) => engine.write((db) => retain(db, policy), { rows: 1_000, bytes: 0 }),
    onHint: (listener) => hints.on(listener),
    async stop() {
      hints.stop();
      await engine.stop();
      locks.release();
    },
  };
}

/**
 * The store for several machines: a schema in a PostgreSQL database, 14 or newer. A promise that resolved has been
 * committed; what that survives is the server's `synchronous_commit`. Each operation takes a connection of the pool
 * for a few round trips, an append batch for one.
 *
 * Behind PgBouncer in transaction mode it works with `preparedStatements: false` (or a PgBouncer that keeps them,
 * `max_prepared_statements`), and hears hints only with a `listenUrl` that goes to the server itself.
 */
import { type Clock, systemClock } from "../../clock.ts";
import type { Bus } from "../../cluster/bus.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import type { Store } from "../store.ts";
import { appender } from "./appender.ts";
import { bindingFacet } from "./bindings.ts";
import { conversationFacet } from "./conversations.ts";
import { credentialFacet } from "./credentials.ts";
import { Dialect } from "./database.ts";
import { deliveryFacet } from "./deliveries.ts";
import { Engine } from "./engine.ts";
import { jobFacet } from "./jobs.ts";
import { migrate } from "./migrate.ts";
import { nodeFacet } from "./nodes.ts";
import { NotifyBus } from "./notify-bus.ts";
import { passFacet } from "./passes.ts";
import { Connections, type PostgresPool } from "./pool.ts";
import { questionFacet } from "./questions.ts";
import { requestFacet } from "./requests.ts";
import { retain } from "./retention.ts";
import { routeFacet } from "./routes.ts";
import { sessionFacet } from "./sessions.ts";
import { sourceOf } from "./source.ts";
import { sweep } from "./sweep.ts";

export type { Bus } from "../../cluster/bus.ts";
export type { PostgresClient, PostgresQuery, PostgresResult } from "./database.ts";
export type { PooledClient, PostgresPool } from "./pool.ts";

/** Where the database is. */
export type PostgresTarget =
  /** A URL of PostgreSQL, for a pool of the store's own. Needs the package `pg`. */
  | { url: string }
  /** A pool of `pg`, or what behaves as one. It is the caller's to end, after the store was stopped. */
  | { pool: PostgresPool };

export interface PostgresOptions {
  /** Where the tables are. Several stores may share a database under different names. @default "holdfast" */
  schema?: string;
  /**
   * Whether `start` may bring the schema up to date, for which its role must be allowed to create tables. With `false`
   * a role will do that can read and write them; `start` then rejects when a migration is missing. @default true
   */
  migrate?: boolean;
  /** Connections of a pool of the store's own, and how many of one that was handed in it uses at a time. @default 10 */
  poolSize?: number;
  /** Whether connections keep statements prepared. @default true */
  preparedStatements?: boolean;
  /**
   * What nodes wake each other by; the store stops it when it is stopped. `null`: nothing, and what other nodes change
   * is seen within a second. @default `LISTEN` and `NOTIFY` on this database
   */
  bus?: Bus | null;
  /**
   * Where the default bus listens: the server itself, not a pooler in transaction mode. `false`: this node tells and
   * does not hear. @default one more connection like the others
   */
  listenUrl?: string | false;
  /** How long a statement may take, in milliseconds, waits for locks included. @default 10_000 */
  statementTimeoutMs?: number;
  /** How long to wait for a connection, in milliseconds. @default 5_000 */
  connectTimeoutMs?: number;
  /** @default systemClock */
  clock?: Clock;
  /** @default silentLogger */
  logger?: Logger;
  /**
   * For tests: wall milliseconds that take the place of the server's clock, which judges when a lock has expired. With
   * several processes, clocks that differ then give one lock to two.
   */
  dangerouslyUseTime?: () => number;
}

/** The longest name that PostgreSQL does not cut. */
const MAX_NAME_BYTES = 63;

/**
 * A store in the schema of that name, which `start` creates when it is not there.
 *
 * `start` rejects when the server cannot be reached, when it does not store UTF-8, or when a newer build has migrated
 * the schema in a way that this one cannot work with (STO-10).
 */
export function postgres(target: PostgresTarget, options: PostgresOptions = {}): Store {
  const { schema = "holdfast", clock = systemClock, logger = silentLogger, poolSize = 10 } = options;
  if (schema === "" || Buffer.byteLength(schema) > MAX_NAME_BYTES || schema.includes("\0")) {
    throw new RangeError(`schema must be a name of 1 to ${MAX_NAME_BYTES} bytes: ${JSON.stringify(schema)}`);
  }
  if (!Number.isInteger(poolSize) || poolSize < 1) {
    throw new RangeError(`poolSize must be a whole number from 1: ${poolSize}`);
  }
  const connectTimeoutMs = options.connectTimeoutMs ?? 5_000;
  const source = sourceOf(target, { poolSize, connectTimeoutMs, listenUrl: options.listenUrl });
  const connections = new Connections(source, { size: poolSize, connectTimeoutMs, clock, logger });
  const engine = new Engine({
    connections,
    dialect: new Dialect(schema, options.preparedStatements ?? true, options.dangerouslyUseTime),
    statementTimeoutMs: options.statementTimeoutMs ?? 10_000,
    clock,
    logger,
  });
  const bus =
    options.bus === undefined
      ? new NotifyBus({ channel: schema, notify: notifyIn(engine), connect: source.listen, clock, logger })
      : options.bus;
  const hears = options.bus !== undefined || options.listenUrl !== false;
  let others = true;
  engine.onTouched = (touched) => {
    if (others) bus?.tell(touched);
  };
  return {
    sessions: sessionFacet(engine),
    requests: requestFacet(engine),
    jobs: jobFacet(engine, appender(engine)),
    nodes: nodeFacet(engine, (are) => {
      others = are;
    }),
    credentials: credentialFacet(engine),
    conversations: conversationFacet(engine),
    bindings: bindingFacet(engine),
    deliveries: deliveryFacet(engine),
    questions: questionFacet(engine),
    routes: routeFacet(engine),
    passes: passFacet(engine),
    async start() {
      await source.open();
      try {
        await engine.start((db) => migrate(db, { schema, allowed: options.migrate ?? true, now: clock.wall() }));
      } catch (error) {
        await source.close();
        throw error;
      }
    },
    sweep: (query) => engine.single((db) => sweep(db, query)),
    retain: (policy) => engine.write((db) => retain(db, policy)),
    onHint: (listener) => (hears ? bus?.on(listener) : undefined) ?? (() => undefined),
    async stop() {
      bus?.stop();
      await engine.stop();
      await source.close();
    },
  };
}

const notifyIn = (engine: Engine) => (channel: string, messages: readonly string[]) =>
  engine.single((db) => db.run("SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message", channel, messages));

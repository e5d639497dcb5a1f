/**
 * Where connections come from: a pool that was handed in, or one that is made from a URL. The package `pg` is loaded
 * only for a URL, so whoever has a pool of another make needs none.
 */
import { StoreUnavailable } from "../store.ts";
import type { ListeningClient } from "./notify-bus.ts";
import type { PooledClient, PostgresPool } from "./pool.ts";

export interface Source {
  open(): Promise<void>;
  connect(): Promise<PooledClient>;
  /** A connection of its own, outside of what `connect` counts. */
  listen(): Promise<ListeningClient>;
  close(): Promise<void>;
}

export function sourceOf(
  target: { url: string } | { pool: PostgresPool },
  options: { poolSize: number; connectTimeoutMs: number; listenUrl: string | false | undefined },
): Source {
  const listenUrl = options.listenUrl === false ? undefined : options.listenUrl;
  return "pool" in target
    ? handedIn(target.pool, listenUrl, options.connectTimeoutMs)
    : made(target.url, listenUrl ?? target.url, options);
}

function handedIn(pool: PostgresPool, listenUrl: string | undefined, connectTimeoutMs: number): Source {
  // Without a listener a lost idle connection would end the process; the pool replaces it.
  const onError = () => undefined;
  return {
    async open() {
      pool.on("error", onError);
    },
    connect: () => pool.connect(),
    listen: () => (listenUrl === undefined ? listenInPool(pool) : listenAt(listenUrl, connectTimeoutMs)),
    async close() {
      pool.off("error", onError);
    },
  };
}

function made(url: string, listenUrl: string, options: { poolSize: number; connectTimeoutMs: number }): Source {
  let pool: (PostgresPool & { end(): Promise<void> }) | undefined;
  return {
    async open() {
      const { Pool } = await driver();
      pool = new Pool({
        connectionString: url,
        max: options.poolSize,
        connectionTimeoutMillis: options.connectTimeoutMs,
        keepAlive: true,
      });
      pool.on("error", () => undefined);
    },
    async connect() {
      if (pool === undefined) throw new StoreUnavailable("the store is not running");
      return await pool.connect();
    },
    listen: () => listenAt(listenUrl, options.connectTimeoutMs),
    async close() {
      const ended = pool;
      pool = undefined;
      await ended?.end();
    },
  };
}

async function listenAt(url: string, connectTimeoutMs: number): Promise<ListeningClient> {
  const { Client } = await driver();
  const client = new Client({ connectionString: url, connectionTimeoutMillis: connectTimeoutMs, keepAlive: true });
  client.on("error", () => undefined);
  await client.connect();
  return { client, end: () => void client.end().catch(() => undefined) };
}

async function listenInPool(pool: PostgresPool): Promise<ListeningClient> {
  const client = await pool.connect();
  client.on("error", () => undefined);
  return { client, end: () => client.release(true) };
}

async function driver() {
  try {
    return await import("pg");
  } catch (error) {
    throw new Error('a PostgreSQL URL needs the package "pg": npm install pg', { cause: error });
  }
}

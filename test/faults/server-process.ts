/**
 * One server of a fault scenario, in a process of its own: started with its settings as JSON, it prints its
 * port, then obeys the lines on its standard input, and ends with it. Its timeouts are short, so that a
 * scenario of some seconds sees what takes minutes with the defaults.
 */
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { type Clock, systemClock } from "../../src/clock.ts";
import { Runtime } from "../../src/runtime/index.ts";
import { bearerTokens, serve } from "../../src/server/index.ts";
import { sqlite } from "../../src/store/sqlite/index.ts";
import { counting } from "./agents.ts";
import { logFile } from "./log-file.ts";

export interface ServerSettings {
  file: string;
  /** Where agents report that they have started, and the log. */
  starts: string;
  log: string;
}

export type ServerCommand =
  | { do: "step clock"; byMs: number }
  /** The database may not grow; or again as far as it likes. */
  | { do: "full"; full: boolean };

const settings = JSON.parse(process.argv[2] ?? "") as ServerSettings;

let stepMs = 0;
const clock: Clock = { ...systemClock, wall: () => systemClock.wall() + stepMs };

const logger = logFile(settings.log);

// The store shows no connection, and SQLite's limit of pages is one connection's: hence this look at all of them.
const databases = new Set<DatabaseSync>();
const { exec } = DatabaseSync.prototype;
DatabaseSync.prototype.exec = function (sql) {
  databases.add(this);
  exec.call(this, sql);
};
const UNLIMITED_PAGES = 1_073_741_823;
const limitPages = (full: boolean) => {
  for (const database of databases) {
    if (database.isOpen) exec.call(database, `PRAGMA max_page_count = ${full ? 1 : UNLIMITED_PAGES}`);
  }
};

const runtime = new Runtime({
  store: sqlite(settings.file, { clock, logger, busyTimeoutMs: 2_500 }),
  auth: bearerTokens({ token: "tester" }),
  clock,
  logger,
  // A step of the clock by some hours is not the end of a session.
  resumeWindowSec: 86_400,
  heartbeatIntervalSec: 1,
  nodeHeartbeatMs: 250,
  nodeTimeoutMs: 4_000,
  sweepIntervalMs: 250,
  storeTimeoutMs: 1_000,
  cancelGraceMs: 2_000,
}).agent("counting", counting(settings.starts));
const server = await serve(runtime, { port: 0 });
process.stdout.write(`${server.port}\n`);

process.on("SIGTERM", () => {
  void server.stop({ drainMs: 200 }).then(() => process.exit(0));
});
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit(0));
lines.on("line", (line) => {
  const command = JSON.parse(line) as ServerCommand;
  if (command.do === "full") limitPages(command.full);
  else stepMs += command.byMs;
});

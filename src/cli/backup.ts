/**
 * `holdfast backup FILE`: the store as it is at one moment, in one file, while servers go on working with
 * it. SQLite writes the copy from a snapshot (`VACUUM INTO`), beside the wanted name; it gets that name
 * once it was read back and is on disk, so a file of that name is a whole backup. Costs a read of the
 * whole store and the room for what is in use of it. A PostgreSQL database has tools of its own for this.
 */
import { existsSync } from "node:fs";
import { link, open, rm, stat } from "node:fs/promises";
import path from "node:path";
import { Command } from "commander";
import { Database } from "../store/sqlite/database.ts";
import { homeDirectory } from "./discovery.ts";
import { oneLine, Problem } from "./problem.ts";
import { namedStore } from "./store.ts";
import type { Terminal } from "./terminal.ts";

interface BackupFlags {
  store?: string;
  json: boolean;
}

/** A backup holds what the store holds: everybody's inputs and results. */
const OWN_FILE = 0o600;
/** How long another process may hold the store. */
const BUSY_TIMEOUT_MS = 5_000;

export function backupCommand(terminal: Terminal): Command {
  return new Command("backup")
    .description("Write a copy of the store to a new file, while servers go on working with it.")
    .argument("<file>", "where to; a file that is there is not overwritten")
    .option("--store <file>", "the SQLite file (default: holdfast.db in HOLDFAST_HOME or ~/.holdfast)")
    .option("--json", "print one JSON object", false)
    .action((file: string, flags: BackupFlags) => run(file, flags, terminal));
}

interface Content {
  sessions: number;
  jobs: number;
  events: number;
}

/** @throws Error when the file is damaged or no store */
function contentOf(file: string): Content {
  const db = new Database(file, { readOnly: true });
  try {
    const verdict = db.get<{ quick_check: string }>("PRAGMA quick_check(1)")?.quick_check;
    if (verdict !== "ok") throw new Error(`it is damaged: ${verdict}`);
    const count = (table: keyof Content): number =>
      db.get<{ count: number }>(`SELECT count(*) AS count FROM ${table}`)?.count ?? 0;
    return { sessions: count("sessions"), jobs: count("jobs"), events: count("events") };
  } finally {
    db.close();
  }
}

async function checkStore(store: string): Promise<void> {
  try {
    await stat(store);
  } catch (error) {
    throw new Problem(`No store is at ${store}; name it with --store.`, 1, error);
  }
  let db: Database | undefined;
  try {
    db = new Database(store, { readOnly: true, busyTimeoutMs: BUSY_TIMEOUT_MS });
    db.get("SELECT 1 FROM migrations, jobs LIMIT 1");
  } catch (error) {
    throw new Problem(`${store} is no store of Holdfast (${oneLine(error)}); name it with --store.`, 1, error);
  } finally {
    db?.close();
  }
}

/** Makes the file that SQLite will fill, empty and its user's alone. */
async function reserve(file: string): Promise<void> {
  const handle = await open(file, "wx", OWN_FILE);
  await handle.close();
}

async function flushToDisk(file: string): Promise<void> {
  const handle = await open(file, "r+");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function copy(store: string, target: string): void {
  const db = new Database(store, { readOnly: true, busyTimeoutMs: BUSY_TIMEOUT_MS });
  try {
    db.run("VACUUM INTO ?", target);
  } finally {
    db.close();
  }
}

async function run(file: string, flags: BackupFlags, terminal: Terminal): Promise<void> {
  const target = path.resolve(file);
  const { file: store } = namedStore(flags.store, homeDirectory(process.env), process.env);
  if (store === undefined) {
    throw new Problem("The store is a PostgreSQL database: back it up with pg_dump, or as its server is backed up.");
  }
  await checkStore(store);
  // Told before the work; that nobody makes it meanwhile, the link sees to.
  if (existsSync(target)) throw thereAlready(target);
  const draft = `${target}.${process.pid}.partial`;
  let content: Content;
  let bytes: number;
  try {
    await reserve(draft);
    copy(store, draft);
    content = contentOf(draft);
    await flushToDisk(draft);
    ({ size: bytes } = await stat(draft));
    await link(draft, target);
  } catch (error) {
    throw backupProblem(error, target);
  } finally {
    await rm(draft, { force: true });
  }
  if (flags.json) terminal.json({ file: target, store, bytes, ...content });
  else
    terminal.line(
      `${target}: ${content.sessions} sessions, ${content.jobs} jobs, ${content.events} events (${bytes} bytes)`,
    );
}

const thereAlready = (target: string) =>
  new Problem(`${target} is there already and is not overwritten; give another name.`);

function backupProblem(error: unknown, target: string): Problem {
  switch ((error as NodeJS.ErrnoException).code) {
    case "EEXIST":
      return thereAlready(target);
    case "ENOENT":
      return new Problem(`The folder of ${target} is not there; make it first.`, 1, error);
    default:
      return new Problem(`The backup was not made: ${oneLine(error)}`, 1, error);
  }
}

/**
 * `holdfast doctor`: whether what a turn needs is there. It looks at this user's server, at the store's ties to
 * sessions of agent backends, and at OpenCode; changes nothing, and ends with 1 when something is amiss.
 */
import { existsSync } from "node:fs";
import { Command } from "commander";
import { homeDirectory, runningServer } from "./discovery.ts";
import { knownOpencode } from "./opencode.ts";
import { oneLine } from "./problem.ts";
import { type NamedStore, namedStore, STORE_OPTION } from "./store.ts";
import { shortened, type Terminal } from "./terminal.ts";

interface DoctorFlags {
  store?: string;
  opencode?: string;
  json: boolean;
}

/** What was looked at, and what is to be said of it. */
interface Finding {
  what: "server" | "store" | "opencode";
  ok: boolean;
  says: string;
  [count: string]: unknown;
}

const MAX_SAID_CHARS = 300;

export function doctorCommand(terminal: Terminal): Command {
  return new Command("doctor")
    .description("Tell whether the server, the store and OpenCode are as turns need them.")
    .option("--store <file or URL>", STORE_OPTION)
    .option("--opencode <url>", "the OpenCode server (default: the one that serve --opencode spawn has started)")
    .option("--json", "print one JSON object for each finding", false)
    .action((flags: DoctorFlags) => run(flags, terminal));
}

async function run(flags: DoctorFlags, terminal: Terminal): Promise<void> {
  const home = homeDirectory(process.env);
  const store = namedStore(flags.store, home, process.env);
  for (const look of [() => ofServer(home), () => ofStore(store), () => ofOpencode(flags.opencode, home)]) {
    const finding = await look();
    if (!finding.ok) process.exitCode = 1;
    if (flags.json) terminal.json(finding);
    else {
      const says = shortened(finding.says, MAX_SAID_CHARS);
      terminal.line(`${finding.ok ? "ok  " : "BAD "}  ${finding.what.padEnd(9)} ${says}`);
    }
  }
}

async function ofServer(home: string): Promise<Finding> {
  try {
    const server = await runningServer(home);
    const says = server === undefined ? "none of yours runs; start one with `holdfast serve`" : server.url;
    return { what: "server", ok: true, says, ...(server === undefined ? {} : { url: server.url, pid: server.pid }) };
  } catch (error) {
    return { what: "server", ok: false, says: oneLine(error) };
  }
}

async function ofStore({ file, name, open }: NamedStore): Promise<Finding> {
  if (file !== undefined && !existsSync(file)) return { what: "store", ok: true, says: `none at ${name} yet` };
  const store = open({ look: true });
  try {
    await store.start();
    const census = await store.bindings.census();
    const { bound, binding, lost, debts } = census;
    return {
      what: "store",
      ok: true,
      says: `${bound} conversations bound to a session, ${binding} being bound, ${lost} whose session was lost; ${debts} sessions to be deleted`,
      ...census,
    };
  } catch (error) {
    return { what: "store", ok: false, says: `${name}: ${oneLine(error)}` };
  } finally {
    await store.stop();
  }
}

async function ofOpencode(given: string | undefined, home: string): Promise<Finding> {
  let url = given;
  try {
    const known = await knownOpencode(given, home);
    if (known === undefined) return { what: "opencode", ok: true, says: "none is known; name one with --opencode" };
    const { backend } = known;
    url = known.url;
    const version = await backend.health();
    let sessions = 0;
    let ours = 0;
    for await (const { nonce } of backend.list()) {
      sessions += 1;
      if (nonce !== undefined) ours += 1;
    }
    const says = `${url}, version ${version}: ${sessions} sessions, ${ours} of them made by Holdfast`;
    return { what: "opencode", ok: true, says, url, version, sessions, ours };
  } catch (error) {
    return { what: "opencode", ok: false, says: `${url ?? ""} ${oneLine(error)}`.trim() };
  }
}

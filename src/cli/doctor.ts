/**
 * `holdfast doctor`: whether what a turn needs is there. It looks at this user's server, at the store's ties to
 * sessions of agent backends, and at OpenCode; changes nothing, and ends with 1 when something is amiss.
 */
import { existsSync } from "node:fs";
import { Command } from "commander";
import { systemClock } from "../clock.ts";
import type { NodeCensus, StoreCensus } from "../store/store.ts";
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
  what: "server" | "store" | "nodes" | "work" | "clock" | "hints" | "opencode";
  ok: boolean;
  says: string;
  [count: string]: unknown;
}

const MAX_SAID_CHARS = 400;
/** Beyond it the clocks are told to be apart. */
const MAX_SKEW_MS = 1_000;
/** As long as a node may be silent before another one declares it dead. */
const STOOD_STILL_MS = 15_000;

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
    for (const finding of [await look()].flat()) {
      if (!finding.ok) process.exitCode = 1;
      if (flags.json) terminal.json(finding);
      else {
        const says = shortened(finding.says, MAX_SAID_CHARS);
        terminal.line(`${finding.ok ? "ok  " : "BAD "}  ${finding.what.padEnd(9)} ${says}`);
      }
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

async function ofStore({ file, name, open, hears }: NamedStore): Promise<Finding | Finding[]> {
  if (file !== undefined && !existsSync(file)) return { what: "store", ok: true, says: `none at ${name} yet` };
  const store = open({ look: true });
  try {
    await store.start();
    const { bound, binding, lost, debts } = await store.bindings.census();
    const asked = { wall: systemClock.wall(), monotonic: systemClock.monotonic() };
    const census = await store.nodes.census(asked.wall);
    const latencyMs = Math.round((systemClock.monotonic() - asked.monotonic) * 10) / 10;
    const { number, name: migration } = census.schema;
    const findings: Finding[] = [
      {
        what: "store",
        ok: true,
        says:
          `${name} answers in ${latencyMs} ms, its schema is at ${number} (${migration}); ${bound} conversations ` +
          `bound to a session, ${binding} being bound, ${lost} whose session was lost; ${debts} sessions to be deleted`,
        ...{ latency_ms: latencyMs, schema: census.schema, bound, binding, lost, debts },
      },
      ofNodes(census),
      ofWork(census),
    ];
    // What a file is asked for it answers by this machine's clock, and with hints of its own.
    if (file === undefined) findings.push(ofClock(census.now - asked.wall - latencyMs / 2));
    if (hears !== undefined) findings.push(await ofHints(hears));
    return findings;
  } catch (error) {
    return { what: "store", ok: false, says: `${name}: ${oneLine(error)}` };
  } finally {
    await store.stop();
  }
}

function ofNodes({ nodes, now }: StoreCensus): Finding {
  const isDead = ({ state, provenDead }: NodeCensus) => state === "dead" || (state === "alive" && provenDead === true);
  const dead = nodes.filter(isDead);
  const alive = nodes.filter((node) => node.state === "alive" && !isDead(node));
  // Of a day: the dead that nobody has buried keep jobs.
  const keeping = dead.filter(({ jobs }) => jobs > 0);
  const still = alive.filter(({ beatenAt }) => now - beatenAt > STOOD_STILL_MS);
  const ok = keeping.length === 0 && still.length === 0;
  const remedy = ok
    ? ""
    : still.length > 0
      ? `; ${still.length} have not told for ${STOOD_STILL_MS / 1_000} s that they live: any node that runs ends that`
      : `; ${keeping.length} of the dead keep jobs: start a server, it goes on with them or ends them`;
  return {
    what: "nodes",
    ok,
    says: `${alive.length} alive, ${dead.length} dead${remedy}`,
    ...{ alive: alive.length, dead: dead.length, still: still.length },
  };
}

function ofWork(census: StoreCensus): Finding {
  const { waitingJobs, waitingConversations, expiredLocks, failedDeliveries } = census;
  const remedies = [
    ...(waitingJobs + waitingConversations > 0 ? ["start a server that offers their agents"] : []),
    ...(failedDeliveries > 0 ? ["`holdfast deliveries --failed` lists what could not be sent"] : []),
  ];
  return {
    what: "work",
    ok: remedies.length === 0,
    says:
      `${waitingJobs} jobs and ${waitingConversations} conversations wait for a node, ${expiredLocks} locks have ` +
      `expired and are not taken, ${failedDeliveries} deliveries failed` +
      (remedies.length === 0 ? "" : `: ${remedies.join("; ")}`),
    ...{ waiting_jobs: waitingJobs, waiting_conversations: waitingConversations },
    ...{ expired_locks: expiredLocks, failed_deliveries: failedDeliveries },
  };
}

function ofClock(skewMs: number): Finding {
  const rounded = Math.round(skewMs);
  const ok = Math.abs(rounded) <= MAX_SKEW_MS;
  const says =
    `this machine's clock is ${Math.abs(rounded)} ms ${rounded < 0 ? "ahead of" : "behind"} the database's` +
    (ok ? "" : "; let both follow a time server");
  return { what: "clock", ok, says, skew_ms: rounded };
}

async function ofHints(hears: () => Promise<number | undefined>): Promise<Finding> {
  const heardMs = await hears();
  if (heardMs !== undefined) {
    const afterMs = Math.round(heardMs * 10) / 10;
    return { what: "hints", ok: true, says: `one process hears another after ${afterMs} ms`, heard_ms: afterMs };
  }
  const says =
    "processes do not hear each other (a pooler in transaction mode?): all works, but what another node does is seen " +
    "up to a second later; give `listenUrl`, to the server itself";
  return { what: "hints", ok: false, says };
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

/** `holdfast ps`: which sessions of this user run on this machine (CLI-24), or at all servers of a store (CLI-28). */
import Table from "cli-table3";
import { Command, Option } from "commander";
import { z } from "zod";
import { sleep, systemClock } from "../clock.ts";
import { ActiveSessions, type ListedSession, type Snapshot } from "../presence/index.ts";
import { type ConnectionFlags, findTarget, withConnectionFlags } from "./connection.ts";
import { Nodes, tableOf as nodesTable } from "./nodes.ts";
import { Problem } from "./problem.ts";
import { shortened, type Terminal } from "./terminal.ts";
import { upFor } from "./up-for.ts";
import { askAboutNodes, askAboutSessions } from "./v1.ts";

/** Within which every session that lives has told a new owner of the service that it does: two heartbeats. */
const WHOLE_AGAIN_MS = 4_000;
const LOOK_EVERY_MS = 100;
const REDRAW_EVERY_MS = 1_000;

interface PsFlags extends ConnectionFlags {
  watch: boolean;
  all: boolean;
}

const Sessions = z.looseObject({
  sessions: z.array(
    z.looseObject({
      session_id: z.string(),
      principal: z.string(),
      client: z.looseObject({ name: z.string(), version: z.string() }),
      state: z.string(),
      node_id: z.string().nullable(),
      lag: z.number(),
      jobs: z.number(),
    }),
  ),
  next_cursor: z.string().nullable(),
});

/** Sessions that `--all` lists. */
const MAX_LISTED = 1_000;

export function psCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("ps"))
    .description("List your sessions on this machine: servers, and commands that follow a job.")
    .addOption(new Option("--watch", "go on showing them until Ctrl-C").default(false).conflicts("all"))
    .option("--all", "ask the server instead: all servers that share its store, and the sessions that they have", false)
    .action((flags: PsFlags) => {
      if (flags.all) return everywhere(flags, terminal);
      return flags.watch ? watch(flags, terminal) : once(flags, terminal);
    });
}

async function everywhere(flags: PsFlags, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const [{ nodes }, { sessions, next_cursor: more }] = await Promise.all([
    askAboutNodes(target, Nodes),
    askAboutSessions(target, `limit=${MAX_LISTED}`, Sessions),
  ]);
  if (flags.json) {
    terminal.json({ nodes, sessions });
    return;
  }
  terminal.block(nodesTable(nodes.filter(({ state }) => state !== "left")));
  if (sessions.length === 0) terminal.remark("No sessions.");
  else {
    const table = new Table({
      head: ["session", "principal", "client", "state", "node", "lag", "jobs"],
      style: { head: [], border: [] },
    });
    for (const { session_id: id, principal, client, state, node_id: node, lag, jobs } of sessions) {
      table.push([
        shortened(id, 48),
        shortened(principal, 40),
        shortened(`${client.name} ${client.version}`, 40),
        shortened(state, 12),
        shortened(node ?? "", 48),
        String(lag),
        String(jobs),
      ]);
    }
    terminal.block(table.toString());
  }
  if (more !== null) terminal.remark(`There are more than ${MAX_LISTED}.`);
}

async function once({ json }: PsFlags, terminal: Terminal): Promise<void> {
  const snapshot = await settled(new ActiveSessions({ enabled: true }), terminal);
  if (json) terminal.json(snapshot);
  else if (shownOf(snapshot).length === 0) terminal.remark("No sessions.");
  else terminal.block(tableOf(snapshot));
}

/**
 * The sessions, whatever has just happened to the owner of the service: when it is gone, those that live are waited for.
 *
 * @throws Problem when the service is there and does not answer
 */
async function settled(sessions: ActiveSessions, terminal: Terminal): Promise<Snapshot> {
  let snapshot = await sessions.querySnapshot();
  if (snapshot.error === undefined) return snapshot;
  const { owner_pid: owner } = await sessions.serviceInfo();
  const { error: _, ...none } = snapshot;
  // Nobody has ever served, or the last one has cleaned up.
  if (owner === undefined || !sessions.enabled) return none;
  terminal.remark(`Process ${owner}, which kept the list, does not answer; waiting for the others to take over.`);
  const deadline = systemClock.monotonic() + WHOLE_AGAIN_MS;
  while (systemClock.monotonic() < deadline) {
    await sleep(systemClock, LOOK_EVERY_MS);
    snapshot = await sessions.querySnapshot();
  }
  if (snapshot.error === undefined) return snapshot;
  // Nobody was left to take over: then this process can, and what the dead one left behind goes with it.
  if (!(await sessions.ensureService())) {
    throw new Problem(`Process ${owner} keeps the list of sessions and does not answer; let it go on, or end it.`);
  }
  snapshot = await sessions.snapshot();
  await sessions.stopService();
  return snapshot;
}

async function watch({ json }: PsFlags, terminal: Terminal): Promise<void> {
  const sessions = new ActiveSessions({ enabled: true });
  const stop = new AbortController();
  const onSignal = () => stop.abort();
  process.on("SIGINT", onSignal);
  try {
    while (!stop.signal.aborted) {
      const snapshot = await sessions.querySnapshot();
      if (json) terminal.json(snapshot);
      else terminal.screen(shownOf(snapshot).length === 0 ? "No sessions." : tableOf(snapshot));
      await sleep(systemClock, REDRAW_EVERY_MS, stop.signal).catch(() => undefined);
    }
  } finally {
    process.off("SIGINT", onSignal);
  }
}

/** `hidden` is for machines to know and for people not to see. */
const shownOf = ({ sessions }: Snapshot): ListedSession[] => sessions.filter(({ hidden }) => !hidden);

function tableOf(snapshot: Snapshot): string {
  const table = new Table({
    head: ["name", "role", "pid", "up", "connected", "listener", "conversations", "jobs"],
    style: { head: [], border: [] },
  });
  for (const session of shownOf(snapshot)) {
    table.push([
      shortened(session.session_name, 40),
      shortened(session.role, 12),
      String(session.pid),
      upFor(session.uptime_seconds),
      session.connected ? "yes" : "no",
      session.listener === null ? "" : addressOf(session.listener),
      counted(session["conversations"]),
      counted(session["jobs"]),
    ]);
  }
  return table.toString();
}

const addressOf = ({ host, port }: { host: string; port: number }): string =>
  shortened(host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`, 48);

/** Metadata may be anything. */
const counted = (value: unknown): string => (typeof value === "number" ? shortened(String(value), 12) : "");

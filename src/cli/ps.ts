/** `holdfast ps`: which sessions of this user run on this machine (CLI-24). */
import Table from "cli-table3";
import { Command } from "commander";
import { sleep, systemClock } from "../clock.ts";
import { ActiveSessions, type ListedSession, type Snapshot } from "../presence/index.ts";
import { Problem } from "./problem.ts";
import { shortened, type Terminal } from "./terminal.ts";

/** Within which every session that lives has told a new owner of the service that it does: two heartbeats. */
const WHOLE_AGAIN_MS = 4_000;
const LOOK_EVERY_MS = 100;
const REDRAW_EVERY_MS = 1_000;

interface PsFlags {
  json: boolean;
  watch: boolean;
}

export function psCommand(terminal: Terminal): Command {
  return new Command("ps")
    .description("List your sessions on this machine: servers, and commands that follow a job.")
    .option("--json", "print the snapshot as one JSON object on a line", false)
    .option("--watch", "go on showing them until Ctrl-C", false)
    .action((flags: PsFlags) => (flags.watch ? watch(flags, terminal) : once(flags, terminal)));
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

/** `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h` */
export function upFor(seconds: number): string {
  const [days, hours, minutes] = [86_400, 3_600, 60].map((unit) => Math.floor(seconds / unit)) as [
    number,
    number,
    number,
  ];
  if (days > 0) return `${days} d ${hours % 24} h`;
  if (hours > 0) return `${hours} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

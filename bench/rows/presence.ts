/**
 * The presence service: requests over the wire against a bare TCP line echo of the same process, which reads a line,
 * writes one and closes; a snapshot of many sessions; the owner's memory over many heartbeats; and what a host's event
 * loop notices of its own session.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createInterface } from "node:readline";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { sleep, systemClock } from "../../src/clock.ts";
import { ActiveSessions, DISCOVERY_FILENAME, Lifecycle } from "../../src/presence/index.ts";
import { LineClient } from "../line-client.ts";
import { inFlight } from "../store-file.ts";
import { decimal, type Figures, type LocalRow, MIB, median, ratioLine, whole } from "./row.ts";

const BLOCKS = 8;
const PER_BLOCK = 1_000;
const IN_FLIGHT = 16;
const SESSIONS = 1_000;
const SNAPSHOTS = 50;
const SNAPSHOT_TARGET_MS = 10;
const HEARTBEATS = 1_000_000;
const MEMORY_TARGET = 4 * MIB;
const LOOP_SEC = 10;
const LOOP_TARGET_MS = 1;
const AT_LEAST = 0.5;

/** An owner in this process, in a folder of its own. */
class Place implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "holdfast-bench-"));
  readonly sessions = new ActiveSessions({ enabled: true, directory: this.folder, port: 0 });

  /** A way to ask it over the wire, as a client in any language does. */
  async client(): Promise<LineClient> {
    await this.sessions.ensureService();
    const { port, auth_token } = JSON.parse(readFileSync(join(this.folder, DISCOVERY_FILENAME), "utf8"));
    return new LineClient(Number(port), String(auth_token));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.sessions.stopService();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function echoServer(): Promise<{ port: number; close(): void }> {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => socket.end(chunk));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { port: (server.address() as { port: number }).port, close: () => void server.close() };
}

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;

/** The bytes of the heap that something still refers to. */
function heapInUse(): number {
  gc();
  return process.memoryUsage().heapUsed;
}

const record = { pid: process.pid, session_name: "bench", role: "session", connected: true, jobs: 3 };

/** Requests a second: blocks of each kind by turns, so that what else the machine does falls on all. */
async function rates(scale: number): Promise<Figures> {
  await using place = new Place();
  const service = await place.client();
  const echo = await echoServer();
  const bare = new LineClient(echo.port, "");
  const tookMs = { bare: 0, upserts: 0, snapshots: 0 };
  const count = PER_BLOCK * Math.max(scale, 0.2);
  // The first block warms up.
  for (let block = -1; block < BLOCKS; block += 1) {
    for (const [name, client, command] of [
      ["bare", bare, "upsert"],
      ["upserts", service, "upsert"],
      ["snapshots", service, "snapshot"],
    ] as const) {
      const line = client.line(command, command === "upsert" ? record : undefined);
      const began = systemClock.monotonic();
      await inFlight(IN_FLIGHT, count, async () => void (await client.send(line)));
      if (block >= 0) tookMs[name] += systemClock.monotonic() - began;
    }
  }
  echo.close();
  return Object.fromEntries(Object.entries(tookMs).map(([name, ms]) => [name, (BLOCKS * count * 1_000) / ms]));
}

/** Real processes that do nothing, which a shell starts. */
async function withProcesses<T>(count: number, work: (pids: number[]) => Promise<T>): Promise<T> {
  const script = `for i in $(seq ${count}); do sleep 600 <&- >&- 2>&- & echo $!; done; read line; kill $(jobs -p)`;
  const shell = spawn("bash", ["-c", script], { stdio: ["pipe", "pipe", "ignore"] });
  const pids: number[] = [];
  for await (const line of createInterface({ input: shell.stdout })) {
    pids.push(Number(line));
    if (pids.length === count) break;
  }
  try {
    return await work(pids);
  } finally {
    shell.stdin.end("\n");
    await once(shell, "exit");
  }
}

/** How long a snapshot of a thousand takes over the wire, parsed, and how long it keeps the owner alone. */
async function snapshots(): Promise<Figures> {
  await using place = new Place();
  const client = await place.client();
  return await withProcesses(SESSIONS, async (pids) => {
    for (const pid of pids) await client.send(client.line("upsert", { ...record, pid, listener_port: 7_777 }));
    const took: number[] = [];
    for (let index = 0; index < SNAPSHOTS; index += 1) {
      const began = systemClock.monotonic();
      const { payload } = JSON.parse(await client.send(client.line("snapshot"))) as { payload: { total: number } };
      took.push(systemClock.monotonic() - began);
      if (payload.total !== SESSIONS) throw new Error(`The snapshot has ${payload.total} sessions.`);
    }
    return { snapshotMs: median(took) };
  });
}

/** What the owner's process holds after many heartbeats, beyond what it held after a tenth of them. */
async function memory(scale: number): Promise<Figures> {
  await using place = new Place();
  const client = await place.client();
  const beats = HEARTBEATS * scale;
  let after = 0;
  for (const share of [0.1, 0.9]) {
    const lines = Array.from({ length: 64 }, (_, jobs) => client.line("upsert", { ...record, jobs }));
    if (share === 0.9) after = heapInUse();
    await inFlight(IN_FLIGHT, beats * share, async (index) => void (await client.send(lines[index % 64] ?? "")));
  }
  return { moreBytes: heapInUse() - after, beats };
}

/** The event loop of a host that does nothing else: its 99th percentile of delay beyond the timer's own. */
async function loopDelay(present: boolean, scale: number): Promise<number> {
  await using place = new Place();
  await using lifecycle = new Lifecycle(place.sessions);
  if (present) lifecycle.start({ sessionName: "host", role: "session" });
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await sleep(systemClock, LOOP_SEC * 1_000 * Math.max(scale, 0.3));
  delay.disable();
  return delay.percentile(99) / 1e6;
}

export const presenceRow: LocalRow = {
  name: "presence",
  servers: ["holdfast"],
  rounds: 1,
  async measureHere(_kind, scale) {
    return {
      ...(await rates(scale)),
      ...(await snapshots()),
      ...(await memory(scale)),
      loopWithout: await loopDelay(false, scale),
      loopWith: await loopDelay(true, scale),
    };
  },
  lines: (figures) => {
    const { snapshotMs, moreBytes, beats, loopWith, loopWithout } = figures;
    const later = (loopWith ?? Number.NaN) - (loopWithout ?? Number.NaN);
    return [
      ratioLine("presence: upserts over the wire", "/s", [figures["upserts"], figures["bare"]], { atLeast: AT_LEAST }),
      ratioLine("presence: snapshots of one session", "/s", [figures["snapshots"], figures["bare"]], {
        atLeast: AT_LEAST,
      }),
      {
        what: `presence: snapshot of ${whole(SESSIONS)} processes`,
        holdfast: `${decimal(snapshotMs)} ms`,
        result: `${decimal(snapshotMs)} ms`,
        target: `≤ ${SNAPSHOT_TARGET_MS} ms`,
        met: (snapshotMs ?? Number.NaN) <= SNAPSHOT_TARGET_MS,
      },
      {
        what: `presence: owner's memory, ${whole(beats)} heartbeats`,
        holdfast: `${decimal((moreBytes ?? Number.NaN) / MIB)} MiB more`,
        result: `${decimal((moreBytes ?? Number.NaN) / MIB)} MiB`,
        target: `≤ ${MEMORY_TARGET / MIB} MiB`,
        met: (moreBytes ?? Number.NaN) <= MEMORY_TARGET,
      },
      {
        what: "presence: a host's event-loop delay, p99",
        baseline: `${decimal(loopWithout)} ms without`,
        holdfast: `${decimal(loopWith)} ms with`,
        result: `${decimal(later)} ms later`,
        target: `≤ ${LOOP_TARGET_MS} ms`,
        met: later <= LOOP_TARGET_MS,
      },
    ];
  },
};

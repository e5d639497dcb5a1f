/**
 * The store over PostgreSQL, on a server of its own that flushes to disk as it does by default: what appending costs
 * against a bare client that inserts the same rows, how long it takes until another node looks, and whether an event
 * costs more where there are many sessions.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import { postgres } from "../../src/store/postgres/index.ts";
import type { Store } from "../../src/store/store.ts";
import { type PostgresServer, postgresServer } from "../../test/postgres.ts";
import type { Load } from "../postgres-load.ts";
import { inFlight, newSession, newSubmit } from "../store-file.ts";
import { decimal, type Figures, type Line, type LocalRow, median, ratioLine } from "./row.ts";

/** As many jobs as keep the commits busy that a node has under way: three of 64 logs. */
const APPENDS = { jobs: 192, eventsPerBatch: 8, bytes: 200 };
const BATCHES = 150;
const NODES = [1, 3] as const;
const AT_LEAST = 0.5;

const WAKE_UPS = 300;
const WAKE_UP_MS = 5;
const WAKE_UP_DEADLINE_MS = 5_000;

const FEW = 10;
const MANY = 10_000;
/** Rounds of a session, in which it is given a batch of events: as many in all, however many sessions there are. */
const ROUNDS = 10_000;
const PER_BLOCK = 500;
const PER_ROUND = 16;
const FLAT = 1.25;

let server: Promise<PostgresServer | { reason: string }> | undefined;

/** The one of all rows; it is stopped by {@link stopPostgres}. */
function ours(): Promise<PostgresServer | { reason: string }> {
  server ??= postgresServer({ settings: { fsync: "on" } });
  return server;
}

export async function stopPostgres(): Promise<void> {
  const started = await server;
  if (started !== undefined && "url" in started) await started[Symbol.asyncDispose]();
}

async function unavailable(): Promise<string | undefined> {
  const started = await ours();
  return "reason" in started ? started.reason : undefined;
}

async function newDatabase(): Promise<string> {
  const started = await ours();
  if ("reason" in started) throw new Error(started.reason);
  return (await started.createDatabase()).url;
}

// ----------------------------------------------------------------------------------------- appends

async function answer(child: ChildProcess): Promise<unknown> {
  const [message] = await Promise.race([
    once(child, "message"),
    once(child, "exit").then(() => Promise.reject(new Error("A process that was to load the database ended."))),
  ]);
  return message;
}

/** Events per second that so many processes write at once. */
async function rate(kind: Load["kind"], processes: number, scale: number): Promise<number> {
  const url = await newDatabase();
  if (kind === "node") await (await opened(url)).stop();
  const batches = Math.max(10, Math.round((BATCHES * scale) / processes));
  const children = Array.from({ length: processes }, (_, index) => {
    const load: Load = { kind, url, name: `load_${index}`, batches, ...APPENDS };
    return fork(join(import.meta.dirname, "..", "postgres-load.ts"), [JSON.stringify(load)]);
  });
  try {
    await Promise.all(children.map(answer));
    // The first run warms up.
    await Promise.all(children.map(run));
    const tookMs = await Promise.all(children.map(run));
    return (processes * batches * APPENDS.jobs * APPENDS.eventsPerBatch * 1000) / Math.max(...tookMs);
  } finally {
    for (const child of children) child.disconnect();
  }
}

async function run(child: ChildProcess): Promise<number> {
  const done = answer(child);
  child.send("go");
  return (await done) as number;
}

// ---------------------------------------------------------------------------------------- wake-ups

async function opened(url: string): Promise<Store> {
  const store = postgres({ url });
  await store.start();
  return store;
}

/** Milliseconds from when an append on one node is stored until another one is told. */
async function wakeUps(scale: number): Promise<number> {
  const url = await newDatabase();
  const [here, there] = [await opened(url), await opened(url)];
  try {
    for (const [store, nodeId] of [
      [here, "here"],
      [there, "there"],
    ] as const) {
      await store.nodes.register({ nodeId, pid: process.pid, host: "bench", now: systemClock.wall() });
    }
    for (const store of [here, there]) await store.nodes.list();
    const session = await here.sessions.create(newSession("wake-ups", "here"));
    await here.requests.submit(newSubmit(session, "job", "here"));
    let told = Promise.withResolvers<number>();
    there.onHint((hint) => {
      if ("jobId" in hint && hint.jobId === "job") told.resolve(systemClock.monotonic());
    });
    const samples: number[] = [];
    for (let n = 1; n <= Math.max(20, WAKE_UPS * scale); n += 1) {
      told = Promise.withResolvers();
      const timer = systemClock.after(WAKE_UP_DEADLINE_MS, () => told.reject(new Error("Nobody was told.")));
      const events = [{ n, kind: "log", payload: "{}" }];
      await here.jobs.append([{ jobId: "job", runEpoch: 1, events, now: systemClock.wall() }]);
      const stored = systemClock.monotonic();
      try {
        samples.push((await told.promise) - stored);
      } catch (error) {
        // The listener's connection may have yet to be made.
        if (n > 1) throw error;
      } finally {
        timer.cancel();
      }
    }
    return median(samples);
  } finally {
    await Promise.all([here.stop(), there.stop()]);
  }
}

// ---------------------------------------------------------------------------------------- sessions

/** Sessions that each follow a job of their own, and are given its events as they come. */
interface Crowd extends AsyncDisposable {
  /** Gives so many batches to sessions in turn, from the one of `first` on. */
  rounds(first: number, count: number): Promise<void>;
}

async function crowd(sessions: number): Promise<Crowd> {
  const store = await opened(await newDatabase());
  const nodeId = "bench";
  await store.nodes.register({ nodeId, pid: process.pid, host: "bench", now: systemClock.wall() });
  await inFlight(FEW, sessions, async (index) => {
    const session = await store.sessions.create(newSession(`session ${index}`, nodeId));
    await store.requests.submit(newSubmit(session, `job ${index}`, nodeId));
  });
  const given = Array<number>(sessions).fill(0);
  const payload = JSON.stringify({ message: "x".repeat(180) });
  return {
    rounds: (first, count) =>
      inFlight(FEW, count, async (round) => {
        const index = (first + round) % sessions;
        const before = given[index] as number;
        given[index] = before + PER_ROUND;
        const jobId = `job ${index}`;
        const events = Array.from({ length: PER_ROUND }, (_, i) => ({ n: before + i + 1, kind: "log", payload }));
        await store.jobs.append([{ jobId, runEpoch: 1, events, now: systemClock.wall() }]);
        const run = { firstSeq: before + 1, count: PER_ROUND, jobId, firstN: before + 1, lastN: before + PER_ROUND };
        const ref = { sessionId: `session ${index}`, connectionEpoch: 1 };
        await store.sessions.storeRuns(ref, [{ ...run, endsFollow: false }], () => "");
      }),
    [Symbol.asyncDispose]: () => store.stop(),
  };
}

/** Microseconds that an event costs, stored and numbered, with few sessions and with many. */
async function costs(scale: number): Promise<{ few: number; many: number }> {
  await using few = await crowd(FEW);
  await using many = await crowd(Math.max(FEW, MANY * scale));
  const tookMs = { few: 0, many: 0 };
  const blocks = Math.max(2, Math.round((ROUNDS * scale) / PER_BLOCK));
  // Few and many take turns, so that what else the machine does falls on both; the first block warms up.
  for (let block = -1; block < blocks; block += 1) {
    for (const [name, sessions] of [
      ["few", few],
      ["many", many],
    ] as const) {
      const began = systemClock.monotonic();
      await sessions.rounds((block + 1) * PER_BLOCK, PER_BLOCK);
      if (block >= 0) tookMs[name] += systemClock.monotonic() - began;
    }
  }
  const perEvent = (ms: number) => (ms * 1000) / (blocks * PER_BLOCK * PER_ROUND);
  return { few: perEvent(tookMs.few), many: perEvent(tookMs.many) };
}

export const postgresRow: LocalRow = {
  name: "postgres",
  servers: ["holdfast"],
  rounds: 1,
  unavailable,
  async measureHere(_kind, scale) {
    const figures: Record<string, number> = {};
    for (const nodes of NODES) {
      figures[`bare${nodes}`] = await rate("bare", nodes, scale);
      figures[`nodes${nodes}`] = await rate("node", nodes, scale);
    }
    figures["wakeUp"] = await wakeUps(scale);
    const { few, many } = await costs(scale);
    return { ...figures, few, many };
  },
  lines: (figures) => [...NODES.map((nodes) => appendLine(figures, nodes)), wakeUpLine(figures), costLine(figures)],
};

const appendLine = (figures: Figures, nodes: number): Line =>
  ratioLine(
    `PostgreSQL: events appended by ${nodes} ${nodes === 1 ? "node" : "nodes"}; B: bare multi-row inserts`,
    "/s",
    [figures[`nodes${nodes}`], figures[`bare${nodes}`]],
    { atLeast: AT_LEAST },
  );

function wakeUpLine(figures: Figures): Line {
  const wakeUp = figures["wakeUp"] ?? Number.NaN;
  const shown = `${decimal(wakeUp)} ms`;
  return {
    what: "  from what one node has stored until another is told, p50",
    holdfast: shown,
    result: shown,
    target: `< ${WAKE_UP_MS} ms`,
    met: wakeUp < WAKE_UP_MS,
  };
}

function costLine(figures: Figures): Line {
  const ratio = (figures["many"] ?? Number.NaN) / (figures["few"] ?? Number.NaN);
  return {
    what: `  an event with ${MANY} sessions, against ${FEW}`,
    holdfast: `${decimal(figures["many"], 0)} µs (${decimal(figures["few"], 0)} µs)`,
    result: `× ${decimal(ratio)}`,
    target: `flat: ≤ × ${FLAT}`,
    met: ratio <= FLAT,
  };
}

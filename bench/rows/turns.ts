/** What ten thousand conversations with waiting turns cost the one whose next turn is to start. */
import { systemClock } from "../../src/clock.ts";
import type { Store } from "../../src/store/store.ts";
import { inFlight, NODE, newConversation, StoreFile } from "../store-file.ts";
import { decimal, type Line, type LocalRow, median } from "./row.ts";

const FEW = 10;
const MANY = 10_000;
/** Turns that are timed, in each store and each way. */
const TURNS = 1_000;
/** Few and many take turns, so that what else the machine does falls on both. */
const PER_BLOCK = 50;
const IN_FLIGHT = 64;
const TTL_MS = 180_000;
const AGENT = "report@1";
const AT_MOST = 1.25;
const BUSY = "busy";

async function start(store: Store, conversationId: string, jobId: string): Promise<void> {
  const now = systemClock.wall();
  const { outcome } = await store.conversations.startTurn({
    turn: {
      conversation: newConversation(conversationId),
      onBusy: "enqueue",
      messageId: jobId,
      userId: "bench",
      maxQueued: Number.MAX_SAFE_INTEGER,
      ttlMs: TTL_MS,
      lostPayload: "{}",
    },
    principal: conversationId,
    nodeId: NODE,
    job: { jobId, agent: AGENT, input: "null", lease: {}, traceId: jobId },
    acceptedPayload: "{}",
    maxRunningJobsPerPrincipal: Number.MAX_SAFE_INTEGER,
    now,
  });
  if (outcome !== "created") throw new Error(`${jobId}: ${outcome}`);
}

const jobOf = (index: number): string => `${BUSY} ${index}`;

/** A store where `others` conversations have a turn that runs and one that waits, and one has a long queue. */
async function crowded(others: number): Promise<StoreFile> {
  const file = await StoreFile.open();
  await inFlight(IN_FLIGHT, others, async (index) => {
    for (const turn of [1, 2]) await start(file.store, `other ${index}`, `other ${index} ${turn}`);
  });
  for (let index = 0; index <= 2 * TURNS; index += 1) await start(file.store, BUSY, jobOf(index));
  return file;
}

/** Ends turn `index` and starts the next one: in one commit, or, when nobody took it then, by a claim. */
async function next(store: Store, index: number, handOver: boolean): Promise<number> {
  const now = systemClock.wall();
  const taker = { nodeId: NODE, agents: [AGENT] };
  const terminal = {
    jobId: jobOf(index),
    runEpoch: 1,
    events: [{ n: 1, kind: "job.result", payload: "{}" }],
    end: "success" as const,
    handOver: handOver ? taker : undefined,
    now,
  };
  let started = systemClock.monotonic();
  const [result] = await store.jobs.append([terminal]);
  let jobId = result?.ok ? result.next?.job.jobId : undefined;
  if (!handOver) {
    started = systemClock.monotonic();
    const { turns } = await store.conversations.claimTurns({ ...taker, now, limit: 64, lostPayload: "{}" });
    jobId = turns[0]?.job.jobId;
  }
  const took = systemClock.monotonic() - started;
  if (jobId !== jobOf(index + 1)) throw new Error(`${jobOf(index + 1)} did not start.`);
  return took;
}

function line(what: string, few: number | undefined, many: number | undefined): Line {
  const ratio = (many ?? Number.NaN) / (few ?? Number.NaN);
  return {
    what,
    baseline: `${decimal(few, 3)} ms next to ${FEW}`,
    holdfast: `${decimal(many, 3)} ms`,
    result: `${decimal(ratio)} × next to ${FEW}`,
    target: `≤ ${AT_MOST} × next to ${FEW}`,
    met: ratio <= AT_MOST,
  };
}

export const turnsRow: LocalRow = {
  name: "turns",
  servers: ["holdfast"],
  async measureHere(_kind, scale) {
    await using few = await crowded(FEW);
    await using many = await crowded(MANY * scale);
    const took = {
      fewHanded: [] as number[],
      manyHanded: [] as number[],
      fewClaimed: [] as number[],
      manyClaimed: [] as number[],
    };
    const until = 2 * TURNS * scale;
    for (let block = 0; block < until; block += 2 * PER_BLOCK) {
      for (const { store, handed, claimed } of [
        { store: few.store, handed: took.fewHanded, claimed: took.fewClaimed },
        { store: many.store, handed: took.manyHanded, claimed: took.manyClaimed },
      ]) {
        for (let index = block; index < block + PER_BLOCK; index += 1) handed.push(await next(store, index, true));
        for (let index = block + PER_BLOCK; index < block + 2 * PER_BLOCK; index += 1) {
          claimed.push(await next(store, index, false));
        }
      }
    }
    return Object.fromEntries(Object.entries(took).map(([name, values]) => [name, median(values)]));
  },
  lines: (holdfast) => [
    line("10,000 conversations wait: the next turn handed over, p50", holdfast["fewHanded"], holdfast["manyHanded"]),
    line("  claimed by a node, p50", holdfast["fewClaimed"], holdfast["manyClaimed"]),
  ],
};

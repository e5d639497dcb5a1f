/**
 * The store's own share of a turn: finding a conversation that is there, taking its lock and releasing it. B is a
 * loop over prepared statements that reads and writes the same rows of the same table, with as many to a commit.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { systemClock } from "../../src/clock.ts";
import { conversations as schema } from "../../src/store/sqlite/migrations/0005-conversations.ts";
import type { Store } from "../../src/store/store.ts";
import { inFlight, NODE, newConversation, StoreFile } from "../store-file.ts";
import { type LocalRow, ratioLine } from "./row.ts";

const CONVERSATIONS = 1_000;
/** Either works on a block, then the other: what else the machine does falls on both. */
const BLOCKS = 20;
const PER_BLOCK = 2_000;
const IN_FLIGHT = 64;
const TTL_MS = 180_000;
const HOLDER = "bench";
const AT_LEAST = 0.6;

const idOf = (index: number): string => `slack_${String(index % CONVERSATIONS).padStart(32, "a")}`;

/** What is measured of either: both work through `count` conversations, from `first` on. */
interface Worker {
  pairs(first: number, count: number): Promise<void> | void;
  resolves(first: number, count: number): Promise<void> | void;
}

function storeWorker({ conversations }: Store): Worker {
  return {
    pairs: (first, count) =>
      inFlight(IN_FLIGHT, count, async (index) => {
        const conversationId = idOf(first + index);
        const now = systemClock.wall();
        const claim = { conversationId, holder: HOLDER, nodeId: NODE, ttlMs: TTL_MS, lostPayload: "{}", now };
        const taken = await conversations.acquire(claim);
        if (taken === undefined) throw new Error(`The lock of ${conversationId} was not free.`);
        await conversations.release({ conversationId, holder: HOLDER, lockEpoch: taken.lock.lockEpoch });
      }),
    resolves: (first, count) =>
      inFlight(IN_FLIGHT, count, async (index) => {
        const { created } = await conversations.resolve(newConversation(idOf(first + index)));
        if (created) throw new Error("The conversation was not there.");
      }),
  };
}

function bareWorker(db: DatabaseSync): Worker {
  const take = db.prepare(
    `UPDATE conversations SET lock_epoch = lock_epoch + 1, lock_holder = ?, lock_node = ?, lock_acquired_at = ?,
       lock_expires_at = ?, lock_job_key = NULL
     WHERE conversation_id = ? AND lock_holder IS NULL AND queued = 0 RETURNING lock_epoch`,
  );
  const free = db.prepare(
    `UPDATE conversations SET lock_holder = NULL, lock_node = NULL, lock_acquired_at = NULL, lock_expires_at = NULL,
       lock_job_key = NULL
     WHERE conversation_id = ? AND lock_holder = ? AND lock_epoch = ?`,
  );
  const find = db.prepare("SELECT * FROM conversations WHERE conversation_id = ?");
  const begin = db.prepare("BEGIN IMMEDIATE");
  const commit = db.prepare("COMMIT");
  return {
    pairs(first, count) {
      for (let at = first; at < first + count; at += IN_FLIGHT) {
        const size = Math.min(IN_FLIGHT, first + count - at);
        const epochs: (number | undefined)[] = [];
        begin.run();
        for (let index = at; index < at + size; index += 1) {
          const now = systemClock.wall();
          const taken = take.get(HOLDER, NODE, now, now + TTL_MS, idOf(index)) as { lock_epoch: number } | undefined;
          epochs.push(taken?.lock_epoch);
        }
        commit.run();
        begin.run();
        for (const [index, epoch] of epochs.entries()) {
          if (epoch === undefined) throw new Error("The lock was not free.");
          free.run(idOf(at + index), HOLDER, epoch);
        }
        commit.run();
      }
    },
    resolves(first, count) {
      for (let index = first; index < first + count; index += 1) {
        if (find.get(idOf(index)) === undefined) throw new Error("The conversation was not there.");
      }
    },
  };
}

/** Calls `work` with a worker over a bare file that has the conversations. */
async function withBareWorker(work: (bare: Worker) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "holdfast-bench-"));
  const db = new DatabaseSync(join(directory, "bench.db"));
  try {
    db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; ${schema.sql}`);
    const insert = db.prepare(
      `INSERT INTO conversations (conversation_id, source, user_id, created_at, active_at, lock_epoch, queued)
       VALUES (?, 'slack', 'bench', 0, 0, 0, 0)`,
    );
    for (let index = 0; index < CONVERSATIONS; index += 1) insert.run(idOf(index));
    await work(bareWorker(db));
  } finally {
    db.close();
    await rm(directory, { recursive: true, force: true });
  }
}

export const locksRow: LocalRow = {
  name: "locks",
  servers: ["holdfast"],
  async measureHere(_kind, scale) {
    await using file = await StoreFile.open();
    const { store } = file;
    for (let index = 0; index < CONVERSATIONS; index += 1)
      await store.conversations.resolve(newConversation(idOf(index)));
    const tookMs = { pairs: 0, resolves: 0, barePairs: 0, bareResolves: 0 };
    await withBareWorker(async (bare) => {
      const ours = storeWorker(store);
      const blocks = BLOCKS * scale;
      // The first block warms up.
      for (let block = -1; block < blocks; block += 1) {
        for (const [name, worker, what] of [
          ["barePairs", bare, "pairs"],
          ["pairs", ours, "pairs"],
          ["bareResolves", bare, "resolves"],
          ["resolves", ours, "resolves"],
        ] as const) {
          const started = systemClock.monotonic();
          await worker[what](Math.max(0, block) * PER_BLOCK, PER_BLOCK);
          if (block >= 0) tookMs[name] += systemClock.monotonic() - started;
        }
      }
    });
    const perSecond = (ms: number) => (BLOCKS * scale * PER_BLOCK * 1000) / ms;
    return Object.fromEntries(Object.entries(tookMs).map(([name, ms]) => [name, perSecond(ms)]));
  },
  lines: (figures) => [
    ratioLine("locks taken and released, 64 in flight", "/s", [figures["pairs"], figures["barePairs"]], {
      atLeast: AT_LEAST,
    }),
    ratioLine("conversations resolved that are there", "/s", [figures["resolves"], figures["bareResolves"]], {
      atLeast: AT_LEAST,
    }),
  ],
};

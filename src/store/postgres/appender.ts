/**
 * The append path: batches of up to 64 jobs in one statement, which is its own transaction, so one round trip
 * (STO-17). The function behind it (migrations/) takes what simply goes on with its job's log; whatever else a batch is
 * (stale, a repeat, the end of a conversation's turn) is decided for it alone (jobs.ts).
 */
import { type AppendBatch, type AppendResult, StoreRefusal } from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { GroupCommit } from "./group-commit.ts";
import { append, firstChunk, isConsecutive } from "./jobs.ts";

const JOBS_PER_CALL = 64;
const BYTES_PER_CALL = 2 * 1024 * 1024;
/** What an event costs beside its payload. */
const BYTES_PER_EVENT = 512;

interface Item {
  batch: AppendBatch;
  /** Of each payload, as UTF-8. */
  lengths: number[];
  bytes: number;
}

export function appender(engine: Engine): (batch: AppendBatch) => Promise<AppendResult> {
  const group = new GroupCommit<Item, AppendResult>({
    key: ({ batch }) => batch.jobId,
    maxItems: JOBS_PER_CALL,
    maxWeight: BYTES_PER_CALL,
    weight: ({ bytes, lengths }) => bytes + lengths.length * BYTES_PER_EVENT,
    isPlain: ({ batch: { events, end, handOver } }) =>
      events.length > 0 && isConsecutive(events) && (end === undefined || handOver === undefined),
    call: (items) => engine.singleTracked((db) => appendPlain(db, items)),
    alone: ({ batch }) => appendAlone(engine, batch),
  });
  return (batch) =>
    engine.track(() => {
      const lengths = batch.events.map((event) => Buffer.byteLength(event.payload));
      return group.add({ batch, lengths, bytes: lengths.reduce((sum, length) => sum + length, 0) });
    });
}

async function appendAlone(engine: Engine, batch: AppendBatch): Promise<AppendResult> {
  try {
    const next = await engine.writeTracked((db) => append(db, batch));
    return next === undefined ? { ok: true } : { ok: true, next };
  } catch (error) {
    if (error instanceof StoreRefusal) return { ok: false, refusal: error };
    throw error;
  }
}

async function appendPlain(db: Transaction, given: readonly Item[]): Promise<Map<Item, AppendResult>> {
  const items: number[] = [];
  const ns: number[] = [];
  const kinds: string[] = [];
  const starts: number[] = [];
  const payloads = Buffer.allocUnsafe(given.reduce((sum, { bytes }) => sum + bytes, 0));
  let written = 0;
  for (const [index, { batch }] of given.entries()) {
    for (const { n, kind, payload } of batch.events) {
      items.push(index + 1);
      ns.push(n);
      kinds.push(kind);
      starts.push(written + 1);
      written += payloads.write(payload, written);
    }
  }
  const batches = given.map((item) => item.batch);
  const row = await db.get<{ taken: number[] }>(
    "SELECT $.append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS taken",
    batches.map((batch) => batch.jobId),
    batches.map((batch) => batch.runEpoch),
    batches.map((batch) => batch.events[0]?.n ?? 0),
    batches.map((batch) => batch.events.at(-1)?.n ?? 0),
    given.map((item) => item.bytes),
    batches.map((batch) => firstChunk(batch.events)),
    batches.map((batch) => batch.end ?? null),
    batches.map((batch) => batch.now),
    items,
    ns,
    kinds,
    starts,
    given.flatMap((item) => item.lengths),
    payloads,
  );
  const taken = new Map<Item, AppendResult>();
  for (const position of row?.taken ?? []) {
    const item = given[position - 1] as Item;
    db.touch({ jobId: item.batch.jobId });
    taken.set(item, { ok: true });
  }
  return taken;
}

/**
 * Writes event rows into PostgreSQL in a process of its own, as a node does through the store, or as a bare client does
 * with multi-row inserts of the same rows. Says `ready` when it is, works when it is told to `go`, answers with how
 * long that took, and ends with its parent.
 */
import pg from "pg";
import { systemClock } from "../src/clock.ts";
import { postgres } from "../src/store/postgres/index.ts";
import { inFlight, newSession, newSubmit } from "./store-file.ts";

export interface Load {
  kind: "node" | "bare";
  url: string;
  /** Of this process among those that load at once. */
  name: string;
  /** Logs that grow side by side, a multiple of 64; each is appended to in batches, one after the other. */
  jobs: number;
  batches: number;
  eventsPerBatch: number;
  bytes: number;
}

/** Statements that the bare client has under way; the store's append path has as many. */
const BARE_CONNECTIONS = 3;
const LOGS_PER_STATEMENT = 64;

const load = JSON.parse(process.argv[2] ?? "null") as Load;
const payload = JSON.stringify({ message: "x".repeat(load.bytes - '{"message":""}'.length) });
const work = load.kind === "node" ? await throughStore() : await bare();
process.on("disconnect", () => process.exit(0));
process.on("message", async () => {
  const began = systemClock.monotonic();
  await work();
  process.send?.(systemClock.monotonic() - began);
});
process.send?.("ready");

async function throughStore(): Promise<() => Promise<void>> {
  const store = postgres({ url: load.url });
  await store.start();
  const nodeId = load.name;
  await store.nodes.register({ nodeId, pid: process.pid, host: "bench", now: systemClock.wall() });
  await store.nodes.list();
  const session = await store.sessions.create(newSession(load.name, nodeId));
  const jobId = (index: number) => `${load.name} ${index}`;
  for (let index = 0; index < load.jobs; index += 1) {
    await store.requests.submit(newSubmit(session, jobId(index), nodeId));
  }
  const next = Array<number>(load.jobs).fill(1);
  return () =>
    inFlight(load.jobs, load.jobs, async (index) => {
      for (let batch = 0; batch < load.batches; batch += 1) {
        const first = next[index] as number;
        const events = Array.from({ length: load.eventsPerBatch }, (_, i) => ({ n: first + i, kind: "log", payload }));
        const [result] = await store.jobs.append([
          { jobId: jobId(index), runEpoch: 1, events, now: systemClock.wall() },
        ]);
        if (result?.ok !== true) throw new Error(`${jobId(index)} was not appended to.`);
        next[index] = first + load.eventsPerBatch;
      }
    });
}

/** The same rows in the same order, as many to a statement as the store takes in one commit. */
async function bare(): Promise<() => Promise<void>> {
  const pool = new pg.Pool({ connectionString: load.url, max: BARE_CONNECTIONS });
  const rows = LOGS_PER_STATEMENT * load.eventsPerBatch;
  const groups = load.jobs / LOGS_PER_STATEMENT;
  const marks = Array.from(
    { length: rows },
    (_, row) => `($${row * 5 + 1}, $${row * 5 + 2}, $${row * 5 + 3}, $${row * 5 + 4}, $${row * 5 + 5})`,
  );
  const text = `INSERT INTO ${JSON.stringify(load.name)} (job_key, n, run_epoch, kind, payload) VALUES ${marks.join(", ")}`;
  await pool.query(
    `CREATE TABLE ${JSON.stringify(load.name)} (job_key BIGINT, n BIGINT, run_epoch BIGINT NOT NULL, kind TEXT NOT NULL,
       payload TEXT NOT NULL, PRIMARY KEY (job_key, n))`,
  );
  let statements = 0;
  return () =>
    inFlight(BARE_CONNECTIONS, load.batches * groups, async () => {
      const firstJob = (statements % groups) * LOGS_PER_STATEMENT;
      const first = Math.floor(statements / groups) * load.eventsPerBatch;
      statements += 1;
      const values: unknown[] = [];
      for (let job = firstJob; job < firstJob + LOGS_PER_STATEMENT; job += 1) {
        for (let i = 1; i <= load.eventsPerBatch; i += 1) values.push(job, first + i, 1, "log", payload);
      }
      await pool.query({ name: "insert", text, values });
    });
}

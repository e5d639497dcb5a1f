/** A store on a file of its own, for what is measured without a server: in this process, with one node entered. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../src/clock.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import type { ConnectionRef, Store } from "../src/store/store.ts";

export const NODE = "bench";

export class StoreFile {
  readonly store: Store;
  readonly #directory: string;

  private constructor(store: Store, directory: string) {
    this.store = store;
    this.#directory = directory;
  }

  static async open(): Promise<StoreFile> {
    const directory = await mkdtemp(join(tmpdir(), "holdfast-bench-"));
    const store = sqlite(join(directory, "bench.db"));
    await store.start();
    await store.nodes.register({ nodeId: NODE, pid: process.pid, host: "bench", now: systemClock.wall() });
    return new StoreFile(store, directory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.store.stop();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

/** Calls `work` for each of `count` numbers, so many at a time. */
export async function inFlight(width: number, count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < count) {
      const index = next;
      next += 1;
      await work(index);
    }
  };
  await Promise.all(Array.from({ length: width }, one));
}

export const newConversation = (conversationId: string) => ({
  conversationId,
  source: "slack",
  key: undefined,
  principal: undefined,
  userId: "bench",
  now: systemClock.wall(),
});

export const newSession = (sessionId: string, nodeId: string) => ({
  sessionId,
  principal: sessionId,
  clientName: "bench",
  clientVersion: "1",
  features: [],
  tokenHash: new Uint8Array(32),
  nodeId,
  resumeWindowMs: 600_000,
  now: systemClock.wall(),
  maxSessionsPerPrincipal: Number.MAX_SAFE_INTEGER,
});

/** A job of the agent `bench`, submitted in a session. */
export const newSubmit = ({ sessionId, connectionEpoch }: ConnectionRef, jobId: string, nodeId: string) => ({
  sessionId,
  connectionEpoch,
  messageId: jobId,
  now: systemClock.wall(),
  principal: sessionId,
  nodeId,
  job: { jobId, agent: "bench", input: "null", lease: {}, traceId: jobId },
  acceptedPayload: "{}",
  maxRunningJobsPerPrincipal: Number.MAX_SAFE_INTEGER,
  reply: () => ({ frame: "{}" }),
});

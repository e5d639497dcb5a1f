/**
 * Started by conversation-races.test.ts: one process with conversations on the file that it is given. It does what
 * the lines on its standard input say, and says on its standard output what came of each, and what its agent sees.
 */
import { createInterface } from "node:readline";
import { type ConversationKey, Conversations, type Lock } from "../src/conversation/index.ts";
import { ArcpError } from "../src/protocol/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";

export type Command =
  /** So many calls at once. */
  | { do: "resolve"; key: ConversationKey; times: number }
  | { do: "lock"; conversationId: string; ttlMs: number; waitMs?: number }
  | { do: "refresh" | "release" }
  | { do: "turn"; key: ConversationKey }
  /** Lets the agent of that turn return. */
  | { do: "finish"; jobId: string }
  /** What a holder may still ask of the store under that job and epoch, past all that would hold it back here. */
  | { do: "write as"; jobId: string; conversationId: string; lockEpoch: number }
  /** As SIGSTOP does, and not within a transaction. */
  | { do: "stop" };

export type Word =
  | { said: "ready" }
  | { said: "answer"; to: number; answer: unknown }
  | { said: "failed"; to: number; code: string }
  /** The lock that was taken here is lost. */
  | { said: "lock lost"; code: string }
  | { said: "turn began"; jobId: string; lockEpoch: number }
  | { said: "turn told"; jobId: string; code: string };

const [file, lockTtlMs] = process.argv.slice(2);
if (file === undefined || lockTtlMs === undefined) throw new Error("usage: conversation-process.ts FILE LOCK_TTL_MS");

const say = (word: Word) => process.stdout.write(`${JSON.stringify(word)}\n`);
const codeOf = (error: unknown): string =>
  error instanceof ArcpError ? String(error.details?.["code"] ?? error.code) : String(error);

const store = sqlite(file);
const runtime = new Runtime({
  store,
  auth: { authenticate: () => Promise.resolve(undefined) },
  // Looks often, so that a test need not wait; a node is dead when the kernel says so, and not before.
  nodeHeartbeatMs: 100,
  sweepIntervalMs: 50,
  nodeTimeoutMs: 3_600_000,
});
const finishing = new Map<string, () => void>();
runtime.agent("talker", async (_input, job) => {
  const finished = new Promise<void>((resolve) => finishing.set(job.id, resolve));
  job.signal.addEventListener("abort", () =>
    say({ said: "turn told", jobId: job.id, code: codeOf(job.signal.reason) }),
  );
  await job.log("begun");
  await job.flush();
  say({ said: "turn began", jobId: job.id, lockEpoch: job.turn?.lockEpoch ?? 0 });
  const aborted = new Promise<void>((resolve) => job.signal.addEventListener("abort", () => resolve()));
  await Promise.race([finished, aborted]);
  return "over";
});
const conversations = new Conversations(runtime, { lockTtlMs: Number(lockTtlMs) });
await runtime.start();

let lock: Lock | undefined;

async function take(given: Command & { do: "lock" }): Promise<unknown> {
  const { conversationId, ttlMs, waitMs = 0 } = given;
  const taken = Promise.withResolvers<Lock>();
  // The lock is held until it is released by a command, or lost.
  const work = conversations.locks.withLock(
    conversationId,
    (held) => {
      taken.resolve(held);
      return new Promise<void>((resolve) => held.signal.addEventListener("abort", () => resolve()));
    },
    { ttlMs, waitMs },
  );
  work.catch((error: unknown) => {
    say({ said: "lock lost", code: codeOf(error) });
    taken.reject(error);
  });
  lock = await taken.promise;
  return { holder: lock.holder, lockEpoch: lock.lockEpoch };
}

async function carryOut(command: Command): Promise<unknown> {
  switch (command.do) {
    case "resolve": {
      const calls = Array.from({ length: command.times }, () =>
        conversations.resolve(command.key, { principal: "alice" }),
      );
      return (await Promise.all(calls)).map(({ conversation, created }) => ({
        id: conversation.conversationId,
        created,
      }));
    }
    case "lock":
      return await take(command);
    case "refresh":
      return await lock?.refresh();
    case "release":
      return await lock?.release();
    case "turn":
      return await conversations.startTurn({ key: command.key, principal: "alice", agent: "talker" });
    case "finish":
      return finishing.get(command.jobId)?.();
    case "write as": {
      const { jobId, conversationId, lockEpoch } = command;
      const ref = { conversationId, holder: jobId, lockEpoch };
      const event = { n: 2, kind: "log", payload: JSON.stringify({ kind: "log", body: { message: "late" } }) };
      const now = runtime.clock.wall();
      const [append] = await store.jobs.append([{ jobId, runEpoch: 1, events: [event], now }]);
      return {
        append: append === undefined || append.ok ? "taken" : append.refusal.reason,
        refreshed: (await store.conversations.refresh([ref], Number(lockTtlMs), now)).length,
        released: await store.conversations.release(ref),
      };
    }
    case "stop":
      return process.kill(process.pid, "SIGSTOP");
  }
}

let count = 0;
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit(0));
lines.on("line", (line) => {
  const to = count;
  count += 1;
  carryOut(JSON.parse(line) as Command).then(
    (answer) => say({ said: "answer", to, answer: answer ?? null }),
    (error: unknown) => say({ said: "failed", to, code: codeOf(error) }),
  );
});
say({ said: "ready" });

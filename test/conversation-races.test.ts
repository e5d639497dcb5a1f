/**
 * Conversations between real processes on one file: one creation for all who ask, and what becomes of a holder that
 * the kernel stops, or ends. Nothing waits for a while; everything waits for a word or a state, with a deadline.
 */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { test } from "node:test";
import { systemClock } from "../src/clock.ts";
import type { ConversationKey } from "../src/conversation/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import type { JobRecord, Store, StoredEvent } from "../src/store/store.ts";
import type { Command, Word } from "./conversation-process.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const DEADLINE_MS = 20_000;
const TTL_MS = 800;
const KEY: ConversationKey = { source: "slack", channel: "C1", thread: "1700.1" };

/** A real process with conversations on a file. */
class Talker {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #words: Word[] = [];
  #watchers: (() => void)[] = [];
  #asked = 0;

  constructor(file: string, ttlMs: number) {
    const script = join(import.meta.dirname, "conversation-process.ts");
    this.#child = spawn(process.execPath, [script, file, String(ttlMs)], { stdio: ["pipe", "pipe", "inherit"] });
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      this.#words.push(JSON.parse(line) as Word);
      for (const watcher of this.#watchers.splice(0)) watcher();
    });
  }

  static async start(file: string, ttlMs = TTL_MS): Promise<Talker> {
    const talker = new Talker(file, ttlMs);
    await talker.hear((word) => word.said === "ready", "it is ready");
    return talker;
  }

  /** The first word of that sort, said already or yet to come. */
  async hear<W extends Word>(matches: (word: Word) => word is W, what: string): Promise<W>;
  async hear(matches: (word: Word) => boolean, what: string): Promise<Word>;
  async hear(matches: (word: Word) => boolean, what: string): Promise<Word> {
    const overdue = Promise.withResolvers<never>();
    const deadline = systemClock.after(
      DEADLINE_MS,
      () => overdue.reject(new Error(`Waited in vain until ${what}; heard ${JSON.stringify(this.#words.slice(-8))}.`)),
      { keepAlive: true },
    );
    try {
      for (;;) {
        const word = this.#words.find(matches);
        if (word !== undefined) return word;
        await Promise.race([new Promise<void>((resolve) => this.#watchers.push(resolve)), overdue.promise]);
      }
    } finally {
      deadline.cancel();
    }
  }

  /** What a command came to. */
  async ask<T>(command: Command): Promise<T> {
    const to = this.send(command);
    const word = await this.hear(
      (said) => (said.said === "answer" || said.said === "failed") && said.to === to,
      `${command.do} is answered`,
    );
    assert(word.said === "answer", JSON.stringify(word));
    return word.answer as T;
  }

  /** The code with which a command fails. */
  async refusal(command: Command): Promise<string> {
    const to = this.send(command);
    const word = await this.hear(
      (said) => (said.said === "answer" || said.said === "failed") && said.to === to,
      `${command.do} is refused`,
    );
    assert(word.said === "failed", JSON.stringify(word));
    return word.code;
  }

  /** @returns the number under which it will be answered */
  send(command: Command): number {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    this.#asked += 1;
    return this.#asked - 1;
  }

  async began(jobId: string): Promise<number> {
    const word = await this.hear(
      (said): said is Word & { said: "turn began" } => said.said === "turn began" && said.jobId === jobId,
      `${jobId} begins`,
    );
    return word.lockEpoch;
  }

  goOn(): void {
    this.#child.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

interface Started {
  jobId: string;
  conversationId: string;
  state: string;
}

/** The file as somebody sees it who takes no part. */
async function onlooker(file: string): Promise<Store & AsyncDisposable> {
  const store = sqlite(file);
  await store.start();
  return { ...store, [Symbol.asyncDispose]: () => store.stop() };
}

/** Looks until a job has ended. */
async function ended(store: Store, jobId: string): Promise<{ job: JobRecord; events: StoredEvent[] }> {
  const since = systemClock.monotonic();
  for (;;) {
    const job = await store.jobs.get(jobId);
    if (job?.endedAt !== undefined) return { job, events: (await store.jobs.read(jobId, 0)).events };
    assert(systemClock.monotonic() - since < DEADLINE_MS, `${jobId} does not end.`);
  }
}

/** The one terminal event of a log, which is its last. */
function terminalOf(events: StoredEvent[]): { code?: string; details?: Record<string, unknown> } {
  const terminals = events.filter(({ kind }) => kind === "job.result" || kind === "job.error");
  assert.equal(terminals.length, 1);
  assert.equal(events.at(-1), terminals[0]);
  return JSON.parse(terminals[0]?.payload ?? "") as ReturnType<typeof terminalOf>;
}

test("[CNV-2] fifty callers in five processes resolve one key at once, and one of them has made it", async () => {
  await using folder = await temporaryFolder();
  await using stack = new AsyncDisposableStack();
  const file = join(folder.path, "shared.db");
  const talkers = await Promise.all(Array.from({ length: 5 }, () => Talker.start(file)));
  for (const talker of talkers) stack.use(talker);
  const keys = Array.from({ length: 5 }, (_, index): ConversationKey => ({ source: "cli", name: `race ${index}` }));
  for (const key of keys) {
    const answers = await Promise.all(
      talkers.map((talker) => talker.ask<{ id: string; created: boolean }[]>({ do: "resolve", key, times: 10 })),
    );
    assert.equal(answers.flat().length, 50);
    assert.equal(answers.flat().filter(({ created }) => created).length, 1);
    assert.equal(new Set(answers.flat().map(({ id }) => id)).size, 1);
  }
});

test("[LCK-6] a holder that was stopped beyond its ttl is told LOCK_LOST, and changes nothing of its successor's", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  await using one = await Talker.start(file);
  await using two = await Talker.start(file);
  const [made] = await one.ask<{ id: string }[]>({ do: "resolve", key: KEY, times: 1 });
  const conversationId = made?.id ?? "";
  const first = await one.ask<{ lockEpoch: number }>({ do: "lock", conversationId, ttlMs: TTL_MS });
  assert.equal(await two.refusal({ do: "lock", conversationId, ttlMs: TTL_MS }), "CONVERSATION_BUSY");

  one.send({ do: "stop" });
  const second = await two.ask<{ holder: string; lockEpoch: number }>({
    do: "lock",
    conversationId,
    ttlMs: 60_000,
    waitMs: DEADLINE_MS,
  });
  assert(second.lockEpoch > first.lockEpoch);

  one.goOn();
  const lost = await one.hear(
    (word): word is Word & { said: "lock lost" } => word.said === "lock lost",
    "it is told of its loss",
  );
  assert.equal(lost.code, "LOCK_LOST");
  assert.equal(await one.refusal({ do: "refresh" }), "LOCK_LOST");
  assert.equal(await one.ask({ do: "release" }), false);
  await using store = await onlooker(file);
  const lock = (await store.conversations.get(conversationId))?.lock;
  assert.deepEqual({ holder: lock?.holder, lockEpoch: lock?.lockEpoch }, second);
  assert.equal(await two.ask({ do: "release" }), true);
});

test("[LCK-6] a lock that was given up, and that nobody took, is free when its holder lets it go", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  await using one = await Talker.start(file);
  const [made] = await one.ask<{ id: string }[]>({ do: "resolve", key: KEY, times: 1 });
  const conversationId = made?.id ?? "";
  await one.ask({ do: "lock", conversationId, ttlMs: TTL_MS });
  one.send({ do: "stop" });
  await using store = await onlooker(file);
  const since = systemClock.monotonic();
  const lock = async () => (await store.conversations.get(conversationId))?.lock;
  for (let held = await lock(); held !== undefined && held.expiresAt >= systemClock.wall(); held = await lock()) {
    assert(systemClock.monotonic() - since < DEADLINE_MS, "the lock does not expire");
  }
  assert.notEqual(await lock(), undefined);
  one.goOn();
  assert.equal((await one.hear((word) => word.said === "lock lost", "it is told")).said, "lock lost");
  assert.equal(await lock(), undefined);
});

test("[LCK-2] a turn whose process was stopped beyond the ttl is over, and nothing that it still writes is taken", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  await using one = await Talker.start(file);
  const first = await one.ask<Started>({ do: "turn", key: KEY });
  const { conversationId } = first;
  const lockEpoch = await one.began(first.jobId);
  await using two = await Talker.start(file);
  const second = await two.ask<Started>({ do: "turn", key: KEY });
  assert.equal(second.state, "queued");

  one.send({ do: "stop" });
  assert((await two.began(second.jobId)) > lockEpoch);

  one.goOn();
  const told = await one.hear(
    (word): word is Word & { said: "turn told" } => word.said === "turn told" && word.jobId === first.jobId,
    "its agent is told",
  );
  assert.equal(told.code, "LOCK_LOST");
  const late = await one.ask({ do: "write as", jobId: first.jobId, conversationId, lockEpoch });
  assert.deepEqual(late, { append: "job_ended", refreshed: 0, released: false });

  await using store = await onlooker(file);
  const { events } = await ended(store, first.jobId);
  const { code, details } = terminalOf(events);
  assert.equal(code, "INTERNAL_ERROR");
  assert.equal(details?.["code"], "LOCK_LOST");
  assert.equal(events.length, 2);
  // The successor is none the worse for it.
  assert.equal((await store.conversations.get(conversationId))?.lock?.jobId, second.jobId);
  await two.ask({ do: "finish", jobId: second.jobId });
  assert.equal((await ended(store, second.jobId)).job.status, "success");
  assert.equal((await store.conversations.get(conversationId))?.lock, undefined);
});

test("[LCK-5] of two processes that wait for a stopped turn's lock one takes it over, and the turn ends with that", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  await using one = await Talker.start(file);
  const turn = await one.ask<Started>({ do: "turn", key: KEY });
  const { conversationId } = turn;
  const lockEpoch = await one.began(turn.jobId);
  const others = await Promise.all([Talker.start(file), Talker.start(file)]);
  await using stack = new AsyncDisposableStack();
  for (const other of others) stack.use(other);
  one.send({ do: "stop" });
  const asking = others.map(async (talker) => {
    const lock = await talker.ask<{ lockEpoch: number }>({
      do: "lock",
      conversationId,
      ttlMs: 60_000,
      waitMs: DEADLINE_MS,
    });
    return { talker, ...lock };
  });
  const taken = await Promise.race(asking);
  assert.equal(taken.lockEpoch, lockEpoch + 1);
  await using store = await onlooker(file);
  const { events } = await ended(store, turn.jobId);
  assert.equal(terminalOf(events).details?.["code"], "LOCK_LOST");
  // The other one has waited for it, and not beside it.
  assert.equal(await taken.talker.ask({ do: "release" }), true);
  const epochs = (await Promise.all(asking)).map((lock) => lock.lockEpoch);
  assert.deepEqual(epochs.toSorted(), [lockEpoch + 1, lockEpoch + 2]);
});

test("[LCK-9] the lock of a process that was killed is free, however long it was good for", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  await using one = await Talker.start(file);
  await using two = await Talker.start(file);
  const [made] = await one.ask<{ id: string }[]>({ do: "resolve", key: KEY, times: 1 });
  const conversationId = made?.id ?? "";
  const lock = { do: "lock", conversationId, ttlMs: 3_600_000, waitMs: DEADLINE_MS } as const;
  const first = await one.ask<{ lockEpoch: number }>(lock);
  await one.kill();
  const second = await two.ask<{ lockEpoch: number }>(lock);
  assert.equal(second.lockEpoch, first.lockEpoch + 1);
});

test("[TRN-6] after a kill -9 the dead turn ends once, saying why, and the next one runs by itself", async () => {
  await using folder = await temporaryFolder();
  const file = join(folder.path, "shared.db");
  // So long a ttl that nothing but the kernel's word lets the next one run.
  const ttlMs = 3_600_000;
  await using one = await Talker.start(file, ttlMs);
  const first = await one.ask<Started>({ do: "turn", key: KEY });
  await one.began(first.jobId);
  await using two = await Talker.start(file, ttlMs);
  const waiting = [await two.ask<Started>({ do: "turn", key: KEY }), await one.ask<Started>({ do: "turn", key: KEY })];
  assert.deepEqual(
    waiting.map(({ state }) => state),
    ["queued", "queued"],
  );

  await one.kill();
  await using store = await onlooker(file);
  for (const { jobId } of waiting) {
    await two.began(jobId);
    await two.ask({ do: "finish", jobId });
    assert.equal((await ended(store, jobId)).job.status, "success");
  }
  const { events } = await ended(store, first.jobId);
  assert.equal(terminalOf(events).details?.["reason"], "node_lost");
  const conversation = await store.conversations.get(first.conversationId);
  assert.equal(conversation?.lock, undefined);
  assert.equal(conversation?.queued, 0);
});

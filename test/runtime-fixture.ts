/**
 * A runtime for one test: a store of its own, a clock that stands still, agents that do as the
 * test says, and clients over memory pairs. Costs a file and a few milliseconds. Disposing stops the
 * runtime and fails when it leaves a timer behind.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { setImmediate as turn } from "node:timers/promises";
import { systemClock } from "../src/clock.ts";
import { Conversations, type ConversationsOptions } from "../src/conversation/index.ts";
import type { Logger } from "../src/logger.ts";
import type { Envelope } from "../src/protocol/index.ts";
import { type Identity, type JobContext, Runtime, type RuntimeOptions } from "../src/runtime/index.ts";
import type { Store } from "../src/store/store.ts";
import { ManualClock } from "../src/testing/manual-clock.ts";
import { type MemoryPair, memoryPair } from "../src/transport/memory.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { type StoreMaker, storeMaker } from "./test-store.ts";
import { WireClient } from "./wire-client.ts";

const DEADLINE_MS = 10_000;

/** Resolves when `done` holds, looking once per turn of the event loop; fails loudly after 10 s. */
export async function eventually(done: () => boolean, what: string): Promise<void> {
  const since = systemClock.monotonic();
  while (!done()) {
    assert(systemClock.monotonic() - since < DEADLINE_MS, `Waited in vain for ${what}.`);
    await turn();
  }
}

/** Lets whatever is ready run: for showing that nothing more happens. */
export async function turns(count = 20): Promise<void> {
  for (let left = count; left > 0; left -= 1) await turn();
}

/** A run of the agent `puppet`, which does nothing until the test says so. */
export interface Puppet {
  readonly job: JobContext;
  readonly input: unknown;
  end(result?: unknown): void;
  fail(error: unknown): void;
}

export interface LogEntry {
  level: "debug" | "info" | "warn" | "error";
  message: string;
  fields: object;
}

/** A wire client with the words of these tests. */
export class TestClient extends WireClient {
  readonly pair: MemoryPair;

  constructor(pair: MemoryPair) {
    super(pair.a);
    this.pair = pair;
  }

  /** Submits and waits for the answer, whatever it is. */
  submit(agent: string, input: unknown = null, rest: object = {}, envelope: Partial<Envelope> = {}): Promise<Envelope> {
    return this.ask("job.submit", { agent, input, ...rest }, envelope);
  }

  /** Submits a job that must be accepted, and answers its id. */
  async start(agent: string, input: unknown = null, rest: object = {}): Promise<string> {
    const answer = await this.submit(agent, input, rest);
    assert.equal(answer.type, "job.accepted", JSON.stringify(answer));
    return answer.job_id as string;
  }

  /** Sends a request and waits for its answer. */
  ask(type: string, payload: object, envelope: Partial<Envelope> = {}): Promise<Envelope> {
    return this.reply(this.send(type, payload, envelope));
  }

  /** Everything numbered of one job, so far. */
  of(jobId: string): Envelope[] {
    return this.numbered().filter((envelope) => envelope.job_id === jobId);
  }

  /** The job's terminal message. */
  terminal(jobId: string): Promise<Envelope> {
    return this.waitFor(
      ({ type, job_id, event_seq }) =>
        job_id === jobId && event_seq !== undefined && (type === "job.result" || type === "job.error"),
      `the end of ${jobId}`,
    );
  }

  /** The messages of a job's `log` events, so far. */
  logged(jobId: string): string[] {
    return this.of(jobId)
      .map(({ payload }) => payload)
      .filter(({ kind }) => kind === "log")
      .map(({ body }) => (body as { message: string }).message);
  }

  /** Fails unless the session still answers. */
  async alive(): Promise<void> {
    const nonce = `alive-${this.received.length}-${Math.random()}`;
    this.send("session.ping", { nonce });
    await this.waitFor(({ type, payload }) => type === "session.pong" && payload["ping_nonce"] === nonce, "the pong");
  }

  /** What a hello needs to resume this client's session from event `lastEventSeq`. */
  resume(lastEventSeq: number): object {
    return { session_id: this.sessionId, resume_token: this.resumeToken, last_event_seq: lastEventSeq };
  }
}

export interface FixtureOptions extends Omit<Partial<RuntimeOptions>, "store" | "clock" | "logger" | "auth"> {
  /** Good tokens. Besides, each of `alice`, `bob` and `carol` is the token of the principal of that name. */
  tokens?: Record<string, Identity>;
  auth?: RuntimeOptions["auth"];
  /** Gives the runtime conversations. @default none */
  conversations?: ConversationsOptions;
  /** Puts something between the runtime and its store, e.g. failures. */
  wrap?: (store: Store) => Store;
}

export interface ConnectOptions {
  /** The token; by default also the principal's name. @default "alice" */
  token?: string;
  /** `null`: a hello without capabilities. @default every feature */
  features?: readonly string[] | null;
  name?: string;
  resume?: object;
}

export class RuntimeFixture {
  readonly clock = new ManualClock();
  readonly log: LogEntry[] = [];
  readonly runtime: Runtime;
  readonly store: Store;
  readonly #folder: Awaited<ReturnType<typeof temporaryFolder>>;
  readonly #puppets = new Map<string, Puppet>();
  readonly #conversations: Conversations | undefined;

  constructor(folder: Awaited<ReturnType<typeof temporaryFolder>>, makeStore: StoreMaker, options: FixtureOptions) {
    this.#folder = folder;
    const { tokens = {}, wrap = (store: Store) => store, conversations, ...rest } = options;
    const known: Record<string, Identity> = { ...tokens };
    for (const principal of ["alice", "bob", "carol"]) known[principal] ??= { principal };
    const write = (level: LogEntry["level"]) => (fields: object, message: string) => {
      this.log.push({ level, message, fields });
    };
    const logger: Logger = { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
    this.store = makeStore(this.clock);
    this.runtime = new Runtime({
      // Clients here do not ack, and count every number: a notice would be one too many.
      backPressureThreshold: 1_000_000,
      auth: { authenticate: async (token) => (Object.hasOwn(known, token) ? known[token] : undefined) },
      ...rest,
      store: wrap(this.store),
      clock: this.clock,
      logger,
    });
    this.#conversations = conversations === undefined ? undefined : new Conversations(this.runtime, conversations);
    this.runtime.agent("echo", (input) => input);
    this.runtime.agent("sleeper", (_input, job) => job.sleep(1e9));
    this.runtime.agent(
      "puppet",
      (input, job) =>
        new Promise((resolve, reject) => {
          this.#puppets.set(job.id, { job, input, end: resolve, fail: reject });
        }),
    );
  }

  /** The run behind a job of the agent `puppet`, once it has started. */
  async puppet(jobId: string): Promise<Puppet> {
    await eventually(() => this.#puppets.has(jobId), `${jobId} to start`);
    return this.#puppets.get(jobId) as Puppet;
  }

  get conversations(): Conversations {
    assert(this.#conversations !== undefined, "the fixture was made without conversations");
    return this.#conversations;
  }

  /** How many puppets ever started. */
  get puppets(): number {
    return this.#puppets.size;
  }

  /** A connection on which nothing was said yet; frames arrive by themselves. */
  line(): TestClient {
    const pair = memoryPair({ auto: true });
    const client = new TestClient(pair);
    this.runtime.accept(pair.b);
    return client;
  }

  /** A connection that has said hello, and its first answer: a welcome, or why not. */
  async greet(options: ConnectOptions = {}): Promise<{ client: TestClient; answer: Envelope }> {
    const client = this.line();
    const { token = "alice", features, name, resume } = options;
    client.hello({
      token,
      ...(features === undefined || features === null ? {} : { features }),
      ...(name === undefined ? {} : { name }),
      rest: {
        ...(features === null ? { capabilities: undefined } : {}),
        ...(resume === undefined ? {} : { resume }),
      },
    });
    const answer = await client.waitFor(
      ({ type }) => type === "session.welcome" || type === "session.error",
      "the answer to the hello",
    );
    return { client, answer };
  }

  /** A client with an open session. */
  async connect(options: ConnectOptions = {}): Promise<TestClient> {
    const { client, answer } = await this.greet(options);
    assert.equal(answer.type, "session.welcome", JSON.stringify(answer));
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    let stopped = false;
    const stopping = this.runtime.stop({ drainMs: 0 }).finally(() => {
      stopped = true;
    });
    while (!stopped) await this.clock.advance(1_000);
    await stopping;
    // What a slow store was asked just before is answered some time.
    await eventually(() => this.clock.pendingTimers === 0, "the last of the runtime's timers");
    await this.#folder[Symbol.asyncDispose]();
  }
}

/** A started runtime with the agents `echo`, `sleeper` (until it is told to stop) and `puppet`. */
export async function runtimeFixture(options: FixtureOptions = {}): Promise<RuntimeFixture> {
  const folder = await temporaryFolder();
  const fixture = new RuntimeFixture(folder, await storeMaker(join(folder.path, "test.db")), options);
  await fixture.runtime.start();
  return fixture;
}

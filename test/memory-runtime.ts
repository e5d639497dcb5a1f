/**
 * A runtime on a real file, reached over memory transports, on a clock that the test moves: for rules that
 * hang on time or on the order of frames.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Envelope } from "../src/protocol/index.ts";
import {
  type AgentHandler,
  type AgentOptions,
  type JobContext,
  Runtime,
  type RuntimeOptions,
} from "../src/runtime/index.ts";
import type { Store } from "../src/store/store.ts";
import { ManualClock } from "../src/testing/manual-clock.ts";
import { type MemoryPair, memoryPair } from "../src/transport/memory.ts";
import { eventually } from "./runtime-fixture.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { type StoreMaker, storeMaker } from "./test-store.ts";
import { WireClient } from "./wire-client.ts";

/** Who holds which token in these tests. */
export const TOKENS: Readonly<Record<string, string>> = { alice: "alice", "alice-2": "alice", bob: "bob" };

/** A connection, and the hand on its wire. */
export interface Line {
  readonly pair: MemoryPair;
  readonly client: WireClient;
}

/** What a resume names. */
export interface ResumeFrom {
  sessionId: string;
  token: string;
  seq: number;
}

export interface MemoryRuntimeOptions {
  /** Puts something between the runtime and its store. */
  wrap?: (store: Store) => Store;
  settings?: Partial<RuntimeOptions>;
  /** Frames wait until the test flushes them. @default false */
  manual?: boolean;
  /** A file that another one works on, too. @default one of its own */
  file?: string;
}

export interface HelloOptions {
  token?: string;
  features?: readonly string[];
  resume?: ResumeFrom;
  extensions?: Record<string, unknown>;
}

/**
 * An agent that the test leads: it does what {@link Puppet.job} is told and ends when {@link Puppet.end} is
 * called or its signal aborts.
 */
export class Puppet {
  readonly handler: AgentHandler = async (_input, job) => {
    this.#started.resolve(job);
    this.starts += 1;
    job.signal.addEventListener("abort", () => this.#ended.reject(job.signal.reason), { once: true });
    return await this.#ended.promise;
  };
  starts = 0;
  readonly #started = Promise.withResolvers<JobContext>();
  readonly #ended = Promise.withResolvers<unknown>();

  /** The context of its first run. */
  get job(): Promise<JobContext> {
    return this.#started.promise;
  }

  /** Emits `log` events `from` to `to - 1` and waits until they are stored. */
  async log(from: number, to: number): Promise<void> {
    const job = await this.job;
    for (let index = from; index < to; index += 1) await job.log(String(index));
    await job.flush();
  }

  end(result: unknown = null): void {
    this.#ended.resolve(result);
  }
}

export class MemoryRuntime {
  readonly clock: ManualClock;
  readonly file: string;
  readonly #makeStore: StoreMaker;
  readonly #options: MemoryRuntimeOptions;
  readonly #folder: Awaited<ReturnType<typeof temporaryFolder>>;
  readonly #lines: Line[] = [];
  readonly #agents = new Map<string, { handler: AgentHandler; options: AgentOptions | undefined }>();
  #runtime: Runtime;

  constructor(
    folder: Awaited<ReturnType<typeof temporaryFolder>>,
    store: { file: string; make: StoreMaker },
    options: MemoryRuntimeOptions,
  ) {
    this.#folder = folder;
    this.#options = options;
    this.clock = new ManualClock();
    this.file = store.file;
    this.#makeStore = store.make;
    this.#runtime = this.#create();
  }

  get runtime(): Runtime {
    return this.#runtime;
  }

  start(): Promise<void> {
    return this.#runtime.start();
  }

  agent(name: string, handler: AgentHandler, options?: AgentOptions): this {
    this.#agents.set(name, { handler, options });
    this.#runtime.agent(name, handler, options);
    return this;
  }

  puppet(name: string): Puppet {
    const puppet = new Puppet();
    this.agent(name, puppet.handler);
    return puppet;
  }

  /** A connection that has not said anything yet. */
  line(): Line {
    const pair = memoryPair({ auto: this.#options.manual !== true });
    const line = { pair, client: new WireClient(pair.a) };
    this.#runtime.accept(pair.b);
    this.#lines.push(line);
    return line;
  }

  /** A connection that has said hello; its welcome may still be on its way. */
  hello({ token = "alice", features, resume, extensions }: HelloOptions = {}): Line {
    const line = this.line();
    line.client.hello({
      token,
      ...(features === undefined ? {} : { features }),
      ...(extensions === undefined ? {} : { extensions }),
      ...(resume === undefined
        ? {}
        : {
            rest: { resume: { session_id: resume.sessionId, resume_token: resume.token, last_event_seq: resume.seq } },
          }),
    });
    return line;
  }

  /** A connection that was welcomed. */
  async connect(options: HelloOptions = {}): Promise<Line> {
    const line = this.hello(options);
    await line.client.message("session.welcome");
    return line;
  }

  /** Stops, as an operator does, and starts anew on the same file. */
  async restart(): Promise<void> {
    await this.stop();
    this.#runtime = this.#create();
    for (const [name, { handler, options }] of this.#agents) this.#runtime.agent(name, handler, options);
    await this.#runtime.start();
  }

  /** Stops. Time goes on by 25 s, more than all waits of a stop; the file takes as long as it takes. */
  async stop(): Promise<void> {
    let stopped = false;
    const stopping = this.#runtime.stop({ drainMs: 1 }).finally(() => {
      stopped = true;
    });
    for (let passed = 0; !stopped; passed += 1_000) await this.clock.advance(passed < 25_000 ? 1_000 : 0);
    await stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { pair } of this.#lines) pair.cut();
    await this.stop();
    await this.#folder[Symbol.asyncDispose]();
    // What a slow store was asked just before is answered some time.
    await eventually(() => this.clock.pendingTimers === 0, "the last of the runtime's timers");
  }

  #create(): Runtime {
    const { wrap = (store: Store) => store, settings } = this.#options;
    return new Runtime({
      // Clients here do not ack, and count every number: a notice would be one too many.
      backPressureThreshold: 1_000_000,
      store: wrap(this.#makeStore(this.clock)),
      clock: this.clock,
      auth: {
        authenticate: async (token) => {
          const principal = TOKENS[token];
          return principal === undefined ? undefined : { principal };
        },
      },
      ...settings,
    });
  }
}

/** A started runtime. Agents that are registered on it are there after a restart, too. */
export async function memoryRuntime(options: MemoryRuntimeOptions = {}): Promise<MemoryRuntime> {
  const folder = await temporaryFolder();
  const file = options.file ?? join(folder.path, "holdfast.db");
  const fixture = new MemoryRuntime(folder, { file, make: await storeMaker(file) }, options);
  await fixture.start();
  return fixture;
}

/** What a client that has lost its connection knows: its session, its newest token, its newest number. */
export function resumeOf(client: WireClient, seq: number = client.seqs().at(-1) ?? 0): ResumeFrom {
  assert(client.sessionId !== undefined && client.resumeToken !== undefined, "the client was never welcomed");
  return { sessionId: client.sessionId, token: client.resumeToken, seq };
}

/** Everything that was on its way to the client has arrived: answers go in order, so a ping's is the last. */
export async function settled(client: WireClient): Promise<void> {
  for (let round = 0; round < 3; round += 1) {
    const nonce = `settled-${client.received.length}-${round}`;
    client.send("session.ping", { nonce, sent_at: "2026-01-01T00:00:00Z" });
    await client.waitFor(({ payload }) => payload["ping_nonce"] === nonce, `the pong of ${nonce}`);
  }
}

/** Submits and answers the job's id. */
export async function submit(
  client: WireClient,
  agent: string,
  input: unknown = null,
  rest: object = {},
): Promise<string> {
  const reply = await client.reply(client.send("job.submit", { agent, input, ...rest }));
  assert.equal(reply.type, "job.accepted", JSON.stringify(reply));
  return reply.payload["job_id"] as string;
}

export const isTerminal = ({ type, event_seq }: Envelope): boolean =>
  event_seq !== undefined && (type === "job.result" || type === "job.error");

/** The first message that fits, there or yet to come; looks at each one once, however many there are. */
async function find(client: WireClient, fits: (envelope: Envelope) => boolean, what: string): Promise<Envelope> {
  let next = 0;
  let found: Envelope | undefined;
  await client.until(() => {
    for (; found === undefined && next < client.received.length; next += 1) {
      const envelope = client.received[next]?.envelope;
      if (envelope !== undefined && fits(envelope)) found = envelope;
    }
    return found !== undefined;
  }, what);
  return found as unknown as Envelope;
}

/** The event of that number, there or yet to come. */
export const upTo = (client: WireClient, seq: number): Promise<Envelope> =>
  find(client, ({ event_seq }) => event_seq === seq, `event ${seq}`);

/** The job's terminal message, there or yet to come. */
export const terminalOf = (client: WireClient, jobId: string): Promise<Envelope> =>
  find(client, (envelope) => envelope.job_id === jobId && isTerminal(envelope), `the end of ${jobId}`);

/** The messages of the `log` events that arrived, in order. */
export const logsOf = (client: WireClient, jobId?: string): string[] =>
  client
    .numbered()
    .filter(
      ({ type, job_id, payload }) => type === "job.event" && payload["kind"] === "log" && (jobId ?? job_id) === job_id,
    )
    .map(({ payload }) => (payload["body"] as { message: string }).message);

/** 1, 2, … or from elsewhere. */
export const count = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

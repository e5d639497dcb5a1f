/**
 * Every interleaving, by chance and by seed: a client that drops, resumes, takes over and comes back with
 * old tokens, jobs that append, a runtime that crashes between a write and its answer. The checker
 * reads only what arrived at the client.
 *
 * `RACE_SEEDS=2000` runs more seeds, `RACE_FIRST=17 RACE_SEEDS=1` one again.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { CLIENT_INSTANCE, type Envelope, IN_REPLY_TO } from "../src/protocol/index.ts";
import { type JobContext, Runtime } from "../src/runtime/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { ManualClock } from "../src/testing/manual-clock.ts";
import { type MemoryPair, memoryPair } from "../src/transport/memory.ts";
import { CrashableStore } from "./crashable-store.ts";
import { Random } from "./random.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { WireClient } from "./wire-client.ts";

const FIRST = Number(process.env["RACE_FIRST"] ?? 1);
const SEEDS = Number(process.env["RACE_SEEDS"] ?? 200);
const STEPS = 60;

/** What an agent of this test did, as it knows it. */
interface RunningAgent {
  label: string;
  job: JobContext;
  /** How many events it has emitted. */
  emitted: number;
  /** How many of them were certainly stored: a flush resolved. */
  durable: number;
  end: () => void;
}

interface Line {
  pair: MemoryPair;
  client: WireClient;
  /** What the hello said the client has; a welcome must be followed by the next. */
  resumedFrom: number;
}

class Scenario {
  readonly #random: Random;
  readonly #file: string;
  readonly #resendsAll: boolean;
  readonly #clock = new ManualClock();
  readonly log: string[] = [];
  #store: CrashableStore;
  #runtime: Runtime;
  readonly #agents = new Map<string, RunningAgent>();
  /** Every agent that ever ran, by label. */
  readonly starts = new Map<string, number>();
  readonly #everyAgent: RunningAgent[] = [];
  /** The envelope ids of submits, by label, and those that were answered. */
  readonly #submits = new Map<string, string>();
  readonly #answered = new Map<string, string>();
  #line: Line | undefined;
  readonly #lines: Line[] = [];
  #sessionId: string | undefined;
  /** Tokens that must be good: the last that was presented and all issued since, as far as we saw. */
  #tokens: string[] = [];
  #attempt = 0;
  /** What the client has: number to frame, and the newest without a hole. */
  readonly frames = new Map<number, string>();
  #lastSeq = 0;

  constructor(seed: number, file: string) {
    this.#random = new Random(seed);
    this.#resendsAll = seed % 2 === 0;
    this.#file = file;
    this.#store = new CrashableStore(sqlite(file, { clock: this.#clock }));
    this.#runtime = this.#newRuntime();
  }

  #newRuntime(): Runtime {
    const runtime = new Runtime({
      store: this.#store,
      clock: this.#clock,
      auth: { authenticate: async (token) => (token === "good" ? { principal: "alice" } : undefined) },
      resumeWindowSec: 1_000_000,
      heartbeatIntervalSec: 1_000_000,
      helloTimeoutMs: 1_000_000_000,
    });
    runtime.agent("puppet", async (input, job) => {
      const { label } = input as { label: string };
      this.starts.set(label, (this.starts.get(label) ?? 0) + 1);
      await new Promise<void>((resolve) => {
        const agent = { label, job, emitted: 0, durable: 0, end: resolve };
        this.#agents.set(label, agent);
        this.#everyAgent.push(agent);
      });
      return { label };
    });
    return runtime;
  }

  async run(): Promise<void> {
    await this.#runtime.start();
    await this.#connect();
    for (let step = 0; step < STEPS; step += 1) {
      const action = this.#random.weighted({
        submit: 3,
        append: 14,
        end: 2,
        flush: 10,
        trickle: 8,
        turns: 8,
        drop: 4,
        resume: 5,
        takeover: 3,
        unsubscribe: 1,
        crash: 1,
      });
      this.log.push(`${step} ${action}`);
      await this.#act(action);
    }
    await this.#finish();
  }

  async #act(action: string): Promise<void> {
    switch (action) {
      case "submit": {
        const label = `job-${this.#submits.size}`;
        if (this.#line === undefined || this.#sessionId === undefined) return;
        const id = `submit-${label}`;
        this.#submits.set(label, id);
        this.#submit(label, id);
        return;
      }
      case "append": {
        const agent = this.#someAgent();
        if (agent === undefined) return;
        const count = this.#random.int(1, 20);
        for (let index = 0; index < count; index += 1) {
          const kind = this.#random.next() < 0.2 ? "progress" : "log";
          const emitting =
            kind === "log"
              ? agent.job.log(`${agent.label}:${agent.emitted}`)
              : agent.job.progress({ current: agent.emitted, message: `${agent.label}:${agent.emitted}` });
          emitting.catch((error: unknown) => this.log.push(`emit refused: ${String(error)}`));
          agent.emitted += 1;
        }
        const through = agent.emitted;
        void agent.job.flush().then(() => {
          agent.durable = Math.max(agent.durable, through);
        });
        return;
      }
      case "end": {
        const agent = this.#someAgent();
        if (agent === undefined) return;
        this.#agents.delete(agent.label);
        agent.end();
        return;
      }
      case "flush":
        this.#line?.pair.flush();
        return;
      case "trickle":
        for (let left = this.#random.int(1, 12); left > 0; left -= 1) {
          const line = this.#random.next() < 0.8 ? this.#line : this.#random.pick(this.#lines);
          line?.pair.flushOne(this.#random.pick(["toA", "toB"] as const));
        }
        return;
      case "turns":
        for (let left = this.#random.int(1, 5); left > 0; left -= 1) await turn();
        return;
      case "drop":
        this.#line?.pair.cut({ deliver: { toA: this.#random.int(0, 9), toB: this.#random.int(0, 3) } });
        this.#line = undefined;
        return;
      case "resume":
        if (this.#line === undefined) await this.#connect();
        return;
      case "takeover":
        await this.#connect();
        return;
      case "unsubscribe": {
        // Of a job that is not followed: it must change nothing.
        if (this.#line !== undefined && this.#sessionId !== undefined) {
          this.#line.client.send("job.unsubscribe", { job_id: "job_unknown" });
        }
        return;
      }
      case "crash":
        await this.#crash();
        return;
      default:
        throw new Error(`unknown action ${action}`);
    }
  }

  #someAgent(): RunningAgent | undefined {
    const agents = [...this.#agents.values()];
    return agents.length === 0 ? undefined : this.#random.pick(agents);
  }

  #submit(label: string, id: string): void {
    this.#line?.client.send("job.submit", { agent: "puppet", input: { label } }, { id });
  }

  /** Half of the clients send again only what never started: the rest must be answered by itself (RES-10). */
  #mustResend(label: string): boolean {
    return !this.#answered.has(label) && (this.#resendsAll || !this.starts.has(label));
  }

  /** Opens a line and says hello, with whatever token may still be good. Frames flow when they are flushed. */
  async #connect(): Promise<void> {
    const pair = memoryPair();
    const client = new WireClient(pair.a);
    this.#runtime.accept(pair.b);
    const line = { pair, client, resumedFrom: this.#lastSeq };
    this.#attempt += 1;
    const extensions = { [CLIENT_INSTANCE]: { instance: "one", attempt: this.#attempt } };
    if (this.#sessionId === undefined) {
      client.hello({ token: "good", extensions });
    } else {
      const token = this.#random.pick(this.#tokens);
      this.#tokens = this.#tokens.slice(this.#tokens.indexOf(token));
      client.hello({
        token: "good",
        extensions,
        rest: { resume: { session_id: this.#sessionId, resume_token: token, last_event_seq: this.#lastSeq } },
      });
    }
    this.#line = line;
    this.#lines.push(line);
    this.#watch(line);
  }

  /** Reads what arrives on a line as the checker: in order, without a hole, and the same at every sending. */
  #watch(line: Line): void {
    let next = 0;
    let expected = line.resumedFrom + 1;
    const look = () => {
      for (; next < line.client.received.length; next += 1) {
        const { envelope, frame } = line.client.received[next] as { envelope: Envelope; frame: string };
        const current = line === this.#line;
        if (envelope.type === "session.welcome") {
          if (current) {
            this.#sessionId = envelope.session_id;
            this.#tokens.push(envelope.payload["resume_token"] as string);
            for (const [label, id] of this.#submits) if (this.#mustResend(label)) this.#submit(label, id);
          }
        }
        if (envelope.type === "session.error") {
          // A line that was given up may be told that it was superseded, or that its token is retired by now.
          assert(!current, `the newest line was refused: ${frame}`);
        }
        const reply = envelope.extensions?.[IN_REPLY_TO];
        if (envelope.type === "job.accepted" && typeof reply === "string") {
          const label = reply.replace("submit-", "");
          const jobId = envelope.job_id as string;
          assert.equal(this.#answered.get(label) ?? jobId, jobId, "a submit was accepted as two jobs");
          if (current) this.#answered.set(label, jobId);
        }
        if (envelope.event_seq === undefined) continue;
        assert.equal(envelope.event_seq, expected, "a number was left out or came twice on one line");
        assert.equal(envelope.id, `${envelope.session_id}.${envelope.event_seq}`);
        expected += 1;
        const before = this.frames.get(envelope.event_seq);
        assert(
          before === undefined || before === frame,
          `number ${envelope.event_seq} was used twice:\n${before}\n${frame}`,
        );
        this.frames.set(envelope.event_seq, frame);
        if (current) this.#lastSeq = Math.max(this.#lastSeq, envelope.event_seq);
      }
    };
    const { pair } = line;
    for (const name of ["flush", "flushOne", "cut"] as const) {
      const original = pair[name].bind(pair) as (...args: unknown[]) => unknown;
      Object.assign(pair, {
        [name]: (...args: unknown[]) => {
          const result = original(...args);
          look();
          return result;
        },
      });
    }
  }

  /** The process dies: what is under way has an unknown end, timers and sockets are gone, the file stays. */
  async #crash(): Promise<void> {
    this.#line?.pair.cut();
    this.#line = undefined;
    for (const { pair } of this.#lines) pair.cut();
    await this.#store.crash();
    this.#agents.clear();
    this.#store = new CrashableStore(sqlite(this.#file, { clock: this.#clock }));
    this.#runtime = this.#newRuntime();
    await this.#runtime.start();
  }

  /** Heals the line, ends every agent, and waits until all is there. */
  async #finish(): Promise<void> {
    await this.#connect();
    for (const agent of this.#agents.values()) agent.end();
    this.#agents.clear();
    const complete = () =>
      [...this.#submits.keys()].every((label) => {
        const jobId = this.#answered.get(label);
        return jobId !== undefined && this.#terminals(jobId).length > 0;
      });
    for (let round = 0; round < 2_000 && !complete(); round += 1) {
      this.#line?.pair.flush();
      await turn();
      for (const agent of this.#agents.values()) agent.end();
      this.#agents.clear();
    }
    assert(complete(), `not all jobs ended: answered ${this.#answered.size} of ${this.#submits.size}`);
    for (let round = 0; round < 20; round += 1) {
      this.#line?.pair.flush();
      await turn();
    }
    this.#check();
    this.#line?.pair.cut();
    await this.#runtime.stop({ drainMs: 0 });
  }

  #terminals(jobId: string): Envelope[] {
    return this.#received().filter((envelope) => envelope.job_id === jobId && envelope.type !== "job.event");
  }

  #received(): Envelope[] {
    return [...this.frames.entries()].sort(([a], [b]) => a - b).map(([, frame]) => JSON.parse(frame) as Envelope);
  }

  #check(): void {
    const received = this.#received();
    received.forEach((envelope, index) => {
      assert.equal(envelope.event_seq, index + 1, "the client has a hole");
    });
    for (const [label, jobId] of this.#answered) {
      const starts = this.starts.get(label) ?? 0;
      assert(starts <= 1, `${label} ran ${starts} times`);
      const messages = received.filter((envelope) => envelope.job_id === jobId);
      const contents = messages
        .filter(({ type }) => type === "job.event")
        .map(({ payload }) => (payload["body"] as { message: string }).message);
      assert.deepEqual(
        contents,
        contents.map((_, index) => `${label}:${index}`),
        `${label}: lost, doubled or reordered`,
      );
      const agent = this.#everyAgent.find((candidate) => candidate.label === label);
      assert(
        contents.length >= (agent?.durable ?? 0),
        `${label}: ${contents.length} of ${agent?.durable} durable events`,
      );
      const [terminal, ...more] = messages.filter(({ type }) => type !== "job.event");
      assert.equal(more.length, 0, `${label} has two terminal messages`);
      assert.equal(messages.at(-1), terminal, `${label}: something came after the terminal message`);
      if (terminal?.type === "job.error") {
        assert.equal((terminal.payload["details"] as { reason?: string }).reason, "node_lost");
      } else {
        assert.equal(starts, 1);
        assert.equal(contents.length, agent?.emitted, `${label}: not all that was emitted`);
      }
    }
  }
}

test("[RES-9] no event is lost, doubled or reordered in any interleaving of append, drop, resume, takeover and crash", async () => {
  await using folder = await temporaryFolder();
  for (let seed = FIRST; seed < FIRST + SEEDS; seed += 1) {
    const scenario = new Scenario(seed, join(folder.path, `${seed}.db`));
    try {
      await scenario.run();
    } catch (error) {
      throw new Error(`seed ${seed} failed (RACE_FIRST=${seed} RACE_SEEDS=1):\n${scenario.log.join("\n")}`, {
        cause: error,
      });
    }
  }
});

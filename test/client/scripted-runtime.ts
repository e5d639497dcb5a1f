/**
 * A runtime that does only what a test tells it to, over memory and a manual clock: the client's other
 * side, with nothing of the real runtime in it.
 */
import assert from "node:assert/strict";
import { type ConnectOptions, connect, type Session } from "../../src/client/index.ts";
import { encodeMessage, eventEncoder, FEATURES, IN_REPLY_TO, newMessageId } from "../../src/protocol/index.ts";
import { ManualClock } from "../../src/testing/manual-clock.ts";
import { type MemoryPair, memoryPair } from "../../src/transport/memory.ts";
import type { Transport } from "../../src/transport/transport.ts";

/** What a client's payloads hold, of whichever type. */
export interface SentPayload {
  client?: { name: string; version: string };
  auth: { scheme: string; token: string };
  capabilities: { features: string[] };
  resume: { session_id: string; resume_token: string; last_event_seq: number };
  input?: string;
  nonce: string;
  ping_nonce?: string;
  reason?: string;
  job_id?: string;
  last_processed_seq?: number;
}

export interface Message {
  id: string;
  type: string;
  session_id?: string;
  job_id?: string;
  trace_id?: string;
  extensions?: Record<string, unknown>;
  payload: SentPayload;
  /** The frame as it came. */
  frame: string;
}

export const SESSION = "sess_1";
const TRACE = "0".repeat(31).concat("1");

/** How long real time a wait may take before the test fails: turns of the event loop, not a clock. */
const MAX_TURNS = 2_000;

/** Waits until it holds, letting the event loop turn; fails loudly when it never does. */
export async function until(holds: () => boolean, what: string): Promise<void> {
  for (let turn = 0; turn < MAX_TURNS; turn += 1) {
    if (holds()) return;
    await new Promise(setImmediate);
  }
  assert.fail(`waited in vain for ${what}`);
}

/** Lets everything that is ready run. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 8; turn += 1) await new Promise(setImmediate);
}

export interface WelcomeOptions {
  token?: string;
  features?: readonly string[];
  name?: string;
  heartbeatSec?: number;
  windowSec?: number;
  sessionId?: string;
}

/** The runtime's side of one connection. */
export class Connection {
  readonly pair: MemoryPair;
  readonly received: Message[] = [];
  closed = false;
  #read = 0;

  constructor(pair: MemoryPair) {
    this.pair = pair;
    pair.b.start({
      onFrame: (frame) => this.received.push({ ...JSON.parse(frame), frame }),
      onClose: () => {
        this.closed = true;
      },
    });
  }

  /** The next message of that type; those before it are passed over. */
  async expect(type: string): Promise<Message> {
    let found = -1;
    const look = () => {
      found = this.received.findIndex((message, index) => index >= this.#read && message.type === type);
      return found >= 0;
    };
    await until(look, `${type}; came: ${this.received.map((message) => message.type).join(", ")}`);
    this.#read = found + 1;
    return this.received[found] as Message;
  }

  ofType(type: string): Message[] {
    return this.received.filter((message) => message.type === type);
  }

  send(type: string, payload: object, rest: Partial<Omit<Message, "payload" | "frame">> = {}): void {
    this.pair.b.send([encodeMessage({ id: newMessageId(), type, session_id: SESSION, ...rest, payload })]);
  }

  welcome(options: WelcomeOptions = {}): void {
    const { token = "resume-1", features = FEATURES, name = "holdfast", windowSec = 600 } = options;
    this.send(
      "session.welcome",
      {
        runtime: { name, version: "1.0.0" },
        resume_token: token,
        resume_window_sec: windowSec,
        ...(options.heartbeatSec === undefined ? {} : { heartbeat_interval_sec: options.heartbeatSec }),
        capabilities: { encodings: ["json"], features, agents: [{ name: "echo", versions: ["1.0.0"] }] },
      },
      { session_id: options.sessionId ?? SESSION },
    );
  }

  /** An answer that names its request. */
  reply(request: Message, type: string, payload: object, rest: Partial<Omit<Message, "payload" | "frame">> = {}): void {
    this.send(type, payload, { extensions: { [IN_REPLY_TO]: request.id }, ...rest });
  }

  accept(submit: Message, jobId: string): void {
    this.reply(submit, "job.accepted", accepted(jobId), { job_id: jobId });
  }

  error(payload: { code: string; message?: string; [key: string]: unknown }): void {
    this.send("session.error", { message: "no", retryable: false, ...payload });
  }

  /** One numbered event, or several in one write. */
  events(
    jobId: string,
    fromSeq: number,
    toSeq: number = fromSeq,
    body: (seq: number) => object = (seq) => ({ text: `e${seq}` }),
  ): void {
    const encode = eventEncoder(SESSION, jobId, TRACE);
    const frames: string[] = [];
    for (let seq = fromSeq; seq <= toSeq; seq += 1) {
      frames.push(
        encode("job.event", seq, JSON.stringify({ kind: "thought", ts: "2026-01-01T00:00:00Z", body: body(seq) })),
      );
    }
    this.pair.b.send(frames);
  }

  chunk(jobId: string, seq: number, body: object): void {
    const encode = eventEncoder(SESSION, jobId, TRACE);
    this.pair.b.send([
      encode("job.event", seq, JSON.stringify({ kind: "result_chunk", ts: "2026-01-01T00:00:00Z", body })),
    ]);
  }

  end(jobId: string, seq: number, payload: object = { final_status: "success", result: "done" }): void {
    const { final_status: status } = payload as { final_status: string };
    const encode = eventEncoder(SESSION, jobId, TRACE);
    this.pair.b.send([encode(status === "success" ? "job.result" : "job.error", seq, JSON.stringify(payload))]);
  }

  cut(): void {
    this.pair.cut();
  }
}

export const accepted = (jobId: string) => ({
  job_id: jobId,
  agent: "echo@1.0.0",
  lease: {},
  accepted_at: "2026-01-01T00:00:00Z",
  trace_id: TRACE,
});

export const subscribed = (jobId: string) => ({
  job_id: jobId,
  current_status: "running",
  agent: "echo@1.0.0",
  lease: {},
  parent_job_id: null,
  subscribed_from: 1,
  replayed: true,
});

export class ScriptedRuntime implements AsyncDisposable {
  readonly clock = new ManualClock();
  readonly connections: Connection[] = [];
  /** While true, nobody can connect. */
  down = false;
  #taken = 0;
  readonly #sessions: Session[] = [];

  readonly target = async (): Promise<Transport> => {
    if (this.down) throw new Error("connection refused");
    const pair = memoryPair({ auto: true });
    this.connections.push(new Connection(pair));
    return pair.a;
  };

  /** The next connection, once its hello has come. */
  async next(): Promise<{ connection: Connection; hello: Message }> {
    await until(() => this.connections.length > this.#taken, "a connection");
    const connection = this.connections[this.#taken] as Connection;
    this.#taken += 1;
    return { connection, hello: await connection.expect("session.hello") };
  }

  /** Without jitter: the delays are the whole windows, 100, 200, 400 ms… */
  connect(options: Partial<ConnectOptions> = {}): Promise<Session> {
    const { reconnect, ...rest } = options;
    return connect(this.target, {
      token: "secret",
      clock: this.clock,
      reconnect: { random: () => 1, ...reconnect },
      ...rest,
    });
  }

  /** A session and its first connection. */
  async open(options: Partial<ConnectOptions> = {}, welcome: WelcomeOptions = {}) {
    const connecting = this.connect(options);
    const { connection, hello } = await this.next();
    connection.welcome(welcome);
    const session = await connecting;
    this.#sessions.push(session);
    return { session, connection, hello };
  }

  /** A session with one accepted job. */
  async openWithJob(options: Partial<ConnectOptions> = {}, welcome: WelcomeOptions = {}) {
    const { session, connection } = await this.open(options, welcome);
    const job = await this.submitted(session, connection, "job_1");
    return { session, connection, job };
  }

  async submitted(session: Session, connection: Connection, jobId: string) {
    const submitting = session.submit("echo", { n: 1 });
    connection.accept(await connection.expect("job.submit"), jobId);
    return submitting;
  }

  /** Lets the first delay pass and welcomes the client back. */
  async resume(welcome: WelcomeOptions = {}, delayMs = 100) {
    await this.clock.advance(delayMs);
    const { connection, hello } = await this.next();
    connection.welcome({ token: `resume-${this.#taken}`, ...welcome });
    await settled();
    return { connection, hello };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions) {
      const closing = session.close();
      await this.clock.advance(2_000);
      await closing;
    }
    assert.equal(this.clock.pendingTimers, 0, "a timer was left behind");
  }
}

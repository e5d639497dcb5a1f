/**
 * One raw connection of a conformance case: sends frames, keeps all that came, waits for what is to come
 * with a deadline on the injected clock. It believes nothing of what it reads. Costs the frames it has
 * received, which a case holds until it ends.
 *
 * Answers are matched to requests by `in_reply_to` or `request_id`, else by `trace_id`, else by order, so
 * that a runtime which names no request fails the rule that says so (ENV-7) and no other.
 */
import type { Clock } from "../../clock.ts";
import {
  ARCP_VERSION,
  type Envelope,
  encodeMessage,
  FEATURES,
  IN_REPLY_TO,
  newMessageId,
  newTraceId,
} from "../../protocol/index.ts";
import type { Transport } from "../../transport/transport.ts";
import { check, Skipped, shortFrame, Unmet } from "./verdict.ts";

/** A transport that a case may break: without `cut` it is closed instead, which shows less. */
export interface Wire extends Transport {
  /** Ends the connection without a goodbye, as when the network goes. */
  cut?(): void;
  /** Takes nothing more from the network until {@link readAgain}; without it some cases are skipped. */
  stopReading?(): void;
  readAgain?(): void;
}

/** A frame as it came, and what it says. A part that is not of its shape is empty in `envelope`. */
export interface Received {
  readonly frame: string;
  readonly envelope: Envelope;
  /** Its place among all that this connection received. */
  readonly index: number;
}

/** A message that asks for an answer. */
export interface Request {
  readonly id: string;
  readonly type: string;
  readonly frame: string;
  readonly traceId: string | undefined;
  answer: Received | undefined;
}

/** What to come back with: a session's name, a token of it, the newest number one has. */
export interface ResumeFrom {
  sessionId: string;
  token: string;
  seq: number;
}

export interface HelloOptions {
  token: string;
  /** `null`: a hello without a feature list. @default every feature of the draft but that of {@link CREDENTIALS} */
  features?: readonly string[] | null;
  resume?: ResumeFrom;
  /** The draft's own form of a resume (RES-4). @default "session.hello" */
  form?: "session.hello" | "session.resume";
  extensions?: Record<string, unknown>;
}

/** Credentials are a secret that is issued for each job: only the cases that are about them ask for any. */
export const CREDENTIALS = "provisioned_credentials";
const USUAL: readonly string[] = FEATURES.filter((feature) => feature !== CREDENTIALS);

/** How far a flood may run ahead of the network: it is the runtime that is to be flooded, not this process. */
const SENT_AHEAD_BYTES = 64 * 1024;

/** Which messages may answer a request, where the answer names no request. */
const ANSWERS: Readonly<Record<string, readonly string[]>> = {
  "session.hello": ["session.welcome", "session.error"],
  "session.resume": ["session.welcome", "session.error"],
  "job.submit": ["job.accepted", "job.error", "session.error"],
  "job.cancel": ["job.cancelled", "job.error", "session.error"],
  "job.subscribe": ["job.subscribed", "session.error", "job.error"],
  "session.list_jobs": ["session.jobs", "session.error"],
  "session.close": ["session.closed", "session.error"],
  "x-vendor.holdfast.answer": ["x-vendor.holdfast.answered", "session.error"],
};
const ANSWERS_OF_OTHERS: readonly string[] = ["session.error"];

const mayAnswer = (type: string, request: Request): boolean =>
  (ANSWERS[request.type] ?? ANSWERS_OF_OTHERS).includes(type);

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const record = (value: unknown): Record<string, unknown> => (isRecord(value) ? value : {});

export const isTerminal = ({ envelope }: Received): boolean =>
  envelope.event_seq !== undefined && (envelope.type === "job.result" || envelope.type === "job.error");

export const codeOf = ({ envelope }: Received): unknown => envelope.payload["code"];

export const messageOf = ({ envelope }: Received): string => String(envelope.payload["message"]);

/** What an event says. */
export const bodyOf = ({ envelope }: Received): Record<string, unknown> => record(envelope.payload["body"]);

/** An error's `details`. */
export const detailsOf = ({ envelope }: Received): Record<string, unknown> => record(envelope.payload["details"]);

/** The message of a `log` event, as `burst` and `ticker` emit it. */
export const logged = (received: Received): unknown => bodyOf(received)["message"];

/** What the runtime tells one session of its own delivery, numbered with a job's events. */
const NOTICES: readonly unknown[] = ["back_pressure", "history_trimmed"];

export const isNotice = ({ envelope }: Received): boolean =>
  envelope.payload["kind"] === "status" && NOTICES.includes(record(envelope.payload["body"])["phase"]);

/** Which request a message says that it answers. */
function namedRequest(received: Received): string | undefined {
  const { extensions, payload } = received.envelope;
  const named = extensions?.[IN_REPLY_TO] ?? payload["request_id"] ?? detailsOf(received)["request_id"];
  return typeof named === "string" ? named : undefined;
}

export class Peer {
  readonly received: Received[] = [];
  /** Those that carry a number, in the order in which they came. */
  readonly numbered: Received[] = [];
  /** Frames that are no envelope at all. */
  readonly malformed: string[] = [];
  /** Jobs that were accepted here. */
  readonly jobs = new Set<string>();
  closed: { code: number; reason: string } | undefined;
  sessionId = "";
  resumeToken = "";
  /** The features of the session. */
  features: readonly string[] = [];
  /** What this connection resumed from; 0 for a new session. */
  resumedFrom = 0;
  /** Leaves pings unanswered. */
  silent = false;
  readonly #wire: Wire;
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  #pending: Request[] = [];
  readonly #terminals = new Map<string, Received[]>();
  readonly #watchers = new Set<() => void>();

  constructor(wire: Wire, clock: Clock, timeoutMs: number) {
    this.#wire = wire;
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    wire.start({
      onFrame: (frame) => {
        this.#onFrame(frame);
        this.#look();
      },
      onClose: (code, reason) => {
        this.closed = { code, reason };
        this.#look();
      },
    });
  }

  /** The newest number that came, or what was resumed from. */
  get lastSeq(): number {
    return this.numbered.at(-1)?.envelope.event_seq ?? this.resumedFrom;
  }

  get open(): boolean {
    return this.closed === undefined && this.#wire.open;
  }

  // ------------------------------------------------------------------------------------------ sending

  /** A request that is not sent yet. `trace_id: undefined` leaves it out of a submit. */
  prepare(type: string, payload: object, rest: Partial<Envelope> & Record<string, unknown> = {}): Request {
    const id = rest.id ?? newMessageId();
    const fields = {
      id,
      type,
      ...(this.sessionId === "" ? {} : { session_id: this.sessionId }),
      ...(type === "job.submit" ? { trace_id: newTraceId() } : {}),
      ...rest,
      payload,
    };
    return { id, type, frame: encodeMessage(fields), traceId: fields.trace_id, answer: undefined };
  }

  /** Sends prepared requests in one go. */
  post(...requests: readonly Request[]): void {
    this.#pending.push(...requests);
    this.#wire.send(requests.map(({ frame }) => frame));
  }

  /** Sends a message that nobody answers. */
  tell(type: string, payload: object, rest: Partial<Envelope> = {}): void {
    this.#wire.send([this.prepare(type, payload, rest).frame]);
  }

  /** Sends text as it is. */
  sendText(frame: string): void {
    this.#wire.send([frame]);
  }

  /** Sends texts as they are, in one go, and waits until hardly any of them is still here. */
  async sendTexts(frames: readonly string[]): Promise<void> {
    this.#wire.send(frames);
    await this.#wire.drained(SENT_AHEAD_BYTES);
  }

  /** Sends a request and waits for its answer, whatever it is. */
  async ask(type: string, payload: object, rest: Partial<Envelope> & Record<string, unknown> = {}): Promise<Received> {
    const request = this.prepare(type, payload, rest);
    this.post(request);
    return await this.answerTo(request);
  }

  /** Sends text that is to be refused, and waits for the `session.error`. */
  async askText(frame: string, id = "", what = shortFrame(frame)): Promise<Received> {
    const request: Request = { id, type: "", frame, traceId: undefined, answer: undefined };
    this.post(request);
    return await this.until(() => request.answer, `session.error in answer to ${what}`);
  }

  answerTo(request: Request): Promise<Received> {
    const types = (ANSWERS[request.type] ?? ANSWERS_OF_OTHERS).join(" or ");
    return this.until(() => request.answer, `${types} in answer to ${request.type}`);
  }

  /** Says hello; the answer is a welcome or a refusal. */
  async hello(options: HelloOptions): Promise<Received> {
    const { token, features = USUAL, resume, form = "session.hello", extensions } = options;
    const client = { name: "holdfast-conformance", version: ARCP_VERSION };
    const auth = { scheme: "bearer", token };
    const capabilities = { encodings: ["json"], ...(features === null ? {} : { features }) };
    const from =
      resume === undefined
        ? undefined
        : { session_id: resume.sessionId, resume_token: resume.token, last_event_seq: resume.seq };
    const payload =
      form === "session.resume"
        ? { ...from, client, auth, capabilities }
        : { client, auth, capabilities, ...(from === undefined ? {} : { resume: from }) };
    this.resumedFrom = resume?.seq ?? 0;
    return await this.ask(form, payload, extensions === undefined ? {} : { extensions });
  }

  /** Submits, and waits for the answer, whatever it is. */
  submit(agent: string, input: unknown, rest: object = {}, envelope: Partial<Envelope> = {}): Promise<Received> {
    return this.ask("job.submit", { agent, input, ...rest }, envelope);
  }

  /** Submits a job that must be accepted, and answers its id. */
  async start(agent: string, input: unknown, rest: object = {}, envelope: Partial<Envelope> = {}): Promise<string> {
    const answer = await this.submit(agent, input, rest, envelope);
    check(answer.envelope.type === "job.accepted", `job.accepted for a submit of ${agent}`, answer);
    const jobId = answer.envelope.job_id ?? answer.envelope.payload["job_id"];
    check(typeof jobId === "string" && jobId !== "", "job.accepted to name its job in `job_id`", answer);
    return jobId;
  }

  /**
   * Waits for the answer to a request that changes nothing: answers leave in the order of their requests,
   * so that whatever was said before has been answered if it ever will be.
   */
  async fence(): Promise<void> {
    if (this.features.includes("list_jobs")) await this.ask("session.list_jobs", { limit: 1 });
    else await this.submit("conformance-no-such-agent", null);
  }

  /** Fails unless the session still answers. */
  async checkAlive(after: string): Promise<void> {
    try {
      await this.fence();
    } catch (error) {
      if (!(error instanceof Unmet)) throw error;
      throw new Unmet(`the session to live on after ${after}`, error.got);
    }
  }

  // ------------------------------------------------------------------------------------------ waiting

  /**
   * Waits until `look` gives something after some frame.
   *
   * @param limitMs @default the case's timeout
   * @throws Unmet when it does not in time, or when the connection closes
   */
  until<T>(look: () => T | undefined | false, what: string, limitMs: number = this.#timeoutMs): Promise<T> {
    return this.#wait(look, what, limitMs, true);
  }

  /** Waits for the end of the connection. */
  whenClosed(why: string, limitMs: number = this.#timeoutMs): Promise<{ code: number; reason: string }> {
    return this.#wait(() => this.closed, `the runtime to close the connection ${why}`, limitMs, false);
  }

  /** Waits for a message of that type that came, or will come, at or after `from`. */
  message(type: string, from = 0, limitMs: number = this.#timeoutMs): Promise<Received> {
    return this.until(() => this.received.slice(from).find(({ envelope }) => envelope.type === type), type, limitMs);
  }

  /** Waits until the newest number is at least `seq`. */
  async reaches(seq: number): Promise<void> {
    await this.until(() => this.lastSeq >= seq, `events up to event_seq ${seq}`);
  }

  /** Waits for a job's (first) terminal message. */
  terminal(jobId: string, limitMs: number = this.#timeoutMs): Promise<Received> {
    return this.until(
      () => this.terminals(jobId)[0],
      `the numbered job.result or job.error that ends ${jobId}`,
      limitMs,
    );
  }

  /** The terminal messages of a job that came so far. */
  terminals(jobId: string): readonly Received[] {
    return this.#terminals.get(jobId) ?? [];
  }

  /** What a job itself has said, of what came so far: notices to this session alone are left out. */
  of(jobId: string): Received[] {
    return this.numbered.filter((received) => received.envelope.job_id === jobId && !isNotice(received));
  }

  /** A job's events of that kind, of what came so far. */
  events(jobId: string, kind: string): Received[] {
    return this.of(jobId).filter(({ envelope }) => envelope.payload["kind"] === kind);
  }

  /** What a hello needs to come back to this session. */
  from(seq: number = this.lastSeq, token: string = this.resumeToken): ResumeFrom {
    return { sessionId: this.sessionId, token, seq };
  }

  // -------------------------------------------------------------------------------------------- ending

  /** Breaks the connection without a goodbye. */
  cut(): void {
    if (this.#wire.cut === undefined) this.#wire.close();
    else this.#wire.cut();
  }

  close(): void {
    this.#wire.close();
  }

  /** Leaves what comes to the network, until {@link readAgain}. Skips the case where the wire cannot. */
  stopReading(): void {
    if (this.#wire.stopReading === undefined) throw new Skipped("this wire cannot stop reading");
    this.#wire.stopReading();
  }

  readAgain(): void {
    this.#wire.readAgain?.();
  }

  // ------------------------------------------------------------------------------------------- inbound

  #onFrame(frame: string): void {
    let value: unknown;
    try {
      value = JSON.parse(frame);
    } catch {
      this.malformed.push(frame);
      return;
    }
    if (!isRecord(value)) {
      this.malformed.push(frame);
      return;
    }
    const seq = value["event_seq"];
    const optional = (name: string) => (typeof value[name] === "string" ? { [name]: value[name] } : {});
    const envelope: Envelope = {
      arcp: String(value["arcp"]),
      id: String(value["id"]),
      type: String(value["type"]),
      ...optional("session_id"),
      ...optional("job_id"),
      ...optional("trace_id"),
      ...(typeof seq === "number" ? { event_seq: seq } : {}),
      extensions: record(value["extensions"]),
      payload: record(value["payload"]),
    };
    const received: Received = { frame, envelope, index: this.received.length };
    this.received.push(received);
    // A rejection is no event, even where a runtime gives it a number (JOB-3).
    const isAnswer = this.#correlate(received);
    if (envelope.event_seq !== undefined && !isAnswer) this.numbered.push(received);
    switch (envelope.type) {
      case "session.welcome":
        this.sessionId = envelope.session_id ?? "";
        this.resumeToken = String(envelope.payload["resume_token"]);
        this.features = featuresOf(envelope);
        break;
      case "session.ping":
        if (!this.silent) this.tell("session.pong", { ping_nonce: String(envelope.payload["nonce"]) });
        break;
      case "job.accepted":
        this.jobs.add(envelope.job_id ?? "");
        break;
      default:
        if (isTerminal(received) && !isAnswer) {
          const jobId = envelope.job_id ?? "";
          this.#terminals.set(jobId, [...this.terminals(jobId), received]);
        }
    }
  }

  /** Gives a request its answer; whether the message was one. */
  #correlate(received: Received): boolean {
    const { type, event_seq, payload, trace_id } = received.envelope;
    const ofTheSession = payload["code"] === "HEARTBEAT_LOST" || detailsOf(received)["reason"] === "superseded";
    if (ofTheSession && this.sessionId !== "") return false;
    const named = namedRequest(received);
    if (event_seq !== undefined && named === undefined) return false;
    const candidates = this.#pending.filter((request) => mayAnswer(type, request));
    // A traceparent is answered with the trace id in it.
    const traced = candidates.find(({ traceId }) => trace_id !== undefined && traceId?.includes(trace_id) === true);
    const request =
      named !== undefined
        ? (candidates.find(({ id }) => id === named) ?? candidates.find(({ id }) => id === ""))
        : (traced ?? candidates.find(({ traceId }) => traceId === undefined || trace_id === undefined));
    if (request === undefined) return false;
    request.answer = received;
    this.#pending = this.#pending.filter((other) => other !== request);
    return true;
  }

  #wait<T>(look: () => T | undefined | false, what: string, limitMs: number, needsOpen: boolean): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (done: () => void) => {
        timer.cancel();
        this.#watchers.delete(watcher);
        done();
      };
      const watcher = () => {
        const found = look();
        if (found !== undefined && found !== false) settle(() => resolve(found));
        else if (needsOpen && this.closed !== undefined) settle(() => reject(new Unmet(what, this.#lastWords())));
      };
      const timer = this.#clock.after(
        limitMs,
        () => settle(() => reject(new Unmet(`${what} within ${limitMs} ms`, this.#lastWords()))),
        { keepAlive: true },
      );
      this.#watchers.add(watcher);
      watcher();
    });
  }

  /** What there was instead of what was waited for. */
  #lastWords(): string {
    const last = this.received.findLast(({ envelope }) => envelope.type !== "session.ping");
    const frame = last === undefined ? "no frame at all" : `nothing after ${shortFrame(last.frame)}`;
    return this.closed === undefined ? frame : `${frame}, and a close (${this.closed.code} ${this.closed.reason})`;
  }

  #look(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }
}

function featuresOf(welcome: Envelope): readonly string[] {
  const { features } = record(welcome.payload["capabilities"]);
  return Array.isArray(features) ? features.filter((feature) => typeof feature === "string") : [];
}

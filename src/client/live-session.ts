/**
 * The session behind the interface: one state machine over its connections, the numbers of its events,
 * and the table of its jobs. Holds no event itself (a handle does, for its reader) and no timer while it
 * is connected and quiet, but for the heartbeat's.
 */
import { sleep, type Timer } from "../clock.ts";
import {
  type AcceptedPayload,
  type AgentInfo,
  ArcpError,
  CLIENT_INSTANCE,
  encodeMessage,
  type Feature,
  FINAL_STATUSES,
  type ListedJob,
  MAX_FRAME_BYTES,
  negotiate,
  newMessageId,
  newTraceId,
  parseTraceId,
  type SubscribedPayload,
  TURN,
} from "../protocol/index.ts";
import type { Transport } from "../transport/transport.ts";
import { Acks } from "./acks.ts";
import { backoffDelayMs } from "./backoff.ts";
import { errorFromPayload, isSuperseded, outcomeUnknown, SessionClosedError } from "./errors.ts";
import { Heartbeat } from "./heartbeat.ts";
import type { Inbound, Welcome } from "./inbound.ts";
import { type JobParts, LiveJob } from "./job-handle.ts";
import type { Terminal } from "./job-result.ts";
import { type Greeting, type Link, openLink } from "./link.ts";
import type { ResumeState, Settings } from "./options.ts";
import { type Answer, type PendingRequest, PendingRequests, type RequestKind, type RequestOf } from "./requests.ts";
import type {
  AnswerOptions,
  CloseOptions,
  JobsPage,
  ListJobsOptions,
  Session,
  SubmitOptions,
  SubscribeOptions,
  TurnOptions,
} from "./session.ts";
import { type SessionStatus, StatusFeed } from "./status.ts";
import { noTurns, type TurnKey, turnOf } from "./turn.ts";

type ClosedStatus = Extract<SessionStatus, { state: "closed" }>;

type State =
  | { phase: "connecting"; abort: AbortController }
  | { phase: "connected"; link: Link; heartbeat: Heartbeat | undefined; sinceMs: number }
  | { phase: "reconnecting"; abort: AbortController; attempt: number; delayMs: number }
  /** `close` was called; the runtime has yet to answer. */
  | { phase: "closing"; link: Link; reason: string; timeout: Timer }
  | { phase: "closed"; reason: string; error: Error | undefined };

/** While there are fewer jobs, the events of one that nobody here knows yet are held. */
const MAX_ADOPTABLE_JOBS = 64;
const MAX_REASON_CHARS = 1024;

interface Ping {
  sentAtMs: number;
  resolve(roundTripMs: number): void;
  reject(error: Error): void;
}

const text = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);
const iso = (value: string | Date): string => (typeof value === "string" ? value : value.toISOString());

export class LiveSession implements Session {
  readonly #settings: Settings;
  readonly #open: (signal: AbortSignal) => Promise<Transport>;
  readonly #statuses = new StatusFeed();
  readonly #closed = Promise.withResolvers<ClosedStatus>();
  readonly #requests: PendingRequests;
  readonly #jobs = new Map<string, LiveJob>();
  /** Jobs that have ended, and of whose children this session is yet to be told. */
  readonly #parents = new Map<string, LiveJob>();
  /** Live children that it was told of: the runtime may say it again. */
  readonly #told = new Set<string>();
  readonly #jobParts: JobParts;
  readonly #acks: Acks;
  readonly #pings = new Map<string, Ping>();
  /** Tells the runtime which of this client's hellos is the newest (RES-8). */
  readonly #instance = newMessageId();
  #hellos = 0;
  #state: State = { phase: "connecting", abort: new AbortController() };
  #id: string | undefined;
  #features: readonly Feature[] = [];
  #agents: readonly AgentInfo[] = [];
  #runtime = { name: "", version: "" };
  #resumeToken = "";
  #resumeWindowMs = 0;
  /** The newest number that came. */
  #lastSeq = 0;
  /** Attempts since a connection last did its work. */
  #attempts = 0;
  /** Whether this connection has brought anything but its welcome. */
  #progress = false;

  constructor(open: (signal: AbortSignal) => Promise<Transport>, settings: Settings) {
    this.#open = open;
    this.#settings = settings;
    this.#requests = new PendingRequests(settings.maxPendingRequests);
    this.#acks = new Acks({
      clock: settings.clock,
      every: settings.ackEvery,
      everyMs: settings.ackEveryMs,
      received: () => this.#lastSeq,
      send: (seq) => this.#send([this.#frame("session.ack", { last_processed_seq: seq })]),
    });
    this.#jobParts = {
      listener: (reader) => ({
        consumed: () => this.#acks.consumed(),
        iterating: (active) => (active ? this.#acks.add(reader) : this.#acks.remove(reader)),
      }),
      maxResultBytes: settings.maxResultBytes,
      cancel: (job, reason, signal) => this.#cancel(job.id, reason, signal),
      answer: (job, questionId, answer, signal) => this.answer(job.id, questionId, answer, { signal }),
    };
    if (settings.resume !== undefined) {
      this.#id = settings.resume.sessionId;
      this.#resumeToken = settings.resume.resumeToken;
      this.#lastSeq = settings.resume.lastEventSeq;
    }
  }

  get id(): string {
    return this.#id ?? "";
  }

  get features(): readonly Feature[] {
    return this.#features;
  }

  get agents(): readonly AgentInfo[] {
    return this.#agents;
  }

  get runtime(): { readonly name: string; readonly version: string } {
    return this.#runtime;
  }

  get status(): SessionStatus {
    return this.#statuses.current;
  }

  get closed(): Promise<ClosedStatus> {
    return this.#closed.promise;
  }

  get resumeState(): ResumeState {
    return { sessionId: this.id, resumeToken: this.#resumeToken, lastEventSeq: this.#acks.mark };
  }

  statuses(): AsyncIterable<SessionStatus> {
    return this.#statuses.read();
  }

  // --------------------------------------------------------------------------------------- requests

  submit(agent: string, input: unknown = null, options: SubmitOptions = {}): Promise<LiveJob> {
    return this.#submit(agent, input, options, { repeatable: options.idempotencyKey !== undefined });
  }

  async turn(key: TurnKey, agent: string, input: unknown = null, options: TurnOptions = {}): Promise<LiveJob> {
    const { onBusy, messageId, userId, idempotencyKey } = options;
    const turn = { key, onBusy, messageId, user_id: userId };
    const job = await this.#submit(agent, input, options, {
      extensions: { [TURN]: turn },
      repeatable: idempotencyKey !== undefined || messageId !== undefined,
    });
    if (job.turn !== undefined) return job;
    if (!job.ended) this.#letGo(job.id, "the runtime knows no turns");
    throw noTurns();
  }

  async #submit(
    agent: string,
    input: unknown,
    options: SubmitOptions,
    how: { extensions?: Record<string, unknown>; repeatable: boolean },
  ): Promise<LiveJob> {
    const { signal } = options;
    const { extensions, repeatable } = how;
    const id = newMessageId();
    const traceId = options.traceId ?? newTraceId();
    const payload = {
      agent,
      input,
      ...(options.leaseRequest === undefined ? {} : { lease_request: options.leaseRequest }),
      ...(options.leaseConstraints === undefined
        ? {}
        : { lease_constraints: { expires_at: iso(options.leaseConstraints.expiresAt) } }),
      ...(options.idempotencyKey === undefined ? {} : { idempotency_key: options.idempotencyKey }),
      ...(options.maxRuntimeSec === undefined ? {} : { max_runtime_sec: options.maxRuntimeSec }),
    };
    const job = await this.#ask(
      "submit",
      {
        id,
        frames: [this.#frame("job.submit", payload, { id, trace_id: traceId, ...(extensions && { extensions }) })],
        // A runtime that answers by it answers with the trace id alone.
        traceId: parseTraceId(traceId) ?? traceId,
        repeatable,
      },
      signal,
    );
    if (signal !== undefined) this.#cancelOnAbort(job, signal);
    return job;
  }

  async subscribe(jobId: string, options: SubscribeOptions = {}): Promise<LiveJob> {
    this.#need("subscribe");
    const id = newMessageId();
    const payload = {
      job_id: jobId,
      ...(options.history === undefined ? {} : { history: options.history }),
      ...(options.fromEventSeq === undefined ? {} : { from_event_seq: options.fromEventSeq }),
    };
    const frames = [this.#frame("job.subscribe", payload, { id, job_id: jobId })];
    return this.#ask("subscribe", { id, frames, jobId }, options.signal);
  }

  async unsubscribe(jobId: string): Promise<void> {
    this.#need("subscribe");
    const id = newMessageId();
    // It has no answer; the pong of a ping that was sent right behind it says that it arrived.
    const frames = [
      this.#frame("job.unsubscribe", { job_id: jobId }, { id, job_id: jobId }),
      this.#frame("session.ping", { nonce: id, sent_at: this.#now() }),
    ];
    await this.#ask("unsubscribe", { id, frames, jobId });
  }

  async listJobs(options: ListJobsOptions = {}): Promise<JobsPage> {
    this.#need("list_jobs");
    const id = newMessageId();
    const filter = {
      ...(options.status === undefined ? {} : { status: options.status }),
      ...(options.agent === undefined ? {} : { agent: options.agent }),
      ...(options.createdAfter === undefined ? {} : { created_after: iso(options.createdAfter) }),
      ...(options.createdBefore === undefined ? {} : { created_before: iso(options.createdBefore) }),
    };
    const payload = {
      ...(Object.keys(filter).length === 0 ? {} : { filter }),
      ...(options.limit === undefined ? {} : { limit: options.limit }),
      ...(options.cursor === undefined ? {} : { cursor: options.cursor }),
    };
    const frames = [this.#frame("session.list_jobs", payload, { id })];
    const page = await this.#ask("list", { id, frames }, options.signal);
    return { jobs: page.jobs, nextCursor: page.next_cursor };
  }

  async answer(jobId: string, questionId: string, answer: unknown, options: AnswerOptions = {}): Promise<void> {
    const id = newMessageId();
    const payload = { job_id: jobId, question_id: questionId, answer };
    const frames = [this.#frame("x-vendor.holdfast.answer", payload, { id, job_id: jobId })];
    await this.#ask("answer", { id, frames, jobId }, options.signal);
  }

  ping(): Promise<number> {
    const nonce = newMessageId();
    return new Promise((resolve, reject) => {
      if (!this.#send([this.#frame("session.ping", { nonce, sent_at: this.#now() })])) {
        reject(new Error(`Cannot ping: the session is ${this.status.state}.`));
        return;
      }
      this.#pings.set(nonce, { sentAtMs: this.#settings.clock.monotonic(), resolve, reject });
    });
  }

  async #cancel(jobId: string, reason: string | undefined, signal: AbortSignal | undefined): Promise<void> {
    const id = newMessageId();
    const payload = reason === undefined ? {} : { reason: reason.slice(0, MAX_REASON_CHARS) };
    await this.#ask(
      "cancel",
      { id, frames: [this.#frame("job.cancel", payload, { id, job_id: jobId })], jobId },
      signal,
    );
  }

  /** Best effort: nobody waits for the answer. */
  #letGo(jobId: string, reason: string): void {
    this.#cancel(jobId, reason, undefined).catch((error: unknown) =>
      this.#settings.logger.warn({ err: error, session_id: this.#id, job_id: jobId }, "cancel after an abort failed"),
    );
  }

  #cancelOnAbort(job: LiveJob, signal: AbortSignal): void {
    const onAbort = () => {
      if (!job.ended) this.#letGo(job.id, "aborted by the submitter");
    };
    if (signal.aborted) {
      onAbort();
      return;
    }
    signal.addEventListener("abort", onAbort, { once: true });
    const forget = () => signal.removeEventListener("abort", onAbort);
    job.terminal.then(forget, forget);
  }

  #need(feature: Feature): void {
    if (this.#features.includes(feature)) return;
    throw new ArcpError("INVALID_REQUEST", `The session has no feature "${feature}": both sides must offer it.`, {
      details: { feature },
    });
  }

  /** Sends a request, now or after the resume, and waits for its answer across connections. */
  #ask<K extends RequestKind>(
    kind: K,
    fields: { id: string; frames: readonly string[]; jobId?: string; traceId?: string; repeatable?: boolean },
    signal?: AbortSignal,
  ): Promise<Answer<K>> {
    return new Promise((resolve, reject) => {
      if (this.#state.phase === "closed" || this.#state.phase === "closing") {
        const { reason } = this.#state;
        throw new SessionClosedError(reason, `The session is closed (${reason}); connect again.`);
      }
      signal?.throwIfAborted();
      const onAbort = () => {
        if (request.sent) request.abandoned = true;
        else this.#requests.remove(request as PendingRequest);
        reject(signal?.reason);
      };
      const answered = () => signal?.removeEventListener("abort", onAbort);
      const request: RequestOf<K> = {
        kind,
        id: fields.id,
        frames: fields.frames,
        jobId: fields.jobId,
        traceId: fields.traceId,
        repeatable: fields.repeatable ?? true,
        sent: false,
        abandoned: false,
        resolve: (answer) => {
          answered();
          resolve(answer);
        },
        reject: (error) => {
          answered();
          reject(error);
        },
      };
      this.#requests.add(request as PendingRequest);
      signal?.addEventListener("abort", onAbort, { once: true });
      request.sent = this.#send(request.frames);
    });
  }

  // ------------------------------------------------------------------------------------- connection

  /** The first connection. Rejects when it fails, and the session is closed then. */
  async open(signal: AbortSignal | undefined): Promise<void> {
    if (this.#state.phase !== "connecting") throw new Error("A session is opened once.");
    const { abort } = this.#state;
    const onAbort = () => abort.abort(signal?.reason);
    if (signal?.aborted) onAbort();
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      const greeting = await this.#dial(abort.signal);
      if (greeting.outcome === "refused") {
        this.#finish(refusalReason(greeting.error, this.#settings.resume !== undefined), greeting.error);
        throw greeting.error;
      }
    } catch (error) {
      this.#finish("refused", error instanceof Error ? error : new Error(String(error), { cause: error }));
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
    const state = this.#currentState();
    if (state.phase === "closed" && state.error !== undefined) throw state.error;
  }

  /** The state after an `await`, when what was known of it before holds no more. */
  #currentState(): State {
    return this.#state;
  }

  #dial(signal: AbortSignal): Promise<Greeting> {
    const { clock, timeoutMs, logger } = this.#settings;
    return openLink({
      open: this.#open,
      hello: () => this.#hello(),
      clock,
      timeoutMs,
      signal,
      onWelcome: (link, welcome) => this.#onWelcome(link, welcome),
      onMessage: (message, bytes) => this.#onMessage(message, bytes),
      onMalformed: (frame) => logger.warn({ session_id: this.#id, length: frame.length }, "a frame was no message"),
      onClose: (link, why) => this.#onLost(link, why),
    });
  }

  async #hello(): Promise<string> {
    const { token, client, features } = this.#settings;
    const bearer = typeof token === "string" ? token : await token();
    this.#hellos += 1;
    return encodeMessage({
      id: newMessageId(),
      type: "session.hello",
      extensions: { [CLIENT_INSTANCE]: { instance: this.#instance, attempt: this.#hellos } },
      payload: {
        client,
        auth: { scheme: "bearer", token: bearer },
        capabilities: { encodings: ["json"], features },
        ...(this.#id === undefined
          ? {}
          : {
              resume: { session_id: this.#id, resume_token: this.#resumeToken, last_event_seq: this.#lastSeq },
            }),
      },
    });
  }

  #onWelcome(link: Link, welcome: Welcome): void {
    const { clock, features } = this.#settings;
    if (this.#state.phase !== "connecting" && this.#state.phase !== "reconnecting") {
      link.drop("the session has closed");
      return;
    }
    if (this.#id !== undefined && welcome.sessionId !== this.#id) {
      link.drop("another session");
      this.#finish(
        "resume_refused",
        new ArcpError("RESUME_WINDOW_EXPIRED", "The runtime opened another session instead of resuming this one."),
      );
      return;
    }
    if (this.#state.phase === "connecting") {
      this.#id = welcome.sessionId;
      this.#features = negotiate(features, welcome.features);
      if (this.#features.includes("ack")) this.#acks.start();
    }
    this.#agents = welcome.agents;
    this.#runtime = welcome.runtime;
    this.#resumeToken = welcome.resumeToken;
    this.#resumeWindowMs = welcome.resumeWindowMs;
    this.#progress = false;
    const heartbeat =
      welcome.heartbeatIntervalMs !== undefined && this.#features.includes("heartbeat")
        ? new Heartbeat({
            clock,
            intervalMs: welcome.heartbeatIntervalMs,
            ping: () => this.#send([this.#frame("session.ping", { nonce: newMessageId(), sent_at: this.#now() })]),
            lost: () => {
              link.drop("heartbeat lost");
              this.#onLost(link, "nothing came for two heartbeat intervals");
            },
          })
        : undefined;
    this.#enter({ phase: "connected", link, heartbeat, sinceMs: clock.monotonic() });
    const waiting = this.#requests.all;
    if (link.send(waiting.flatMap((request) => request.frames))) {
      for (const request of waiting) request.sent = true;
    }
    this.#acks.flush();
  }

  /** The connection is gone. */
  #onLost(link: Link, why: string): void {
    const state = this.#state;
    if (state.phase === "closing" && state.link === link) {
      this.#finish(state.reason);
      return;
    }
    if (state.phase !== "connected" || state.link !== link) return;
    const { clock, logger, backoff } = this.#settings;
    logger.info({ session_id: this.#id, last_event_seq: this.#lastSeq, why }, "connection lost; resuming");
    this.#rejectPings(new Error(`The connection was lost: ${why}.`));
    // A connection that ends before it did anything counts as a failed attempt, or a runtime that
    // welcomes and drops us would be asked again without a pause.
    if (this.#progress || clock.monotonic() - state.sinceMs >= backoff.maxMs) this.#attempts = 0;
    void this.#reconnect();
  }

  /** Tries until it is connected again or must give up. Never rejects. */
  async #reconnect(): Promise<void> {
    const { clock, logger, backoff, giveUpAfterMs = this.#resumeWindowMs } = this.#settings;
    const lostAtMs = clock.monotonic();
    let leastDelayMs = 0;
    for (;;) {
      this.#attempts += 1;
      const attempt = this.#attempts;
      const abort = new AbortController();
      const delayMs = Math.max(leastDelayMs, backoffDelayMs(attempt, backoff));
      this.#enter({ phase: "reconnecting", abort, attempt, delayMs });
      let failure: unknown;
      try {
        await sleep(clock, delayMs, abort.signal);
        const greeting = await this.#dial(abort.signal);
        if (greeting.outcome === "welcome") return;
        failure = greeting.error;
        if (!greeting.error.retryable) {
          this.#finish(refusalReason(greeting.error, true), greeting.error);
          return;
        }
        const retryAfterMs = greeting.error.details?.["retry_after_ms"];
        leastDelayMs = typeof retryAfterMs === "number" ? Math.min(retryAfterMs, backoff.maxMs) : 0;
      } catch (error) {
        failure = error;
        leastDelayMs = 0;
      }
      if (this.#currentState().phase === "closed") return;
      const elapsedMs = clock.monotonic() - lostAtMs;
      logger.warn({ err: failure, session_id: this.#id, attempt }, "resume failed");
      if (elapsedMs >= giveUpAfterMs) {
        this.#finish(
          "gave_up",
          new ArcpError("RESUME_WINDOW_EXPIRED", `No connection for ${Math.round(elapsedMs)} ms; gave up resuming.`, {
            cause: failure,
          }),
        );
        return;
      }
    }
  }

  // ---------------------------------------------------------------------------------------- inbound

  #onMessage(message: Inbound, bytes: number): void {
    if (this.#state.phase === "connected") this.#state.heartbeat?.heard();
    if (message.session_id !== undefined && message.session_id !== this.#id) {
      this.#settings.logger.warn({ session_id: this.#id, type: message.type }, "a message of another session ignored");
      return;
    }
    if (typeof message.event_seq === "number") this.#onNumbered(message, message.event_seq, bytes);
    else this.#onUnnumbered(message);
  }

  #onNumbered(message: Inbound, seq: number, bytes: number): void {
    if (seq <= this.#lastSeq) return;
    if (seq !== this.#lastSeq + 1) {
      this.#onGap(seq);
      return;
    }
    this.#lastSeq = seq;
    this.#progress = true;
    const { payload, type } = message;
    const job = this.#jobOf(message);
    if (type === "job.event") {
      if (job !== undefined && typeof payload["kind"] === "string") {
        const { kind, body, ts } = payload as { kind: string; body: unknown; ts: string };
        job.deliver({ seq, kind, body, ts }, bytes);
        return;
      }
    } else if (type === "job.result" || type === "job.error") {
      if (job !== undefined) this.#endJob(job, type, payload);
    } else {
      this.#settings.logger.warn({ session_id: this.#id, type, event_seq: seq }, "a numbered message of unknown type");
    }
    // Nobody can read it any more.
    this.#acks.consumed();
  }

  #jobOf(message: Inbound): LiveJob | undefined {
    if (typeof message.job_id !== "string") return undefined;
    const job = this.#jobs.get(message.job_id);
    if (job !== undefined || this.#jobs.size >= MAX_ADOPTABLE_JOBS) return job;
    // A job of the process that had the session before, or of a submit that was told to have failed and was
    // carried out after all: its events are held until somebody subscribes, or submits again with the key.
    return message.type === "job.event" ? this.#newJob(message.job_id) : undefined;
  }

  #newJob(jobId: string): LiveJob {
    const job = new LiveJob(jobId, this.#jobParts);
    this.#jobs.set(jobId, job);
    return job;
  }

  #endJob(job: LiveJob, type: "job.result" | "job.error", payload: Record<string, unknown>): void {
    this.#jobs.delete(job.id);
    const known = FINAL_STATUSES.find((status) => status === payload["final_status"]);
    const failed = known === undefined || known === "success" ? "error" : known;
    job.finish({ ...payload, final_status: type === "job.result" ? "success" : failed } as Terminal);
    this.#told.delete(job.id);
    if (job.expectsChildren) this.#parents.set(job.id, job);
  }

  #onGap(seq: number): void {
    if (this.#state.phase !== "connected" && this.#state.phase !== "closing") return;
    const { link } = this.#state;
    const why = `event ${seq} came where ${this.#lastSeq + 1} was due`;
    this.#settings.logger.warn({ session_id: this.#id, expected: this.#lastSeq + 1, got: seq }, "gap in the events");
    link.drop("gap");
    this.#onLost(link, why);
  }

  #onUnnumbered(message: Inbound): void {
    const { payload, type } = message;
    switch (type) {
      case "session.ping":
        this.#send([this.#frame("session.pong", { ping_nonce: payload["nonce"], received_at: this.#now() })]);
        return;
      case "session.pong":
        this.#progress = true;
        this.#onPong(message);
        return;
      case "session.closed":
      case "session.bye":
        this.#onBye(type);
        return;
      default:
        this.#onReply(message);
    }
  }

  #onPong(message: Inbound): void {
    const nonce = text(message.payload["ping_nonce"]) ?? "";
    const ping = this.#pings.get(nonce);
    if (ping !== undefined) {
      this.#pings.delete(nonce);
      ping.resolve(this.#settings.clock.monotonic() - ping.sentAtMs);
      return;
    }
    const request = this.#requests.match(message);
    if (request === undefined || request === "answered" || request.kind !== "unsubscribe") return;
    this.#requests.remove(request);
    const job = this.#jobs.get(request.jobId ?? "");
    this.#jobs.delete(request.jobId ?? "");
    job?.unfollow();
    request.resolve(undefined);
  }

  /** The runtime ends the connection in good order; whether the session is over is for the resume to say. */
  #onBye(type: string): void {
    if (this.#state.phase === "closing") {
      this.#finish(this.#state.reason);
    } else if (this.#state.phase === "connected") {
      const { link } = this.#state;
      link.drop(type);
      this.#onLost(link, `the runtime sent ${type}`);
    }
  }

  #onReply(message: Inbound): void {
    const { logger } = this.#settings;
    const { type, payload } = message;
    const match = this.#requests.match(message);
    const request = match === "answered" ? undefined : match;
    if (type === "session.error" || type === "job.error") {
      if (request === undefined) {
        this.#onUnclaimedError(message, match === "answered");
        return;
      }
      this.#requests.remove(request);
      this.#progress = true;
      request.reject(errorFromPayload(payload));
      return;
    }
    const jobId = text(message.job_id) ?? text(payload["job_id"]);
    if (request === undefined) {
      if (type === "job.accepted" && jobId !== undefined) this.#onChild(jobId, payload as unknown as AcceptedPayload);
      else logger.debug({ session_id: this.#id, type }, "a message that answers nothing that waits");
      return;
    }
    if (type === "job.accepted" && request.kind === "submit" && jobId !== undefined) {
      if (request.abandoned) this.#letGo(jobId, "aborted by the submitter");
      else request.resolve(this.#follow(jobId, payload as unknown as AcceptedPayload, message.extensions));
    } else if (type === "job.subscribed" && request.kind === "subscribe" && jobId !== undefined) {
      if (!request.abandoned) request.resolve(this.#follow(jobId, payload as unknown as SubscribedPayload));
      else if (!this.#jobs.has(jobId)) this.#leave(jobId);
    } else if (type === "job.cancelled" && request.kind === "cancel") {
      request.resolve(undefined);
    } else if (type === "x-vendor.holdfast.answered" && request.kind === "answer") {
      request.resolve(undefined);
    } else if (type === "session.jobs" && request.kind === "list") {
      const { jobs, next_cursor: cursor } = payload;
      request.resolve({ jobs: Array.isArray(jobs) ? (jobs as ListedJob[]) : [], next_cursor: text(cursor) ?? null });
    } else {
      logger.warn({ session_id: this.#id, type, request: request.kind }, "an answer of the wrong type ignored");
      return;
    }
    this.#requests.remove(request);
    this.#progress = true;
  }

  /** A followed job has delegated; the child is followed from its first event (DEL-1). */
  #onChild(jobId: string, accepted: AcceptedPayload): void {
    const { parent_job_id: parentId, delegate_id: delegateId } = accepted;
    if (parentId === undefined || delegateId === undefined || this.#told.has(jobId)) return;
    this.#told.add(jobId);
    const parent = this.#jobs.get(parentId) ?? this.#parents.get(parentId);
    parent?.adopt(this.#follow(jobId, accepted), delegateId);
    if (parent?.ended === true && !parent.expectsChildren) this.#parents.delete(parentId);
  }

  #follow(jobId: string, accepted: AcceptedPayload | SubscribedPayload, extensions?: unknown): LiveJob {
    const job = this.#jobs.get(jobId) ?? this.#newJob(jobId);
    job.describe(accepted, turnOf((extensions as Record<string, unknown> | undefined)?.[TURN]));
    return job;
  }

  /** A subscription came about that nobody waits for any more. */
  #leave(jobId: string): void {
    this.unsubscribe(jobId).catch((error: unknown) =>
      this.#settings.logger.warn(
        { err: error, session_id: this.#id, job_id: jobId },
        "unsubscribe after an abort failed",
      ),
    );
  }

  #onUnclaimedError(message: Inbound, answered: boolean): void {
    const { logger, token } = this.#settings;
    const error = errorFromPayload(message.payload);
    if (this.#state.phase === "closing") {
      // A runtime that does not know `session.close` says so, and we are leaving anyway.
      this.#finish(this.#state.reason);
    } else if (message.type === "session.error" && isSuperseded(error)) {
      this.#finish("superseded", error);
    } else if (message.type === "session.error" && error.code === "UNAUTHENTICATED") {
      // Where the token comes from a function, a new one may do; the resume's hello will tell.
      if (typeof token === "string" || this.#state.phase !== "connected") {
        this.#finish("unauthenticated", error);
      } else {
        const { link } = this.#state;
        link.drop("token expired");
        this.#onLost(link, error.message);
      }
    } else {
      logger.warn({ err: error, session_id: this.#id, type: message.type }, "the runtime reports an error");
      if (answered || message.type !== "session.error" || /^holdfast\b/i.test(this.#runtime.name)) return;
      const request = this.#requests.oldestQuery();
      if (request === undefined) return;
      this.#requests.remove(request);
      request.reject(error);
    }
  }

  // -------------------------------------------------------------------------------------------- end

  async close(options: CloseOptions = {}): Promise<void> {
    const { reason = "closed", timeoutMs = 2_000 } = options;
    if (this.#state.phase === "connected") {
      const { link } = this.#state;
      this.#acks.flush();
      const timeout = this.#settings.clock.after(timeoutMs, () => this.#finish(reason), { keepAlive: true });
      link.send([this.#frame("session.close", { reason: reason.slice(0, MAX_REASON_CHARS) })]);
      this.#enter({ phase: "closing", link, reason, timeout });
    } else if (this.#state.phase !== "closing") {
      this.#finish(reason);
    }
    await this.#closed.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The end, once: everything that waits is told. */
  #finish(reason: string, error?: Error): void {
    const state = this.#state;
    if (state.phase === "closed") return;
    this.#enter({ phase: "closed", reason, error });
    if ("link" in state) state.link.drop(reason);
    if ("abort" in state) state.abort.abort(new SessionClosedError(reason, `The session was closed (${reason}).`));
    this.#acks.stop();
    const why = error === undefined ? reason : `${reason}: ${error.message}`;
    this.#rejectPings(new SessionClosedError(reason, `The session was closed (${why}) before the pong.`, error));
    for (const request of this.#requests.all) {
      this.#requests.remove(request);
      if (request.kind === "submit" && request.sent && !request.repeatable) {
        request.reject(
          outcomeUnknown(
            `The session ended (${why}) before the submit was answered: the job may or may not run. ` +
              "Look for it with listJobs, and give submits an idempotencyKey, or turns a messageId, to make them repeatable.",
            error,
          ),
        );
      } else {
        const sent = request.sent ? "before the answer" : "before this was sent";
        request.reject(new SessionClosedError(reason, `The session was closed (${why}) ${sent}.`, error));
      }
    }
    for (const job of this.#jobs.values()) {
      const message = `The session was closed (${why}) before ${job.id} ended; it may run on. Subscribe to it in a new session.`;
      job.abandon(error === undefined ? new SessionClosedError(reason, message) : outcomeUnknown(message, error));
    }
    this.#jobs.clear();
    for (const parent of this.#parents.values()) parent.endChildren();
    this.#parents.clear();
    this.#told.clear();
    this.#closed.resolve(this.#statuses.current as ClosedStatus);
  }

  /** Every change of state passes here. */
  #enter(next: State): void {
    const state = this.#state;
    if (state.phase === "closed") throw new Error(`A closed session cannot be ${next.phase}.`);
    if (state.phase === "connected") state.heartbeat?.stop();
    if (state.phase === "closing") state.timeout.cancel();
    this.#state = next;
    switch (next.phase) {
      case "connected":
        this.#statuses.set({ state: "connected" });
        return;
      case "reconnecting":
        this.#statuses.set({ state: "reconnecting", attempt: next.attempt, delayMs: next.delayMs });
        return;
      case "closed":
        this.#statuses.set({
          state: "closed",
          reason: next.reason,
          ...(next.error === undefined ? {} : { error: next.error }),
        });
        return;
      case "connecting":
      case "closing":
        return;
    }
  }

  #rejectPings(error: Error): void {
    for (const ping of this.#pings.values()) ping.reject(error);
    this.#pings.clear();
  }

  /** False when there is no connection to send on. */
  #send(frames: readonly string[]): boolean {
    return (this.#state.phase === "connected" || this.#state.phase === "closing") && this.#state.link.send(frames);
  }

  #now(): string {
    return new Date(this.#settings.clock.wall()).toISOString();
  }

  /** @throws ArcpError INVALID_REQUEST when a runtime would close the connection for its length (CLT-11) */
  #frame(
    type: string,
    payload: object,
    rest: { id?: string; job_id?: string; trace_id?: string; extensions?: Record<string, unknown> } = {},
  ): string {
    const frame = encodeMessage({ id: newMessageId(), type, session_id: this.#id, ...rest, payload });
    // No character takes more than three bytes, so only a long frame has to be measured.
    if (frame.length * 3 > MAX_FRAME_BYTES) {
      const bytes = new TextEncoder().encode(frame).byteLength;
      if (bytes > MAX_FRAME_BYTES) {
        throw new ArcpError(
          "INVALID_REQUEST",
          `The ${type} takes ${bytes} bytes; a message has at most ${MAX_FRAME_BYTES}.`,
          {
            details: { limit: MAX_FRAME_BYTES },
          },
        );
      }
    }
    return frame;
  }
}

/** The `closed` reason of a refused hello. */
function refusalReason(error: ArcpError, resuming: boolean): string {
  if (isSuperseded(error)) return "superseded";
  if (error.code === "UNAUTHENTICATED") return "unauthenticated";
  return resuming && error.code === "RESUME_WINDOW_EXPIRED" ? "resume_refused" : "refused";
}

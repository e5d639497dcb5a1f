import { sleep, type Timer } from "../../clock.ts";
import {
  ArcpError,
  CLIENT_INSTANCE,
  classifyType,
  type Envelope,
  ERROR_TABLE,
  encodeMessage,
  IN_REPLY_TO,
  negotiate,
  newMessageId,
  newSessionId,
  parseEnvelope,
  parsePayload,
  type RequestPayload,
  type TypeDisposition,
  type WelcomePayload,
} from "../../protocol/index.ts";
import {
  type AttachedSession,
  type ClientInstance,
  type RefusalReason,
  StoreRefusal,
  StoreUnavailable,
  type TurnPlace,
} from "../../store/store.ts";
import type { Transport } from "../../transport/transport.ts";
import type { AgentRegistry } from "../agents.ts";
import { type Identity, type Role, roleOf } from "../auth.ts";
import type { CredentialKeeper } from "../credentials/keeper.ts";
import type { Masking } from "../credentials/masking.ts";
import { holdsCredentials, revealEvent, revealReply } from "../credentials/reveal.ts";
import type { Extensions } from "../extensions.ts";
import type { RecentEvents } from "../job/recent-events.ts";
import type { RunningJobs } from "../job/running-jobs.ts";
import type { JobDesk } from "../job-desk.ts";
import type { Settings } from "../options.ts";
import type { Answering } from "../questions/answering.ts";
import type { Stats } from "../stats.ts";
import type { SessionTrace } from "../tracing/tracing.ts";
import type { TurnKeeper } from "../turn-seam.ts";
import type { Wakeups } from "../wakeups.ts";
import { Heartbeat } from "./heartbeat.ts";
import { InboundRate } from "./inbound-rate.ts";
import { ReplyQueue } from "./reply-queue.ts";
import { Requests } from "./requests.ts";
import { hashToken, newResumeToken } from "./resume-token.ts";
import { Tail } from "./tail.ts";

/** What a peer may send before its welcome (SES-20): a hello and some noise. */
const MAX_EARLY_FRAMES = 100;
const MAX_EARLY_CHARS = 256 * 1024;
/** A peer for which no more than this waits reads what it gets. */
const HARDLY_BUFFERED_BYTES = 256 * 1024;
/** When a request that was one too many in flight may come again. */
const IN_FLIGHT_RETRY_MS = 100;
const DETACH_RETRY_MS = 500;
const DETACH_TRIES = 20;

export interface ConnectionParts {
  settings: Settings;
  agents: AgentRegistry;
  jobs: RunningJobs;
  extensions: Extensions;
  credentials: CredentialKeeper;
  masking: Masking;
  answering: Answering;
  desk: JobDesk;
  recent: RecentEvents;
  wakeups: Wakeups;
  stats: Stats;
  /** Who is behind the token, or the ticket, of a hello. */
  authenticate(token: string): Promise<Identity | undefined>;
  nodeId(): string;
  turns(): TurnKeeper | undefined;
  ended(jobIds: readonly string[]): void;
  placed(place: TurnPlace): void;
  accepting(): boolean;
  /** The session is this connection's now; what had it in this process is to be superseded. */
  attached(connection: Connection): void;
  closed(connection: Connection, sessionId: string | undefined): void;
}

/** What a connection has once it is attached to a session. */
interface Attachment {
  readonly session: AttachedSession;
  readonly replies: ReplyQueue;
  readonly tail: Tail;
  /** Made for the first request: a session that only listens needs none. */
  requests: Requests | undefined;
  readonly role: Role;
  readonly rate: InboundRate;
  readonly heartbeat: Heartbeat | undefined;
  readonly expiry: Timer | undefined;
  readonly trace: SessionTrace;
}

/**
 * - `greeting`: no valid hello yet; moved on by one, or by the hello timeout.
 * - `opening`: the hello is being looked at; moved on by the welcome, a refusal, or the store's silence.
 * - `attached`: the session is this connection's; moved on when either side closes.
 * - `closed`: nothing is sent or read any more.
 */
type ConnectionState =
  | { phase: "greeting"; timeout: Timer }
  | { phase: "opening"; timeout: Timer }
  | { phase: "attached"; attachment: Attachment }
  | { phase: "closed" };

/** One transport on its way through handshake, dispatch and close (SPEC.md, SES). */
export class Connection {
  readonly #transport: Transport;
  readonly #parts: ConnectionParts;
  #onWelcome: (() => void) | undefined;
  #state: ConnectionState;
  #earlyFrames = 0;
  #earlyChars = 0;
  /** What was sent that is no event since the peer had last read nearly all. */
  #unreadChars = 0;
  /** The newest ack that waits for the one before it to be stored. */
  #nextAck: number | undefined;
  #storingAck = false;
  #wrongAck = false;

  /** @param onWelcome called once, when the session is this connection's */
  constructor(transport: Transport, parts: ConnectionParts, onWelcome?: () => void) {
    this.#transport = transport;
    this.#parts = parts;
    this.#onWelcome = onWelcome;
    const { clock, helloTimeoutMs } = parts.settings;
    const timeout = clock.after(helloTimeoutMs, () => {
      this.#fail(new ArcpError("INVALID_REQUEST", `No session.hello within ${helloTimeoutMs} ms.`));
    });
    this.#state = { phase: "greeting", timeout };
    transport.start({
      onFrame: (frame) => this.#onFrame(frame),
      onClose: () => this.#enterClosed(),
    });
  }

  /** False once either side has closed. */
  get open(): boolean {
    return this.#state.phase !== "closed";
  }

  /** The attached session, while there is one. */
  get session(): AttachedSession | undefined {
    return this.#state.phase === "attached" ? this.#state.attachment.session : undefined;
  }

  /** Resolves when all that is stored for this connection was handed to its transport, or it closed. */
  whenIdle(): Promise<void> {
    return this.#state.phase === "attached" ? this.#state.attachment.tail.whenIdle() : Promise.resolve();
  }

  /** The session has a newer connection: says so and closes (RES-8). */
  supersede(): void {
    this.#fail(
      new ArcpError("INVALID_REQUEST", "Another connection has taken this session over.", {
        details: { reason: "superseded" },
      }),
    );
  }

  /** Closes without an error, e.g. when the runtime stops; the client may resume elsewhere. */
  close(code: number, reason: string): void {
    this.#transport.close(code, reason);
    this.#enterClosed();
  }

  // ---------------------------------------------------------------------------------------- inbound

  #onFrame(frame: string): void {
    switch (this.#state.phase) {
      case "greeting":
      case "opening":
        this.#onEarlyFrame(frame);
        return;
      case "attached":
        this.#onSessionFrame(this.#state.attachment, frame);
        return;
      case "closed":
        return;
    }
  }

  /** Before the welcome nobody knows who it is: little is read, and all but a hello is dropped. */
  #onEarlyFrame(frame: string): void {
    this.#earlyFrames += 1;
    this.#earlyChars += frame.length;
    if (this.#earlyFrames > MAX_EARLY_FRAMES || this.#earlyChars > MAX_EARLY_CHARS) {
      const most = `${MAX_EARLY_FRAMES} frames or ${MAX_EARLY_CHARS} characters`;
      this.#fail(new ArcpError("INVALID_REQUEST", `More than ${most} came before the session was open.`));
      return;
    }
    try {
      const envelope = parseEnvelope(frame);
      const isHello = envelope.type === "session.hello" || envelope.type === "session.resume";
      if (isHello && this.#state.phase === "greeting") this.#greet(envelope);
    } catch (error) {
      this.#protest(error);
    }
  }

  #onSessionFrame(attachment: Attachment, frame: string): void {
    attachment.heartbeat?.touch();
    const verdict = attachment.rate.take();
    if (verdict === "flood") {
      this.#fail(this.#tooFast(attachment));
      return;
    }
    let envelope: Envelope | undefined;
    try {
      envelope = parseEnvelope(frame);
      if (verdict === "taken") this.#dispatch(attachment, envelope, frame.length);
      else this.#refuse(attachment, envelope);
    } catch (error) {
      this.#protest(error, envelope);
    }
  }

  #tooFast({ rate }: Attachment): ArcpError {
    const { maxMessagesPerSecond } = this.#parts.settings;
    return ArcpError.detail(
      "LIMIT_EXCEEDED",
      `More than ${maxMessagesPerSecond} messages in a second; slow down, or the connection is closed.`,
      { retry_after_ms: rate.retryAfterMs, limit: maxMessagesPerSecond },
    );
  }

  #classify(envelope: Envelope): TypeDisposition {
    return classifyType(envelope, (type) => this.#parts.extensions.has(type));
  }

  /** A message that came too fast (SES-16). What has no answer and what ends the connection are no burden. */
  #refuse(attachment: Attachment, envelope: Envelope): void {
    const disposition = this.#classify(envelope);
    if (disposition.kind === "drop") return;
    switch (disposition.type) {
      case "session.pong":
      case "session.ack":
        return;
      case "session.hello":
      case "session.resume":
      case "session.ping":
        throw this.#tooFast(attachment);
      case "session.close":
      case "session.bye":
        this.#dispatch(attachment, envelope, 0);
        return;
      default:
        if (this.#isSwamped(attachment.replies)) this.#fail(this.#tooMany());
        else this.#requests(attachment).decline(disposition.type, envelope, this.#tooFast(attachment));
    }
  }

  /** Whether so much waits to be answered that not even a refusal has room any more (SES-15). */
  #isSwamped(replies: ReplyQueue): boolean {
    const { maxRequestsInFlight, maxCharsInFlight } = this.#parts.settings;
    return replies.pending >= 2 * maxRequestsInFlight || replies.heldChars >= 2 * maxCharsInFlight;
  }

  #tooMany(): ArcpError {
    const { maxRequestsInFlight, maxCharsInFlight } = this.#parts.settings;
    return ArcpError.detail(
      "LIMIT_EXCEEDED",
      `More than ${maxRequestsInFlight} requests, or ${maxCharsInFlight} characters of them, wait for answers; send fewer at a time.`,
      { retry_after_ms: IN_FLIGHT_RETRY_MS, limit: maxRequestsInFlight },
    );
  }

  #dispatch(attachment: Attachment, envelope: Envelope, chars: number): void {
    const { session, replies, tail } = attachment;
    const disposition = this.#classify(envelope);
    if (disposition.kind === "drop") return;
    if (envelope.session_id !== undefined && envelope.session_id !== session.sessionId) {
      throw new ArcpError(
        "INVALID_REQUEST",
        `session_id: ${JSON.stringify(envelope.session_id)} is not this session.`,
        {
          details: { request_id: envelope.id },
        },
      );
    }
    switch (disposition.type) {
      case "session.hello":
      case "session.resume":
        throw new ArcpError("INVALID_REQUEST", `type: a second ${disposition.type}; the session is open.`, {
          details: { type: disposition.type, request_id: envelope.id },
        });
      case "session.ping": {
        const { nonce } = parsePayload(disposition.type, envelope);
        this.#send("session.pong", {
          ping_nonce: nonce,
          received_at: new Date(this.#parts.settings.clock.wall()).toISOString(),
        });
        return;
      }
      case "session.pong":
        parsePayload(disposition.type, envelope);
        return;
      case "session.ack": {
        if (!session.features.includes("ack")) {
          throw new ArcpError(
            "INVALID_REQUEST",
            'type: session.ack needs the feature "ack", which was not negotiated.',
            {
              details: { type: envelope.type, feature: "ack", request_id: envelope.id },
            },
          );
        }
        this.#ack(session, tail, parsePayload(disposition.type, envelope).last_processed_seq);
        return;
      }
      default: {
        const { maxRequestsInFlight, maxCharsInFlight } = this.#parts.settings;
        if (this.#isSwamped(replies)) {
          this.#fail(this.#tooMany());
        } else if (replies.pending >= maxRequestsInFlight || replies.heldChars >= maxCharsInFlight) {
          this.#requests(attachment).decline(disposition.type, envelope, this.#tooMany());
        } else {
          this.#requests(attachment).handle(disposition.type, envelope, chars);
        }
      }
    }
  }

  #ack(session: AttachedSession, tail: Tail, seq: number): void {
    const { logger } = this.#parts.settings;
    if (seq > tail.lastSeq) {
      // Said aloud once: a client that does it goes on doing it.
      logger[this.#wrongAck ? "debug" : "warn"](
        { session_id: session.sessionId, seq, newest: tail.lastSeq },
        "ack above the newest event ignored",
      );
      this.#wrongAck = true;
      return;
    }
    if (seq <= session.ackedSeq) return;
    session.ackedSeq = seq;
    this.#nextAck = seq;
    if (!this.#storingAck) void this.#storeAcks(session);
  }

  /** One write at a time: of the acks that come meanwhile the newest says it all. */
  async #storeAcks(session: AttachedSession): Promise<void> {
    const { store, logger } = this.#parts.settings;
    this.#storingAck = true;
    for (let seq = this.#nextAck; seq !== undefined; seq = this.#nextAck) {
      this.#nextAck = undefined;
      try {
        await store.sessions.ack(session, seq);
      } catch (error) {
        if (error instanceof StoreRefusal && error.reason === "superseded") this.supersede();
        else logger.warn({ err: error, session_id: session.sessionId }, "ack not stored");
      }
    }
    this.#storingAck = false;
  }

  // -------------------------------------------------------------------------------------- handshake

  #greet(envelope: Envelope): void {
    let hello: RequestPayload<"session.hello">;
    try {
      if (envelope.type === "session.resume") {
        const { session_id, resume_token, last_event_seq, client, ...rest } = parsePayload("session.resume", envelope);
        hello = {
          ...rest,
          client: client ?? { name: "unnamed", version: "0" },
          resume: { session_id, resume_token, last_event_seq },
        };
      } else {
        hello = parsePayload("session.hello", envelope);
      }
    } catch (error) {
      this.#protest(error, envelope);
      return;
    }
    const { clock, storeTimeoutMs } = this.#parts.settings;
    const timeout = clock.after(storeTimeoutMs, () => {
      this.#fail(this.#handshakeError(new StoreUnavailable(`no answer for ${storeTimeoutMs} ms`)), envelope.id);
    });
    this.#enter({ phase: "opening", timeout });
    this.#open(hello, envelope).catch((error: unknown) => {
      if (this.#state.phase === "opening") this.#fail(this.#handshakeError(error), envelope.id);
    });
  }

  async #open(hello: RequestPayload<"session.hello">, envelope: Envelope): Promise<void> {
    const { settings } = this.#parts;
    const identity = await this.#parts.authenticate(hello.auth.token);
    if (identity === undefined) {
      throw new ArcpError("UNAUTHENTICATED", "payload.auth.token: is not a good token.");
    }
    const token = newResumeToken();
    const instance = readInstance(envelope);
    const { store } = settings;
    const session =
      hello.resume === undefined
        ? await store.sessions.create({
            sessionId: newSessionId(),
            principal: identity.principal,
            clientName: hello.client.name,
            clientVersion: hello.client.version,
            features: negotiate(settings.features, hello.capabilities?.features),
            tokenHash: hashToken(token),
            nodeId: this.#parts.nodeId(),
            resumeWindowMs: settings.resumeWindowSec * 1000,
            instance,
            now: settings.clock.wall(),
            maxSessionsPerPrincipal: settings.maxSessionsPerPrincipal,
          })
        : await store.sessions.attach({
            sessionId: hello.resume.session_id,
            principal: identity.principal,
            presentedTokenHash: hashToken(hello.resume.resume_token),
            nextTokenHash: hashToken(token),
            lastEventSeq: hello.resume.last_event_seq,
            nodeId: this.#parts.nodeId(),
            instance,
            now: settings.clock.wall(),
          });
    if (this.#state.phase !== "opening") {
      // The transport went while the store worked; the session waits for the next connection.
      await this.#detach(session);
      return;
    }
    this.#attach(session, hello.resume?.last_event_seq ?? 0, token, identity);
  }

  #attach(session: AttachedSession, lastEventSeq: number, token: string, identity: Identity): void {
    const { settings, agents, credentials, recent, wakeups, stats } = this.#parts;
    const { clock, logger, store } = settings;
    const replies = new ReplyQueue(
      (frame) => this.#transmit(frame),
      (frame) => revealReply(credentials, session, frame),
    );
    const tail = new Tail({
      session,
      lastEventSeq,
      transport: this.#transport,
      replies,
      store,
      recent,
      wakeups,
      stats,
      clock,
      logger,
      backPressureThreshold: settings.backPressureThreshold,
      reveal: session.features.includes("provisioned_credentials")
        ? (jobId, event) => revealEvent(credentials, session, jobId, event)
        : undefined,
      onFailure: (error) => this.#tailFailed(error),
    });
    const heartbeat = session.features.includes("heartbeat") ? this.#heartbeat() : undefined;
    const expiry =
      identity.expiresAt === undefined
        ? undefined
        : clock.after(identity.expiresAt - clock.wall(), () => {
            this.#fail(new ArcpError("UNAUTHENTICATED", "The token has expired; connect again with a new one."));
          });
    const rate = new InboundRate(clock, settings.maxMessagesPerSecond);
    const { sessionId, clientName } = session;
    const trace = settings.tracing.sessionStarted({ sessionId, clientName, resumed: session.connectionEpoch > 1 });
    this.#enter({
      phase: "attached",
      attachment: {
        session,
        replies,
        tail,
        requests: undefined,
        role: roleOf(identity),
        rate,
        heartbeat,
        expiry,
        trace,
      },
    });
    this.#parts.attached(this);
    this.#onWelcome?.();
    this.#onWelcome = undefined;
    // A newer connection of this process may have had its answer first: then this one is over.
    if (this.session === undefined) return;
    const welcome: WelcomePayload = {
      runtime: { name: settings.name, version: settings.version },
      resume_token: token,
      resume_window_sec: settings.resumeWindowSec,
      ...(heartbeat === undefined ? {} : { heartbeat_interval_sec: settings.heartbeatIntervalSec }),
      capabilities: {
        encodings: ["json"],
        features: session.features,
        agents: agents.list(session.features.includes("agent_versions")),
      },
    };
    this.#send("session.welcome", welcome);
    if (!session.unprovenReplies.some(holdsCredentials)) {
      this.#transport.send(session.unprovenReplies);
    } else {
      for (const frame of session.unprovenReplies) replies.push(frame);
    }
    const sent = replies.barrier();
    if (sent === undefined) void tail.run();
    else void sent.then(() => tail.run());
  }

  #requests(attachment: Attachment): Requests {
    const { settings, agents, jobs, extensions, credentials, masking, answering, desk, nodeId, accepting } =
      this.#parts;
    const { clock, logger } = settings;
    const { session, replies, tail } = attachment;
    attachment.requests ??= new Requests({
      role: attachment.role,
      turns: this.#parts.turns,
      ended: this.#parts.ended,
      placed: this.#parts.placed,
      session,
      settings,
      agents,
      jobs,
      extensions,
      credentials,
      masking,
      answering,
      desk,
      stats: this.#parts.stats,
      replies,
      tail,
      clock,
      logger,
      nodeId,
      accepting,
      superseded: () => this.supersede(),
      closing: (slot, frame) => replies.settle(slot, frame, () => this.close(1000, "closed by the client")),
    });
    return attachment.requests;
  }

  #heartbeat(): Heartbeat {
    const { clock, heartbeatIntervalSec } = this.#parts.settings;
    return new Heartbeat(clock, heartbeatIntervalSec * 1000, (what) => {
      if (what === "ping") {
        this.#send("session.ping", { nonce: newMessageId(), sent_at: new Date(clock.wall()).toISOString() });
      } else {
        this.#fail(new ArcpError("HEARTBEAT_LOST", "Nothing was heard for two heartbeat intervals."));
      }
    });
  }

  #handshakeError(error: unknown): ArcpError {
    const { logger, maxSessionsPerPrincipal, resumeWindowSec } = this.#parts.settings;
    if (error instanceof ArcpError) return error;
    if (error instanceof StoreRefusal) {
      return refusalError(error.reason, { maxSessionsPerPrincipal, resumeWindowSec });
    }
    logger.error({ err: error }, "handshake failed");
    if (error instanceof StoreUnavailable) {
      return ArcpError.detail("STORE_UNAVAILABLE", "The store did not answer; no session was opened. Try again.");
    }
    return new ArcpError("INTERNAL_ERROR", "The runtime failed on this hello; its log says why.");
  }

  // ------------------------------------------------------------------------------------------- end

  #tailFailed(error: unknown): void {
    if (error instanceof StoreRefusal && error.reason === "superseded") {
      this.supersede();
      return;
    }
    const { logger } = this.#parts.settings;
    logger.error({ err: error, session_id: this.session?.sessionId }, "delivery failed; the client may resume");
    this.#fail(
      error instanceof StoreRefusal && error.reason === "below_floor"
        ? new ArcpError("RESUME_WINDOW_EXPIRED", "Events that this session had yet to receive are gone.")
        : new ArcpError("INTERNAL_ERROR", "Delivery failed; resume the session."),
    );
  }

  /** Answers with `session.error`; the session lives on (ENV-2). */
  #protest(error: unknown, envelope?: Envelope): void {
    const known =
      error instanceof ArcpError ? error : new ArcpError("INTERNAL_ERROR", "The runtime failed on this message.");
    if (!(error instanceof ArcpError)) {
      this.#parts.settings.logger.error({ err: error, type: envelope?.type }, "message handling failed");
    }
    const requestId = envelope?.id ?? known.details?.["request_id"];
    const frame = this.#frame(
      "session.error",
      { ...known.toPayload(), ...(requestId === undefined ? {} : { request_id: requestId }) },
      requestId === undefined ? {} : { extensions: { [IN_REPLY_TO]: requestId } },
    );
    if (this.#state.phase !== "attached") {
      this.#transmit(frame);
      return;
    }
    const { replies } = this.#state.attachment;
    if (this.#isSwamped(replies)) this.#fail(this.#tooMany());
    else replies.push(frame);
  }

  /** Says why, and closes. */
  #fail(error: ArcpError, requestId?: string): void {
    if (this.#state.phase === "closed") return;
    const payload = { ...error.toPayload(), ...(requestId === undefined ? {} : { request_id: requestId }) };
    this.#transport.send([this.#frame("session.error", payload)]);
    const row: { closeCode?: number } = ERROR_TABLE[error.code];
    this.close(row.closeCode ?? 4500, error.code);
  }

  #enterClosed(): void {
    if (this.#state.phase === "closed") return;
    const session = this.session;
    this.#enter({ phase: "closed" });
    this.#parts.closed(this, session?.sessionId);
    if (session !== undefined) void this.#detach(session);
  }

  /** Starts the resume window. Should the store be down for long, the window starts at a later resume. */
  async #detach(session: AttachedSession): Promise<void> {
    const { store, clock, logger } = this.#parts.settings;
    const now = clock.wall();
    for (let attempt = 1; ; attempt += 1) {
      try {
        await store.sessions.detach(session, now);
        return;
      } catch (error) {
        logger.warn({ err: error, session_id: session.sessionId, attempt }, "detach not stored");
        // A runtime that stops lets go of all its sessions at once.
        if (attempt === DETACH_TRIES || !this.#parts.accepting()) return;
        await sleep(clock, DETACH_RETRY_MS);
      }
    }
  }

  #enter(next: ConnectionState): void {
    const { phase } = this.#state;
    if (phase === "closed") throw new Error(`A closed connection cannot be ${next.phase}.`);
    if (this.#state.phase === "greeting" || this.#state.phase === "opening") this.#state.timeout.cancel();
    if (this.#state.phase === "attached") {
      const { tail, replies, heartbeat, expiry, trace } = this.#state.attachment;
      tail.close();
      replies.close();
      heartbeat?.stop();
      expiry?.cancel();
      trace.ended();
    }
    this.#state = next;
  }

  #send(type: string, payload: object): void {
    this.#transmit(this.#frame(type, payload));
  }

  /** Sends to a peer that reads. One that goes on asking and does not read its answers is cut off (SES-17). */
  #transmit(frame: string): void {
    // Answers that were under way when the connection ended have nowhere to go.
    if (this.#state.phase === "closed") return;
    const { maxUnreadBytes, logger } = this.#parts.settings;
    // The tail has its own measure, and a single event may be larger than this one: both must be passed.
    const buffered = this.#transport.bufferedBytes;
    if (buffered <= HARDLY_BUFFERED_BYTES) this.#unreadChars = 0;
    this.#unreadChars += frame.length;
    if (this.#unreadChars <= maxUnreadBytes || buffered <= maxUnreadBytes) {
      this.#transport.send([frame]);
      return;
    }
    logger.warn({ session_id: this.session?.sessionId, maxUnreadBytes }, "a client that does not read is cut off");
    this.#fail(
      ArcpError.detail("LIMIT_EXCEEDED", `More than ${maxUnreadBytes} bytes wait to be read; read what you ask for.`, {
        retry_after_ms: IN_FLIGHT_RETRY_MS,
        limit: maxUnreadBytes,
      }),
    );
  }

  #frame(type: string, payload: object, rest: { extensions?: Record<string, unknown> } = {}): string {
    const sessionId = this.session?.sessionId;
    return encodeMessage({
      id: newMessageId(),
      type,
      ...(sessionId === undefined ? {} : { session_id: sessionId }),
      ...rest,
      payload,
    });
  }
}

/** Our client's word on which instance it is and how often it has tried; from others, nothing. */
function readInstance(envelope: Envelope): ClientInstance | undefined {
  const value = envelope.extensions?.[CLIENT_INSTANCE];
  if (typeof value !== "object" || value === null) return undefined;
  const { instance, attempt } = value as { instance?: unknown; attempt?: unknown };
  if (typeof instance !== "string" || instance.length > 128 || !Number.isSafeInteger(attempt)) return undefined;
  return { instance, attempt: attempt as number };
}

function refusalError(
  reason: RefusalReason,
  limits: { maxSessionsPerPrincipal: number; resumeWindowSec: number },
): ArcpError {
  const expired = (message: string) => new ArcpError("RESUME_WINDOW_EXPIRED", message, { details: { reason } });
  switch (reason) {
    case "unknown_session":
      return expired("payload.resume.session_id: no such session; open a new one.");
    case "unknown_token":
      return expired("payload.resume.resume_token: is not valid any more; open a new session.");
    case "window_over":
      return expired(`The session was without a connection for more than ${limits.resumeWindowSec} s; open a new one.`);
    case "seq_above_newest":
      return expired("payload.resume.last_event_seq: is above the newest event of the session.");
    case "below_floor":
      return expired("payload.resume.last_event_seq: the events above it are no longer kept.");
    case "other_principal":
      return new ArcpError("UNAUTHENTICATED", "payload.auth.token: the session is another principal's.");
    case "stale_attempt":
      return new ArcpError("INVALID_REQUEST", "A later attempt of this client has the session.", {
        details: { reason: "superseded" },
      });
    case "limit_exceeded":
      return ArcpError.detail(
        "LIMIT_EXCEEDED",
        `At most ${limits.maxSessionsPerPrincipal} sessions of one principal.`,
        {
          retry_after_ms: limits.resumeWindowSec * 1000,
          limit: limits.maxSessionsPerPrincipal,
        },
      );
    default:
      return new ArcpError("INTERNAL_ERROR", "The session cannot be opened now; try again.", { details: { reason } });
  }
}

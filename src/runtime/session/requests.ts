import type { Clock } from "../../clock.ts";
import { parseExpiry, parseLease } from "../../lease/index.ts";
import type { Logger } from "../../logger.ts";
import {
  type AcceptedPayload,
  ArcpError,
  type Credential,
  type Envelope,
  encodeMessage,
  type Feature,
  IN_REPLY_TO,
  type JobsPayload,
  jobErrorPayload,
  type Lease,
  newJobId,
  newMessageId,
  newTraceId,
  parsePayload,
  type RequestPayload,
  type RequestType,
  type Stored,
  type StoredCredential,
  type SubscribedPayload,
  TURN,
  type VendorType,
} from "../../protocol/index.ts";
import {
  type AttachedSession,
  type CancelOutcome,
  type FollowOutcome,
  type JobRecord,
  type NewJob,
  type NewTurn,
  type ReplyDraft,
  type RequestRef,
  StoreRefusal,
  StoreUnavailable,
  type SubmitOutcome,
  type TurnPlace,
} from "../../store/store.ts";
import type { AgentRegistry, ResolvedAgent } from "../agents.ts";
import type { Role } from "../auth.ts";
import { type CredentialKeeper, withoutValue } from "../credentials/keeper.ts";
import type { Masking } from "../credentials/masking.ts";
import type { Extensions } from "../extensions.ts";
import { cancelledPayload } from "../job/cancelled.ts";
import { budgetOf } from "../job/delegation.ts";
import type { RunningJobs } from "../job/running-jobs.ts";
import type { JobDesk } from "../job-desk.ts";
import type { Settings } from "../options.ts";
import { grantedLease } from "../policy.ts";
import type { Answering } from "../questions/answering.ts";
import type { Stats } from "../stats.ts";
import { type RunningTurn, type TurnKeeper, turnRefused } from "../turn-seam.ts";
import { digestOf } from "./canonical-json.ts";
import type { ReplyQueue, ReplySlot } from "./reply-queue.ts";
import type { Tail } from "./tail.ts";

export interface RequestParts {
  session: AttachedSession;
  settings: Settings;
  agents: AgentRegistry;
  jobs: RunningJobs;
  extensions: Extensions;
  credentials: CredentialKeeper;
  masking: Masking;
  answering: Answering;
  desk: JobDesk;
  stats: Stats;
  replies: ReplyQueue;
  tail: Tail;
  clock: Clock;
  logger: Logger;
  nodeId(): string;
  /** Of the token's holder. */
  role: Role;
  turns(): TurnKeeper | undefined;
  /** A turn was stored: what it interrupts or has ended is to be told. */
  placed(place: TurnPlace): void;
  /** The store has ended these jobs: their followers are to be told. */
  ended(jobIds: readonly string[]): void;
  /** False while the runtime is stopping: no new jobs. */
  accepting(): boolean;
  /** The store says that the session has a newer connection. */
  superseded(): void;
  /** The client is done with this connection. */
  closing(reply: ReplySlot, frame: string | undefined): void;
}

type Handled =
  | "job.submit"
  | "job.cancel"
  | "job.subscribe"
  | "job.unsubscribe"
  | "session.list_jobs"
  | "session.close"
  | "session.bye"
  | VendorType;

const NEEDS: Partial<Record<RequestType | VendorType, Feature>> = {
  "session.list_jobs": "list_jobs",
  "job.subscribe": "subscribe",
  "job.unsubscribe": "subscribe",
};

/** What an observer may ask (SRV-20). */
const LOOKS: ReadonlySet<Handled> = new Set([
  "job.subscribe",
  "job.unsubscribe",
  "session.list_jobs",
  "session.close",
  "session.bye",
]);

const DEFAULT_PAGE = 100;
const RETRY_AFTER_MS = 1_000;

/**
 * The requests of one attached session. Each is checked here and carried out by one operation of the
 * store, which refuses what comes from a superseded connection and answers a repeat with the stored
 * reply; what is refused here is noted there too, so that a repeat gets the same answer (ENV-8).
 */
export class Requests {
  readonly #parts: RequestParts;
  /**
   * Subscribes and unsubscribes are carried out one after the other: the last one's word counts (JOB-12).
   * So are lists: a page may take a while and a lot of memory, and one at a time is enough.
   */
  #following: Promise<void> = Promise.resolve();

  constructor(parts: RequestParts) {
    this.#parts = parts;
  }

  /**
   * Takes a request of a right shape; it is answered in its turn, whatever becomes of it.
   *
   * @param chars the length of its frame
   */
  handle(type: Handled, envelope: Envelope, chars: number): void {
    const { replies, jobs, clock, settings } = this.#parts;
    // The tail joins a job when the answer has left, so what comes after an answer waits for that too.
    const before = replies.barrier();
    const slot = replies.reserve(chars);
    const provisionerMs = type === "job.submit" && this.#wantsCredentials() ? settings.provisionerTimeoutMs : 0;
    const deadline = clock.after(settings.storeTimeoutMs + provisionerMs, () => {
      this.#failed(type, envelope, slot, this.#silence(type));
    });
    const work = () => this.#carryOut(type, envelope, slot).finally(() => deadline.cancel());
    if (type === "job.subscribe" || type === "job.unsubscribe" || type === "session.list_jobs") {
      this.#following = this.#following.then(() => before).then(work);
    } else if (type === "job.submit") {
      jobs.admit(work());
    } else {
      void work();
    }
  }

  /** Answers a request in its turn without looking at it. It is not noted: the same one may come again. */
  decline(type: Handled, envelope: Envelope, error: ArcpError): void {
    this.#parts.replies.push(this.#errorFrame(type, envelope, error));
  }

  async #carryOut(type: Handled, envelope: Envelope, slot: ReplySlot): Promise<void> {
    try {
      await this.#dispatch(type, envelope, slot).catch((error: unknown) => {
        // A refusal is an answer like any other; an invalid envelope does not use up its id (ENV-8).
        if (!(error instanceof ArcpError) || error.code === "INVALID_REQUEST") throw error;
        return this.#refuse(envelope, slot, this.#errorFrame(type, envelope, error));
      });
    } catch (error) {
      this.#failed(type, envelope, slot, error);
    }
  }

  async #dispatch(type: Handled, envelope: Envelope, slot: ReplySlot): Promise<void> {
    const need = NEEDS[type];
    if (need !== undefined && !this.#parts.session.features.includes(need)) {
      throw new ArcpError("INVALID_REQUEST", `type: ${type} needs the feature "${need}", which was not negotiated.`, {
        details: { type, feature: need, request_id: envelope.id },
      });
    }
    if (this.#parts.role === "observer" && !LOOKS.has(type)) {
      throw new ArcpError("PERMISSION_DENIED", `type: ${type} is not for observers; their token lets them look.`, {
        details: { type },
      });
    }
    switch (type) {
      case "job.submit":
        return this.#submit(envelope, parsePayload(type, envelope), slot);
      case "job.cancel":
        return this.#cancel(envelope, parsePayload(type, envelope), slot);
      case "job.subscribe":
        return this.#subscribe(envelope, parsePayload(type, envelope), slot);
      case "job.unsubscribe":
        return this.#unsubscribe(envelope, parsePayload(type, envelope), slot);
      case "session.list_jobs":
        return this.#list(envelope, parsePayload(type, envelope), slot);
      case "session.close":
      case "session.bye":
        parsePayload(type, envelope);
        await this.#note(envelope, undefined);
        this.#parts.closing(slot, type === "session.close" ? this.#frame("session.closed", envelope, {}) : undefined);
        return;
      case "x-vendor.holdfast.answer":
        return this.#answer(envelope, parsePayload("x-vendor.holdfast.answer", envelope), slot);
      default:
        return this.#extension(type, envelope, slot);
    }
  }

  // ---------------------------------------------------------------------------------------- submit

  async #submit(envelope: Envelope, payload: RequestPayload<"job.submit">, slot: ReplySlot): Promise<void> {
    const { session, settings, agents, clock, tail, jobs } = this.#parts;
    const traceId = this.#traceId(envelope);
    const expiresAt = payload.lease_constraints?.expires_at;
    let agent: ResolvedAgent;
    let job: NewJob;
    let provisioned: { credentials?: StoredCredential[] };
    let turn: NewTurn | undefined;
    try {
      if (!this.#parts.accepting()) {
        throw new ArcpError("INTERNAL_ERROR", "The runtime is stopping; submit again after reconnecting.", {
          details: { reason: "shutdown" },
        });
      }
      this.#needs("agent_versions", payload.agent.includes("@"), "payload.agent: a version");
      this.#needs("lease_expires_at", expiresAt !== undefined, "payload.lease_constraints.expires_at");
      agent = agents.resolve(payload.agent, "payload.agent");
      const lease =
        payload.lease_request === undefined
          ? this.#granted(agent.lease, agent)
          : this.#lease(payload.lease_request, agent);
      this.#roomToFollow();
      turn = await this.#turn(envelope);
      job = {
        jobId: newJobId(),
        agent: agent.label,
        input: this.#input(payload.input ?? null),
        lease,
        leaseExpiresAt: expiresAt === undefined ? undefined : parseExpiry(expiresAt, clock.wall()),
        traceId,
        maxRuntimeMs: payload.max_runtime_sec === undefined ? undefined : payload.max_runtime_sec * 1000,
        restarts: agent.restarts,
      };
      // Whoever wants none waits for nothing.
      provisioned = this.#wantsCredentials() ? await this.#provision(job) : {};
    } catch (error) {
      if (!(error instanceof ArcpError)) throw error;
      return this.#refuse(envelope, slot, this.#rejection(envelope, traceId, error));
    }
    const accepted: Stored<AcceptedPayload> = {
      job_id: job.jobId,
      agent: job.agent,
      lease: job.lease,
      ...(expiresAt === undefined ? {} : { lease_constraints: { expires_at: expiresAt } }),
      ...budgetOf(job.lease),
      ...provisioned,
      accepted_at: new Date(clock.wall()).toISOString(),
      trace_id: traceId,
    };
    const acceptedPayload = JSON.stringify(accepted);
    const askedAt = { monotonic: clock.monotonic(), wall: clock.wall() };
    const { idempotency_key: key, ...parameters } = payload;
    const submitted = settings.store.requests.submit({
      ...this.#ref(envelope),
      abandoned: () => slot.settled,
      principal: session.principal,
      nodeId: this.#parts.nodeId(),
      job,
      acceptedPayload,
      idempotency:
        key === undefined
          ? undefined
          : {
              key,
              digest: digestOf(turn === undefined ? parameters : [parameters, envelope.extensions?.[TURN]]),
              ttlMs: settings.idempotencyTtlMs,
            },
      maxRunningJobsPerPrincipal: settings.maxRunningJobsPerPrincipal,
      turn,
      reply: (outcome) => this.#submitReply(envelope, traceId, acceptedPayload, outcome, turn),
    });
    const result = await submitted.catch((error: unknown) => {
      this.#parts.credentials.abandon(job.jobId);
      throw error;
    });
    if (result.outcome !== "created") this.#parts.credentials.abandon(job.jobId);
    const running = (place: TurnPlace | undefined): RunningTurn | undefined =>
      place?.state !== "running" || turn === undefined
        ? undefined
        : { ...place, jobId: job.jobId, userId: turn.userId, ttlMs: turn.ttlMs, askedAt };
    switch (result.outcome) {
      case "created":
        if (slot.settled && key === undefined && turn?.messageId === undefined) {
          // The client was told that the submit failed and may send another: so this one fails, and never
          // runs. With a key or a message's id the other one would find this job, which runs for it.
          const failed: ResolvedAgent = { ...agent, handler: () => Promise.reject(storeUnavailable()) };
          if (result.place !== undefined) this.#parts.placed(result.place);
          if (result.place?.state === "queued") {
            const reason = "its submit was answered as failed";
            const now = clock.wall();
            const cancelled = { jobId: job.jobId, reason, cancelledPayload: cancelledPayload(reason), now };
            const wish = await settings.store.jobs.requestCancel(cancelled);
            // It may have begun meanwhile; then it unwinds, wherever it runs.
            if (wish.outcome === "ended") this.#parts.ended([job.jobId]);
            else jobs.cancel(job.jobId, reason);
          } else {
            jobs.start({ job, agent: failed, input: null, principal: session.principal, turn: running(result.place) });
          }
          return;
        }
        this.#parts.replies.settle(slot, result.frame, () =>
          tail.follow({ jobId: job.jobId, traceId, positionN: 0, canCancel: true }),
        );
        if (result.place !== undefined) this.#parts.placed(result.place);
        if (result.place?.state === "queued") return;
        jobs.start({
          turn: running(result.place),
          job,
          agent,
          input: payload.input ?? null,
          principal: session.principal,
          origin: { sessionId: session.sessionId, traceparent: envelope.traceparent },
        });
        return;
      case "repeated":
        this.#parts.replies.settle(slot, result.frame, () =>
          tail.follow({ jobId: result.jobId, traceId: result.traceId, positionN: result.positionN, canCancel: true }),
        );
        return;
      default:
        this.#parts.replies.settle(slot, result.frame);
    }
  }

  /** Whether there are credentials to be had, and this session has a use for them (CRD-1). */
  #wantsCredentials(): boolean {
    return this.#parts.credentials.offers && this.#parts.session.features.includes("provisioned_credentials");
  }

  /** @throws ArcpError INTERNAL_ERROR when there are none to be had (CRD-4); StoreUnavailable */
  async #provision(job: NewJob): Promise<{ credentials: StoredCredential[] }> {
    const { session, credentials } = this.#parts;
    return { credentials: await credentials.issueFor({ ...job, principal: session.principal }) };
  }

  #submitReply(
    envelope: Envelope,
    traceId: string,
    acceptedPayload: string,
    outcome: SubmitOutcome,
    turn: NewTurn | undefined,
  ): ReplyDraft {
    const { settings } = this.#parts;
    switch (outcome.outcome) {
      case "created":
        return {
          frame: this.#accepted(envelope, traceId, acceptedPayload, outcome.place && placeForWire(outcome.place)),
        };
      case "turn_refused":
        return { frame: this.#rejection(envelope, traceId, turnRefused(outcome.refusal)) };
      case "repeated":
        return { frame: this.#accepted(envelope, traceId, outcome.acceptedPayload, turn && repeatForWire(turn)) };
      case "foreign_message":
        return {
          frame: this.#rejection(
            envelope,
            traceId,
            new ArcpError(
              "PERMISSION_DENIED",
              `extensions["${TURN}"].messageId: that message's turn is somebody else's.`,
            ),
          ),
        };
      case "duplicate_key":
        return {
          frame: this.#rejection(
            envelope,
            traceId,
            new ArcpError("DUPLICATE_KEY", "payload.idempotency_key: was used with other parameters; take a new key."),
          ),
        };
      case "limit_exceeded":
        return {
          frame: this.#rejection(
            envelope,
            traceId,
            ArcpError.detail(
              "LIMIT_EXCEEDED",
              `At most ${settings.maxRunningJobsPerPrincipal} jobs of one principal run at a time; try again later.`,
              { retry_after_ms: RETRY_AFTER_MS, limit: settings.maxRunningJobsPerPrincipal },
            ),
          ),
        };
    }
  }

  #accepted(envelope: Envelope, traceId: string, acceptedPayload: string, turn?: object): string {
    const payload = JSON.parse(acceptedPayload) as AcceptedPayload;
    return this.#frame("job.accepted", envelope, payload, {
      job_id: payload.job_id,
      trace_id: traceId,
      ...(turn === undefined ? {} : { extensions: { [TURN]: turn } }),
    });
  }

  /** What the envelope says of its turn, if it is one (TRN-7). */
  async #turn(envelope: Envelope): Promise<NewTurn | undefined> {
    const value = envelope.extensions?.[TURN];
    if (value === undefined) return undefined;
    const { turns, session, role } = this.#parts;
    const keeper = turns();
    if (keeper === undefined) {
      throw new ArcpError("INVALID_REQUEST", `extensions["${TURN}"]: this runtime has no conversations.`);
    }
    return await keeper.read(value, { principal: session.principal, operator: role === "operator" });
  }

  /** The answer to a submit that is not carried out (JOB-3). */
  #rejection(envelope: Envelope, traceId: string, error: ArcpError): string {
    if (this.#parts.settings.sessionErrorClients.has(this.#parts.session.clientName)) {
      return this.#sessionError(envelope, error);
    }
    return this.#jobError(envelope, error, { job_id: newJobId(), trace_id: traceId });
  }

  /** @throws ArcpError INVALID_REQUEST when what is used was not negotiated (SES-4) */
  #needs(feature: Feature, used: boolean, what: string): void {
    if (!used || this.#parts.session.features.includes(feature)) return;
    throw new ArcpError("INVALID_REQUEST", `${what} needs the feature "${feature}", which was not negotiated.`, {
      details: { feature },
    });
  }

  /**
   * What the store keeps: the job gets its input as it was given, what is kept has no secret in it (law 8).
   *
   * @throws ArcpError INVALID_REQUEST when the store would have to keep too much (JOB-19)
   */
  #input(value: unknown): string {
    const { maxInputBytes } = this.#parts.settings;
    const input = JSON.stringify(value);
    const bytes = Buffer.byteLength(input);
    if (bytes > maxInputBytes) {
      throw new ArcpError("INVALID_REQUEST", `payload.input: takes ${bytes} bytes; at most ${maxInputBytes} fit.`, {
        details: { limit: maxInputBytes },
      });
    }
    return this.#parts.masking.json(input);
  }

  /** @throws ArcpError LIMIT_EXCEEDED when the session follows as many jobs as it may (SES-18) */
  #roomToFollow(jobId?: string): void {
    const { maxFollowsPerSession } = this.#parts.settings;
    if (this.#parts.tail.hasRoom(maxFollowsPerSession, jobId)) return;
    throw ArcpError.detail(
      "LIMIT_EXCEEDED",
      `A session follows at most ${maxFollowsPerSession} jobs at a time; let some end or unsubscribe from them.`,
      { retry_after_ms: RETRY_AFTER_MS, limit: maxFollowsPerSession },
    );
  }

  /** What the job may do: what is asked for, in canonical form, if the policy grants it (LEA-1, JOB-9). */
  #lease(request: Lease, agent: ResolvedAgent): Lease {
    const field = "payload.lease_request";
    const lease = parseLease(request, field);
    for (const feature of ["cost.budget", "model.use"] as const) {
      this.#needs(feature, Object.hasOwn(lease, feature), `${field}["${feature}"]`);
    }
    return this.#granted(lease, agent);
  }

  #granted(lease: Lease, agent: ResolvedAgent): Lease {
    const { session, settings } = this.#parts;
    return grantedLease(lease, settings.policy(session.principal, agent.name), "payload.lease_request");
  }

  #traceId(envelope: Envelope): string {
    return envelope.trace_id ?? newTraceId();
  }

  // ------------------------------------------------------------------------- cancel, subscribe, list

  async #cancel(envelope: Envelope, payload: RequestPayload<"job.cancel">, slot: ReplySlot): Promise<void> {
    const { settings, replies, jobs, masking } = this.#parts;
    const jobId = envelope.job_id ?? payload.job_id;
    if (jobId === undefined) {
      throw new ArcpError("INVALID_REQUEST", "job_id: missing; name the job in the envelope or in payload.job_id.");
    }
    const reason = payload.reason === undefined ? undefined : masking.text(payload.reason);
    await settings.viewing.visible(this.#parts.session.principal, jobId);
    const result = await settings.store.requests.cancel({
      ...this.#ref(envelope),
      jobId,
      reason,
      cancelledPayload: cancelledPayload(reason),
      reply: (outcome) => ({ frame: this.#cancelReply(envelope, jobId, reason, outcome) }),
    });
    replies.settle(slot, result.frame);
    if (result.outcome === "requested") jobs.cancel(jobId, reason);
    if (result.outcome === "ended") this.#parts.ended([jobId]);
  }

  #cancelReply(envelope: Envelope, jobId: string, reason: string | undefined, outcome: CancelOutcome): string {
    if (outcome.outcome === "not_submitter") {
      const error = new ArcpError("PERMISSION_DENIED", "Only the session that submitted a job may cancel it.");
      return this.#jobError(envelope, error, { job_id: jobId });
    }
    const payload = {
      job_id: jobId,
      ...(reason === undefined ? {} : { reason }),
      ...(outcome.outcome === "already_ended" ? { final_status: outcome.status } : {}),
    };
    return this.#frame("job.cancelled", envelope, payload, { job_id: jobId });
  }

  /**
   * Cancels without the store, which does not answer: the agent's signal needs none, and the job's end is
   * stored when there is one again (STO-12). Only a job that runs here and that this session submitted.
   */
  #cancelHere(envelope: Envelope, slot: ReplySlot): boolean {
    const { replies, tail, jobs, nodeId } = this.#parts;
    const { job_id: named, reason } = envelope.payload;
    const jobId = envelope.job_id ?? named;
    const why = typeof reason === "string" ? reason : undefined;
    if (typeof jobId !== "string" || !tail.mayCancel(jobId) || !jobs.cancel(jobId, why)) return false;
    replies.settle(slot, this.#cancelReply(envelope, jobId, why, { outcome: "requested", nodeId: nodeId() }));
    return true;
  }

  async #subscribe(envelope: Envelope, payload: RequestPayload<"job.subscribe">, slot: ReplySlot): Promise<void> {
    const { session, settings, replies, tail, logger } = this.#parts;
    const { principal } = session;
    const asker = { principal, operator: this.#parts.role === "operator" };
    const job = await settings.viewing.observable(asker, payload.job_id);
    this.#roomToFollow(job.jobId);
    const credentials = await this.#parts.credentials.view(job.jobId, session);
    const result = await settings.store.requests.follow({
      ...this.#ref(envelope),
      abandoned: () => slot.settled,
      jobId: job.jobId,
      history: payload.history ?? false,
      fromEventSeq: payload.from_event_seq,
      reply: (outcome) => ({ frame: this.#subscribed(envelope, job, payload, outcome, credentials) }),
    });
    if (result.outcome === "followed") {
      const { jobId, principal: owner } = job;
      logger.info(
        { audit: "job.subscribe", principal: session.principal, session_id: session.sessionId, job_id: jobId, owner },
        "a session follows a job",
      );
    }
    replies.settle(slot, result.frame, () => {
      if (result.outcome !== "followed") return;
      tail.follow({ jobId: job.jobId, traceId: job.traceId, positionN: result.positionN, canCancel: result.canCancel });
    });
  }

  #subscribed(
    envelope: Envelope,
    job: JobRecord,
    request: RequestPayload<"job.subscribe">,
    outcome: FollowOutcome,
    credentials: readonly Credential[] | undefined,
  ): string {
    const payload: Stored<SubscribedPayload> = {
      job_id: job.jobId,
      current_status: outcome.status,
      agent: job.agent,
      lease: job.lease,
      ...(job.leaseExpiresAt === undefined
        ? {}
        : { lease_constraints: { expires_at: new Date(job.leaseExpiresAt).toISOString() } }),
      ...budgetOf(job.lease),
      ...(credentials === undefined ? {} : { credentials: credentials.map(withoutValue) }),
      parent_job_id: job.parentJobId ?? null,
      trace_id: job.traceId,
      subscribed_from: outcome.subscribedFrom,
      replayed: (request.history ?? false) && !outcome.already,
    };
    return this.#frame("job.subscribed", envelope, payload, { job_id: job.jobId, trace_id: job.traceId });
  }

  async #unsubscribe(envelope: Envelope, payload: RequestPayload<"job.unsubscribe">, slot: ReplySlot): Promise<void> {
    const { settings, replies, tail } = this.#parts;
    const left = tail.unfollow(payload.job_id);
    const stay = () => {
      if (left !== undefined) tail.follow(left);
    };
    try {
      const result = await settings.store.requests.unfollow({ ...this.#ref(envelope), jobId: payload.job_id });
      // A repeat was carried out when it first came; a follow that began since is another one.
      if (result.outcome === "duplicate") stay();
    } catch (error) {
      stay();
      throw error;
    }
    replies.settle(slot, undefined);
  }

  async #list(envelope: Envelope, payload: RequestPayload<"session.list_jobs">, slot: ReplySlot): Promise<void> {
    const { session, settings, replies } = this.#parts;
    await this.#note(envelope, undefined);
    const { filter } = payload;
    const page = await settings.viewing.list(session.principal, {
      status: filter?.status,
      agent: filter?.agent,
      createdAfter: filter?.created_after === undefined ? undefined : Date.parse(filter.created_after),
      createdBefore: filter?.created_before === undefined ? undefined : Date.parse(filter.created_before),
      limit: payload.limit ?? DEFAULT_PAGE,
      cursor: payload.cursor ?? undefined,
    });
    const jobs: JobsPayload = {
      request_id: envelope.id,
      jobs: page.jobs.map((job) => ({
        job_id: job.jobId,
        agent: job.agent,
        status: job.status,
        lease: job.lease,
        parent_job_id: job.parentJobId ?? null,
        created_at: new Date(job.createdAt).toISOString(),
        trace_id: job.traceId,
        last_event_seq: job.lastEventSeq,
      })),
      next_cursor: page.nextCursor ?? null,
    };
    replies.settle(slot, this.#frame("session.jobs", envelope, jobs));
  }

  // ----------------------------------------------------------------------------- answers, extensions

  async #answer(
    envelope: Envelope,
    payload: RequestPayload<"x-vendor.holdfast.answer">,
    slot: ReplySlot,
  ): Promise<void> {
    const { session, answering, replies } = this.#parts;
    const { job_id: jobId, question_id: questionId, answer } = payload;
    const accepted = { job_id: jobId, question_id: questionId, outcome: "accepted" };
    const frame = await answering.fromSession(
      this.#ref(envelope),
      { asker: session.principal, jobId, questionId, answer },
      {
        accepted: () => this.#frame("x-vendor.holdfast.answered", envelope, accepted, { job_id: jobId }),
        refused: (error) => this.#sessionError(envelope, error),
      },
    );
    replies.settle(slot, frame);
  }

  async #extension(type: VendorType, envelope: Envelope, slot: ReplySlot): Promise<void> {
    const { session, settings, extensions, desk, replies, masking } = this.#parts;
    const { principal, sessionId } = session;
    const context = {
      principal,
      sessionId,
      requestId: envelope.id,
      job: (jobId: string) => desk.get(jobId, principal),
    };
    const frame = await extensions.carryOut(
      settings.store.requests,
      { ref: this.#ref(envelope), type, payload: envelope.payload, context },
      (answer, payload) => masking.json(this.#frame(answer, envelope, payload)),
    );
    replies.settle(slot, frame);
  }

  /** What a request is told that has not been carried out in time: mostly it waits for the store. */
  #silence(type: Handled): Error {
    const { settings, extensions } = this.#parts;
    const limitMs = settings.storeTimeoutMs;
    if (!extensions.has(type)) return new StoreUnavailable(`the store has not answered for ${limitMs} ms`);
    return new ArcpError("TIMEOUT", `No answer within ${limitMs} ms; send the same message again to be given it.`);
  }

  // ---------------------------------------------------------------------------------------- answers

  /** A request could not be carried out. */
  #failed(type: Handled, envelope: Envelope, slot: ReplySlot, cause: unknown): void {
    const { replies, logger, session } = this.#parts;
    if (cause instanceof StoreRefusal && cause.reason === "superseded") {
      replies.settle(slot, undefined);
      this.#parts.superseded();
      return;
    }
    // It was answered when it had waited too long.
    if (cause instanceof StoreRefusal && cause.reason === "abandoned") return;
    let error: ArcpError;
    if (cause instanceof ArcpError) {
      error = cause;
    } else if (cause instanceof StoreUnavailable) {
      this.#parts.stats.storeErrors.request += 1;
      logger.error({ err: cause, session_id: session.sessionId, type }, "store unavailable");
      if (type === "job.cancel" && this.#cancelHere(envelope, slot)) return;
      error = storeUnavailable();
    } else {
      logger.error({ err: cause, session_id: session.sessionId, type }, "request failed");
      error = new ArcpError("INTERNAL_ERROR", "The runtime failed on this request; its log says why.");
    }
    replies.settle(slot, this.#errorFrame(type, envelope, error));
  }

  /** Answers a request that was understood and is not carried out; a repeat gets the same answer. */
  async #refuse(envelope: Envelope, slot: ReplySlot, refusal: string): Promise<void> {
    const frame = this.#parts.masking.json(refusal);
    const noted = await this.#note(envelope, frame);
    this.#parts.replies.settle(slot, noted.outcome === "duplicate" ? noted.frame : frame);
  }

  #errorFrame(type: Handled, envelope: Envelope, error: ArcpError): string {
    switch (type) {
      case "job.submit":
        return this.#rejection(envelope, this.#traceId(envelope), error);
      case "job.cancel": {
        const named = envelope.job_id ?? envelope.payload["job_id"];
        return this.#jobError(envelope, error, { job_id: typeof named === "string" ? named : newJobId() });
      }
      default:
        return this.#sessionError(envelope, error);
    }
  }

  #note(envelope: Envelope, frame: string | undefined) {
    return this.#parts.settings.store.requests.note({ ...this.#ref(envelope), frame });
  }

  #ref(envelope: Envelope): RequestRef {
    const { session, clock } = this.#parts;
    return {
      sessionId: session.sessionId,
      connectionEpoch: session.connectionEpoch,
      messageId: envelope.id,
      now: clock.wall(),
    };
  }

  #sessionError(envelope: Envelope, error: ArcpError): string {
    return this.#frame("session.error", envelope, {
      ...namingRequest(error, envelope).toPayload(),
      request_id: envelope.id,
    });
  }

  #jobError(envelope: Envelope, error: ArcpError, ids: { job_id: string; trace_id?: string }): string {
    return this.#frame("job.error", envelope, jobErrorPayload(namingRequest(error, envelope)), ids);
  }

  #frame(
    type: string,
    request: Envelope,
    payload: object,
    rest: { job_id?: string; trace_id?: string; extensions?: Record<string, unknown> } = {},
  ): string {
    return encodeMessage({
      id: newMessageId(),
      type,
      session_id: this.#parts.session.sessionId,
      ...(rest.trace_id === undefined && request.trace_id !== undefined ? { trace_id: request.trace_id } : {}),
      ...rest,
      extensions: { [IN_REPLY_TO]: request.id, ...rest.extensions },
      payload,
    });
  }
}

/** An INVALID_REQUEST says in its details which request it is about (ENV-3). */
function namingRequest(error: ArcpError, envelope: Envelope): ArcpError {
  if (error.code !== "INVALID_REQUEST" || error.details?.["request_id"] !== undefined) return error;
  return new ArcpError(error.code, error.message, { details: { ...error.details, request_id: envelope.id } });
}

const placeForWire = (place: TurnPlace) => ({
  conversation_id: place.conversationId,
  created: place.created,
  state: place.state,
  ...(place.state === "queued" ? { place: place.place } : {}),
});

/** Of a message that had its turn before. */
const repeatForWire = (turn: NewTurn) => ({
  conversation_id: turn.conversation.conversationId,
  created: false,
  state: "repeated",
});

const storeUnavailable = (): ArcpError =>
  ArcpError.detail("STORE_UNAVAILABLE", "The store did not answer; nothing was done. Try again.");

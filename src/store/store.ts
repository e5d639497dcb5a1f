/**
 * The store: semantic operations, each one atomic, behind which the engine is out of sight. Two
 * promises carry the laws (ARCHITECTURE.md): what belongs together commits together, and a stale
 * actor is refused here, whatever it believes (SPEC.md, STO).
 *
 * Conventions. Ids are the wire's strings. Times are wall milliseconds of the injected clock. Sizes
 * are UTF-8 bytes. `payload` and `frame` are JSON text, stored and returned as they are. An operation
 * rejects with {@link StoreRefusal} when a precondition fails (nothing was written) and with
 * {@link StoreUnavailable} when the engine failed or was busy too long (nothing was written, unless
 * the operation's identity makes a repeat harmless, which is said there).
 */
import type { FinalStatus, JobStatus, Lease } from "../protocol/index.ts";
import type { BindingFacet } from "./bindings.ts";
import type { ClaimedTurn, ConversationFacet, NewTurn, TurnClaim, TurnPlace, TurnRefusal } from "./conversations.ts";
import type { CredentialFacet } from "./credentials.ts";
import type { DeliveryFacet } from "./deliveries.ts";
import type { JobStart, JobStartOutcome } from "./job-start.ts";
import type { ClaimedJob, NewJob } from "./new-job.ts";
import type { PassFacet } from "./passes.ts";
import type { QuestionFacet } from "./questions.ts";
import type { Abandonable, ConnectionRef, Duplicate, ReplyDraft, RequestRef } from "./request.ts";
import type { RouteFacet } from "./routes.ts";
import type { SessionListPage, SessionListQuery } from "./session-list.ts";

export * from "./bindings.ts";
export * from "./conversations.ts";
export * from "./credentials.ts";
export * from "./deliveries.ts";
export * from "./job-start.ts";
export * from "./new-job.ts";
export * from "./passes.ts";
export * from "./questions.ts";
export * from "./request.ts";
export * from "./routes.ts";
export * from "./session-list.ts";

/** `"process"` survives a crash of the process; `"power"` is on disk before the promise resolves. */
export type Durability = "process" | "power";

/** Why an operation was refused. */
export type RefusalReason =
  /** The session has a newer connection (its `connectionEpoch` grew). */
  | "superseded"
  | "unknown_session"
  /** Detached for longer than its resume window. */
  | "window_over"
  | "unknown_token"
  /** The session is another principal's. */
  | "other_principal"
  /** `lastEventSeq` is above the newest that was ever given. */
  | "seq_above_newest"
  /** `lastEventSeq` is below what is still kept. */
  | "below_floor"
  /** A hello of the same client instance with a lower attempt than one already seen. */
  | "stale_attempt"
  | "unknown_job"
  /** The job's `runEpoch` grew: this attempt is over. */
  | "stale_run"
  /** The job has its terminal event. */
  | "job_ended"
  /** The number is neither the next nor stored under the same identity. */
  | "wrong_number"
  | "limit_exceeded"
  /** Its sender was told meanwhile that nothing was done. */
  | "abandoned"
  /** The cursor is none that a list has given. */
  | "bad_cursor"
  | "unknown_conversation"
  /** Somebody holds its lock, or turns wait. */
  | "conversation_busy"
  | "not_locked"
  | "unknown_delivery"
  /** A delivery is in a state from which this is not done. */
  | "wrong_state"
  /** The node was declared dead. */
  | "dead_node";

export class StoreRefusal extends Error {
  override readonly name = "StoreRefusal";
  readonly reason: RefusalReason;
  constructor(reason: RefusalReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

export class StoreUnavailable extends Error {
  override readonly name = "StoreUnavailable";
}

// ---------------------------------------------------------------------------------------- sessions

/** Which try of which client instance a hello is; a lower attempt cannot evict a higher one (RES-8). */
export interface ClientInstance {
  instance: string;
  attempt: number;
}

export interface NewSession {
  sessionId: string;
  principal: string;
  clientName: string;
  clientVersion: string;
  /** The negotiated features, fixed from now on. */
  features: readonly string[];
  /** SHA-256 of the first resume token. */
  tokenHash: Uint8Array;
  nodeId: string;
  resumeWindowMs: number;
  instance?: ClientInstance | undefined;
  now: number;
  /** Sessions of one principal that can still be resumed; more are refused `limit_exceeded`. */
  maxSessionsPerPrincipal: number;
}

export interface AttachRequest {
  sessionId: string;
  principal: string;
  /** SHA-256 of the token that the client presented. */
  presentedTokenHash: Uint8Array;
  /** SHA-256 of the token that this welcome will issue. */
  nextTokenHash: Uint8Array;
  lastEventSeq: number;
  nodeId: string;
  instance?: ClientInstance | undefined;
  now: number;
}

/** A session's interest in a job's log, with how far its events have been numbered. */
export interface Follow {
  jobId: string;
  traceId: string;
  /** Every event with n ≤ this was numbered (or left out for want of a feature). */
  positionN: number;
  /** Whether the session may cancel the job: it submitted it. */
  canCancel: boolean;
}

/** What a connection works from: the session as of its welcome. */
export interface AttachedSession extends ConnectionRef {
  principal: string;
  clientName: string;
  features: string[];
  /** The newest `event_seq` that was given; 0 for none. */
  lastSeq: number;
  ackedSeq: number;
  /** Open follows, in the order in which they began. */
  follows: Follow[];
  /** Frames of replies that nothing proves to have arrived, in order (RES-10). */
  unprovenReplies: string[];
  /** Whether some frames tell of children whose parent's event has a number that the client does not know of yet. */
  owesChildren: boolean;
}

/** What may not have arrived. */
export type OwedReplies = Pick<AttachedSession, "unprovenReplies" | "owesChildren">;

/**
 * A stretch of one job's log under numbers of one session (law 2). `count` of the events
 * `firstN…lastN` are visible to the session; they carry `firstSeq … firstSeq + count - 1`.
 */
export interface Run {
  firstSeq: number;
  count: number;
  jobId: string;
  firstN: number;
  lastN: number;
}

export interface NewRun extends Run {
  /** True when the last event is the job's terminal one: the follow ends with this run. */
  endsFollow: boolean;
  /** The `delegate_id` of each `delegate` event among them: a session that may cancel the job follows its children. */
  delegateIds?: readonly string[] | undefined;
}

/** A job that was delegated, as its parent's submitter is told of it. */
export interface DelegatedJob {
  jobId: string;
  traceId: string;
  /** JSON text of the `job.accepted` payload. */
  acceptedPayload: string;
}

/** A child that a session follows from now on, and the answer that it is owed. */
export interface OpenedChild {
  jobId: string;
  traceId: string;
  frame: string;
}

/** A run as read back: with the job's trace id, which its envelopes carry. */
export interface StoredRun extends Run {
  traceId: string;
  /** The payload of a notice: a message of this session alone, without n (`firstN` and `lastN` are 0). */
  notice: string | undefined;
}

/** One numbered `job.event` of one session alone, under a job that it follows. */
export interface NewNotice {
  seq: number;
  jobId: string;
  /** JSON text of the wire payload. */
  payload: string;
  /** Where given, the follow goes on behind this n: the events up to it are gone. */
  skipToN?: number | undefined;
}

// -------------------------------------------------------------------------------- requests, replies

export interface SubmitRequest extends RequestRef, Abandonable {
  principal: string;
  /** The node that will run the job. */
  nodeId: string;
  job: NewJob;
  /** JSON text of the `job.accepted` payload. */
  acceptedPayload: string;
  idempotency?: { key: string; digest: string; ttlMs: number } | undefined;
  maxRunningJobsPerPrincipal: number;
  /** Where the job is a turn of a conversation. */
  turn?: NewTurn | undefined;
  /** Frames the reply. Pure, called inside the transaction. */
  reply(outcome: SubmitOutcome): ReplyDraft;
}

export type SubmitOutcome =
  /**
   * The job is stored as running, owned by `nodeId`, with `runEpoch` 1; or, as a turn that waits, as pending.
   */
  | { outcome: "created"; place?: TurnPlace | undefined }
  | { outcome: "turn_refused"; refusal: TurnRefusal }
  /** Same key, same digest: the job of the first submit, which this session follows from its first kept event. */
  | { outcome: "repeated"; jobId: string; traceId: string; positionN: number; acceptedPayload: string }
  /** The message had its turn, which is another principal's: nothing is followed. */
  | { outcome: "foreign_message" }
  | { outcome: "duplicate_key" }
  | { outcome: "limit_exceeded" };

export interface FollowRequest extends RequestRef, Abandonable {
  jobId: string;
  /** Whether stored events are wanted. */
  history: boolean;
  /** In the submitting session's sequence; with `history` only. Absent: from the first. */
  fromEventSeq?: number | undefined;
  reply(outcome: FollowOutcome): ReplyDraft;
}

export interface FollowOutcome {
  outcome: "followed";
  status: JobStatus;
  /** True when a follow of this job was already open: it goes on unchanged. */
  already: boolean;
  /** Whether the session may cancel the job: it submitted it once, and that right stays. */
  canCancel: boolean;
  /** Events with n > this will be delivered by the follow. */
  positionN: number;
  /** The submitting session's number of the first event that is delivered, or would be. */
  subscribedFrom: number;
  traceId: string;
}

export interface CancelRequest extends RequestRef {
  jobId: string;
  reason: string | undefined;
  /** JSON text of the `job.error` with which a job ends that waits for its turn. */
  cancelledPayload: string;
  reply(outcome: CancelOutcome): ReplyDraft;
}

export type CancelOutcome =
  | CancelWish
  /** The session did not submit the job. */
  | { outcome: "not_submitter" };

export type CancelWish =
  /** The wish is stored; `nodeId` runs the job and must stop it. */
  | { outcome: "requested"; nodeId: string }
  /** It waited for its turn, and has ended with this. */
  | { outcome: "ended" }
  | { outcome: "already_ended"; status: FinalStatus };

// --------------------------------------------------------------------------------------------- jobs

export interface NewEvent {
  /** 1, 2, 3 … given by the running attempt. */
  n: number;
  /** An event kind, or `job.result` / `job.error` for the terminal one. */
  kind: string;
  /** JSON text of the wire payload. */
  payload: string;
}

/** A job that a running job delegates. */
export interface NewChild {
  parentJobId: string;
  /** Of the parent: a stale attempt delegates nothing. */
  runEpoch: number;
  delegateId: string;
  job: NewJob;
  /** JSON text of the `job.accepted` payload. */
  acceptedPayload: string;
  maxRunningJobsPerPrincipal: number;
  now: number;
}

export interface AppendBatch {
  jobId: string;
  runEpoch: number;
  /** Consecutive n. A terminal event comes last and needs `end`. */
  events: readonly NewEvent[];
  /** The final status that the terminal event brings; commits with it and bumps `runEpoch`. */
  end?: FinalStatus | undefined;
  /** With `end`: who takes the next turn of the conversation whose turn this ends. */
  handOver?: Omit<TurnClaim, "now"> | undefined;
  now: number;
}

/** Each batch stands or falls alone (law 3). */
export type AppendResult =
  /** `next`: the turn that was handed over; it is stored as running here. */
  { ok: true; next?: ClaimedTurn | undefined } | { ok: false; refusal: StoreRefusal };

export interface StoredEvent extends NewEvent {
  runEpoch: number;
}

export interface EventPage {
  /** Consecutive n, the first is `afterN + 1`; empty when nothing newer is stored. */
  events: StoredEvent[];
}

export interface JobRecord {
  jobId: string;
  principal: string;
  /** The submitting session, while it can be resumed. */
  sessionId: string | undefined;
  agent: string;
  lease: Lease;
  leaseExpiresAt: number | undefined;
  parentJobId: string | undefined;
  traceId: string;
  status: JobStatus;
  runEpoch: number;
  nodeId: string;
  createdAt: number;
  endedAt: number | undefined;
  lastN: number;
  /** Events with n ≤ this are gone. */
  floorN: number;
  cancelRequested: boolean;
}

export interface ListQuery {
  /** Only jobs of this principal; `undefined`: everybody's. */
  principal: string | undefined;
  status?: readonly JobStatus[] | undefined;
  /** `name` (any version) or `name@version`. */
  agent?: string | undefined;
  /** Wall milliseconds, exclusive. */
  createdAfter?: number | undefined;
  /** Wall milliseconds, exclusive. */
  createdBefore?: number | undefined;
  /** 1 to 1000. */
  limit: number;
  /** What the page before ended with. It stays good while jobs come and go. */
  cursor?: string | undefined;
}

export interface ListEntry extends JobRecord {
  /** The submitting session's number of the newest numbered event, else 0. */
  lastEventSeq: number;
  /** A list from here goes on behind this job. */
  cursor: string;
}

/** Newest first. */
export interface ListPage {
  jobs: ListEntry[];
  /** Present when there is more. */
  nextCursor: string | undefined;
}

// -------------------------------------------------------------------------------------------- nodes

/** One process start that serves or runs jobs. */
export interface NodeRecord {
  nodeId: string;
  pid: number;
  host: string;
  startedAt: number;
  /** Grows with every heartbeat. */
  heartbeat: number;
  state: "alive" | "dead" | "left";
  /** `true`: the kernel proves that the process is gone; `undefined`: the engine has no such proof. */
  provenDead: boolean | undefined;
}

/** How a dead node's jobs end: the JSON text of the `job.error` payload; or of the `status` of one that is given back. */
/** What an operator sees of a node. */
export interface NodeCensus extends NodeRecord {
  /** Of the build; empty where it was not told. */
  version: string;
  /** Wall time of its last heartbeat, by its own clock. */
  beatenAt: number;
  /** Wall time since when it is dead or has left. */
  overAt: number | undefined;
  /** Jobs that it runs, and sessions whose connection it serves. */
  jobs: number;
  sessions: number;
}

/** How the nodes of a store are, and what waits for them. */
export interface StoreCensus {
  /** Wall time of the store's clock. */
  now: number;
  /** The newest migration that was applied. */
  schema: { number: number; name: string };
  /** Alive, dead, and for a day those that have left. */
  nodes: NodeCensus[];
  /** Jobs that were given back and that nobody runs, and conversations with turns whose lock is free. */
  waitingJobs: number;
  waitingConversations: number;
  /** Locks that have expired and that nobody has taken or freed. */
  expiredLocks: number;
  failedDeliveries: number;
}

export interface Burial {
  nodeId: string;
  /** The heartbeat value that was seen; a node that has beaten since is left alone. */
  heartbeat: number;
  jobErrorPayload: string;
  /** Absent: all of them end. */
  givenBackPayload?: string | undefined;
  now: number;
}

// -------------------------------------------------------------------------------------------- sweep

/** What a node asks once a second: the newest state of all that it has in hand (law 4). */
export interface SweepQuery {
  sessionIds: readonly string[];
  jobIds: readonly string[];
  /** False where a hint named the ids: such an answer says nothing about the rest. */
  complete: boolean;
  /** Whose work the node would take. Left out: it is not asked for. */
  takes?: { agents: readonly string[]; channels: readonly string[]; now: number } | undefined;
}

export interface SweepAnswer {
  sessions: { sessionId: string; connectionEpoch: number }[];
  jobs: {
    jobId: string;
    lastN: number;
    status: JobStatus;
    runEpoch: number;
    cancelReason: string | null | undefined;
    /** How many of the questions that it asked were ever answered. */
    answers: number;
  }[];
  /**
   * Whether there is something for the node to claim: a job that was given back, a queue whose lock is free, an answer
   * that is due. True may be said in vain. Left out: the store does not say, and the node looks.
   */
  waiting?: { jobs: boolean; turns: boolean; deliveries: boolean } | undefined;
}

// -------------------------------------------------------------------------------------------- hints

/** Another process has changed something (law 4). Carries no data, and may be lost. */
export type Hint = { sessionId: string } | { jobId: string };

// ---------------------------------------------------------------------------------------- retention

export interface RetentionPolicy {
  /** How long an ended job is kept. */
  jobRetentionMs: number;
  /** Events and payload bytes that one job may keep; above, the oldest go. */
  maxEventsPerJob: number;
  maxBytesPerJob: number;
  /** Payload bytes that all jobs together may keep; `undefined`: no cap. */
  maxBytesPerStore: number | undefined;
  /** Routes that are kept; above, what was written longest ago goes. @default {@link MAX_STORED_ROUTES} */
  maxRoutes?: number | undefined;
  /** Logins and tickets that are kept; above, the oldest go. @default {@link MAX_STORED_PASSES} */
  maxPasses?: number | undefined;
  /** How long a conversation is kept after its last turn was added; `undefined`: for ever. */
  conversationRetentionMs?: number | undefined;
  now: number;
}

/** What one step removed. */
export interface RetentionStep {
  events: number;
  jobs: number;
  sessions: number;
  /** Whether there is something left for another step. */
  more: boolean;
}

// ---------------------------------------------------------------------------------------- the store

export interface SessionFacet {
  /** Stores a session at `connectionEpoch` 1. @throws StoreRefusal limit_exceeded, dead_node */
  create(session: NewSession): Promise<AttachedSession>;
  /**
   * Gives the session to a new connection: checks principal, token, window, number and instance, bumps
   * the epoch, retires the tokens issued before the presented one, keeps the newest seven after it.
   *
   * @throws StoreRefusal unknown_session, unknown_token, other_principal, window_over, stale_attempt,
   *   seq_above_newest, below_floor, dead_node
   */
  attach(request: AttachRequest): Promise<AttachedSession>;
  /** Starts the resume window. Does nothing for a connection that is no longer the newest. */
  detach(ref: ConnectionRef, now: number): Promise<void>;
  /**
   * Stores what is about to be sent; the runs continue the session's numbers without a gap, moves the
   * follows and ends those that reached their terminal event. Where the runs hold `delegate` events of a job
   * that the session may cancel, the children's follows are opened, and what tells of them is stored as a
   * reply that is owed.
   *
   * @param frameChild frames a child's `job.accepted`. Pure, called inside the transaction
   * @returns the children that this opened
   * @throws StoreRefusal superseded, wrong_number; below_floor when events of a run were trimmed meanwhile
   */
  storeRuns(
    ref: ConnectionRef,
    runs: readonly NewRun[],
    frameChild: (child: DelegatedJob) => string,
  ): Promise<OpenedChild[]>;
  /**
   * Gives the session's next number to a notice.
   *
   * @throws StoreRefusal superseded, wrong_number
   */
  storeNotice(ref: ConnectionRef, notice: NewNotice): Promise<void>;
  /** Runs that hold numbers above `afterSeq`, in order, at most `limit`. @throws StoreRefusal superseded */
  readRuns(ref: ConnectionRef, afterSeq: number, limit: number): Promise<StoredRun[]>;
  /**
   * Frames that tell of children, in order, and may not have arrived: those whose parents' events have numbers from
   * `afterSeq + 1` to `throughSeq`. There is at most one for each of these events. @throws StoreRefusal superseded
   */
  readChildren(ref: ConnectionRef, afterSeq: number, throughSeq: number): Promise<string[]>;
  /** Lower than before, or above the newest: ignored, and answered `false`. @throws StoreRefusal superseded */
  ack(ref: ConnectionRef, seq: number): Promise<boolean>;
  /** Sessions that can be resumed or have a connection. @throws StoreRefusal bad_cursor */
  list(query: SessionListQuery): Promise<SessionListPage>;
}

/** The requests of a session. Each checks the fence, then the identity, then does all or nothing. */
export interface RequestFacet {
  /** Stores job, follow, idempotency row and reply in one commit (law 6). @throws StoreRefusal superseded, dead_node, abandoned */
  submit(request: SubmitRequest): Promise<(SubmitOutcome & { frame: string }) | Duplicate>;
  /** Opens a follow. @throws StoreRefusal superseded, unknown_job, abandoned */
  follow(request: FollowRequest): Promise<(FollowOutcome & { frame: string }) | Duplicate>;
  /** Ends a follow; ending one that is not there is fine. @throws StoreRefusal superseded */
  unfollow(request: RequestRef & { jobId: string }): Promise<{ outcome: "unfollowed" } | Duplicate>;
  /** @throws StoreRefusal superseded, unknown_job */
  cancel(request: CancelRequest): Promise<(CancelOutcome & { frame: string }) | Duplicate>;
  /**
   * Takes note of a request that changes nothing here, with its reply when it is to be given again.
   *
   * @throws StoreRefusal superseded
   */
  note(request: RequestRef & { frame?: string | undefined }): Promise<{ outcome: "noted" } | Duplicate>;
  /** What a request came to that was processed before; `undefined` for one that was not. @throws StoreRefusal superseded */
  find(request: RequestRef): Promise<Duplicate | undefined>;
}

export interface JobFacet {
  /**
   * Appends to logs. A batch whose every `(job, n, runEpoch)` is stored has succeeded, whatever the
   * epoch is now, so a repeat after an unclear commit is a no-op (law 2).
   * Results in the order of `batches`; refusals: unknown_job, stale_run, job_ended, wrong_number.
   */
  append(batches: readonly AppendBatch[]): Promise<AppendResult[]>;
  /**
   * Events with n > `afterN`, in order: at most 512, at most 1 MiB unless the first alone is larger,
   * none above `throughN`.
   *
   * @throws StoreRefusal unknown_job; below_floor when `afterN + 1` is gone
   */
  read(jobId: string, afterN: number, throughN?: number): Promise<EventPage>;
  get(jobId: string): Promise<JobRecord | undefined>;
  /** @throws StoreRefusal bad_cursor */
  list(query: ListQuery): Promise<ListPage>;
  /**
   * Stores a job that a running job delegates, as running on the parent's node at `runEpoch` 1. Nobody follows
   * it yet: a session does when the parent's `delegate` event gets its number.
   *
   * @throws StoreRefusal unknown_job, stale_run, job_ended, limit_exceeded
   */
  spawn(child: NewChild): Promise<void>;
  /** The jobs that a job delegated, and those that these delegated, while they are kept. */
  descendants(jobId: string): Promise<string[]>;
  /**
   * Keeps what the next attempt is to begin with, in the place of what was kept before.
   *
   * @param value JSON text
   * @throws StoreRefusal unknown_job, stale_run, job_ended
   */
  checkpoint(given: { jobId: string; runEpoch: number; value: string }): Promise<void>;
  /**
   * Ends an attempt and not its job, which waits for whoever claims it: `runEpoch` grows, and the log gets the
   * given `status` event. A turn gives its lock free and is the head of its conversation's queue.
   *
   * @throws StoreRefusal unknown_job, stale_run, job_ended
   */
  giveBack(given: { jobId: string; runEpoch: number; payload: string }): Promise<void>;
  /**
   * Takes jobs that were given back and are no turns, at most `limit`, the oldest first.
   *
   * @throws StoreRefusal dead_node
   */
  claim(claim: { nodeId: string; agents: readonly string[]; limit: number }): Promise<ClaimedJob[]>;
  /**
   * Stores a job, and its key, for whoever has no session, as {@link RequestFacet.submit} does for one.
   *
   * @throws StoreRefusal dead_node
   */
  start(start: JobStart): Promise<JobStartOutcome>;
  /**
   * Stores the wish to cancel as {@link RequestFacet.cancel} does, for whoever has no session; who may wish
   * it is the caller's affair. Of several wishes the first one's reason counts, so a repeat changes nothing.
   *
   * @throws StoreRefusal unknown_job
   */
  requestCancel(wish: {
    jobId: string;
    reason: string | undefined;
    cancelledPayload: string;
    now: number;
  }): Promise<CancelWish>;
}

export interface NodeFacet {
  /** Enters the node and, where the engine can, takes the lock that the kernel frees at its death. */
  register(node: { nodeId: string; pid: number; host: string; version?: string; now: number }): Promise<void>;
  /** @returns false when the node was declared dead: it must drop all that it holds */
  beat(nodeId: string, now: number): Promise<boolean>;
  /** Nodes that are alive by their row, and those whose burial is not finished. */
  list(): Promise<NodeRecord[]>;
  /** For operators: it looks at more than {@link list}. */
  census(now: number): Promise<StoreCensus>;
  /**
   * Declares a node dead: fences it, detaches its sessions, ends its jobs with the given payload. A job that may be
   * run again (`NewJob.restarts`) and that nobody wants cancelled is given back instead, as in {@link JobFacet.giveBack}.
   * Works in steps of at most 64 jobs; call again while `more`. Exactly one caller ends each job.
   *
   * @returns the jobs this step ended, and those that it gave back
   */
  bury(burial: Burial): Promise<{ endedJobIds: string[]; givenBackJobIds: string[]; more: boolean }>;
  /** A graceful end: the node has no job left. Its sessions are detached. */
  leave(nodeId: string, now: number): Promise<void>;
}

export interface Store {
  readonly sessions: SessionFacet;
  readonly requests: RequestFacet;
  readonly jobs: JobFacet;
  readonly nodes: NodeFacet;
  readonly credentials: CredentialFacet;
  readonly conversations: ConversationFacet;
  readonly bindings: BindingFacet;
  readonly deliveries: DeliveryFacet;
  readonly questions: QuestionFacet;
  readonly routes: RouteFacet;
  readonly passes: PassFacet;
  /** Opens the engine and brings the schema up to date. Called once, before all else. */
  start(): Promise<void>;
  /**
   * One bounded query. Left out of the answer: rows that are unknown, and all of them where the engine
   * knows that nobody but this process has changed anything since the last sweep.
   */
  sweep(query: SweepQuery): Promise<SweepAnswer>;
  /**
   * One small step of the janitor's work, in one commit: sessions whose window is over, jobs whose
   * retention has passed and that no session owes an ack for, and the oldest events of jobs over a cap
   * (of the whole store: those that nobody owes an ack for first). A terminal event, and the chunks of a
   * result, are never removed for a cap. Floors are raised in the commit that deletes.
   */
  retain(policy: RetentionPolicy): Promise<RetentionStep>;
  /**
   * Calls `listener` for what other processes change, as soon as that can be known; changes of our own may be
   * told as well.
   *
   * @returns a function that ends it
   */
  onHint(listener: (hint: Hint) => void): () => void;
  /** Finishes what was begun and closes. Operations begun later reject with StoreUnavailable. */
  stop(): Promise<void>;
}

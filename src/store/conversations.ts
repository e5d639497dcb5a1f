/**
 * Conversations in the store: one row each, which is also where its lock lives, and the queue of its turns. All
 * that changes a conversation's lock or queue goes through its row, so nobody overtakes the queue's head, and a
 * stale holder is refused (law 3).
 *
 * A turn is a job with a place in a conversation. It is stored by `RequestFacet.submit` or `ConversationFacet.startTurn`;
 * its terminal event releases the lock and hands it to the next turn in the same commit (`AppendBatch.handOver`).
 */
import type { FinalStatus } from "../protocol/index.ts";
import type { NewDelivery } from "./deliveries.ts";
import type { ClaimedJob, NewJob } from "./new-job.ts";

export interface ConversationRecord {
  conversationId: string;
  /** `slack`, `web`, `cli` or the host's own. */
  source: string;
  /** JSON text of the key that it was made for; `undefined` for a fresh one. */
  key: string | undefined;
  /** Whose it is: its wire clients may use it. `undefined`: a channel's. */
  principal: string | undefined;
  /** Who spoke first. */
  userId: string;
  createdAt: number;
  /** When a turn was last added. */
  activeAt: number;
  lock: LockRecord | undefined;
  /** Turns that wait. */
  queued: number;
}

export interface LockRecord {
  holder: string;
  lockEpoch: number;
  nodeId: string;
  /** Of the node's process; `undefined` once the node is forgotten. */
  pid: number | undefined;
  host: string | undefined;
  acquiredAt: number;
  /** A lock whose expiry is now has expired. */
  expiresAt: number;
  /** The turn's job; `undefined` for a lock that somebody holds without one. */
  jobId: string | undefined;
}

/** What a conversation is made with. */
export interface NewConversation {
  conversationId: string;
  source: string;
  key: string | undefined;
  principal: string | undefined;
  userId: string;
  now: number;
}

/** Who asks for a lock. */
export interface LockClaim {
  conversationId: string;
  holder: string;
  nodeId: string;
  ttlMs: number;
  now: number;
}

/** The identity of a lock that is held. */
export interface LockRef {
  conversationId: string;
  holder: string;
  lockEpoch: number;
}

export type OnBusy = "reject" | "enqueue" | "interrupt";

/** A turn that is to be stored with its job. */
export interface NewTurn {
  conversation: NewConversation;
  onBusy: OnBusy;
  /** The channel's id of the message: the same one is one turn. */
  messageId: string | undefined;
  userId: string;
  /** Turns of one conversation that may wait. */
  maxQueued: number;
  ttlMs: number;
  /** JSON text of the `job.error` with which a turn ends whose expired lock is taken over. */
  lostPayload: string;
  /** Where the answer goes, if it goes anywhere but into the log. A message that comes again has no second one. */
  delivery?: NewDelivery | undefined;
}

/** What became of a turn that was stored. */
export type TurnPlace = {
  conversationId: string;
  /** Whether the conversation is new. */
  created: boolean;
  /** The job of a turn that was asked to stop for this one. */
  interrupted: string | undefined;
  /** The job of a turn whose expired lock was taken over; it has ended. */
  endedJobId: string | undefined;
} & (
  | { state: "running"; lockEpoch: number }
  /** `place` counts from 1, the next one to run. */
  | { state: "queued"; place: number }
);

/** Why a turn was not taken. */
export interface TurnRefusal {
  why: "busy" | "queue_full";
  conversationId: string;
  /** What runs now; `undefined` when somebody holds the lock without a turn. */
  jobId: string | undefined;
  holder: string | undefined;
}

/** A turn that is now this node's to run: its job is stored as running, the lock is its. */
export interface ClaimedTurn extends ClaimedJob {
  userId: string;
  conversationId: string;
  lockEpoch: number;
  ttlMs: number;
}

/** Who takes the next turn of a conversation whose lock is free. */
export interface TurnClaim {
  nodeId: string;
  /** `name@version` of the agents that it offers: others' turns are left to others. */
  agents: readonly string[];
  now: number;
}

/** A turn as it is shown. */
export interface TurnRecord {
  jobId: string;
  messageId: string | undefined;
  userId: string;
  agent: string;
  state: "queued" | "running" | "ended";
  /** Of a queued one, from 1. */
  place: number | undefined;
  status: "pending" | "running" | FinalStatus;
  lockEpoch: number | undefined;
  submittedAt: number;
}

/** A turn whose turn it is and that nobody runs. */
export interface UnservedTurn {
  jobId: string;
  /** `name@version` */
  agent: string;
  /** Another one later, where somebody took it in between and gave it back. */
  runEpoch: number;
}

export interface ConversationFacet {
  /**
   * The conversation of that id, made if it is not there. However many ask at once, one is told that it was
   * created.
   */
  resolve(conversation: NewConversation): Promise<{ conversation: ConversationRecord; created: boolean }>;
  get(conversationId: string): Promise<ConversationRecord | undefined>;
  /** Newest activity first. `lockedOnly`: those whose lock is held. `principal`: whose it is; absent: all. */
  list(query: {
    principal?: string | undefined;
    lockedOnly?: boolean | undefined;
    limit: number;
    cursor?: string | undefined;
  }): Promise<{ conversations: ConversationRecord[]; nextCursor: string | undefined }>;
  /** Running and queued turns, in order, then the newest ended ones. */
  turns(conversationId: string, limit: number): Promise<TurnRecord[]>;
  /**
   * Removes a conversation that nobody works on. Its jobs stay for as long as jobs are kept, with their deliveries.
   *
   * @throws StoreRefusal unknown_conversation; conversation_busy while its lock is held, turns wait, or answers are
   *   on their way
   */
  delete(conversationId: string, now: number): Promise<void>;

  /**
   * Takes the lock when it is free or expired and no turn waits; `undefined` on contention. Taking an expired one
   * over ends its turn's job with `lostPayload`.
   *
   * @throws StoreRefusal unknown_conversation, dead_node
   */
  acquire(
    claim: LockClaim & { lostPayload: string },
  ): Promise<{ lock: LockRecord; endedJobId: string | undefined } | undefined>;
  /** New expiries of the locks that are still held by these holders under these epochs; of others nothing. */
  refresh(
    refs: readonly LockRef[],
    ttlMs: number,
    now: number,
  ): Promise<{ conversationId: string; lockEpoch: number; expiresAt: number }[]>;
  /** False for a lock that is not held by that holder under that epoch any more; nothing is changed then. */
  release(ref: LockRef): Promise<boolean>;
  /**
   * The operator's way out: the lock is free, and its turn's job ends with the given payload.
   *
   * @returns the lock as it was
   * @throws StoreRefusal unknown_conversation, not_locked
   */
  breakLock(given: { conversationId: string; jobErrorPayload: string; now: number }): Promise<LockRecord>;

  /** Stores a turn for whoever has no session, as `RequestFacet.submit` does for one. @throws StoreRefusal dead_node */
  startTurn(given: {
    turn: NewTurn;
    principal: string;
    nodeId: string;
    job: NewJob;
    /** JSON text of the `job.accepted` payload. */
    acceptedPayload: string;
    maxRunningJobsPerPrincipal: number;
    now: number;
  }): Promise<
    | { outcome: "created"; place: TurnPlace }
    | { outcome: "repeated"; jobId: string }
    | { outcome: "refused"; refusal: TurnRefusal }
    | { outcome: "limit_exceeded" }
  >;
  /**
   * Takes the heads of queues whose lock is free or has expired, at most `limit`, those whose lock is free before
   * those whose lock has expired.
   *
   * @throws StoreRefusal dead_node
   */
  claimTurns(
    claim: TurnClaim & { lostPayload: string; limit: number },
  ): Promise<{ turns: ClaimedTurn[]; endedJobIds: string[] }>;
  /** Heads of queues whose lock is free or has expired and that are of none of these agents, at most `limit`. */
  unserved(query: { agents: readonly string[]; now: number; limit: number }): Promise<UnservedTurn[]>;
  /**
   * Ends a turn that nobody takes, if it is still the head of its queue, under that run epoch, and its lock is free or
   * has expired: its job ends with the given payload, and the next one is the head.
   *
   * @returns false where it is not; nothing is changed then
   */
  endUnserved(given: { jobId: string; runEpoch: number; jobErrorPayload: string; now: number }): Promise<boolean>;
}

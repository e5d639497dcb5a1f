/**
 * The seam between jobs and conversations: a job may be a turn, which waits for its conversation's lock, holds it
 * while it runs, and hands it on in the commit that ends it. The runtime knows no more of conversations than this;
 * `src/conversation` fills it in.
 */
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError } from "../protocol/index.ts";
import type {
  ClaimedTurn,
  NewEvent,
  NewJob,
  NewTurn,
  Store,
  TurnClaim,
  TurnPlace,
  TurnRefusal,
} from "../store/store.ts";
import type { Settings } from "./options.ts";
import type { EndedJob } from "./stored-outcome.ts";

/** Who submits a turn over the wire. */
export interface TurnSubmitter {
  principal: string;
  operator: boolean;
}

/** A turn whose job runs here: it holds its conversation's lock under that epoch. */
export interface RunningTurn {
  readonly jobId: string;
  readonly conversationId: string;
  readonly userId: string;
  readonly lockEpoch: number;
  readonly ttlMs: number;
  /** When the store was asked for the lock, on the monotonic clock and the wall's: it is good for a ttl from then. */
  readonly askedAt: { monotonic: number; wall: number };
}

/** What conversations do for the runtime. */
export interface TurnKeeper {
  /**
   * Reads what a submit says of its turn.
   *
   * @throws ArcpError INVALID_REQUEST naming the field; PERMISSION_DENIED for a key that is not the submitter's
   */
  read(value: unknown, who: TurnSubmitter): Promise<NewTurn>;
  /** A turn's job starts here, under that epoch: keeps its lock while it runs. */
  began(turn: RunningTurn, runEpoch: number): void;
  /** The job is over here, however it ended. */
  ended(jobId: string): void;
  /** Runs an agent's handler in the context of its turn. */
  within<T>(turn: RunningTurn, work: () => T): T;
  /** The channels whose answers this process can send. */
  channels(): readonly string[];
  /** A sweep has ended: whether something waits for this node, queues whose lock is free and answers that are due. */
  look(waiting: { turns: boolean; deliveries: boolean }): void;
  start(): void;
  /** The runtime is about to stop: takes no turns any more; those that run may go on for a while. */
  stop(): Promise<void>;
  /** No job runs here any more, and the store is still there. */
  drained(): Promise<void>;
}

/** What the runtime does for conversations. */
export interface TurnHost {
  readonly store: Store;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly settings: Settings;
  /** Who takes turns here; `undefined` while the runtime takes none, because it stops. */
  claim(): Omit<TurnClaim, "now"> | undefined;
  nodeId(): string;
  /** A text as it may be stored: without a secret that is known (CRD-7). */
  masked(text: string): string;
  /**
   * A job for an agent, with the agent's own lease as far as the policy grants it.
   *
   * @throws ArcpError AGENT_NOT_AVAILABLE, AGENT_VERSION_NOT_AVAILABLE, PERMISSION_DENIED, INVALID_REQUEST
   */
  prepare(agent: string, input: unknown, principal: string): Pick<NewJob, "agent" | "input" | "lease" | "restarts">;
  /** A turn is being started: a drain waits for it. */
  admit(starting: Promise<unknown>): void;
  /** Runs a turn that the store has given to this node. One that runs already goes on. */
  run(turn: ClaimedTurn, askedAt: RunningTurn["askedAt"]): void;
  /** A turn was stored: stops what it interrupts, and tells of what it has ended. */
  placed(place: TurnPlace): void;
  /** Tells a turn's job to stop, wherever in this process. */
  stop(jobId: string, cause: ArcpError): void;
  /** Events of a job above an n that are still kept, in order; a page of them. Live ones come from memory (law 1). */
  read(jobId: string, afterN: number): Promise<readonly NewEvent[]>;
  /** Calls `listener` when a job's log has grown; it may be left out now and then. @returns what ends that */
  onGrown(jobId: string, listener: () => void): () => void;
  /** How a job ended; `undefined` for one that is not there, or has not. */
  ending(jobId: string): Promise<EndedJob | undefined>;
  /** The store has ended these jobs: what of them runs here is let go, and whoever follows them is told. */
  ended(jobIds: readonly string[]): void;
}

/** Why a turn is not taken, with the one that runs (TRN-1, TRN-2). */
export function turnRefused({ why, conversationId, jobId, holder }: TurnRefusal): ArcpError {
  const runs = jobId === undefined ? `${holder ?? "somebody"} holds its lock` : `${jobId} runs`;
  const message = why === "busy" ? "The conversation is busy" : "The conversation's queue is full";
  return ArcpError.detail("CONVERSATION_BUSY", `${message}: ${runs}. Try again later, or with onBusy "interrupt".`, {
    conversation_id: conversationId,
    ...(jobId === undefined ? {} : { job_id: jobId }),
  });
}

/** One worker at a time in each conversation: taking its lock, looking at it, and the operator's way out (LCK). */
import { type Clock, sleep } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError, jobErrorPayload, newMessageId } from "../protocol/index.ts";
import { type LockRecord, type Store, StoreRefusal } from "../store/store.ts";
import { requestContext } from "./context.ts";
import { Lock, lockLost } from "./lock.ts";

export interface AcquireOptions {
  /** Who takes it; @default the request context's holder, or a made-up one */
  holder?: string | undefined;
  /** @default the service's, 180_000 */
  ttlMs?: number | undefined;
  /** Whether it refreshes itself while held. @default true */
  keep?: boolean | undefined;
}

export interface WithLockOptions extends AcquireOptions {
  /** How long to wait for somebody else's lock. @default 0 */
  waitMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface LocksParts {
  store: Store;
  clock: Clock;
  logger: Logger;
  ttlMs: number;
  nodeId(): string;
  /** Without a secret that is known. */
  masked(text: string): string;
  /** The store has ended these jobs. */
  ended(jobIds: readonly string[]): void;
  /** A conversation's lock is free. */
  freed(): void;
}

const MAX_TTL_MS = 24 * 60 * 60 * 1000;
const MAX_HOLDER_CHARS = 256;
const POLL_MS = 100;

export class Locks {
  readonly #parts: LocksParts;
  readonly #held = new Set<Lock>();

  constructor(parts: LocksParts) {
    this.#parts = parts;
  }

  /**
   * Takes the lock; `undefined` when somebody holds it (the same holder included) or turns wait for it.
   *
   * @throws RangeError for a ttl or a holder that cannot be; ArcpError INVALID_REQUEST for an unknown conversation
   */
  async tryAcquire(conversationId: string, options: AcquireOptions = {}): Promise<Lock | undefined> {
    const { store, clock, logger, nodeId, ended, freed } = this.#parts;
    const ttlMs = checkedTtl(options.ttlMs ?? this.#parts.ttlMs);
    const holder = checkedHolder(options.holder ?? requestContext()?.holder ?? `holder_${newMessageId()}`);
    const askedAt = { monotonic: clock.monotonic(), wall: clock.wall() };
    const taken = await known(
      conversationId,
      store.conversations.acquire({
        conversationId,
        holder,
        nodeId: nodeId(),
        ttlMs,
        now: askedAt.wall,
        lostPayload: lostPayload(conversationId),
      }),
    );
    if (taken === undefined) return undefined;
    if (taken.endedJobId !== undefined) ended([taken.endedJobId]);
    const { lock: record } = taken;
    const lock = new Lock({
      store,
      clock,
      logger,
      conversationId,
      record,
      ttlMs,
      askedAt,
      keep: options.keep ?? true,
      over: (gone, how) => {
        this.#held.delete(gone);
        if (how === "released") freed();
      },
    });
    this.#held.add(lock);
    return lock;
  }

  /**
   * Runs `work` under the lock and releases it after.
   *
   * @throws ArcpError CONVERSATION_BUSY naming the holder; LOCK_LOST when the lock was lost meanwhile, whatever the
   *   work came to: what it did outside may have overlapped with the next holder's
   */
  async withLock<T>(
    conversationId: string,
    work: (lock: Lock) => Promise<T> | T,
    options: WithLockOptions = {},
  ): Promise<T> {
    const { clock, logger } = this.#parts;
    const until = clock.monotonic() + (options.waitMs ?? 0);
    let lock = await this.tryAcquire(conversationId, options);
    while (lock === undefined) {
      const leftMs = until - clock.monotonic();
      if (leftMs <= 0) throw await this.#busy(conversationId);
      await sleep(clock, Math.min(POLL_MS, leftMs), options.signal);
      lock = await this.tryAcquire(conversationId, options);
    }
    try {
      const result = await work(lock);
      lock.signal.throwIfAborted();
      return result;
    } finally {
      // What the work came to counts; the lock ends by itself.
      await lock.release().catch((error: unknown) => {
        logger.warn({ err: error, conversation_id: conversationId }, "a lock could not be released; it expires");
      });
    }
  }

  /** Who holds it, where, since when and until when. @throws ArcpError INVALID_REQUEST for an unknown conversation */
  async inspect(conversationId: string): Promise<LockRecord | undefined> {
    const conversation = await this.#parts.store.conversations.get(conversationId);
    if (conversation === undefined) throw unknownConversation(conversationId);
    return conversation.lock;
  }

  /**
   * The operator's way out: frees the lock, ends its turn's job with LOCK_LOST and the reason, and leaves a line for
   * the audit.
   *
   * @throws ArcpError INVALID_REQUEST when nobody holds it, or for an unknown conversation
   */
  async breakLock(conversationId: string, by: { principal: string; reason: string }): Promise<LockRecord> {
    const { store, clock, logger, ended, freed, masked } = this.#parts;
    const error = lockLost(conversationId, `it was broken by an operator: ${masked(by.reason)}`);
    const lock = await known(
      conversationId,
      store.conversations.breakLock({
        conversationId,
        jobErrorPayload: JSON.stringify(jobErrorPayload(error)),
        now: clock.wall(),
      }),
    );
    logger.info(
      { audit: "lock.break", ...by, conversation_id: conversationId, holder: lock.holder, job_id: lock.jobId },
      "a lock was broken",
    );
    if (lock.jobId !== undefined) ended([lock.jobId]);
    freed();
    return lock;
  }

  /** The runtime stops: the store frees what this process holds. */
  stop(): void {
    for (const lock of [...this.#held]) lock.lose("the runtime was stopped");
  }

  async #busy(conversationId: string): Promise<ArcpError> {
    const lock = await this.inspect(conversationId);
    const holder = lock === undefined ? "turns wait for it" : `${lock.holder} holds its lock`;
    return ArcpError.detail("CONVERSATION_BUSY", `The conversation is busy: ${holder}.`, {
      conversation_id: conversationId,
      ...(lock?.jobId === undefined ? {} : { job_id: lock.jobId }),
    });
  }
}

/** How a turn ends whose lock expired and was taken over. */
export const lostPayload = (conversationId: string): string =>
  JSON.stringify(
    jobErrorPayload(lockLost(conversationId, "it expired, since its holder did not refresh it, and was taken over")),
  );

export function checkedTtl(ttlMs: number): number {
  if (ttlMs > 0 && ttlMs <= MAX_TTL_MS) return ttlMs;
  throw new RangeError(`ttlMs: ${ttlMs} is not a number of milliseconds above 0 and up to ${MAX_TTL_MS} (a day).`);
}

function checkedHolder(holder: string): string {
  if (holder !== "" && holder.length <= MAX_HOLDER_CHARS && holder.isWellFormed()) return holder;
  throw new RangeError(
    `holder: ${JSON.stringify(holder.slice(0, 64))} is empty or over ${MAX_HOLDER_CHARS} characters.`,
  );
}

export const unknownConversation = (conversationId: string): ArcpError =>
  new ArcpError("INVALID_REQUEST", `conversation: there is no ${JSON.stringify(conversationId.slice(0, 128))}.`, {
    details: { reason: "unknown_conversation" },
  });

/** What the store refuses, in words. */
export async function known<T>(conversationId: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof StoreRefusal)) throw error;
    switch (error.reason) {
      case "unknown_conversation":
        throw unknownConversation(conversationId);
      case "not_locked":
        throw new ArcpError("INVALID_REQUEST", `conversation: nobody holds the lock of ${conversationId}.`, {
          details: { reason: "not_locked" },
        });
      case "conversation_busy":
        throw ArcpError.detail(
          "CONVERSATION_BUSY",
          "The conversation is busy, or its answers are on their way; break its lock, or let that end first.",
          { conversation_id: conversationId },
        );
      case "dead_node":
        throw ArcpError.detail(
          "STORE_UNAVAILABLE",
          "This process was declared dead and starts anew; try again.",
          {},
          error,
        );
      default:
        throw error;
    }
  }
}

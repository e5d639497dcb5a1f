/**
 * A lock that is held. It refreshes itself every third of its ttl, and knows by itself when it may have been lost:
 * its deadline runs from the moment at which the store was asked, on the monotonic clock and on the wall's (a laptop
 * that slept), so its signal aborts before anybody else can hold it (LCK-3, LCK-4). One timer per lock.
 */
import type { Clock, Timer } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError } from "../protocol/index.ts";
import type { LockRecord, Store } from "../store/store.ts";

/** Of the ttl: how long before its end a lock that could not be refreshed is given up. */
const MARGIN_SHARE = 1 / 6;
const REFRESH_SHARE = 1 / 3;
/** Of the ttl: between two tries while the store does not answer. */
const RETRY_SHARE = 1 / 20;
/** How often the wall's clock is looked at: it goes on while a laptop sleeps, and timers do not. */
const LOOK_MS = 1_000;

export interface LockParts {
  store: Store;
  clock: Clock;
  logger: Logger;
  conversationId: string;
  record: Pick<LockRecord, "holder" | "lockEpoch" | "acquiredAt" | "expiresAt">;
  ttlMs: number;
  askedAt: { monotonic: number; wall: number };
  /** Whether it refreshes itself. */
  keep: boolean;
  /** The lock is over: released by its holder, or lost. */
  over(lock: Lock, how: "released" | "lost"): void;
}

/**
 * - `held`: moved on by its release, by the store's word that it is somebody else's, or by its own deadline.
 * - `released`: by its holder.
 * - `lost`: the signal has aborted; what the store is asked under it is refused.
 */
type State = "held" | "released" | "lost";

export class Lock implements AsyncDisposable {
  readonly conversationId: string;
  readonly holder: string;
  readonly lockEpoch: number;
  /** Wall milliseconds. */
  readonly acquiredAt: number;
  readonly #parts: LockParts;
  readonly #abort = new AbortController();
  #state: State = "held";
  #expiresAt: number;
  /** When the refresh that counts was asked for. */
  #askedAt: { monotonic: number; wall: number };
  #timer: Timer | undefined;
  /** When it is to act, monotonic; another object each time. */
  #due: { at: number } = { at: 0 };

  constructor(parts: LockParts) {
    const { conversationId, record, askedAt } = parts;
    this.#parts = parts;
    this.conversationId = conversationId;
    this.holder = record.holder;
    this.lockEpoch = record.lockEpoch;
    this.acquiredAt = record.acquiredAt;
    this.#expiresAt = record.expiresAt;
    this.#askedAt = askedAt;
    // Counted from the question: its answer may have come late.
    const unhurriedMs = parts.keep ? parts.ttlMs * (1 - MARGIN_SHARE - REFRESH_SHARE) : 0;
    this.#schedule(Math.max(0, this.remainingMs - unhurriedMs));
  }

  /** Wall milliseconds of the store's clock, as of the last refresh. */
  get expiresAt(): number {
    return this.#expiresAt;
  }

  /** Aborts, with LOCK_LOST, as soon as the lock may be somebody else's; stop before you do anything more. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** How long the lock is surely held: an outside call is to be over before (law 3). */
  get remainingMs(): number {
    const { clock, ttlMs } = this.#parts;
    if (this.#state !== "held") return 0;
    const passed = Math.max(clock.monotonic() - this.#askedAt.monotonic, clock.wall() - this.#askedAt.wall);
    return Math.max(0, ttlMs * (1 - MARGIN_SHARE) - passed);
  }

  /** @throws ArcpError LOCK_LOST when it is not this holder's any more; StoreUnavailable */
  async refresh(): Promise<void> {
    const { store, clock, ttlMs } = this.#parts;
    if (this.#state !== "held") throw lockLost(this.conversationId, "it was given up");
    const askedAt = { monotonic: clock.monotonic(), wall: clock.wall() };
    const [refreshed] = await store.conversations.refresh([this], ttlMs, askedAt.wall);
    if (this.#state !== "held") return;
    if (refreshed === undefined) {
      this.lose("somebody else has it, or it was broken");
      throw lockLost(this.conversationId, "somebody else has it, or it was broken");
    }
    this.#askedAt = askedAt;
    this.#expiresAt = refreshed.expiresAt;
  }

  /** @returns false when it was not held any more; nothing was done then */
  async release(): Promise<boolean> {
    if (this.#state === "lost") return await this.#releaseLost();
    if (this.#state !== "held") return false;
    this.forget();
    try {
      const released = await this.#parts.store.conversations.release(this);
      this.#parts.over(this, "released");
      return released;
    } catch (error) {
      // It may be held yet: another release tries again.
      this.#state = "lost";
      this.#parts.over(this, "lost");
      throw error;
    }
  }

  /** What was given up and nobody took is still its holder's, and would look held for ever (LCK-6). */
  async #releaseLost(): Promise<boolean> {
    const { store, logger } = this.#parts;
    this.#state = "released";
    try {
      const released = await store.conversations.release(this);
      if (released) this.#parts.over(this, "released");
      return released;
    } catch (error) {
      this.#state = "lost";
      logger.warn(
        { err: error, conversation_id: this.conversationId },
        "a lost lock could not be released; it expires",
      );
      return false;
    }
  }

  /** The store has freed it: nothing is to be done about it any more. */
  forget(): void {
    if (this.#state !== "held") return;
    this.#state = "released";
    this.#timer?.cancel();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }

  #schedule(delayMs: number): void {
    this.#due = { at: this.#parts.clock.monotonic() + delayMs };
    this.#wait();
  }

  #wait(): void {
    const { clock } = this.#parts;
    this.#timer = clock.after(Math.min(LOOK_MS, this.#due.at - clock.monotonic()), () => {
      if (this.remainingMs > 0 && clock.monotonic() < this.#due.at) this.#wait();
      else void this.#tick();
    });
  }

  async #tick(): Promise<void> {
    const { ttlMs, keep, logger } = this.#parts;
    if (this.remainingMs <= 0) {
      this.lose("it was not refreshed in time");
      return;
    }
    if (!keep) {
      this.#schedule(this.remainingMs);
      return;
    }
    // The deadline is watched while the store is asked: it may not answer.
    this.#schedule(this.remainingMs);
    const watch = this.#due;
    let next = REFRESH_SHARE;
    try {
      await this.refresh();
    } catch (error) {
      if (this.#state !== "held") return;
      logger.warn({ err: error, conversation_id: this.conversationId }, "a lock could not be refreshed; trying again");
      next = RETRY_SHARE;
    }
    if (this.#state !== "held" || this.#due !== watch) return;
    this.#timer?.cancel();
    this.#schedule(Math.min(ttlMs * next, this.remainingMs));
  }

  /** Gives the lock up without asking the store: whoever works under it is to stop. */
  lose(why: string): void {
    if (this.#state !== "held") return;
    this.#state = "lost";
    this.#timer?.cancel();
    this.#abort.abort(lockLost(this.conversationId, why));
    this.#parts.over(this, "lost");
  }
}

export const lockLost = (conversationId: string, why: string): ArcpError =>
  ArcpError.detail("LOCK_LOST", `The lock of ${conversationId} is lost: ${why}. What was under way was stopped.`, {
    conversation_id: conversationId,
  });

/**
 * Turns: what happens when somebody speaks. A turn is a job with a place in its conversation's queue; the store
 * decides who runs (store/conversations.ts), and here is what a process does about it: it keeps the locks of the
 * turns that it runs, and serves queues that nobody serves, whenever the sweep says that there are some (TRN).
 */
import { type ArcpError, jobErrorPayload } from "../protocol/index.ts";
import type { RunningTurn, TurnHost } from "../runtime/index.ts";
import { withRequestContext } from "./context.ts";
import { Lock, lockLost } from "./lock.ts";
import { UnofferedTurns } from "./unoffered.ts";

/** Turns that one look takes. */
const CLAIMED_AT_ONCE = 64;

export class Turns {
  readonly #host: TurnHost;
  /** Of the turns that run here, by job. */
  readonly #locks = new Map<string, Lock>();
  readonly #unoffered: UnofferedTurns;
  #looking: Promise<void> | undefined;
  #again = false;
  #started = false;

  /** @param options.maxUnofferedMs how long a turn may wait for an agent that nobody offers */
  constructor(host: TurnHost, options: { maxUnofferedMs: number }) {
    this.#host = host;
    const { store, clock, logger, settings, claim, ended } = host;
    this.#unoffered = new UnofferedTurns({
      conversations: store.conversations,
      clock,
      logger,
      maxWaitMs: options.maxUnofferedMs,
      intervalMs: settings.sweepIntervalMs,
      claim,
      ended,
    });
  }

  start(): void {
    this.#started = true;
    this.look();
  }

  async stop(): Promise<void> {
    this.#started = false;
    await this.#looking;
  }

  began(turn: RunningTurn): void {
    const { store, clock, logger, stop } = this.#host;
    const { jobId, conversationId, lockEpoch, ttlMs, askedAt } = turn;
    const lock = new Lock({
      store,
      clock,
      logger,
      conversationId,
      record: { holder: jobId, lockEpoch, acquiredAt: askedAt.wall, expiresAt: askedAt.wall + ttlMs },
      ttlMs,
      askedAt,
      keep: true,
      over: () => undefined,
    });
    this.#locks.set(jobId, lock);
    lock.signal.addEventListener("abort", () => stop(jobId, lock.signal.reason as ArcpError), { once: true });
  }

  ended(jobId: string): void {
    // The commit that ended the job has freed it.
    this.#locks.get(jobId)?.forget();
    this.#locks.delete(jobId);
    // Whom it was not handed to, for want of the agent or because this node stops, somebody else finds.
    this.look();
  }

  within<T>(turn: RunningTurn, work: () => T): T {
    return withRequestContext({ holder: turn.jobId, userId: turn.userId }, work);
  }

  /** How many run here; of a conversation one at a time. */
  get running(): number {
    return this.#locks.size;
  }

  /** The lock of a turn that runs here. */
  lockOf(jobId: string): Lock | undefined {
    return this.#locks.get(jobId);
  }

  /**
   * Looks for queues whose lock is free; a look that is under way is followed by another.
   *
   * @param take false: nothing waits for this node, and only what nobody takes is looked after
   */
  look(take = true): void {
    if (!this.#started) return;
    if (this.#looking !== undefined) {
      this.#again ||= take;
      return;
    }
    this.#looking = this.#look(take)
      .catch((error: unknown) => this.#host.logger.warn({ err: error }, "queues could not be looked at"))
      .finally(() => {
        this.#looking = undefined;
        if (!this.#started || !this.#again) return;
        this.#again = false;
        this.look();
      });
  }

  async #look(take: boolean): Promise<void> {
    if (take) await this.#take();
    if (await this.#unoffered.look()) this.look();
  }

  async #take(): Promise<void> {
    const { store, clock, claim, ended, run } = this.#host;
    for (;;) {
      const claimer = claim();
      if (claimer === undefined || claimer.agents.length === 0) return;
      const askedAt = { monotonic: clock.monotonic(), wall: clock.wall() };
      const { turns, endedJobIds } = await store.conversations.claimTurns({
        ...claimer,
        now: askedAt.wall,
        limit: CLAIMED_AT_ONCE,
        lostPayload: TAKEN_OVER,
      });
      ended(endedJobIds);
      for (const turn of turns) run(turn, askedAt);
      if (turns.length < CLAIMED_AT_ONCE) return;
    }
  }
}

/** How a turn ends whose lock expired while others waited. */
const TAKEN_OVER = JSON.stringify(
  jobErrorPayload(
    lockLost("its conversation", "it expired, since its holder did not refresh it, and the next turn runs"),
  ),
);

/**
 * Turns at the head of their queue whose agent nobody offers any more, after an upgrade for instance: everybody behind
 * them waits. Each process notes which ones it sees waiting for nobody's lock, and ends those that it has seen so all
 * the time (TRN-13): whoever offers the agent takes such a turn within a second. A look costs one small indexed read;
 * what is noted is bounded by what one look reads. Which process ends a turn does not matter: the store lets one, and
 * only a turn that nobody took since it was seen.
 */
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError, jobErrorPayload } from "../protocol/index.ts";
import type { ConversationFacet, TurnClaim, UnservedTurn } from "../store/store.ts";

/** Between two looks, unless the wait is short. */
const LOOK_MS = 30_000;
/** Of the wait: between two looks. */
const LOOK_SHARE = 1 / 10;
/** Looks that may be missed; after more, as when the store was down, who offers the agent may have been kept away too. */
const MISSED_LOOKS = 3;
/** Turns that one look reads. */
const SEEN_AT_ONCE = 1_000;

export interface UnofferedTurnsParts {
  conversations: Pick<ConversationFacet, "unserved" | "endUnserved">;
  clock: Clock;
  logger: Logger;
  /** How long a turn may wait for an agent that nobody offers. */
  maxWaitMs: number;
  /** Looks come no closer than this. */
  intervalMs: number;
  /** What this process offers; `undefined` when it takes no turns, because it stops. */
  claim(): Pick<TurnClaim, "agents"> | undefined;
  /** The store has ended these jobs. */
  ended(jobIds: readonly string[]): void;
}

export class UnofferedTurns {
  readonly #parts: UnofferedTurnsParts;
  readonly #intervalMs: number;
  /** When each was seen first, monotonic. */
  #seen = new Map<string, number>();
  #lookedAt = Number.NEGATIVE_INFINITY;

  constructor(parts: UnofferedTurnsParts) {
    this.#parts = parts;
    this.#intervalMs = Math.max(parts.intervalMs, Math.min(LOOK_MS, parts.maxWaitMs * LOOK_SHARE));
  }

  /**
   * Looks, if it is time to.
   *
   * @returns whether a turn was ended, so that a queue may go on
   */
  async look(): Promise<boolean> {
    const { conversations, clock, maxWaitMs, claim, ended } = this.#parts;
    const at = clock.monotonic();
    const since = at - this.#lookedAt;
    const agents = claim()?.agents;
    if (agents === undefined || since < this.#intervalMs) return false;
    const waiting = await conversations.unserved({ agents, now: clock.wall(), limit: SEEN_AT_ONCE });
    // Only now: a look that failed is one that was missed.
    this.#lookedAt = at;
    const before = since > MISSED_LOOKS * this.#intervalMs ? new Map<string, number>() : this.#seen;
    this.#seen = new Map(waiting.map((turn) => [nameOf(turn), before.get(nameOf(turn)) ?? at]));
    let any = false;
    for (const turn of waiting) {
      if (at - (this.#seen.get(nameOf(turn)) ?? at) < maxWaitMs) continue;
      const offered = claim()?.agents;
      if (offered === undefined) break;
      // An agent may have come meanwhile.
      if (offered.includes(turn.agent) || !(await this.#end(turn))) continue;
      any = true;
      ended([turn.jobId]);
    }
    return any;
  }

  async #end({ jobId, agent, runEpoch }: UnservedTurn): Promise<boolean> {
    const { conversations, clock, logger, maxWaitMs } = this.#parts;
    const waited = `its turn has waited for ${Math.round(maxWaitMs / 1_000)} s`;
    const error = new ArcpError("AGENT_NOT_AVAILABLE", `agent: nobody offers ${agent} any more, and ${waited}.`);
    const payload = JSON.stringify(jobErrorPayload(error));
    const ended = await conversations.endUnserved({ jobId, runEpoch, jobErrorPayload: payload, now: clock.wall() });
    if (ended) logger.warn({ job_id: jobId, agent }, "a turn was ended, for nobody offers its agent");
    return ended;
  }
}

/** A turn that was given back is seen anew: somebody offered its agent. */
const nameOf = ({ jobId, runEpoch }: UnservedTurn): string => `${jobId} ${runEpoch}`;

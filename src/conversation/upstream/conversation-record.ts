/**
 * A conversation of ours as an upstream record. Its lock is the right to bind, taken by compare-and-set on the
 * binding's generation together with the note of a nonce; no row is locked while the backend works. Who dies with it
 * holds others up for twice the backend's create timeout. Who waits looks again on the clock.
 */
import { type Clock, sleep } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import type { BindingClaim, BindingFacet, BindingRecord } from "../../store/store.ts";
import type { Backend } from "./backend.ts";
import { AnotherWorkerWon, MAX_NOTED, ofNote, UpstreamError } from "./errors.ts";
import { OneAtATime } from "./one-at-a-time.ts";
import { newNonce, type RecordLedger, type UpstreamRecord } from "./record.ts";

export const CONVERSATION_OWNER = "conversation";

const FIRST_LOOK_MS = 10;
const LONGEST_LOOK_MS = 250;
/** Of the create timeout: how long somebody waits for the right to bind. Two are enough for one dead predecessor. */
const PATIENCE = 4;

export interface ConversationRecordParts {
  bindings: BindingFacet;
  clock: Clock;
  logger: Logger;
  backend: Pick<Backend, "name" | "createTimeoutMs">;
  conversationId: string;
  title: string;
}

/** The claim as this process holds it. */
interface Held extends BindingClaim {
  /** When the store was asked for it, monotonic. */
  askedAt: number;
  /** Whether the backend may have been called. */
  intended: boolean;
  bound: boolean;
}

export class ConversationUpstream implements UpstreamRecord {
  readonly id: string;
  readonly title: string;
  readonly ledger: RecordLedger;
  readonly #parts: ConversationRecordParts;
  readonly #turns = new OneAtATime();
  #binding: BindingRecord;
  #held: Held | undefined;

  private constructor(parts: ConversationRecordParts, binding: BindingRecord) {
    this.#parts = parts;
    this.#binding = binding;
    this.id = parts.conversationId;
    this.title = parts.title;
    const { bindings, clock } = parts;
    this.ledger = {
      intend: async () => this.#intend(),
      doom: (backend, session) =>
        bindings.doom({
          owner: CONVERSATION_OWNER,
          recordId: this.id,
          backend: backend.name,
          nonce: session.nonce,
          upstreamId: session.upstreamSessionId,
          now: clock.wall(),
        }),
      gone: (backend, session) =>
        bindings.gone({
          backend: backend.name,
          ...("nonce" in session ? session : { upstreamId: session.upstreamSessionId }),
        }),
    };
  }

  static async load(parts: ConversationRecordParts): Promise<ConversationUpstream> {
    const ref = { conversationId: parts.conversationId, backend: parts.backend.name };
    return new ConversationUpstream(parts, await parts.bindings.get(ref));
  }

  get upstreamSessionId(): string | undefined {
    return this.#binding.upstreamId;
  }

  /** As it was last read. */
  get binding(): Readonly<BindingRecord> {
    return this.#binding;
  }

  withLock<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.run(async () => {
      const held = await this.#claim();
      this.#held = held;
      try {
        return await work();
      } finally {
        this.#held = undefined;
        if (!held.bound) await this.#giveBack(held);
      }
    });
  }

  async update({ upstreamSessionId }: { upstreamSessionId: string }): Promise<void> {
    const held = this.#held;
    if (held === undefined) throw new Error(`record ${this.id}: is updated under its lock only`);
    const { bindings, clock } = this.#parts;
    const changedAt = clock.wall();
    held.bound = await bindings.bind({ ...claimOf(held), upstreamId: upstreamSessionId, now: changedAt });
    if (!held.bound) throw new AnotherWorkerWon(`record ${this.id}: the right to bind was lost`);
    // Not read again: a failure here would say that it was not bound.
    const generation = held.generation + 1;
    this.#binding = { ...this.#ref, state: "bound", generation, upstreamId: upstreamSessionId, changedAt };
  }

  async reload(): Promise<void> {
    this.#binding = await this.#parts.bindings.get(this.#ref);
  }

  async lost(upstreamSessionId: string): Promise<void> {
    const { bindings, clock } = this.#parts;
    const lost = await bindings.lose({ ...this.#ref, upstreamId: upstreamSessionId, now: clock.wall() });
    if (lost) await this.reload();
  }

  get #ref(): { conversationId: string; backend: string } {
    return { conversationId: this.id, backend: this.#parts.backend.name };
  }

  async #claim(): Promise<Held> {
    const { bindings, clock, backend } = this.#parts;
    const since = clock.monotonic();
    for (let delayMs = FIRST_LOOK_MS; ; delayMs = Math.min(LONGEST_LOOK_MS, delayMs * 2)) {
      const askedAt = clock.monotonic();
      const now = clock.wall();
      const staleBefore = now - 2 * backend.createTimeoutMs;
      const seen = await bindings.get(this.#ref);
      if (seen.state !== "binding" || seen.changedAt <= staleBefore) {
        const nonce = newNonce();
        const binding = await bindings
          .claim({ ...this.#ref, nonce, staleBefore, maxNoted: MAX_NOTED, now })
          .catch((error: unknown) => Promise.reject(ofNote(error, this.id)));
        if (binding !== undefined) {
          this.#binding = binding;
          return { ...this.#ref, generation: binding.generation, nonce, askedAt, intended: false, bound: false };
        }
      }
      if (clock.monotonic() - since >= PATIENCE * backend.createTimeoutMs) {
        throw new UpstreamError(
          "conflict",
          this.id,
          `record ${this.id}: others are binding it all the time; try again`,
        );
      }
      await sleep(clock, delayMs);
    }
  }

  /** A create call that started late could outlast the note's time: the sweep would look before it is there. */
  #intend(): string {
    const held = this.#held;
    if (held === undefined) throw new Error(`record ${this.id}: a session is made under its lock only`);
    const { clock, backend } = this.#parts;
    if (clock.monotonic() - held.askedAt > backend.createTimeoutMs) {
      throw new UpstreamError("conflict", this.id, `record ${this.id}: the right to bind is too old; try again`);
    }
    held.intended = true;
    return held.nonce;
  }

  async #giveBack(held: Held): Promise<void> {
    const { bindings, clock, logger } = this.#parts;
    try {
      await bindings.unclaim({ ...claimOf(held), mayExist: held.intended, now: clock.wall() });
    } catch (error) {
      logger.warn({ err: error, record_id: this.id }, "the right to bind could not be given back; it ends by itself");
    }
  }
}

const claimOf = ({ conversationId, backend, generation, nonce }: Held): BindingClaim => ({
  conversationId,
  backend,
  generation,
  nonce,
});

/**
 * A job that is no turn, as an upstream record: its session is its own and goes with it. Nobody else binds it, so its
 * lock is this process's; it stays noted while the job runs, and the janitor asks for the job, not for a row.
 */
import type { Clock } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import type { BindingFacet } from "../../store/store.ts";
import type { Backend } from "./backend.ts";
import { AnotherWorkerWon, MAX_NOTED, ofNote, UpstreamError } from "./errors.ts";
import { OneAtATime } from "./one-at-a-time.ts";
import { newNonce, type RecordLedger, type UpstreamRecord } from "./record.ts";

export const JOB_OWNER = "job";

export interface JobRecordParts {
  bindings: BindingFacet;
  clock: Clock;
  logger: Logger;
  backend: Backend;
  jobId: string;
}

export class JobUpstream implements UpstreamRecord, AsyncDisposable {
  readonly id: string;
  readonly title: string;
  readonly ledger: RecordLedger;
  readonly #parts: JobRecordParts;
  readonly #turns = new OneAtATime();
  #upstreamSessionId: string | undefined;
  /** Under which the next session will be made, and under which the one that it has was. */
  #nonces: { next?: string; held?: string } = {};

  constructor(parts: JobRecordParts) {
    this.#parts = parts;
    this.id = parts.jobId;
    this.title = parts.jobId;
    const { bindings, clock, backend } = parts;
    const of = { owner: JOB_OWNER, recordId: this.id, backend: backend.name };
    this.ledger = {
      intend: async () => {
        const nonce = newNonce();
        const askedAt = clock.monotonic();
        await bindings
          .intend({ ...of, nonce, maxNoted: MAX_NOTED, now: clock.wall() })
          .catch((error: unknown) => Promise.reject(ofNote(error, this.id)));
        // A create call that started late could outlast the note's time: the sweep would look before it is there.
        if (clock.monotonic() - askedAt > backend.createTimeoutMs) {
          throw new UpstreamError("conflict", this.id, `record ${this.id}: the store was too slow; try again`);
        }
        this.#nonces.next = nonce;
        return nonce;
      },
      doom: (_backend, { nonce, upstreamSessionId }) =>
        bindings.doom({ ...of, nonce, upstreamId: upstreamSessionId, now: clock.wall() }),
      gone: (_backend, session) =>
        bindings.gone({
          backend: backend.name,
          ...("nonce" in session ? session : { upstreamId: session.upstreamSessionId }),
        }),
    };
  }

  get upstreamSessionId(): string | undefined {
    return this.#upstreamSessionId;
  }

  withLock<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.run(work);
  }

  async update({ upstreamSessionId }: { upstreamSessionId: string }): Promise<void> {
    const { bindings, logger } = this.#parts;
    const { next: nonce, held } = this.#nonces;
    if (nonce === undefined) throw new Error(`record ${this.id}: nothing was noted`);
    if (!(await bindings.persist({ nonce, upstreamId: upstreamSessionId, replaces: undefined }))) {
      throw new AnotherWorkerWon(`record ${this.id}: it took so long that the session was swept`);
    }
    this.#nonces = { held: nonce };
    this.#upstreamSessionId = upstreamSessionId;
    if (held === undefined) return;
    await this.#letGo(held).catch((error: unknown) =>
      logger.warn({ err: error, record_id: this.id }, "a replaced upstream session is left to the janitor"),
    );
  }

  async reload(): Promise<void> {
    // Nobody else writes it.
  }

  /** The job is over: its session is deleted, now or by the janitor. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { bindings, backend, logger } = this.#parts;
    const { held } = this.#nonces;
    const upstreamId = this.#upstreamSessionId;
    if (held === undefined || upstreamId === undefined) return;
    this.#nonces = {};
    this.#upstreamSessionId = undefined;
    try {
      await this.#letGo(held);
      await backend.delete(upstreamId);
      await bindings.gone({ backend: backend.name, upstreamId });
    } catch (error) {
      logger.warn({ err: error, record_id: this.id }, "a job's upstream session is left to the janitor");
    }
  }

  #letGo(nonce: string): Promise<void> {
    return this.#parts.bindings.settle({ nonce, holds: undefined, now: this.#parts.clock.wall() });
  }
}

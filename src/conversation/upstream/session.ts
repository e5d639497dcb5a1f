/**
 * The tie between a record and its session with an agent backend: made once, however many ask at once, remade when
 * it is lost, and never left behind. With an id in hand it costs nothing; else one turn of the record's lock and one
 * call of the backend. What is made is noted first (the record's ledger), so a process may die anywhere.
 */
import { type Clock, systemClock } from "../../clock.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import { type Backend, BackendError } from "./backend.ts";
import { isAnotherWorkersWin, ofRecord, UpstreamError } from "./errors.ts";
import { idOf, newNonce, type UpstreamRecord } from "./record.ts";

/** What was under way when the backend failed. */
export interface UpstreamFailure {
  action: "abort_session" | "delete_session";
  recordId: string;
}

export interface UpstreamOptions<R extends UpstreamRecord = UpstreamRecord> {
  backend: Backend;
  /** What the session may do, in the backend's own terms. Asked when one is made, and only then. */
  permissionsFor(record: R): unknown;
  /** Told of what fails while something is aborted or cleaned up. @default it is logged */
  onError?: ((error: unknown, failure: UpstreamFailure) => void) | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
}

export interface EnsureOptions {
  /** Ends the backend's create call; what it may have made is swept. */
  signal?: AbortSignal | undefined;
}

interface Made {
  upstreamSessionId: string;
  nonce: string;
  /** Whether the record's `update` went through. */
  written: boolean;
}

export class UpstreamSession<R extends UpstreamRecord = UpstreamRecord> {
  readonly record: R;
  readonly backend: Backend;
  readonly logger: Logger;
  readonly #options: UpstreamOptions<R>;
  readonly #clock: Clock;
  #justCreated = false;

  /** @throws UpstreamError invalid_record naming what the record lacks */
  constructor(record: R, options: UpstreamOptions<R>) {
    checkRecord(record);
    this.record = record;
    this.backend = options.backend;
    this.logger = options.logger ?? silentLogger;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Whether the most recent `ensure` or `recreate` made the session that it answered. */
  get justCreated(): boolean {
    return this.#justCreated;
  }

  /**
   * The record's session, made when it has none.
   *
   * @throws UpstreamError with the record's id; whatever `permissionsFor` and the record throw
   */
  async ensure(options: EnsureOptions = {}): Promise<string> {
    this.#justCreated = false;
    return idOf(this.record) ?? (await this.#bind((current) => current, options));
  }

  /**
   * A fresh session, in place of the record's. Of those who call it at once one makes it: whoever finds another
   * session than the one he knew answers that.
   *
   * @param options `insteadOf`: the session that he knew. @default the record's at this moment
   * @throws as {@link ensure}
   */
  async recreate(options: EnsureOptions & { insteadOf?: string } = {}): Promise<string> {
    this.#justCreated = false;
    const known = options.insteadOf ?? idOf(this.record);
    return await this.#bind((current) => (current === known ? undefined : current), options);
  }

  /** Stops what the session is at, best effort: it is for clean-up, where an error would hide what led to it. */
  async abort(): Promise<void> {
    const upstreamSessionId = idOf(this.record);
    if (upstreamSessionId === undefined) return;
    try {
      await this.backend.abort(upstreamSessionId);
    } catch (error) {
      this.#report(error, "abort_session");
    }
  }

  /** @param keep whether the session that the record has will do */
  async #bind(keep: (current: string) => string | undefined, { signal }: EnsureOptions): Promise<string> {
    let made = undefined as Made | undefined;
    let replaced = undefined as string | undefined;
    let answer: string;
    try {
      answer = await this.record.withLock(async () => {
        const current = idOf(this.record);
        const kept = current === undefined ? undefined : keep(current);
        if (kept !== undefined) return kept;
        made = await this.#make(signal);
        await this.record.update({ upstreamSessionId: made.upstreamSessionId });
        made.written = true;
        replaced = current;
        return made.upstreamSessionId;
      });
    } catch (error) {
      if (made === undefined) throw error;
      answer = await this.#notPersisted(made, error);
    }
    this.#justCreated = answer === made?.upstreamSessionId;
    if (this.#justCreated && replaced !== undefined) await this.#discard(replaced);
    return answer;
  }

  async #make(signal: AbortSignal | undefined): Promise<Made> {
    const { record, backend } = this;
    const { title } = record;
    if (typeof title !== "string") throw lacks(record.id, "title", "a text");
    const permissions = await this.#options.permissionsFor(record);
    const nonce = (await record.ledger?.intend(backend)) ?? newNonce();
    const abort = new AbortController();
    const { createTimeoutMs } = backend;
    const timer = this.#clock.after(createTimeoutMs, () =>
      abort.abort(new BackendError("unavailable", `no answer within ${createTimeoutMs} ms`)),
    );
    try {
      const upstreamSessionId: unknown = await backend.create(
        { title, nonce, permissions },
        { signal: signal === undefined ? abort.signal : AbortSignal.any([signal, abort.signal]) },
      );
      if (typeof upstreamSessionId !== "string" || upstreamSessionId.trim() === "") {
        throw new BackendError("malformed", "its answer has no id");
      }
      return { upstreamSessionId, nonce, written: false };
    } catch (error) {
      if (error instanceof BackendError && error.kind !== "unavailable") await this.#unmake(nonce, error);
      throw ofRecord(error, record.id, `${backend.name} made no session`);
    } finally {
      timer.cancel();
    }
  }

  /** The backend has answered, so what it made, if anything, is there by now. */
  async #unmake(nonce: string, error: BackendError): Promise<void> {
    try {
      if (error.kind === "malformed") {
        for await (const info of this.backend.list()) {
          if (info.nonce === nonce) await this.backend.delete(info.id);
        }
      }
      await this.record.ledger?.gone(this.backend, { nonce });
    } catch (failure) {
      this.#report(failure, "delete_session");
    }
  }

  /**
   * The session was made, and the record may not have it.
   *
   * @returns the session that the record has after all
   */
  async #notPersisted(made: Made, error: unknown): Promise<string> {
    const { record } = this;
    const won = isAnotherWorkersWin(error);
    let current: string | undefined;
    try {
      // After a commit that came to an unclear end, only the lock tells what stands.
      if (made.written) current = await record.withLock(async () => idOf(record));
      else if (won) {
        await record.reload();
        current = idOf(record);
      }
    } catch (failure) {
      this.logger.warn({ err: failure, record_id: record.id }, "a record could not be read again");
      // Where it is noted, the sweep will ask the record.
      if (made.written && record.ledger !== undefined) throw error;
    }
    if (current !== made.upstreamSessionId) await this.#discard(made.upstreamSessionId, made.nonce);
    if (current === undefined || !(won || current === made.upstreamSessionId)) {
      if (!won) throw error;
      throw new UpstreamError(
        "conflict",
        record.id,
        `record ${record.id}: another worker's session stands, but the record holds none; try again`,
        { cause: error },
      );
    }
    return current;
  }

  /** Deletes a session that is nobody's. Its failure never hides what led here: whatever is noted, the sweep finds. */
  async #discard(upstreamSessionId: string, nonce?: string): Promise<void> {
    const { record, backend } = this;
    if (nonce !== undefined) {
      try {
        await record.ledger?.doom(backend, { upstreamSessionId, nonce });
      } catch (error) {
        this.logger.warn({ err: error, record_id: record.id }, "an upstream session could not be noted as nobody's");
      }
    }
    try {
      await backend.delete(upstreamSessionId);
      await record.ledger?.gone(backend, { upstreamSessionId });
    } catch (error) {
      this.#report(error, "delete_session");
    }
  }

  #report(error: unknown, action: UpstreamFailure["action"]): void {
    const { onError } = this.#options;
    const recordId = this.record.id;
    if (onError === undefined) {
      this.logger.warn({ err: error, action, record_id: recordId }, "an upstream session could not be cleaned up");
      return;
    }
    try {
      onError(error, { action, recordId });
    } catch (failure) {
      this.logger.error({ err: failure, action, record_id: recordId }, "onError threw");
    }
  }
}

const METHODS = ["withLock", "update", "reload"] as const;

function checkRecord(record: UpstreamRecord): void {
  const id: unknown = record.id;
  if (typeof id !== "string" || id.trim() === "") throw lacks(String(id), "id", "a text that is not blank");
  for (const name of METHODS) {
    if (typeof record[name] !== "function") throw lacks(id, name, "a function");
  }
}

const lacks = (recordId: string, field: string, what: string): UpstreamError =>
  new UpstreamError("invalid_record", recordId, `record ${recordId}: ${field} is not ${what}; give it one`);

/**
 * A job as a client sees it: its events, its end, and the way to cancel it. A handle belongs to its
 * session and outlives every connection of it; it neither polls nor owns a timer.
 */
import type { AcceptedPayload, ErrorPayload, FinalStatus, SubscribedPayload } from "../protocol/index.ts";
import { errorFromPayload } from "./errors.ts";
import { type BufferListener, EventBuffer, type JobEvent } from "./event-buffer.ts";
import { ResultChunks } from "./result-chunks.ts";

/** How a job ended, as it came. `code` and `message` are there unless it succeeded. */
export interface Terminal extends Partial<ErrorPayload> {
  final_status: FinalStatus;
  result?: unknown;
  result_id?: string;
  result_size?: number;
  summary?: string;
}

/**
 * A job that this session follows. Iterating it gives its events, once each and in order, and ends
 * after its end; one iteration at a time, and a later one goes on where the last one left.
 */
export interface JobHandle extends AsyncIterable<JobEvent> {
  readonly id: string;
  /** `name@version`, as the runtime resolved it. */
  readonly agent: string;
  /** What the runtime said of the job when this session began to follow it. */
  readonly accepted: AcceptedPayload | SubscribedPayload;
  /**
   * The job's result; a chunked one is put together (text, or bytes when a chunk was base64). Rejects
   * with the job's `ArcpError`, or as `terminal` does. Need not be looked at.
   */
  readonly result: Promise<unknown>;
  /** How the job ended, whichever way. Rejects only when the session closes before. */
  readonly terminal: Promise<Terminal>;
  /**
   * Asks the runtime to cancel the job; resolves when it has agreed (`terminal` follows), or at once
   * when the job has ended. Rejects with the `ArcpError` of a refusal, which is not the job's end (CLT-9).
   *
   * @param options.signal stops waiting for the answer
   */
  cancel(reason?: string, options?: { signal?: AbortSignal }): Promise<void>;
  /** Starts an iteration (CLT-10). @throws Error when one is under way, or events were dropped before it */
  [Symbol.asyncIterator](): AsyncIterableIterator<JobEvent, undefined, undefined>;
}

export interface JobParts {
  listener(job: LiveJob): BufferListener;
  cancel(job: LiveJob, reason: string | undefined, signal: AbortSignal | undefined): Promise<void>;
}

/** The handle's inside, fed by the session. */
export class LiveJob implements JobHandle {
  readonly id: string;
  readonly #parts: JobParts;
  readonly #events: EventBuffer;
  readonly #chunks = new ResultChunks();
  readonly #terminal = Promise.withResolvers<Terminal>();
  readonly #result = Promise.withResolvers<unknown>();
  #accepted: AcceptedPayload | SubscribedPayload | undefined;
  #ended = false;

  constructor(id: string, parts: JobParts) {
    this.id = id;
    this.#parts = parts;
    this.#events = new EventBuffer(id, parts.listener(this));
    // Whoever awaits them gets the error all the same; a handle that nobody asks is no unhandled rejection.
    this.#terminal.promise.catch(() => undefined);
    this.#result.promise.catch(() => undefined);
  }

  get accepted(): AcceptedPayload | SubscribedPayload {
    if (this.#accepted === undefined) throw new Error(`${this.id} has not been described yet.`);
    return this.#accepted;
  }

  get agent(): string {
    return this.accepted.agent;
  }

  get result(): Promise<unknown> {
    return this.#result.promise;
  }

  get terminal(): Promise<Terminal> {
    return this.#terminal.promise;
  }

  get ended(): boolean {
    return this.#ended;
  }

  async cancel(reason?: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    if (!this.#ended) await this.#parts.cancel(this, reason, options.signal);
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<JobEvent, undefined, undefined> {
    return this.#events.iterate();
  }

  /** What the first reply about the job said; a later one changes nothing. */
  describe(accepted: AcceptedPayload | SubscribedPayload): void {
    this.#accepted ??= accepted;
  }

  deliver(event: JobEvent, bytes: number): void {
    if (event.kind === "result_chunk") this.#chunks.add(event.body);
    this.#events.push(event, bytes);
  }

  firstUnconsumed(): number | undefined {
    return this.#events.firstUnconsumed();
  }

  /** The job's terminal message came. */
  finish(terminal: Terminal): void {
    this.#ended = true;
    this.#terminal.resolve(terminal);
    if (terminal.final_status !== "success") {
      this.#result.reject(errorFromPayload(terminal as unknown as Record<string, unknown>));
    } else if (terminal.result_id === undefined) {
      this.#result.resolve(terminal.result);
    } else {
      try {
        this.#result.resolve(this.#chunks.take(terminal.result_id));
      } catch (error) {
        this.#result.reject(error);
      }
    }
    this.#chunks.clear();
    this.#events.end();
  }

  /** The session closed before the job ended. */
  abandon(error: Error): void {
    this.#leave(error);
    this.#events.end(error);
  }

  /** The session no longer follows the job, as it was asked: an iteration just ends. */
  unfollow(): void {
    this.#leave(new Error(`This session no longer follows ${this.id}; subscribe again to learn how it ends.`));
    this.#events.end();
  }

  #leave(error: Error): void {
    this.#ended = true;
    this.#terminal.reject(error);
    this.#result.reject(error);
    this.#chunks.clear();
  }
}

/**
 * A job as a client sees it: its events, its end, and the way to cancel it. A handle belongs to its
 * session and outlives every connection of it; it neither polls nor owns a timer.
 */
import type { AcceptedPayload, SubscribedPayload } from "../protocol/index.ts";
import type { Unconsumed } from "./acks.ts";
import { Children } from "./children.ts";
import { type BufferListener, EventBuffer, type JobEvent } from "./event-buffer.ts";
import { JobResult, type Terminal } from "./job-result.ts";
import type { ResultReader } from "./result-reader.ts";
import type { Turn } from "./turn.ts";

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
  /** Of a job that this session submitted as a turn: where it stood when it was accepted. */
  readonly turn: Turn | undefined;
  /**
   * The job's result; a chunked one is put together: a string, or a `Uint8Array` when the agent sent bytes.
   * Rejects with the job's `ArcpError`, or as `terminal` does; with an `Error` when chunks are missing or
   * broken, are over `maxResultBytes`, or were read with `stream()` instead. Need not be looked at.
   */
  readonly result: Promise<unknown>;
  /** How the job ended, whichever way. Rejects only when the session closes before. */
  readonly terminal: Promise<Terminal>;
  /**
   * The result in pieces, strings or bytes, while the agent writes them (CLT-14); one that comes whole is
   * one piece, JSON unless it is a string. Say it right after submit or subscribe, once.
   *
   * @throws Error the second time
   */
  stream(): ResultReader;
  /**
   * Asks the runtime to cancel the job; resolves when it has agreed (`terminal` follows), or at once
   * when the job has ended. Rejects with the `ArcpError` of a refusal, which is not the job's end (CLT-9).
   *
   * @param options.signal stops waiting for the answer
   */
  cancel(reason?: string, options?: { signal?: AbortSignal }): Promise<void>;
  /** Answers a question of this job (see `Session.answer`). */
  answer(questionId: string, answer: unknown, options?: { signal?: AbortSignal | undefined }): Promise<void>;
  /**
   * The jobs that this one delegates, each once this session follows it (DEL-1); ends after this job's end.
   * A session that did not submit the job is told of none.
   */
  children(): AsyncIterableIterator<JobHandle, undefined, undefined>;
  /** Starts an iteration (CLT-10). @throws Error when one is under way, or events were dropped before it */
  [Symbol.asyncIterator](): AsyncIterableIterator<JobEvent, undefined, undefined>;
}

export interface JobParts {
  listener(reader: Unconsumed): BufferListener;
  /** What may be held of a result that comes in chunks. */
  maxResultBytes: number;
  cancel(job: LiveJob, reason: string | undefined, signal: AbortSignal | undefined): Promise<void>;
  answer(job: LiveJob, questionId: string, answer: unknown, signal: AbortSignal | undefined): Promise<void>;
}

/** The handle's inside, fed by the session. */
export class LiveJob implements JobHandle {
  readonly id: string;
  readonly #parts: JobParts;
  readonly #events: EventBuffer;
  readonly #result: JobResult;
  readonly #children = new Children<JobHandle>();
  readonly #terminal = Promise.withResolvers<Terminal>();
  #accepted: AcceptedPayload | SubscribedPayload | undefined;
  #turn: Turn | undefined;
  #ended = false;

  constructor(id: string, parts: JobParts) {
    this.id = id;
    this.#parts = parts;
    this.#events = new EventBuffer(id, parts.listener(this));
    this.#result = new JobResult({ jobId: id, maxWaiting: parts.maxResultBytes, listener: parts.listener });
    // Whoever awaits it gets the error all the same; a handle that nobody asks is no unhandled rejection.
    this.#terminal.promise.catch(() => undefined);
  }

  get accepted(): AcceptedPayload | SubscribedPayload {
    if (this.#accepted === undefined) throw new Error(`${this.id} has not been described yet.`);
    return this.#accepted;
  }

  get agent(): string {
    return this.accepted.agent;
  }

  get turn(): Turn | undefined {
    return this.#turn;
  }

  get result(): Promise<unknown> {
    return this.#result.value;
  }

  stream(): ResultReader {
    return this.#result.read();
  }

  get terminal(): Promise<Terminal> {
    return this.#terminal.promise;
  }

  children(): AsyncIterableIterator<JobHandle, undefined, undefined> {
    return this.#children.iterate();
  }

  /** Whether a child of this job may yet be told of. */
  get expectsChildren(): boolean {
    return this.#children.expected;
  }

  /** Nobody will tell this session of a child any more. */
  endChildren(): void {
    this.#children.end(true);
  }

  adopt(child: LiveJob, delegateId: string): void {
    this.#children.add(child, delegateId);
  }

  get ended(): boolean {
    return this.#ended;
  }

  async cancel(reason?: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    if (!this.#ended) await this.#parts.cancel(this, reason, options.signal);
  }

  answer(questionId: string, answer: unknown, options: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    return this.#parts.answer(this, questionId, answer, options.signal);
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<JobEvent, undefined, undefined> {
    return this.#events.iterate();
  }

  /** What the first reply about the job said; a later one changes nothing. */
  describe(accepted: AcceptedPayload | SubscribedPayload, turn?: Turn): void {
    this.#accepted ??= accepted;
    this.#turn ??= turn;
  }

  deliver(event: JobEvent, bytes: number): void {
    if (event.kind === "result_chunk") this.#result.add(event.body, event.seq);
    this.#children.see(event.kind, event.body);
    this.#events.push(event, bytes);
  }

  firstUnconsumed(): number | undefined {
    return this.#events.firstUnconsumed();
  }

  /** The job's terminal message came. */
  finish(terminal: Terminal): void {
    this.#ended = true;
    this.#terminal.resolve(terminal);
    this.#result.finish(terminal);
    // Only the submitter is told of children.
    this.#children.end(this.#accepted !== undefined && "current_status" in this.#accepted);
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
    this.#result.abandon(error);
    this.#children.end(true);
  }
}

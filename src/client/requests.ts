/**
 * Requests that wait for their answer. They outlive connections: an unanswered one is sent again after
 * a resume, same id and same bytes, which the runtime deduplicates (ENV-8). Answers are matched by the
 * request's id where the runtime names it, and else by the looser rules of the draft.
 */
import { ArcpError, IN_REPLY_TO, type JobsPayload } from "../protocol/index.ts";
import type { Inbound } from "./inbound.ts";
import type { LiveJob } from "./job-handle.ts";

/** What each kind of request is answered with. */
interface Answers {
  submit: LiveJob;
  subscribe: LiveJob;
  cancel: undefined;
  unsubscribe: undefined;
  list: Omit<JobsPayload, "request_id">;
  answer: undefined;
}

export type RequestKind = keyof Answers;
export type Answer<K extends RequestKind> = Answers[K];

export interface RequestOf<K extends RequestKind> {
  kind: K;
  /** The envelope's id. */
  id: string;
  frames: readonly string[];
  /** Of every kind but submit and list. */
  jobId: string | undefined;
  /** Of a submit. */
  traceId: string | undefined;
  /** False for a submit without an idempotency key or a message's id: nobody may ever send it again in another session. */
  repeatable: boolean;
  /** Whether it was ever on the wire. */
  sent: boolean;
  /** Whoever asked has gone; a job that is accepted all the same is let go again. */
  abandoned: boolean;
  resolve(answer: Answers[K]): void;
  reject(error: unknown): void;
}

export type PendingRequest = { [K in RequestKind]: RequestOf<K> }[RequestKind];

/** `"answered"`: the runtime repeats the answer of a request that was answered before. */
export type Match = PendingRequest | "answered" | undefined;

const text = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);

export class PendingRequests {
  /** In the order in which they were made. */
  readonly #requests = new Map<string, PendingRequest>();
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** @throws ArcpError LIMIT_EXCEEDED when too many wait already */
  add(request: PendingRequest): void {
    if (this.#requests.size >= this.#limit) {
      throw ArcpError.detail(
        "LIMIT_EXCEEDED",
        `${this.#limit} requests wait for an answer already; await some of them, or raise maxPendingRequests.`,
        { limit: this.#limit },
      );
    }
    this.#requests.set(request.id, request);
  }

  remove(request: PendingRequest): void {
    this.#requests.delete(request.id);
  }

  get all(): readonly PendingRequest[] {
    return [...this.#requests.values()];
  }

  /** Which request a message without a number answers. */
  match(message: Inbound): Match {
    const named =
      text((message.extensions as Record<string, unknown> | undefined)?.[IN_REPLY_TO]) ??
      text(message.payload["request_id"]) ??
      text((message.payload["details"] as Record<string, unknown> | undefined)?.["request_id"]);
    if (named !== undefined) return this.#requests.get(named) ?? "answered";
    const jobId = text(message.job_id) ?? text(message.payload["job_id"]);
    switch (message.type) {
      case "job.accepted":
        return this.#submitOf(message);
      case "job.error":
        return this.#oldest("cancel", (request) => request.jobId === jobId) ?? this.#submitOf(message);
      case "job.cancelled":
        return this.#oldest("cancel", (request) => request.jobId === jobId);
      case "job.subscribed":
        return this.#oldest("subscribe", (request) => request.jobId === jobId);
      case "session.jobs":
        return this.#oldest("list");
      case "session.pong":
        return this.#requests.get(text(message.payload["ping_nonce"]) ?? "");
      default:
        return undefined;
    }
  }

  /** What a `session.error` that names no request is most likely about: known runtimes mean these two. */
  oldestQuery(): PendingRequest | undefined {
    return this.#first((request) => request.sent && (request.kind === "subscribe" || request.kind === "list"));
  }

  #submitOf(message: Inbound): PendingRequest | undefined {
    // A child's acceptance answers nobody, though it has its parent's trace and may look like an answer.
    const { parent_job_id: parent, delegate_id: delegate } = message.payload;
    if (typeof parent === "string" || typeof delegate === "string") return undefined;
    const traceId = text(message.trace_id) ?? text(message.payload["trace_id"]);
    return this.#oldest("submit", (request) => request.traceId === traceId) ?? this.#oldest("submit");
  }

  #oldest(kind: RequestKind, matches: (request: PendingRequest) => boolean = () => true): PendingRequest | undefined {
    return this.#first((request) => request.kind === kind && request.sent && matches(request));
  }

  #first(matches: (request: PendingRequest) => boolean): PendingRequest | undefined {
    for (const request of this.#requests.values()) {
      if (matches(request)) return request;
    }
    return undefined;
  }
}

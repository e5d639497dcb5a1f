/** An agent backend in memory, for tests: it answers what it is told to, and fails when it is told to. */
import {
  type Backend,
  BackendError,
  type BackendErrorKind,
  type BackendEvent,
  type CallOptions,
  type CreateUpstream,
  type PromptUpstream,
  type UpstreamInfo,
} from "../conversation/upstream/backend.ts";

export type FakeMethod = "create" | "prompt" | "abort" | "delete" | "list" | "exists";

export interface FakeFault {
  /** Rejects with this; absent: the call works. */
  kind?: BackendErrorKind;
  /** Whether the call is carried out, and fails only then: an answer that is lost. @default false */
  late?: boolean;
  /** The call waits for this first. */
  until?: Promise<unknown>;
}

export class FakeBackend implements Backend {
  readonly name: string;
  readonly createTimeoutMs: number;
  /** What it holds now, by id. */
  readonly sessions = new Map<string, CreateUpstream>();
  /** Every call that came, in order, with the session's id where it has one. */
  readonly calls: { method: FakeMethod; sessionId?: string }[] = [];
  /** What it answers, perhaps without end; `permission` events wait for their answer. */
  answer: (text: string) => Iterable<BackendEvent> = (text) => [{ type: "text", text }];
  /** Which permissions it refuses. */
  refuses: (permissions: unknown) => boolean = () => false;
  /** Makes the next session's id. */
  nextId: () => string = () => `ses_${crypto.randomUUID()}`;
  readonly #prompts = new Map<string, AbortController>();
  readonly #faults = new Map<FakeMethod, FakeFault[]>();
  #down = false;

  constructor(options: { name?: string; createTimeoutMs?: number } = {}) {
    this.name = options.name ?? "fake";
    this.createTimeoutMs = options.createTimeoutMs ?? 10_000;
  }

  /** The next call of that method meets this; several wait in order. */
  fail(method: FakeMethod, fault: FakeFault): void {
    this.#faults.set(method, [...(this.#faults.get(method) ?? []), fault]);
  }

  /** While down, every call rejects as `unavailable`. */
  set down(down: boolean) {
    this.#down = down;
  }

  /** How many calls of that method came. */
  count(method: FakeMethod): number {
    return this.calls.filter((call) => call.method === method).length;
  }

  create(request: CreateUpstream, options: CallOptions = {}): Promise<string> {
    return this.#call("create", undefined, options, () => {
      if (this.refuses(request.permissions)) throw new BackendError("rejected", "it refuses these permissions");
      const id = this.nextId();
      this.sessions.set(id, request);
      return id;
    });
  }

  async *prompt(request: PromptUpstream, options: CallOptions = {}): AsyncIterable<BackendEvent> {
    const { sessionId, text, onPermission } = request;
    await this.#call("prompt", sessionId, options, () => this.#known(sessionId));
    const stop = new AbortController();
    const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
    this.#prompts.set(sessionId, stop);
    try {
      for (const event of this.answer(text)) {
        throwIfAborted(signal);
        yield event;
        if (event.type === "permission") {
          const answer = await within(signal, onPermission(event));
          yield { type: "text", text: `permission: ${answer}` };
        }
      }
    } finally {
      this.#prompts.delete(sessionId);
    }
    yield { type: "done" };
  }

  abort(sessionId: string, options: CallOptions = {}): Promise<void> {
    return this.#call("abort", sessionId, options, () => {
      this.#known(sessionId);
      this.#prompts.get(sessionId)?.abort(new Error("aborted"));
    });
  }

  delete(sessionId: string, options: CallOptions = {}): Promise<void> {
    return this.#call("delete", sessionId, options, () => void this.sessions.delete(sessionId));
  }

  async *list(options: CallOptions = {}): AsyncIterable<UpstreamInfo> {
    const sessions = await this.#call("list", undefined, options, () => [...this.sessions]);
    for (const [id, { nonce }] of sessions) yield { id, nonce };
  }

  exists(sessionId: string, options: CallOptions = {}): Promise<boolean> {
    return this.#call("exists", sessionId, options, () => this.sessions.has(sessionId));
  }

  async #call<T>(
    method: FakeMethod,
    sessionId: string | undefined,
    { signal }: CallOptions,
    work: () => T,
  ): Promise<T> {
    this.calls.push({ method, ...(sessionId === undefined ? {} : { sessionId }) });
    throwIfAborted(signal);
    if (this.#down) throw new BackendError("unavailable", "it is down, as the test wants it");
    const { kind, late = false, until } = this.#faults.get(method)?.shift() ?? {};
    if (until !== undefined) await within(signal, until);
    if (kind === undefined) return work();
    if (late) work();
    throw new BackendError(kind, `${method} fails, as the test wants it`);
  }

  #known(sessionId: string): void {
    if (!this.sessions.has(sessionId)) throw new BackendError("session_not_found", `there is no session ${sessionId}`);
  }
}

const stopped = (signal: AbortSignal) =>
  new BackendError("unavailable", "the call was stopped", { cause: signal.reason });

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw stopped(signal);
}

async function within<T>(signal: AbortSignal | undefined, work: Promise<T>): Promise<T> {
  if (signal === undefined) return await work;
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(stopped(signal));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

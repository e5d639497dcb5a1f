/**
 * What an agent does in the world is an act: a `tool_call` in the job's stream, the check of the lease, the
 * effect, a `tool_result` (ACT-1). Tools, files and requests are acts alike, so whoever watches a job sees what
 * it did and what it was refused, whichever way it took.
 *
 * Costs two events for an act; a quiet one costs none unless it is refused (ACT-15). Nothing is done whose
 * `tool_call` was not taken by the log, and nothing once the job was told to stop.
 */
import type { Clock } from "../../clock.ts";
import { ArcpError, type ErrorPayload, type Lease, newMessageId } from "../../protocol/index.ts";
import type { SpanAttributes } from "../tracing/tracing.ts";

/** What acting needs of the job that acts. */
export interface ActingSeam {
  readonly jobId: string;
  readonly principal: string;
  readonly traceId: string;
  /** Of the operation under way, else of the job. */
  readonly traceparent: string;
  readonly lease: Lease;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  emit(kind: string, body: unknown): Promise<void>;
  /** @throws ArcpError LEASE_EXPIRED, BUDGET_EXHAUSTED, PERMISSION_DENIED; returns the canonical target */
  authorize(capability: string, target: string): string;
  /** Carries out one operation under a span of its own (see `JobTrace.operation`). */
  operation<T>(name: string, attributes: SpanAttributes, work: () => Promise<T>): Promise<T>;
}

export interface Act<T> {
  /** What the stream calls it. */
  tool: string;
  /** What a trace calls it. @default as the stream */
  operation?: string;
  /** JSON, as the stream shows it. */
  args: unknown;
  /** Calls `authorize` and then, with nothing in between, does it. */
  work: (callId: string) => Promise<T>;
  /** What the stream shows of the outcome. */
  tell: (outcome: T) => unknown;
  /** Only a refusal is told. */
  quiet?: boolean | undefined;
  /** Settles when what the outcome holds open is closed; until then the act counts as under way. */
  closed?: ((outcome: T) => Promise<void>) | undefined;
}

/** Acts of one job at the same time: each may hold a file or a socket. */
const MAX_OPEN_ACTS = 256;
const RETRY_AFTER_MS = 100;
/** What a `tool_call` or a `tool_result` carries, as JSON; the runtime's limit for an event is a little higher. */
const MAX_TOLD_BYTES = 1024 * 1024;
/** The same for the details of an error, and for its message in characters. */
const MAX_DETAILS_BYTES = 16 * 1024;
const MAX_MESSAGE_CHARS = 2_000;

const REFUSALS: ReadonlySet<string> = new Set(["LEASE_EXPIRED", "BUDGET_EXHAUSTED", "PERMISSION_DENIED"]);

/** The acts of one job. */
export class Acts {
  readonly #run: ActingSeam;
  #open = 0;

  constructor(run: ActingSeam) {
    this.#run = run;
  }

  /**
   * @throws ArcpError a refusal, or what the work threw; INVALID_REQUEST for arguments that are not JSON or too
   *   long; LIMIT_EXCEEDED when 256 acts of the job are under way
   */
  async act<T>(act: Act<T>): Promise<T> {
    const { signal } = this.#run;
    signal.throwIfAborted();
    checkArguments(act);
    if (this.#open >= MAX_OPEN_ACTS) {
      throw ArcpError.detail(
        "LIMIT_EXCEEDED",
        `${act.tool}: ${MAX_OPEN_ACTS} acts of the job are under way; await some.`,
        {
          limit: MAX_OPEN_ACTS,
          retry_after_ms: RETRY_AFTER_MS,
        },
      );
    }
    this.#open += 1;
    let closed: Promise<void> | undefined;
    try {
      const outcome = await this.#carryOut(act);
      closed = act.closed?.(outcome);
      return outcome;
    } finally {
      if (closed === undefined) this.#open -= 1;
      else
        void closed.then(() => {
          this.#open -= 1;
        });
    }
  }

  async #carryOut<T>(act: Act<T>): Promise<T> {
    const callId = `call_${newMessageId()}`;
    const call = { tool: act.tool, args: act.args, call_id: callId };
    if (act.quiet !== true) await this.#run.emit("tool_call", call);
    let outcome: T;
    try {
      this.#run.signal.throwIfAborted();
      const { tool, operation = tool } = act;
      outcome = await this.#run.operation(operation, { "arcp.tool": tool }, async () => act.work(callId));
    } catch (error) {
      if (act.quiet !== true || isRefusal(error)) {
        const result = { call_id: callId, error: told(error, act.tool) };
        try {
          if (act.quiet === true) await this.#run.emit("tool_call", call);
          await this.#run.emit("tool_result", result);
        } catch {
          // The job is over, as the run has logged; what the agent has to hear is why its act failed.
        }
      }
      throw error;
    }
    if (act.quiet !== true) await this.#run.emit("tool_result", { call_id: callId, result: brief(act.tell(outcome)) });
    return outcome;
  }
}

const isRefusal = (error: unknown): boolean => error instanceof ArcpError && REFUSALS.has(error.code);

function checkArguments({ tool, args }: { tool: string; args: unknown }): void {
  const bytes = jsonBytes(args);
  if (bytes === undefined) {
    throw new ArcpError("INVALID_REQUEST", `${tool}: the arguments are not JSON; pass plain values.`);
  }
  if (bytes > MAX_TOLD_BYTES) {
    throw new ArcpError(
      "INVALID_REQUEST",
      `${tool}: the arguments are ${bytes} bytes as JSON, over the limit of ${MAX_TOLD_BYTES}; pass a reference instead.`,
      { details: { bytes, limit: MAX_TOLD_BYTES } },
    );
  }
}

/** An outcome as the stream shows it; one that does not fit is replaced by a note of what it was. */
function brief(outcome: unknown): unknown {
  const bytes = jsonBytes(outcome);
  if (bytes === undefined) return { omitted: "not JSON" };
  return bytes > MAX_TOLD_BYTES ? { omitted: "too long", bytes, limit: MAX_TOLD_BYTES } : (outcome ?? null);
}

/** What the stream says of a failure: an `ArcpError` as it is, within bounds; of any other that there was one. */
function told(error: unknown, tool: string): ErrorPayload {
  if (!(error instanceof ArcpError)) {
    return { code: "INTERNAL_ERROR", message: `${tool} failed.`, retryable: true };
  }
  const { details, ...payload } = error.toPayload();
  const message = payload.message.slice(0, MAX_MESSAGE_CHARS).toWellFormed();
  const bytes = jsonBytes(details);
  return details === undefined || bytes === undefined || bytes > MAX_DETAILS_BYTES
    ? { ...payload, message }
    : { ...payload, message, details };
}

/** `undefined` for what JSON cannot say. Nothing at all counts as `null`. */
function jsonBytes(value: unknown): number | undefined {
  try {
    const text: unknown = JSON.stringify(value ?? null);
    return typeof text === "string" ? Buffer.byteLength(text) : undefined;
  } catch {
    return undefined;
  }
}

/** Rejects with the signal's reason as soon as it aborts, although the work may go on. */
export function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    void work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** @throws ArcpError INVALID_REQUEST naming the option */
export function wholeNumber(option: string, value: number, most: number): number {
  if (Number.isSafeInteger(value) && value > 0 && value <= most) return value;
  throw new ArcpError("INVALID_REQUEST", `${option}: ${value} is no whole number from 1 to ${most}.`);
}

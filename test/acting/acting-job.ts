/** A job that acts under a real lease, with a log that is an array. */
import { Authority } from "../../src/lease/index.ts";
import { type Logger, silentLogger } from "../../src/logger.ts";
import { ArcpError, checkEventBody, type Lease } from "../../src/protocol/index.ts";
import { type ActingSeam, Acts } from "../../src/runtime/acting/acts.ts";
import { type FetchParts, JobFetch } from "../../src/runtime/acting/fetch.ts";
import { JobFiles } from "../../src/runtime/acting/files.ts";
import { JobTools, ToolRegistry } from "../../src/runtime/acting/tools.ts";
import { ManualClock } from "../../src/testing/index.ts";

export const TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736";
export const TRACEPARENT = `00-${TRACE_ID}-00f067aa0ba902b7-01`;

interface Told {
  kind: string;
  tool?: string;
  args?: unknown;
  result?: unknown;
  error?: { code: string; message: string; retryable: boolean; details?: Record<string, unknown> };
}

export interface ActingJob {
  readonly tools: JobTools;
  readonly fs: JobFiles;
  fetch: JobFetch["fetch"];
  readonly registry: ToolRegistry;
  readonly clock: ManualClock;
  readonly told: Told[];
  /** The last `tool_result`. */
  readonly outcome: Told | undefined;
  stop(reason: Error): void;
}

export function actingJob(
  lease: Lease,
  options: {
    expiresAtMs?: number;
    logger?: Logger;
    network?: FetchParts;
    /** Called at each check, after it has succeeded. */
    onAuthorized?: (capability: string, target: string) => void;
  } = {},
): ActingJob {
  const clock = new ManualClock();
  const authority = new Authority({ lease, expiresAtMs: options.expiresAtMs });
  const abort = new AbortController();
  const told: Told[] = [];
  const calls = new Map<string, string>();
  const run: ActingSeam = {
    jobId: "job_1",
    principal: "alice",
    traceId: TRACE_ID,
    traceparent: TRACEPARENT,
    lease,
    clock,
    signal: abort.signal,
    async emit(kind, body) {
      checkEventBody(kind, body);
      const event = JSON.parse(JSON.stringify(body)) as Record<string, unknown>;
      const callId = event["call_id"] as string;
      if (kind === "tool_call") calls.set(callId, event["tool"] as string);
      else if (!calls.has(callId)) throw new Error(`tool_result of no call: ${callId}`);
      const { call_id, ...rest } = event;
      told.push({ kind, ...rest });
    },
    authorize(capability, target) {
      const canonical = authority.check(capability, target, clock.wall());
      options.onAuthorized?.(capability, canonical);
      return canonical;
    },
    operation: (_name, _attributes, work) => work(),
  };
  const acts = new Acts(run);
  const registry = new ToolRegistry(options.logger ?? silentLogger);
  const network = new JobFetch(run, acts, options.network);
  return {
    tools: new JobTools(run, acts, registry),
    fs: new JobFiles(run, acts),
    fetch: (url, init) => network.fetch(url, init),
    registry,
    clock,
    told,
    get outcome() {
      return told.findLast(({ kind }) => kind === "tool_result");
    },
    stop: (reason) => abort.abort(reason),
  };
}

/** For `assert.rejects`: an `ArcpError` of that code whose message holds the text. */
export const arcpError =
  (code: string, text = "") =>
  (error: unknown): boolean => {
    if (error instanceof ArcpError && error.code === code && error.message.includes(text)) return true;
    throw new Error(`expected ${code} with "${text}"`, { cause: error });
  };

/**
 * Tools: functions that the host offers and a job calls by name, if its lease's `tool.call` covers the name
 * (ACT-1 to ACT-8). They are the way for an agent to reach what is neither a file nor a URL; whoever writes one
 * decides what it does, the lease who may call it.
 */
import type { Logger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import { handedOut } from "../handed-out.ts";
import { type ActingSeam, type Acts, unlessAborted } from "./acts.ts";

/** What a tool knows of the call. */
export interface ToolCall {
  readonly callId: string;
  readonly jobId: string;
  readonly principal: string;
  /** 32 hex digits; hand it on. */
  readonly traceId: string;
  /** The same as a W3C header value, with the call's own span. */
  readonly traceparent: string;
  /** Aborts when the job is told to stop; the call is over then, whatever the tool does. */
  readonly signal: AbortSignal;
}

export type ToolHandler<Args = unknown> = (args: Args, call: ToolCall) => unknown;

/** What a Standard Schema (zod, valibot, arktype, …) has; see standardschema.dev. */
export interface InputSchema<Args = unknown> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaOutcome<Args> | Promise<SchemaOutcome<Args>>;
  };
}

export type SchemaOutcome<Args> = { readonly value: Args; readonly issues?: undefined } | SchemaFailure;

export interface SchemaFailure {
  readonly issues: readonly SchemaIssue[];
}

export interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

export interface ToolOptions<Args = unknown> {
  /** What the arguments must be; the handler gets what it makes of them. Without one it gets them as they are. */
  input?: InputSchema<Args>;
  /** For agents that choose among tools. */
  description?: string;
}

/** One of the tools that a job may call. */
export interface ToolInfo {
  readonly name: string;
  readonly description?: string;
  /** As it was registered. */
  readonly input?: InputSchema;
}

interface Tool {
  readonly info: ToolInfo;
  readonly run: (args: unknown, call: ToolCall) => Promise<unknown>;
}

/** What a lease's `tool.call` can name. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@+/-]{0,127}$/;
/** The stream calls the acts on files and the network so. */
const RESERVED = /^(fs|net)\./;
const MAX_TOOLS = 10_000;
/** Names that an error repeats. */
const MAX_NAMES_TOLD = 20;
const MAX_ISSUES_TOLD = 5;

/** The tools that this runtime offers. */
export class ToolRegistry {
  readonly #tools = new Map<string, Tool>();
  readonly logger: Logger;

  /** @param logger is told why a tool failed */
  constructor(logger: Logger) {
    this.logger = logger;
  }

  /** @throws RangeError for a name of other characters, one in `fs.` or `net.`, one that is taken, or too many */
  register<Args>(name: string, handler: ToolHandler<Args>, options: ToolOptions<Args> = {}): void {
    if (!NAME.test(name)) throw new RangeError(`name: ${JSON.stringify(name)} must match ${NAME.source}.`);
    if (RESERVED.test(name)) {
      throw new RangeError(`name: "${name}" looks like the runtime's own; choose one outside "fs." and "net.".`);
    }
    if (this.#tools.has(name)) throw new RangeError(`name: tool "${name}" is registered already.`);
    if (this.#tools.size >= MAX_TOOLS) throw new RangeError(`name: "${name}" would be tool ${MAX_TOOLS + 1}.`);
    const { input, description } = options;
    const info = {
      name,
      ...(description === undefined ? {} : { description }),
      ...(input === undefined ? {} : { input }),
    };
    const run = async (args: unknown, call: ToolCall) =>
      // Without a schema `Args` is whatever the host says that it is.
      handler(input === undefined ? (args as Args) : await validated(name, input, args), call);
    this.#tools.set(name, { info, run });
  }

  get(name: string): Tool | undefined {
    return this.#tools.get(name);
  }

  list(): ToolInfo[] {
    return [...this.#tools.values()].map(({ info }) => info);
  }
}

/** The tools as one job may call them. */
export class JobTools {
  readonly #run: ActingSeam;
  readonly #acts: Acts;
  readonly #registry: ToolRegistry;

  constructor(run: ActingSeam, acts: Acts, registry: ToolRegistry) {
    this.#run = run;
    this.#acts = acts;
    this.#registry = registry;
  }

  /** Those that the lease allows at this moment: none once it is over or its budget is spent (ACT-6). */
  list(): ToolInfo[] {
    return this.#registry.list().filter(({ name }) => this.#allowed(name));
  }

  /**
   * Calls a tool and returns what it returns. The stream shows arguments and result, each up to 1 MiB of JSON; a
   * longer result is replaced there by a note (ACT-5).
   *
   * @throws ArcpError PERMISSION_DENIED, LEASE_EXPIRED, BUDGET_EXHAUSTED; INVALID_REQUEST for a tool that is not
   *   there, or arguments that it does not take; an `ArcpError` of the tool's own as it is; INTERNAL_ERROR for any
   *   other failure of it, which is the `cause`
   */
  call(name: string, args: unknown = {}): Promise<unknown> {
    return handedOut(
      this.#acts.act({
        tool: name,
        operation: "tool.call",
        args,
        work: (callId) => this.#work(name, args, callId),
        tell: (outcome) => outcome,
      }),
    );
  }

  async #work(name: string, args: unknown, callId: string): Promise<unknown> {
    this.#run.authorize("tool.call", name);
    const tool = this.#registry.get(name);
    if (tool === undefined) throw this.#unknown(name);
    const { jobId, principal, traceId, traceparent, signal } = this.#run;
    try {
      return await unlessAborted(tool.run(args, { callId, jobId, principal, traceId, traceparent, signal }), signal);
    } catch (error) {
      if (error instanceof ArcpError) throw error;
      this.#registry.logger.error({ err: error, job_id: jobId, tool: name, call_id: callId }, "tool failed");
      throw new ArcpError("INTERNAL_ERROR", `Tool "${name}" failed; the runtime's log says why.`, { cause: error });
    }
  }

  #unknown(name: string): ArcpError {
    const names = this.list().map((info) => info.name);
    const more = names.length > MAX_NAMES_TOLD ? `, and ${names.length - MAX_NAMES_TOLD} more` : "";
    const available = names.slice(0, MAX_NAMES_TOLD);
    return new ArcpError(
      "INVALID_REQUEST",
      `tool: there is no "${name}" here; available: ${available.join(", ") || "none"}${more}.`,
      { details: { tool: name, available } },
    );
  }

  #allowed(name: string): boolean {
    try {
      this.#run.authorize("tool.call", name);
      return true;
    } catch (error) {
      if (error instanceof ArcpError) return false;
      throw error;
    }
  }
}

/** @throws ArcpError INVALID_REQUEST naming the fields */
async function validated<Args>(name: string, schema: InputSchema<Args>, args: unknown): Promise<Args> {
  const outcome = await schema["~standard"].validate(args);
  if (outcome.issues === undefined) return outcome.value;
  const issues = outcome.issues.slice(0, MAX_ISSUES_TOLD).map(({ message, path = [] }) => {
    const keys = path.map((step) => String(typeof step === "object" ? step.key : step));
    return `${["args", ...keys].join(".")}: ${message}`;
  });
  throw new ArcpError("INVALID_REQUEST", `Tool "${name}" does not take this: ${issues.join("; ")}.`, {
    details: { tool: name, issues },
  });
}

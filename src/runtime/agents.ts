import { parseLease } from "../lease/index.ts";
import { type AgentInfo, ArcpError, type Lease } from "../protocol/index.ts";
import type { JobContext } from "./job/context.ts";

/**
 * Does the work of a job. What it returns is the job's result (JSON); an `ArcpError` that it throws is
 * the job's error as it is, anything else becomes `INTERNAL_ERROR` with a neutral message (JOB-15).
 */
export type AgentHandler = (input: unknown, job: JobContext) => unknown;

/** What a submit's `agent` stands for. */
export interface ResolvedAgent {
  readonly name: string;
  /** `name`, or `name@version` where the agent has versions. */
  readonly label: string;
  readonly handler: AgentHandler;
  /** What its jobs may do where the submit does not ask for anything. */
  readonly lease: Lease;
  /** How often a job of it may be run again after its node was lost. */
  readonly restarts: number;
}

export interface AgentOptions {
  /** @default "1.0.0" */
  version?: string;
  /** Whether a submit without a version means this one; the first one does. */
  default?: boolean;
  /** What a job has whose submit has no `lease_request`; the policy has to grant it all the same. @default {} */
  lease?: Lease;
  /**
   * Whether a job of it is run again, by whichever node offers it, when the process that runs it is lost or stops
   * (CLU). What an attempt did before it was lost it may do again: see `JobContext.checkpoint`. A number says how
   * many lost processes one job may have; `true` means 3.
   *
   * @default false
   */
  restartable?: boolean | number;
}

/** A job that kills its process must not kill one after the other. */
const RESTARTS = 3;

interface Version {
  handler: AgentHandler;
  lease: Lease;
  restarts: number;
}

interface Entry {
  versions: Map<string, Version>;
  default: string;
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$/;

/** The agents that this runtime offers, by name and version. */
export class AgentRegistry {
  readonly #agents = new Map<string, Entry>();

  /**
   * The first version of a name is its default, until one is registered with `default: true`.
   *
   * @throws RangeError for a name or version of other characters, or one that is taken
   */
  register(name: string, handler: AgentHandler, options: AgentOptions = {}): void {
    const version = options.version ?? "1.0.0";
    for (const [field, value] of Object.entries({ name, version })) {
      if (!NAME.test(value)) {
        throw new RangeError(`${field}: ${JSON.stringify(value)} must match ${NAME.source}.`);
      }
    }
    const entry = this.#agents.get(name) ?? { versions: new Map(), default: version };
    if (entry.versions.has(version)) throw new RangeError(`name: agent "${name}@${version}" is registered already.`);
    const { restartable = false } = options;
    const restarts = restartable === true ? RESTARTS : restartable === false ? 0 : restartable;
    if (!Number.isSafeInteger(restarts) || restarts < 0) {
      throw new RangeError(`restartable: ${restarts} is neither a boolean nor a whole number of at least 0.`);
    }
    entry.versions.set(version, { handler, lease: parseLease(options.lease ?? {}, "lease"), restarts });
    if (options.default === true) entry.default = version;
    this.#agents.set(name, entry);
  }

  /**
   * @param field what an error calls the place of `wanted`
   * @throws ArcpError AGENT_NOT_AVAILABLE, AGENT_VERSION_NOT_AVAILABLE (JOB-4)
   */
  resolve(wanted: string, field: string): ResolvedAgent {
    const at = wanted.indexOf("@");
    const name = at < 0 ? wanted : wanted.slice(0, at);
    const entry = this.#agents.get(name);
    if (entry === undefined) {
      const known = [...this.#agents.keys()].join(", ") || "none";
      throw new ArcpError("AGENT_NOT_AVAILABLE", `${field}: no agent "${name}" here; available: ${known}.`, {
        details: { agent: name },
      });
    }
    const version = at < 0 ? entry.default : wanted.slice(at + 1);
    const found = entry.versions.get(version);
    if (found === undefined) {
      throw new ArcpError(
        "AGENT_VERSION_NOT_AVAILABLE",
        `${field}: "${name}" has no version "${version}"; available: ${[...entry.versions.keys()].join(", ")}.`,
        { details: { agent: name, version } },
      );
    }
    return { name, label: `${name}@${version}`, ...found };
  }

  /** Every agent and version, `name@version`. */
  labels(): string[] {
    return [...this.#agents].flatMap(([name, { versions }]) =>
      [...versions.keys()].map((version) => `${name}@${version}`),
    );
  }

  /** As the welcome lists them; without versions for a session that did not negotiate `agent_versions`. */
  list(withVersions: boolean): AgentInfo[] {
    return [...this.#agents].map(([name, entry]) =>
      withVersions ? { name, versions: [...entry.versions.keys()], default: entry.default } : { name, versions: [] },
    );
  }
}

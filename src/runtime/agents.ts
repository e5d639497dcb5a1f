import type { AgentInfo } from "../protocol/index.ts";
import { ArcpError } from "../protocol/index.ts";
import type { JobContext } from "./job/context.ts";

/**
 * Does the work of a job. What it returns is the job's result (JSON); an `ArcpError` that it throws is
 * the job's error as it is, anything else becomes `INTERNAL_ERROR` with a neutral message (JOB-15).
 */
export type AgentHandler = (input: unknown, job: JobContext) => unknown;

/** What a submit's `agent` stands for. */
export interface ResolvedAgent {
  /** `name`, or `name@version` where the agent has versions. */
  readonly label: string;
  readonly handler: AgentHandler;
}

interface Entry {
  versions: Map<string, AgentHandler>;
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
  register(name: string, handler: AgentHandler, options: { version?: string; default?: boolean } = {}): void {
    const version = options.version ?? "1.0.0";
    for (const [field, value] of Object.entries({ name, version })) {
      if (!NAME.test(value)) {
        throw new RangeError(`${field}: ${JSON.stringify(value)} must match ${NAME.source}.`);
      }
    }
    const entry = this.#agents.get(name) ?? { versions: new Map(), default: version };
    if (entry.versions.has(version)) throw new RangeError(`name: agent "${name}@${version}" is registered already.`);
    entry.versions.set(version, handler);
    if (options.default === true) entry.default = version;
    this.#agents.set(name, entry);
  }

  /** @throws ArcpError AGENT_NOT_AVAILABLE, AGENT_VERSION_NOT_AVAILABLE (JOB-4) */
  resolve(wanted: string): ResolvedAgent {
    const at = wanted.indexOf("@");
    const name = at < 0 ? wanted : wanted.slice(0, at);
    const entry = this.#agents.get(name);
    if (entry === undefined) {
      const known = [...this.#agents.keys()].join(", ") || "none";
      throw new ArcpError("AGENT_NOT_AVAILABLE", `payload.agent: no agent "${name}" here; available: ${known}.`, {
        details: { agent: name },
      });
    }
    const version = at < 0 ? entry.default : wanted.slice(at + 1);
    const handler = entry.versions.get(version);
    if (handler === undefined) {
      throw new ArcpError(
        "AGENT_VERSION_NOT_AVAILABLE",
        `payload.agent: "${name}" has no version "${version}"; available: ${[...entry.versions.keys()].join(", ")}.`,
        { details: { agent: name, version } },
      );
    }
    return { label: `${name}@${version}`, handler };
  }

  /** As the welcome lists them; without versions for a session that did not negotiate `agent_versions`. */
  list(withVersions: boolean): AgentInfo[] {
    return [...this.#agents].map(([name, entry]) =>
      withVersions ? { name, versions: [...entry.versions.keys()], default: entry.default } : { name, versions: [] },
    );
  }
}

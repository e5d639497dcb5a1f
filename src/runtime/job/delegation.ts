/**
 * Delegation: a running job starts another one under a part of its own lease. The child is a job like any
 * other, with a log of its own that its parent's submitter follows; what ties it to its parent is checked here
 * before it exists. It costs two commits: the child, then the parent's `delegate` event, so that whoever
 * numbers the event finds the child.
 */
import type { Clock } from "../../clock.ts";
import { type Authority, Budget, budgetForWire, parseBudget, parseExpiry, parseLease } from "../../lease/index.ts";
import {
  type AcceptedPayload,
  ArcpError,
  checkEventBody,
  type Lease,
  newJobId,
  type ResultPayload,
  type Stored,
} from "../../protocol/index.ts";
import { type NewJob, type Store, StoreRefusal, StoreUnavailable } from "../../store/store.ts";
import type { AgentRegistry, ResolvedAgent } from "../agents.ts";
import type { CredentialKeeper } from "../credentials/keeper.ts";
import type { Masking } from "../credentials/masking.ts";
import { grantedLease, type LeasePolicy } from "../policy.ts";
import { wholeResult } from "../session/inline-result.ts";
import type { Delegated, DelegateOptions } from "./delegated.ts";
import type { RecentEvents } from "./recent-events.ts";

export interface DelegationLimits {
  /** How deep a tree of jobs may be; a submitted job has depth 0. */
  maxDelegationDepth: number;
  /** Live children of one job. */
  maxChildrenPerJob: number;
  maxRunningJobsPerPrincipal: number;
  maxInputBytes: number;
}

export interface DelegationParts extends DelegationLimits {
  store: Store;
  agents: AgentRegistry;
  policy: LeasePolicy;
  recent: RecentEvents;
  credentials: CredentialKeeper;
  masking: Masking;
  clock: Clock;
  start(child: ChildStart): ChildRun;
}

/** A child that the store has taken, to be started here. */
export interface ChildStart {
  job: NewJob;
  agent: ResolvedAgent;
  input: unknown;
  parent: ParentRun;
  authority: Authority;
}

/** How a job ended: the payload of its `job.result` and where in its log that is, or its error. */
export type JobOutcome = { payload: string; lastN: number } | ArcpError;

/** What a parent needs of its child's run. */
export interface ChildRun {
  readonly jobId: string;
  /** Settles when the terminal event is stored, or the store took the job away: then there is no outcome. */
  readonly closed: Promise<void>;
  readonly outcome: JobOutcome | undefined;
  stop(cause: ArcpError): void;
}

/** What delegating needs of the run that delegates. */
export interface ParentRun {
  readonly jobId: string;
  readonly runEpoch: number;
  readonly principal: string;
  readonly traceId: string;
  readonly traceparent: string;
  readonly depth: number;
  readonly authority: Authority;
  readonly liveChildren: number;
  /** Delegations that were admitted, and whose child has yet to be adopted. */
  delegationsUnderWay: number;
  /** @throws ArcpError LEASE_EXPIRED, BUDGET_EXHAUSTED, PERMISSION_DENIED */
  authorizeAgent(agent: ResolvedAgent): void;
  /** Takes note of a delegation's name. @returns false when it is taken */
  nameDelegation(delegateId: string): boolean;
  unnameDelegation(delegateId: string): void;
  append(kind: string, body: unknown): Promise<void>;
  adopt(child: ChildRun): void;
}

/** A delegation that was checked, with its budget reserved. */
interface Admitted {
  job: NewJob;
  agent: ResolvedAgent;
  accepted: Stored<AcceptedPayload>;
  authority: Authority;
}

export class Delegation {
  readonly #parts: DelegationParts;

  constructor(parts: DelegationParts) {
    this.#parts = parts;
  }

  /**
   * Starts a child of `parent`. What is refused is in the parent's log, as the `tool_result` of the delegation,
   * and the agent gets the error.
   *
   * @throws ArcpError AGENT_NOT_AVAILABLE, AGENT_VERSION_NOT_AVAILABLE, PERMISSION_DENIED,
   *   LEASE_SUBSET_VIOLATION, LEASE_EXPIRED, BUDGET_EXHAUSTED, INVALID_REQUEST, LIMIT_EXCEEDED
   */
  async start(parent: ParentRun, wanted: string, input: unknown, options: DelegateOptions): Promise<Delegated> {
    const jobId = newJobId();
    const delegateId = options.delegateId ?? `del_${jobId.slice(jobId.indexOf("_") + 1)}`;
    const event = {
      delegate_id: delegateId,
      agent: wanted,
      input: input ?? null,
      ...(options.lease === undefined ? {} : { lease_request: options.lease }),
      ...(options.expiresAt === undefined ? {} : { lease_constraints: { expires_at: options.expiresAt } }),
    };
    // Said to the agent alone: in the log it would read as the end of the earlier one.
    if (options.delegateId !== undefined && !parent.nameDelegation(delegateId)) {
      throw new ArcpError("INVALID_REQUEST", `delegate_id: ${JSON.stringify(delegateId)} names an earlier delegation.`);
    }
    let admitted: Admitted | undefined;
    let wellFormed = false;
    try {
      checkEventBody("delegate", event);
      wellFormed = true;
      admitted = this.#admit(parent, wanted, { jobId, delegateId, input, options });
      parent.delegationsUnderWay += 1;
      await this.#provision(parent, admitted);
      await this.#spawn(parent, delegateId, admitted);
    } catch (error) {
      if (options.delegateId !== undefined) parent.unnameDelegation(delegateId);
      if (admitted !== undefined) {
        parent.delegationsUnderWay -= 1;
        admitted.authority.budget.settle();
        this.#parts.credentials.abandon(jobId);
      }
      const refusal = refusalOf(error);
      if (wellFormed) await parent.append("delegate", event);
      await parent.append("tool_result", { call_id: delegateId, error: refusal.toPayload() });
      throw refusal;
    }
    const { job, agent, authority } = admitted;
    // Started in any case: the child is stored, and whoever watches over jobs counts on its end.
    const told = parent.append("delegate", event);
    const child = this.#parts.start({ job, agent, input: input ?? null, parent, authority });
    parent.adopt(child);
    parent.delegationsUnderWay -= 1;
    const result = this.#result(child);
    // A parent that does not ask for a result has nothing to catch.
    result.catch(() => undefined);
    await told;
    return {
      jobId,
      delegateId,
      agent: agent.label,
      result,
      cancel: (reason) => {
        child.stop(new ArcpError("CANCELLED", reason ?? "The parent job cancelled it."));
      },
    };
  }

  #admit(
    parent: ParentRun,
    wanted: string,
    given: { jobId: string; delegateId: string; input: unknown; options: DelegateOptions },
  ): Admitted {
    const { agents, policy, clock, maxDelegationDepth, maxChildrenPerJob, maxInputBytes } = this.#parts;
    const { jobId, delegateId, options } = given;
    const agent = agents.resolve(wanted, "agent");
    parent.authorizeAgent(agent);
    if (parent.depth >= maxDelegationDepth) {
      throw tooMany(`Jobs delegate at most ${maxDelegationDepth} levels deep.`, maxDelegationDepth);
    }
    if (parent.liveChildren + parent.delegationsUnderWay >= maxChildrenPerJob) {
      throw tooMany(`A job has at most ${maxChildrenPerJob} live children; let some end first.`, maxChildrenPerJob);
    }
    const text = JSON.stringify(given.input ?? null);
    const bytes = Buffer.byteLength(text);
    if (bytes > maxInputBytes) {
      throw new ArcpError("INVALID_REQUEST", `input: takes ${bytes} bytes; at most ${maxInputBytes} fit.`, {
        details: { limit: maxInputBytes },
      });
    }
    if (options.maxRuntimeMs !== undefined && !(options.maxRuntimeMs > 0 && Number.isFinite(options.maxRuntimeMs))) {
      throw new ArcpError("INVALID_REQUEST", `maxRuntimeMs: ${options.maxRuntimeMs} is not a positive number.`);
    }
    const asked = parseLease(options.lease ?? {}, "lease");
    const lease = withinBudget(
      grantedLease(asked, policy(parent.principal, agent.name), "lease"),
      asked,
      parent.authority,
    );
    const askedMs =
      options.expiresAt === undefined ? undefined : parseExpiry(options.expiresAt, clock.wall(), "expiresAt");
    const authority = parent.authority.delegate({ lease, expiresAtMs: askedMs }, "delegate");
    const { expiresAtMs } = authority;
    const job: NewJob = {
      jobId,
      agent: agent.label,
      // What the child gets is as it was given; what is kept has no secret in it (law 8).
      input: this.#parts.masking.json(text),
      lease,
      leaseExpiresAt: expiresAtMs,
      traceId: parent.traceId,
      maxRuntimeMs: options.maxRuntimeMs,
    };
    const accepted: Stored<AcceptedPayload> = {
      job_id: jobId,
      agent: agent.label,
      lease,
      ...(expiresAtMs === undefined ? {} : { lease_constraints: { expires_at: new Date(expiresAtMs).toISOString() } }),
      ...budgetOf(lease),
      accepted_at: new Date(clock.wall()).toISOString(),
      parent_job_id: parent.jobId,
      delegate_id: delegateId,
      trace_id: parent.traceId,
    };
    return { job, agent, accepted, authority };
  }

  /** The child of a job that has credentials has its own: they are good for one job each (CRD-1). */
  async #provision(parent: ParentRun, { job, accepted }: Admitted): Promise<void> {
    const { credentials } = this.#parts;
    if (credentials.of(parent.jobId).length === 0) return;
    accepted.credentials = await credentials.issueFor({ ...job, principal: parent.principal });
  }

  async #spawn(parent: ParentRun, delegateId: string, { job, accepted }: Admitted): Promise<void> {
    const { store, clock, maxRunningJobsPerPrincipal } = this.#parts;
    await store.jobs.spawn({
      parentJobId: parent.jobId,
      runEpoch: parent.runEpoch,
      delegateId,
      job,
      acceptedPayload: JSON.stringify(accepted),
      maxRunningJobsPerPrincipal,
      now: clock.wall(),
    });
  }

  async #result(child: ChildRun): Promise<unknown> {
    const { recent, store } = this.#parts;
    await child.closed;
    const { outcome } = child;
    if (outcome === undefined) {
      throw new ArcpError("INTERNAL_ERROR", "The child job was taken from this process.", {
        details: { reason: "node_lost" },
      });
    }
    if (outcome instanceof ArcpError) throw outcome;
    const { result, result_id } = JSON.parse(outcome.payload) as ResultPayload;
    if (result_id === undefined) return result;
    const whole = await wholeResult(
      {
        floorN: async () => (await store.jobs.get(child.jobId))?.floorN ?? 0,
        read: (afterN, throughN) => recent.read(child.jobId, afterN, throughN),
      },
      outcome.lastN,
    );
    return whole.encoding === "base64" ? Buffer.from(whole.result, "base64") : whole.result;
  }
}

/**
 * A cap of the policy that the parent did not ask for itself, as far as the parent's own budget goes: it is a limit,
 * not a wish, so there being less left refuses nothing.
 */
function withinBudget(granted: Lease, asked: Lease, parent: Authority): Lease {
  const capped = granted[BUDGET];
  if (capped === undefined || Object.hasOwn(asked, BUDGET)) return granted;
  const left = parent.budget.remaining();
  if (Object.keys(left).length === 0) return granted;
  const entries = Object.entries(parseBudget(capped))
    .filter(([currency]) => Object.hasOwn(left, currency))
    .map(([currency, cap]) => `${currency}:${smaller(cap, left[currency] as string)}`);
  return { ...asked, [BUDGET]: entries };
}

/** Of two decimals, as an amount may be written: cut off behind the twelfth place, and not below zero. */
function smaller(cap: string, left: string): string {
  if (Number(left) >= Number(cap)) return cap;
  return left.startsWith("-") ? "0" : left.replace(/(\.\d{12})\d+$/, "$1");
}

const BUDGET = "cost.budget";

/** What a lease has of each currency, as `job.accepted` tells it. */
export function budgetOf(lease: Lease): { budget?: Record<string, number> } {
  const entries = lease[BUDGET];
  return entries === undefined ? {} : { budget: budgetForWire(new Budget(parseBudget(entries))) };
}

/** A refusal as the agent and the log are told of it. */
function refusalOf(error: unknown): ArcpError {
  if (error instanceof ArcpError) return error;
  if (error instanceof StoreRefusal) {
    return error.reason === "limit_exceeded"
      ? ArcpError.detail("LIMIT_EXCEEDED", "As many jobs of this principal run as may; try again later.", {})
      : new ArcpError("CANCELLED", "The job has ended; it can delegate nothing more.");
  }
  if (error instanceof StoreUnavailable) {
    return ArcpError.detail("STORE_UNAVAILABLE", "The store did not answer; nothing was delegated. Try again.");
  }
  throw error;
}

const tooMany = (message: string, limit: number): ArcpError => ArcpError.detail("LIMIT_EXCEEDED", message, { limit });

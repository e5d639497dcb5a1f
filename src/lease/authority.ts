/**
 * What one job may do, asked for each operation before it is done: expiry, then budgets, then patterns
 * (LEA-9). Made once for a job; a check is synchronous, reads no clock and costs microseconds.
 */
import { ArcpError, type Lease } from "../protocol/index.ts";
import { type Amounts, Budget, parseBudget } from "./budget.ts";
import { BUDGET } from "./capability.ts";
import { fieldOf, LeasePatterns } from "./lease.ts";
import { quote } from "./refusal.ts";
import { subsetViolation } from "./subset.ts";
import { canonicalTarget, denied, operationDetails } from "./target.ts";

export interface AuthorityOptions {
  /** As `parseLease` returned it. */
  readonly lease: Lease;
  /** Wall time; without one the lease does not end. */
  readonly expiresAtMs?: number | undefined;
  /** @default the lease's own `cost.budget`, whole */
  readonly budget?: Budget | undefined;
}

export class Authority {
  readonly lease: Lease;
  readonly expiresAtMs: number | undefined;
  readonly budget: Budget;
  readonly #patterns: LeasePatterns;

  /** @throws ArcpError INVALID_REQUEST for what is no lease */
  constructor({ lease, expiresAtMs, budget }: AuthorityOptions) {
    this.#patterns = new LeasePatterns(lease);
    this.lease = lease;
    this.expiresAtMs = expiresAtMs;
    this.budget = budget ?? new Budget(amountsOf(lease));
  }

  /**
   * @param target as the agent gave it
   * @param nowMs wall time
   * @returns the target in its canonical spelling, which the operation has to use instead of the given one
   * @throws ArcpError LEASE_EXPIRED, BUDGET_EXHAUSTED, PERMISSION_DENIED, with `details.capability` and
   *   `details.target`
   */
  check(capability: string, target: string, nowMs: number): string {
    if (this.expiresAtMs !== undefined && nowMs >= this.expiresAtMs) {
      throw new ArcpError("LEASE_EXPIRED", `The lease ended at ${new Date(this.expiresAtMs).toISOString()}.`, {
        details: operationDetails(capability, target),
      });
    }
    const { exhausted } = this.budget;
    if (exhausted.length > 0) {
      throw new ArcpError("BUDGET_EXHAUSTED", `Nothing is left of the budget in ${exhausted.join(", ")}.`, {
        details: { ...operationDetails(capability, target), currencies: exhausted },
      });
    }
    const canonical = canonicalTarget(capability, target);
    if (!this.#patterns.match(capability, canonical.subject)) {
      throw denied(capability, target, "is not within the job's lease");
    }
    return canonical.target;
  }

  /** Whether the lease covers the target; says nothing of expiry and budgets, and throws nothing. */
  permits(capability: string, target: string): boolean {
    try {
      return this.#patterns.match(capability, canonicalTarget(capability, target).subject);
    } catch (error) {
      if (error instanceof ArcpError) return false;
      throw error;
    }
  }

  /**
   * A child's authority within this one: its patterns within these, its budget reserved from what is left,
   * its end no later. Settle the child's budget when the child has ended.
   *
   * @param child its lease as `parseLease` returned it; without an end of its own it has this one's
   * @param field where the child's lease and constraints stand, for messages; `body` for a `delegate` event
   * @throws ArcpError LEASE_SUBSET_VIOLATION naming the field; nothing is reserved
   */
  delegate(child: { lease: Lease; expiresAtMs?: number | undefined }, field = "payload"): Authority {
    const leaseField = `${field}.lease_request`;
    const violation = subsetViolation(child.lease, this.lease);
    if (violation !== undefined) {
      const { capability, pattern, index, example } = violation;
      const such = example === undefined || example === pattern ? "" : `; ${quote(example)} is not, for example`;
      throw new ArcpError(
        "LEASE_SUBSET_VIOLATION",
        `${fieldOf(leaseField, capability)}[${index}]: ${quote(pattern)} is not within the parent's lease${such}.`,
        { details: { capability, pattern } },
      );
    }
    const expiresAtMs = child.expiresAtMs ?? this.expiresAtMs;
    if (this.expiresAtMs !== undefined && expiresAtMs !== undefined && expiresAtMs > this.expiresAtMs) {
      const [asked, most] = [expiresAtMs, this.expiresAtMs].map((ms) => new Date(ms).toISOString());
      throw new ArcpError(
        "LEASE_SUBSET_VIOLATION",
        `${field}.lease_constraints.expires_at: ${asked} is later than the parent's ${most}.`,
        { details: { expires_at: most } },
      );
    }
    const budget = this.budget.reserve(amountsOf(child.lease), fieldOf(leaseField, BUDGET));
    return new Authority({ lease: child.lease, expiresAtMs, budget });
  }
}

const amountsOf = (lease: Lease): Amounts => parseBudget(lease[BUDGET] ?? []);

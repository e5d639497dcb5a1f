/**
 * What the host grants: the leases that a principal may ask for, for an agent (LEA-17). A lease is asked
 * for by name and pattern; what was not asked for a job does not have, whatever the policy would allow.
 */
import { subsetViolation } from "../lease/index.ts";
import { ArcpError, type Lease } from "../protocol/index.ts";

/**
 * Capability to patterns, as in a lease, or `"any"`. Of `cost.budget` the amounts are the most that one job may
 * have. What is not named is not granted.
 */
export type Grants = Readonly<Record<string, readonly string[] | "any">>;

/** What a principal's jobs with that agent (by name, without version) may have. Called for each submit; synchronous. */
export type LeasePolicy = (principal: string, agent: string) => Grants;

const BUDGET = "cost.budget";

/**
 * Nothing of `fs.*`, `net.*` and vendors. Tools and agents are what the host registered itself, and a budget
 * only ever limits.
 */
export const DEFAULT_GRANTS: Grants = { "tool.call": "any", "agent.delegate": "any", [BUDGET]: "any" };

/**
 * @returns the lease, with the budget's cap where it names none
 * @throws ArcpError PERMISSION_DENIED naming the first capability that is asked for beyond the grants
 */
export function grantedLease(lease: Lease, grants: Grants, field: string): Lease {
  for (const [capability, patterns] of Object.entries(lease)) {
    const granted = Object.hasOwn(grants, capability) ? grants[capability] : undefined;
    if (granted === "any") continue;
    if (granted === undefined) throw beyond(capability, `${field}: ${capability} is not granted to you here.`);
    const violation = subsetViolation({ [capability]: patterns }, { [capability]: [...granted] });
    if (violation !== undefined) {
      throw beyond(
        capability,
        `${field}["${capability}"][${violation.index}]: ${JSON.stringify(violation.pattern)} is more than is granted to you here.`,
      );
    }
  }
  const cap = Object.hasOwn(grants, BUDGET) ? grants[BUDGET] : undefined;
  if (cap === undefined || cap === "any" || Object.hasOwn(lease, BUDGET)) return lease;
  return { ...lease, [BUDGET]: [...cap] };
}

const beyond = (capability: string, message: string): ArcpError =>
  new ArcpError("PERMISSION_DENIED", message, { details: { capability } });

/** Whether a lease lies within another one: a child's within its parent's, a request within the policy (LEA-8). */
import type { Lease } from "../protocol/index.ts";
import { currencyBeyond, parseBudget } from "./budget.ts";
import { BUDGET } from "./capability.ts";
import { Effort, Union } from "./inclusion.ts";
import { parseLease } from "./lease.ts";

export interface SubsetViolation {
  readonly capability: string;
  readonly pattern: string;
  /** Of the pattern in its capability's list. */
  readonly index: number;
  /** What the child could touch and the parent could not, where the search found one. */
  readonly example: string | undefined;
}

/**
 * The first pattern of the child that allows something the parent does not; `undefined` when there is none,
 * and then whatever the child may, the parent may. `cost.budget` is a limit: a parent without one allows
 * any, and a child without one has to share its parent's counters ({@link Budget.reserve}).
 *
 * @throws ArcpError INVALID_REQUEST where one of them is no lease
 */
export function subsetViolation(child: Lease, parent: Lease): SubsetViolation | undefined {
  const inner = parseLease(child, "lease");
  const outer = parseLease(parent, "lease");
  const effort = new Effort();
  for (const [capability, patterns] of Object.entries(inner)) {
    const others = Object.hasOwn(outer, capability) ? outer[capability] : undefined;
    if (capability === BUDGET) {
      const index = others === undefined ? -1 : budgetViolation(patterns, others);
      const pattern = patterns[index];
      if (pattern !== undefined) return { capability, pattern, index, example: undefined };
      continue;
    }
    const union = new Union(others ?? []);
    for (const [index, pattern] of patterns.entries()) {
      const found = union.lacks(pattern, effort);
      if (found !== undefined) return { capability, pattern, index, example: found.example };
    }
  }
  return undefined;
}

function budgetViolation(entries: readonly string[], limit: readonly string[]): number {
  if (limit.length === 0) return -1;
  const currency = currencyBeyond(parseBudget(entries), parseBudget(limit));
  return currency === undefined ? -1 : entries.findIndex((entry) => entry.startsWith(`${currency}:`));
}

/**
 * What a job may do: the grammar of leases, targets in their one spelling, subsets, budgets (SPEC.md, LEA).
 * Pure: no input or output, and time comes in as numbers.
 */
export { Authority } from "./authority.ts";
export { Budget, budgetForWire, isCostMetric, parseBudget, REMAINING_METRIC } from "./budget.ts";
export { parseExpiry } from "./expiry.ts";
export { parseLease } from "./lease.ts";
export { subsetViolation } from "./subset.ts";
export { canonicalTarget } from "./target.ts";

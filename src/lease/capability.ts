/**
 * What a lease can speak of. Each capability has a kind, and the kind says how its patterns are written and
 * how its targets are made canonical (LEA-1).
 */

/** What the targets of a capability are; `amount` has none: `cost.budget` limits, it allows nothing. */
export type CapabilityKind = "path" | "url" | "name" | "amount" | "vendor";

const RESERVED: ReadonlyMap<string, CapabilityKind> = new Map([
  ["fs.read", "path"],
  ["fs.write", "path"],
  ["net.fetch", "url"],
  ["tool.call", "name"],
  ["agent.delegate", "name"],
  ["model.use", "name"],
  ["cost.budget", "amount"],
]);

/** The capability whose entries are amounts, not patterns. */
export const BUDGET = "cost.budget";

const VENDOR = /^x-vendor\.[a-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+$/;
const MAX_NAME_CHARS = 256;

/** `undefined` for what is no capability. */
export function kindOf(capability: string): CapabilityKind | undefined {
  const reserved = RESERVED.get(capability);
  if (reserved !== undefined) return reserved;
  return capability.length <= MAX_NAME_CHARS && VENDOR.test(capability) ? "vendor" : undefined;
}

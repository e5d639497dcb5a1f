/**
 * A lease as somebody wrote it, made safe to keep: known capabilities, patterns of the grammar in their one
 * spelling, amounts, and no more of each than a check can afford (LEA-1, LEA-2, LEA-4).
 */
import { ArcpError, type Lease } from "../protocol/index.ts";
import { parseBudget } from "./budget.ts";
import { BUDGET, kindOf } from "./capability.ts";
import { canonicalPattern, Pattern } from "./pattern.ts";
import { quote, unlessRefused } from "./refusal.ts";

const MAX_CAPABILITIES = 64;
const MAX_PATTERNS = 256;
/** Of all patterns together; every listing of jobs repeats their leases. */
const MAX_LEASE_CHARS = 32_768;

/**
 * Parsed again, the result is the same.
 *
 * @param field where the lease stands, for messages
 * @throws ArcpError INVALID_REQUEST naming the field, the value and the remedy
 */
export function parseLease(raw: unknown, field = "payload.lease_request"): Lease {
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
    throw invalid(field, raw, "is not an object of capabilities, each with its patterns");
  }
  const capabilities = Object.entries(raw);
  if (capabilities.length > MAX_CAPABILITIES) {
    throw invalid(field, raw, `has ${capabilities.length} capabilities, and at most ${MAX_CAPABILITIES} are allowed`);
  }
  const lease: Lease = {};
  let chars = 0;
  for (const [capability, patterns] of capabilities) {
    const parsed = parsePatterns(capability, patterns, field);
    chars += parsed.reduce((sum, pattern) => sum + pattern.length, 0);
    if (chars > MAX_LEASE_CHARS) {
      throw invalid(field, raw, `has more than ${MAX_LEASE_CHARS} characters of patterns; use wider patterns`);
    }
    lease[capability] = parsed;
  }
  return lease;
}

function parsePatterns(capability: string, patterns: unknown, field: string): string[] {
  const kind = kindOf(capability);
  if (kind === undefined) {
    throw invalid(field, capability, 'is not a capability; your own are "x-vendor.<vendor>.<name>"');
  }
  const where = fieldOf(field, capability);
  if (!Array.isArray(patterns)) throw invalid(where, patterns, "is not an array of patterns");
  if (patterns.length > MAX_PATTERNS) {
    throw invalid(where, patterns, `has ${patterns.length} patterns, and at most ${MAX_PATTERNS} are allowed`);
  }
  const texts = patterns.map((pattern: unknown, index) => {
    if (typeof pattern !== "string") throw invalid(`${where}[${index}]`, pattern, "is not a text");
    return pattern;
  });
  if (kind === "amount") {
    parseBudget(texts, where);
    return texts;
  }
  return texts.map((text, index) =>
    unlessRefused(
      () => canonicalPattern(capability, kind, text),
      (reason) => {
        throw invalid(`${where}[${index}]`, text, reason);
      },
    ),
  );
}

export const fieldOf = (field: string, capability: string): string => `${field}[${JSON.stringify(capability)}]`;

const invalid = (field: string, value: unknown, reason: string): ArcpError =>
  new ArcpError("INVALID_REQUEST", `${field}: ${quote(value)} ${reason}.`);

/** A lease's patterns, each made ready when its capability is first asked for. Lives as long as its job. */
export class LeasePatterns {
  readonly #lease: Lease;
  readonly #compiled = new Map<string, readonly Pattern[]>();

  /** @throws ArcpError INVALID_REQUEST: a lease that came from anywhere is parsed again */
  constructor(lease: Lease) {
    this.#lease = parseLease(lease, "lease");
  }

  /** @param subject of a canonical target; never a text as somebody spelt it */
  match(capability: string, subject: string): boolean {
    const segments = subject.split("/");
    return this.#patterns(capability).some((pattern) => pattern.matches(segments));
  }

  #patterns(capability: string): readonly Pattern[] {
    let patterns = this.#compiled.get(capability);
    if (patterns === undefined) {
      if (capability === BUDGET || !Object.hasOwn(this.#lease, capability)) return [];
      patterns = (this.#lease[capability] ?? []).map((text) => new Pattern(text));
      this.#compiled.set(capability, patterns);
    }
    return patterns;
  }
}

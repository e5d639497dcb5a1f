/**
 * Runs the conformance cases, a few at a time, each with sessions of its own, and tells the outcome rule
 * by rule in the order of SPEC.md. Nothing but frames tells it anything of the runtime.
 */
import { type Clock, systemClock } from "../../clock.ts";
import { ENVELOPE_CASES } from "./envelope-cases.ts";
import { JOB_CASES } from "./job-cases.ts";
import type { Wire } from "./peer.ts";
import { RESUME_CASES } from "./resume-cases.ts";
import { SESSION_CASES } from "./session-cases.ts";
import { type ConformanceCase, factsOf, type RuntimeFacts, Stage } from "./stage.ts";
import { Skipped, Unmet } from "./verdict.ts";

export type Outcome = "pass" | "fail" | "skipped";

export interface CaseResult {
  readonly title: string;
  readonly outcome: Outcome;
  /** Of a failed case: what the rule asks for. */
  readonly expected?: string;
  /** Of a failed case: what came, frames shortened. */
  readonly got?: string;
  /** Of a skipped case: why. */
  readonly reason?: string;
  readonly durationMs: number;
}

/** A rule fails when one of its cases does, and passes when all of them do. */
export interface RuleResult {
  readonly rule: string;
  readonly outcome: Outcome;
  readonly cases: readonly CaseResult[];
}

export interface ConformanceSummary {
  readonly runtime: RuntimeFacts;
  /** Rules, not cases. */
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly rules: readonly RuleResult[];
  readonly durationMs: number;
}

export interface ConformanceOptions {
  /** Opens a connection to the runtime. One that has `cut` shows what a graceful close cannot. */
  open(): Promise<Wire>;
  token: string;
  /** A token of another principal; without it the cases that need one are skipped. */
  otherToken?: string | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
  /** Rule ids or their beginnings, such as `RES` or `JOB-5`. @default all */
  only?: readonly string[] | undefined;
  /** How long a case waits for any one thing, in milliseconds. @default 10_000 */
  timeoutMs?: number | undefined;
  /** Cases at a time. @default 8 */
  concurrency?: number | undefined;
  /** How many events the farthest resume is behind. @default 20_000 */
  behind?: number | undefined;
  /** Called once for each rule, in the order of SPEC.md. */
  onResult?: ((result: RuleResult) => void) | undefined;
}

const CASES: readonly ConformanceCase[] = [...ENVELOPE_CASES, ...SESSION_CASES, ...RESUME_CASES, ...JOB_CASES];

/** `RES` is a beginning, `RES-1` is one rule and not `RES-10` as well. */
const selects = (wanted: string, rule: string): boolean => rule === wanted || rule.replace(/-\d+$/, "") === wanted;

/** The rules that have cases, in the order of SPEC.md. */
export const conformanceRules = (): string[] => [...new Set(CASES.map(({ rule }) => rule))];

/**
 * Runs the wire rules against a runtime that offers the agents `echo`, `burst` and `ticker`.
 *
 * @throws RangeError when `only` names no rule
 * @throws Error when the runtime cannot be reached or refuses the first hello
 */
export async function runConformance(options: ConformanceOptions): Promise<ConformanceSummary> {
  const { open, token, otherToken, clock = systemClock, only, onResult } = options;
  const { timeoutMs = 10_000, concurrency = 8, behind = 20_000 } = options;
  const unknown = only?.find((wanted) => !CASES.some(({ rule }) => selects(wanted, rule)));
  if (unknown !== undefined)
    throw new RangeError(`only: ${unknown} is no rule with cases; give one like RES or RES-3.`);
  const cases = CASES.filter(({ rule }) => only === undefined || only.some((wanted) => selects(wanted, rule)));
  const startedAt = clock.monotonic();
  const facts = await factsOf(await open(), clock, token, timeoutMs);

  const results = new Map<ConformanceCase, CaseResult>();
  const rules: RuleResult[] = [];
  const waiting = [...new Set(cases.map(({ rule }) => rule))];
  const report = () => {
    for (let rule = waiting[0]; rule !== undefined; rule = waiting[0]) {
      const own = cases.filter((one) => one.rule === rule).map((one) => results.get(one));
      if (own.includes(undefined)) return;
      waiting.shift();
      const result = ruleResult(rule, own as CaseResult[]);
      rules.push(result);
      onResult?.(result);
    }
  };
  const queue = cases.toSorted((a, b) => Number(b.long ?? false) - Number(a.long ?? false));
  const work = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const stage = new Stage({ open, clock, token, otherToken, timeoutMs, behind, facts });
      results.set(next, await runCase(next, stage));
      report();
    }
  };
  await Promise.all(Array.from({ length: concurrency }, work));
  const count = (outcome: Outcome) => rules.filter((rule) => rule.outcome === outcome).length;
  return {
    runtime: facts,
    passed: count("pass"),
    failed: count("fail"),
    skipped: count("skipped"),
    rules,
    durationMs: Math.round(clock.monotonic() - startedAt),
  };
}

async function runCase(one: ConformanceCase, stage: Stage): Promise<CaseResult> {
  const { title } = one;
  const startedAt = stage.clock.monotonic();
  const durationMs = () => Math.round(stage.clock.monotonic() - startedAt);
  try {
    await one.run(stage);
    return { title, outcome: "pass", durationMs: durationMs() };
  } catch (error) {
    if (error instanceof Skipped) return { title, outcome: "skipped", reason: error.message, durationMs: durationMs() };
    // Anything else is a flaw of the case: told as one, since a run of many others is worth having.
    const { expected, got } =
      error instanceof Unmet ? error : { expected: "the case itself not to fail", got: String(error) };
    return { title, outcome: "fail", expected, got, durationMs: durationMs() };
  } finally {
    stage.end();
  }
}

function ruleResult(rule: string, cases: readonly CaseResult[]): RuleResult {
  const has = (outcome: Outcome) => cases.some((one) => one.outcome === outcome);
  return { rule, outcome: has("fail") ? "fail" : has("skipped") ? "skipped" : "pass", cases };
}

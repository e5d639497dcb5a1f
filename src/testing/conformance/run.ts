/**
 * Runs the conformance cases, a few at a time, each with sessions of its own, then those that must be alone,
 * and tells the outcome rule
 * by rule in the order of SPEC.md. Nothing but frames tells it anything of the runtime.
 */
import { type Clock, systemClock } from "../../clock.ts";
import { CREDENTIAL_CASES } from "./credential-cases.ts";
import { DELEGATION_CASES } from "./delegation-cases.ts";
import { ENVELOPE_CASES } from "./envelope-cases.ts";
import { JOB_CASES } from "./job-cases.ts";
import { LEASE_CASES } from "./lease-cases.ts";
import { LIMIT_CASES } from "./limit-cases.ts";
import type { Wire } from "./peer.ts";
import { QUESTION_CASES } from "./question-cases.ts";
import { RESULT_CASES } from "./result-cases.ts";
import { RESUME_CASES } from "./resume-cases.ts";
import { SESSION_CASES } from "./session-cases.ts";
import { type ConformanceCase, factsOf, type Means, type RuntimeFacts, Stage } from "./stage.ts";
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

/** A rule with a case that needs what this run was not given. */
export interface RuleNotRun {
  readonly rule: string;
  readonly reason: string;
}

export interface ConformanceSummary {
  readonly runtime: RuntimeFacts;
  /** Rules, not cases. */
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly rules: readonly RuleResult[];
  /** Rules for which the means were not there; neither passed nor skipped. */
  readonly notRun: readonly RuleNotRun[];
  readonly durationMs: number;
}

export interface ConformanceOptions {
  /** Opens a connection. One with `cut` and `stopReading` shows what a graceful close cannot. */
  open(): Promise<Wire>;
  token: string;
  /** A token of another principal; without it the cases that need one are skipped. */
  otherToken?: string | undefined;
  /** Stops the runtime and starts it again on the same store; resolves when it takes connections (RES-11). */
  restart?: (() => Promise<void>) | undefined;
  /** A token that is good now and expires within a minute (SES-11). */
  expiringToken?: string | undefined;
  /** How many connections may be open at a time (SES-14 needs 1,001 and more). @default 2_000 */
  maxConnections?: number | undefined;
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

const PREFIXES = ["ENV", "SES", "RES", "JOB", "ASK", "EXT", "DEL", "LEA", "ACT", "CRD", "TRC"];

/** Where a rule stands in SPEC.md. */
const place = (rule: string): number => {
  const [prefix, number] = rule.split("-");
  return PREFIXES.indexOf(prefix ?? "") * 1_000 + Number(number);
};

/** In the order of SPEC.md. */
const CASES: readonly ConformanceCase[] = [
  ...ENVELOPE_CASES,
  ...SESSION_CASES,
  ...RESUME_CASES,
  ...JOB_CASES,
  ...LIMIT_CASES,
  ...RESULT_CASES,
  ...QUESTION_CASES,
  ...DELEGATION_CASES,
  ...LEASE_CASES,
  ...CREDENTIAL_CASES,
].toSorted((a, b) => place(a.rule) - place(b.rule));

/** Rules in a row of one section, all for the same reason. */
const because = (prefix: string, numbers: readonly number[], reason: string): Record<string, string> =>
  Object.fromEntries(numbers.map((number) => [`${prefix}-${number}`, reason]));

const upTo = (first: number, last: number): number[] =>
  Array.from({ length: last - first + 1 }, (_, index) => first + index);

/**
 * The rules of those sections that have no case, and why: nobody who only sees frames could tell whether they
 * hold.
 */
export const NOT_ON_THE_WIRE: Readonly<Record<string, string>> = {
  "SES-10": "no message makes a good runtime fail in a way that is not the protocol's",
  "SES-18": "a principal's limit of running jobs (JOB-17) comes long before 10,000 jobs to follow",
  "JOB-16": "it is about what an agent is told by `emit` and `flush`; a client sees stored events only",
  "JOB-23": "it is about promises that an agent does not look at, in its own process",
  "ASK-6": "how many questions a job may ask is its agent's to find out",
  "ASK-8": "an answer has no place for a lease; that none widens one is seen inside the job",
  "ASK-9": "it is about attempts that are over and about what is stored",
  ...because("EXT", upTo(1, 7), "what a host registers is its own: no client knows a name to try; ENV-5 has the rest"),
  "DEL-6": "a `delegate` event that an agent emits looks the same as one that `job.delegate` emits (DEL-1)",
  ...because(
    "ACT",
    upTo(3, 24),
    "it is about what an agent's operations reach; the wire shows that they were (ACT-1, ACT-2)",
  ),
  ...because(
    "CRD",
    [3, 4, 5, 6, 9],
    "it is between the runtime and its provisioner, when that fails or the process ends",
  ),
  "CRD-10": "an agent rotates its credentials, and no message makes it",
  "CRD-11": "which process runs a turn that waited, and what was revoked, no message tells",
  ...because("TRC", upTo(1, 4), "spans are not on the wire; the trace ids there are ENV-7's, ENV-10's and DEL-1's"),
};

/** `RES` is a beginning, `RES-1` is one rule and not `RES-10` as well. */
const selects = (wanted: string, rule: string): boolean => rule === wanted || rule.replace(/-\d+$/, "") === wanted;

/** The rules that have cases, in the order of SPEC.md. */
export const conformanceRules = (): string[] => [...new Set(CASES.map(({ rule }) => rule))];

/**
 * Runs the wire rules against a runtime that offers the agents `echo`, `burst` and `ticker`. Rules whose cases
 * need `survey`, `spool`, `relay`, `meter` or `approve` too are not run where it offers no such agent.
 *
 * @throws RangeError when `only` names no rule, or none that can be run with these options
 * @throws Error when the runtime cannot be reached or refuses the first hello
 */
export async function runConformance(options: ConformanceOptions): Promise<ConformanceSummary> {
  const { open, token, otherToken, clock = systemClock, only, onResult } = options;
  const { timeoutMs = 10_000, concurrency = 8, behind = 20_000, maxConnections = 2_000 } = options;
  const means: Means = { restart: options.restart, expiringToken: options.expiringToken, maxConnections };
  const unknown = only?.find((wanted) => !CASES.some(({ rule }) => selects(wanted, rule)));
  if (unknown !== undefined)
    throw new RangeError(`only: ${unknown} is no rule with cases; give one like RES or RES-3.`);
  const wanted = CASES.filter(({ rule }) => only === undefined || only.some((one) => selects(one, rule)));
  const notRun: RuleNotRun[] = [];
  const runnable = (list: readonly ConformanceCase[], lack: (one: ConformanceCase) => string | undefined) => {
    const possible = list.filter((one) => {
      const reason = lack(one);
      if (reason === undefined) return true;
      if (!notRun.some((other) => other.rule === one.rule && other.reason === reason)) {
        notRun.push({ rule: one.rule, reason });
      }
      return false;
    });
    const [first] = notRun;
    if (possible.length > 0) return possible;
    throw new RangeError(`only: ${first?.rule} cannot be run, because ${first?.reason}.`);
  };
  const feasible = runnable(wanted, (one) => one.lacks?.(means));
  const startedAt = clock.monotonic();
  const facts = await factsOf(await open(), clock, token, timeoutMs);
  const cases = runnable(feasible, (one) => missing(one, facts));

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
  const work = async (queue: ConformanceCase[]) => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const stage = new Stage({ open, clock, token, otherToken, timeoutMs, behind, facts, means });
      results.set(next, await runCase(next, stage));
      report();
    }
  };
  const together = cases
    .filter(({ alone }) => alone !== true)
    .toSorted((a, b) => Number(b.long ?? false) - Number(a.long ?? false));
  await Promise.all(Array.from({ length: concurrency }, () => work(together)));
  // What leaves a principal without room for a while comes last.
  const last = cases.filter(({ alone }) => alone === true);
  await work(last.toSorted((a, b) => Number(a.long ?? false) - Number(b.long ?? false)));
  const count = (outcome: Outcome) => rules.filter((rule) => rule.outcome === outcome).length;
  return {
    runtime: facts,
    passed: count("pass"),
    failed: count("fail"),
    skipped: count("skipped"),
    rules,
    notRun,
    durationMs: Math.round(clock.monotonic() - startedAt),
  };
}

/** What a case needs that the runtime does not offer. */
function missing({ agents = [], features = [] }: ConformanceCase, facts: RuntimeFacts): string | undefined {
  const feature = features.find((name) => !facts.features.includes(name));
  if (feature !== undefined) return `the runtime does not offer the feature \`${feature}\``;
  const agent = agents.find((name) => !facts.agents.includes(name));
  return agent === undefined ? undefined : `the runtime offers no agent \`${agent}\``;
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

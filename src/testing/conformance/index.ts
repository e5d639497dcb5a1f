/** The wire rules of SPEC.md as black-box cases against any runtime. */
export type { Wire } from "./peer.ts";
export {
  type CaseResult,
  type ConformanceOptions,
  type ConformanceSummary,
  conformanceRules,
  NOT_ON_THE_WIRE,
  type Outcome,
  type RuleNotRun,
  type RuleResult,
  runConformance,
} from "./run.ts";
export type { RuntimeFacts } from "./stage.ts";

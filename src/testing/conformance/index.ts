/** The wire rules of SPEC.md as black-box cases against any runtime. */
export type { Wire } from "./peer.ts";
export {
  type CaseResult,
  type ConformanceOptions,
  type ConformanceSummary,
  conformanceRules,
  type Outcome,
  type RuleResult,
  runConformance,
} from "./run.ts";
export type { RuntimeFacts } from "./stage.ts";

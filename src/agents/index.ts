/**
 * The agents of `holdfast serve --demo`: small, useful to try things with, and examples of how one is
 * written. Nothing else depends on them.
 */
import type { Runtime } from "../runtime/index.ts";
import { approve } from "./approve.ts";
import { burst } from "./burst.ts";
import { echo } from "./echo.ts";
import { meter } from "./meter.ts";
import { relay } from "./relay.ts";
import { spool } from "./spool.ts";
import { survey, surveyLease } from "./survey.ts";
import { ticker } from "./ticker.ts";

export { approve } from "./approve.ts";
export { burst, burstMessage } from "./burst.ts";
export { echo } from "./echo.ts";
export { meter } from "./meter.ts";
export { relay } from "./relay.ts";
export { spool } from "./spool.ts";
export { type SurveyReport, survey, surveyLease } from "./survey.ts";
export { ticker } from "./ticker.ts";

export interface DemoAgentsOptions {
  /** What `survey` walks, and all that it may read. */
  directory: string;
}

/** Registers `echo`, `burst`, `ticker`, `survey`, `approve`, `relay`, `meter` and `spool`, and the tool `echo`. */
export function registerDemoAgents(runtime: Runtime, options: DemoAgentsOptions): void {
  runtime
    .agent("echo", echo)
    .agent("burst", burst)
    .agent("ticker", ticker)
    .agent("approve", approve)
    .agent("relay", relay)
    .agent("meter", meter)
    .agent("spool", spool)
    .tool("echo", (args) => args)
    .agent("survey", survey(options.directory), { lease: surveyLease(options.directory) });
}

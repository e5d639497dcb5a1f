/**
 * The agents of `holdfast serve --demo`: small, useful to try things with, and examples of how one is
 * written. Nothing else depends on them.
 */
import type { Runtime } from "../runtime/index.ts";
import { burst } from "./burst.ts";
import { echo } from "./echo.ts";
import { survey } from "./survey.ts";
import { ticker } from "./ticker.ts";

export { burst, burstMessage } from "./burst.ts";
export { echo } from "./echo.ts";
export { type SurveyReport, survey } from "./survey.ts";
export { ticker } from "./ticker.ts";

export interface DemoAgentsOptions {
  /** What `survey` walks, and all that it may read. */
  directory: string;
}

/** Registers `echo`, `burst`, `ticker` and `survey`. */
export function registerDemoAgents(runtime: Runtime, options: DemoAgentsOptions): void {
  runtime.agent("echo", echo).agent("burst", burst).agent("ticker", ticker).agent("survey", survey(options.directory));
}

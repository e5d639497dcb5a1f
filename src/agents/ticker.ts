/** Emits at a steady pace: the agent that is still running when something is cut. */
import { z } from "zod";
import type { AgentHandler } from "../runtime/index.ts";
import { parseInput } from "./input.ts";

const Input = z.strictObject({
  /** How many ticks. */
  n: z.int().min(0).max(10_000_000),
  /** From one tick to the next, in milliseconds. */
  every_ms: z.number().min(0).max(3_600_000),
});

/** `{n, every_ms}`: n `log` events `tick 0`, `tick 1`, …, one each interval, returns `{n}`. */
export const ticker: AgentHandler = async (input, job) => {
  const { n, every_ms } = parseInput("ticker", Input, input);
  for (let tick = 0; tick < n; tick += 1) {
    if (tick > 0) await job.sleep(every_ms);
    await job.log(`tick ${tick}`);
  }
  return { n };
};

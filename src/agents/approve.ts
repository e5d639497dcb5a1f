/** Asks a person before it does anything: the smallest agent with somebody in the loop. */
import { z } from "zod";
import type { AgentHandler } from "../runtime/index.ts";
import { parseInput } from "./input.ts";

const Input = z.strictObject({
  /** What is to be approved. */
  action: z.string().min(1).max(1_000),
  /** How long to wait, in milliseconds. @default for as long as it takes */
  timeout_ms: z.number().positive().max(86_400_000).optional(),
});

const Decision = z.strictObject({ approve: z.boolean(), note: z.string().max(1_000).optional() });

const SCHEMA = z.toJSONSchema(Decision);

/** `{action, timeout_ms?}`: asks whether to do it, returns `{action, approve, note?}`. */
export const approve: AgentHandler = async (input, job) => {
  const { action, timeout_ms } = parseInput("approve", Input, input);
  const answer = await job.ask({ message: `May I ${action}?`, schema: SCHEMA, timeoutMs: timeout_ms });
  return { action, ...Decision.parse(answer) };
};

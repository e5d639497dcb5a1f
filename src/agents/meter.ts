/** Spends, and then tries what its lease still lets it do: the agent to see a lease and a budget at work with. */
import { z } from "zod";
import { ArcpError } from "../protocol/index.ts";
import type { AgentHandler } from "../runtime/index.ts";
import { parseInput } from "./input.ts";

const Input = z.strictObject({
  /** What it says that it has spent, one `cost.demo` metric each. */
  charges: z
    .array(z.strictObject({ amount: z.number(), currency: z.string().max(16) }))
    .max(100)
    .default([]),
  /** Capabilities and targets that it asks its lease for. */
  authorize: z
    .array(z.strictObject({ capability: z.string(), target: z.string() }))
    .max(100)
    .default([]),
  /** A tool that it calls, with no arguments. */
  tool: z.string().optional(),
});

type Outcome = { value: unknown } | { code: string; details?: unknown };

/** What comes of an operation: what it gives, or what refuses it. */
async function outcomeOf(work: () => unknown): Promise<Outcome> {
  try {
    return { value: await work() };
  } catch (error) {
    if (!(error instanceof ArcpError)) throw error;
    return { code: error.code, ...(error.details === undefined ? {} : { details: error.details }) };
  }
}

/**
 * `{charges?: [{amount, currency}], authorize?: [{capability, target}], tool?}`: charges, asks, calls. Returns
 * `{authorized, tool?}`: the `value` of each (the target's canonical spelling, what the tool returned), or the
 * `code` and `details` of what refuses it. A charge that is refused ends it.
 */
export const meter: AgentHandler = async (input, job) => {
  const { charges, authorize, tool } = parseInput("meter", Input, input ?? {});
  for (const { amount, currency } of charges) {
    await job.metric({ name: "cost.demo", value: amount, unit: currency });
  }
  const authorized: Outcome[] = [];
  for (const { capability, target } of authorize) {
    authorized.push(await outcomeOf(() => job.authorize(capability, target)));
  }
  return { authorized, ...(tool === undefined ? {} : { tool: await outcomeOf(() => job.tools.call(tool)) }) };
};

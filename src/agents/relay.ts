/** Hands its work to another agent, under a part of its own lease: the smallest agent that delegates. */
import { z } from "zod";
import type { AgentHandler } from "../runtime/index.ts";
import { parseInput } from "./input.ts";

const Input = z.strictObject({
  /** `name` or `name@version`; the lease has to have it in `agent.delegate`. */
  agent: z.string().min(1).max(256),
  /** What that agent is given. */
  input: z.unknown().optional(),
  /** What its job may do, of what this one may. @default nothing */
  lease: z.record(z.string(), z.array(z.string())).optional(),
  /** When its job ends at the latest, ISO 8601 in UTC. @default this one's own end */
  expires_at: z.string().optional(),
  /** How many times, one after the other. @default 1 */
  times: z.int().min(1).max(10).default(1),
});

/** `{agent, input?, lease?, expires_at?, times?}`: returns what the other agent does, the last time; fails as it does. */
export const relay: AgentHandler = async (input, job) => {
  const { agent, input: given, lease, expires_at: expiresAt, times } = parseInput("relay", Input, input);
  let result: unknown;
  for (let time = 0; time < times; time += 1) {
    const child = await job.delegate(agent, given, { lease, expiresAt });
    result = await child.result;
  }
  return result;
};

/** The smallest agent: what it is given is its result. */
import type { AgentHandler } from "../runtime/index.ts";

export const echo: AgentHandler = (input) => input ?? null;

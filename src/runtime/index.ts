/** Sessions and jobs: the runtime's public face. */
export type { AgentHandler } from "./agents.ts";
export type { Authenticator, Identity } from "./auth.ts";
export type { JobContext } from "./job/context.ts";
export { type RuntimeOptions, VERSION } from "./options.ts";
export { Runtime } from "./runtime.ts";

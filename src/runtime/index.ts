/** Sessions and jobs: the runtime's public face. */
export type { AgentHandler } from "./agents.ts";
export type { Authenticator, Identity } from "./auth.ts";
export type { JobContext } from "./job/context.ts";
export type { CancelAnswer, JobDesk, JobFilter, JobInfo, JobInfoPage, JobOutcome } from "./job-desk.ts";
export { type RuntimeOptions, VERSION } from "./options.ts";
export { Runtime } from "./runtime.ts";

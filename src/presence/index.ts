/** `holdfast/presence`: the active sessions of this user on this machine. Usable alone; needs nothing but Node. */
export type { Clock, Timer } from "../clock.ts";
export type { Logger } from "../logger.ts";
export {
  ActiveSessions,
  type ActiveSessionsOptions,
  type CallOptions,
  DEFAULT_PORT,
  FEATURE_FLAG,
  type ServiceInfo,
} from "./active-sessions.ts";
export { DISCOVERY_FILENAME } from "./discovery.ts";
export { Lifecycle, type LifecycleOptions, type Listener, type SessionStart } from "./lifecycle.ts";
export type { ProcessLook, ProcessTable } from "./process-table.ts";
export type { ListedSession, SessionPayload, SessionRole, Snapshot } from "./record.ts";

/** Upstream sessions (SPEC.md, UPS). */
export {
  type Backend,
  BackendError,
  type BackendErrorKind,
  type BackendEvent,
  type CallOptions,
  type CreateUpstream,
  type PermissionAnswer,
  type PromptUpstream,
  type UpstreamInfo,
} from "./backend.ts";
export { ConversationUpstream } from "./conversation-record.ts";
export { AnotherWorkerWon, UpstreamError, type UpstreamErrorKind } from "./errors.ts";
export { UpstreamJanitor, type UpstreamJanitorOptions } from "./janitor.ts";
export { JobUpstream } from "./job-record.ts";
export { type PostgresClient, type PostgresPool, type PostgresTableOptions, postgresTable } from "./postgres-table.ts";
export type { RecordLedger, UpstreamRecord } from "./record.ts";
export { type EnsureOptions, type UpstreamFailure, type UpstreamOptions, UpstreamSession } from "./session.ts";
export { type SqliteConnection, type SqliteTableOptions, sqliteTable } from "./sqlite-table.ts";
export { type TableOptions, TableUpstream, UpstreamTable } from "./table.ts";
export { withUpstream } from "./with-upstream.ts";

/** Sessions and jobs: the runtime's public face. */
export type { FetchInit } from "./acting/fetch.ts";
export type {
  DirectoryEntry,
  DirectoryListing,
  FileKind,
  FileStat,
  JobFiles,
  ReadFileOptions,
  ReadOptions,
} from "./acting/files.ts";
export type {
  InputSchema,
  JobTools,
  SchemaFailure,
  SchemaIssue,
  SchemaOutcome,
  ToolCall,
  ToolHandler,
  ToolInfo,
  ToolOptions,
} from "./acting/tools.ts";
export type { AgentHandler, AgentOptions } from "./agents.ts";
export { type Asker, type Authenticator, type Identity, type Role, roleOf } from "./auth.ts";
export type { JobCredentials } from "./credentials/job-credentials.ts";
export type {
  CredentialProvisioner,
  CredentialRequest,
  CredentialRevocation,
  IssuedCredential,
} from "./credentials/provisioner.ts";
export type { Extension, ExtensionContext } from "./extensions.ts";
export type { JobContext } from "./job/context.ts";
export type { Delegated, DelegateOptions } from "./job/delegated.ts";
export type { ResultStream, StreamOptions } from "./job/result-stream.ts";
export type {
  CancelAnswer,
  JobDesk,
  JobFilter,
  JobInfo,
  JobInfoPage,
  LoggedEvent,
  QuestionInfo,
} from "./job-desk.ts";
export type { FollowedPage, JobFollow } from "./job-follow.ts";
export type { JobSubmission, SubmittedJob } from "./job-submit.ts";
export type { Login, Logins } from "./logins.ts";
export { type RuntimeOptions, VERSION } from "./options.ts";
export { DEFAULT_GRANTS, type Grants, type LeasePolicy } from "./policy.ts";
export type { AnswerPolicy } from "./questions/answering.ts";
export type { Question } from "./questions/open-questions.ts";
export { Runtime } from "./runtime.ts";
export type { Stats, StoreErrorWhile } from "./stats.ts";
export type { EndedJob, JobOutcome } from "./stored-outcome.ts";
export { TICKET_TTL_MS, type Tickets } from "./tickets.ts";
export { type OpenTelemetryApi, openTelemetry } from "./tracing/open-telemetry.ts";
export type { TraceParent } from "./tracing/traceparent.ts";
export type { JobTrace, SessionTrace, SpanAttributes, TracedJob, TracedSession, Tracing } from "./tracing/tracing.ts";
export { type RunningTurn, type TurnHost, type TurnKeeper, type TurnSubmitter, turnRefused } from "./turn-seam.ts";
export type { ValueSchema } from "./value-schema.ts";
export type { Visibility, VisibilityPolicy } from "./visibility.ts";

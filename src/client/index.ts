/** `holdfast/client`: connect, and sessions that heal themselves. Runs in browsers too (CLT-8). */
export { ArcpError, type ErrorCode } from "../protocol/errors.ts";
export type { Feature } from "../protocol/features.ts";
export type {
  AcceptedPayload,
  AgentInfo,
  FinalStatus,
  JobStatus,
  Lease,
  ListedJob,
  SubscribedPayload,
} from "../protocol/messages.ts";
export type { Transport, TransportEvents } from "../transport/transport.ts";
export type { WebSocketConstructor, WebSocketLike } from "../transport/websocket.ts";
export {
  Chat,
  type ChatFile,
  type ChatMessage,
  type ChatOptions,
  openChat,
  type Said,
  type SayOptions,
} from "./chat.ts";
export { connect } from "./connect.ts";
export { SessionClosedError } from "./errors.ts";
export type { JobEvent } from "./event-buffer.ts";
export type { JobHandle } from "./job-handle.ts";
export type { Terminal } from "./job-result.ts";
export type { ConnectOptions, ReconnectOptions, ResumeState } from "./options.ts";
export { type JobQuestion, questionOf } from "./questions.ts";
export type { ResultPiece } from "./result-chunks.ts";
export type { ResultReader } from "./result-reader.ts";
export type {
  AnswerOptions,
  CloseOptions,
  JobsPage,
  ListJobsOptions,
  Session,
  SubmitOptions,
  SubscribeOptions,
  TurnOptions,
} from "./session.ts";
export type { SessionStatus } from "./status.ts";
export type { Turn, TurnKey } from "./turn.ts";

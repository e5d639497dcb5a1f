/**
 * An agent backend as conversations see it: something that keeps sessions of its own and answers prompts in them.
 * Small on purpose, so that another one can be written in an afternoon; the contract suite (holdfast/testing) says
 * whether it keeps its word.
 */

/** What a backend's failure means for whoever called it. */
export type BackendErrorKind =
  /** The session is not there (any more). */
  | "session_not_found"
  /** It does not answer, or says that it cannot now: the same call may succeed later. */
  | "unavailable"
  /** It refuses what was asked: permission rules, a prompt. */
  | "rejected"
  /** It said something that cannot be understood, such as an answer without an id. */
  | "malformed";

export class BackendError extends Error {
  override readonly name = "BackendError";
  readonly kind: BackendErrorKind;

  constructor(kind: BackendErrorKind, message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.kind = kind;
  }
}

/** Every call ends by itself, within the backend's own timeout; `signal` ends it sooner. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
}

export interface CreateUpstream {
  title: string;
  /** Rides in the session's metadata or title, so that a session whose creator died is found again. */
  nonce: string;
  /** As the host's `permissionsFor` gave it; what it may be is the backend's affair. */
  permissions: unknown;
}

/** A session as {@link Backend.list} shows it. */
export interface UpstreamInfo {
  id: string;
  /** The nonce that it was created with, where it was created by us. */
  nonce: string | undefined;
}

/** What a prompt brings about, in order; the last one is `done`. */
export type BackendEvent =
  /** A piece of the answer. */
  | { type: "text"; text: string }
  /** A piece of its reasoning. */
  | { type: "reasoning"; text: string }
  | { type: "tool_call"; callId: string; tool: string; args: unknown }
  | { type: "tool_result"; callId: string; result?: unknown; error?: string }
  /** It waits for a word on something that it may not do by itself; answered by {@link PromptUpstream.onPermission}. */
  | { type: "permission"; permissionId: string; title: string; tool: string | undefined; args: unknown }
  /** What the prompt cost, as far as the backend says. */
  | { type: "cost"; amount: number; currency: string }
  | { type: "done" };

export type PermissionAnswer = "once" | "always" | "reject";

export interface PromptUpstream {
  sessionId: string;
  text: string;
  /** Asked for each permission request; the prompt waits for it. */
  onPermission(request: Extract<BackendEvent, { type: "permission" }>): Promise<PermissionAnswer>;
}

/** Every method rejects with {@link BackendError}. */
export interface Backend {
  /** Such as `opencode`. */
  readonly name: string;
  /** Longest that a create may take; an intent that is twice as old is an orphan's. */
  readonly createTimeoutMs: number;
  /** @returns the new session's id */
  create(request: CreateUpstream, options?: CallOptions): Promise<string>;
  /** Runs one prompt to its end. Leaving the loop early, or the signal, aborts it upstream. */
  prompt(request: PromptUpstream, options?: CallOptions): AsyncIterable<BackendEvent>;
  abort(sessionId: string, options?: CallOptions): Promise<void>;
  /** Deleting what is not there is fine. */
  delete(sessionId: string, options?: CallOptions): Promise<void>;
  list(options?: CallOptions): AsyncIterable<UpstreamInfo>;
  exists(sessionId: string, options?: CallOptions): Promise<boolean>;
}

/**
 * The agent `opencode`: a turn is a prompt in its conversation's upstream session, so the next turn goes on where it
 * ended; a job that is no turn has a session of its own, which is deleted with it, or by the janitor where its process
 * was killed. What the prompt brings about are the job's events: text its result, piece by piece, reasoning `thought`,
 * tools `tool_call` and `tool_result`, permission requests questions to whoever may answer them, costs
 * `cost.inference`.
 */
import {
  type Backend,
  type BackendEvent,
  type Conversations,
  type PermissionAnswer,
  type UpstreamRecord,
  type UpstreamSession,
  withUpstream,
} from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import type { AgentHandler, JobContext, ResultStream } from "../../runtime/index.ts";

export type PermissionRequest = Extract<BackendEvent, { type: "permission" }>;

export interface OpencodeAgentOptions {
  /** Usually {@link opencode}'s; any other backend does as well. */
  backend: Backend;
  /** Whose turns have upstream sessions that last. */
  conversations: Pick<Conversations, "upstream" | "jobUpstream" | "lockOf">;
  /** What a new session may do: OpenCode's rules. @default what the server's settings say */
  permissionsFor?: ((record: Pick<UpstreamRecord, "id" | "title">) => unknown) | undefined;
  /** Answers a permission request, or leaves it to people. @default always `"ask"` */
  onPermission?:
    | ((request: PermissionRequest, job: JobContext) => PermissionAnswer | "ask" | Promise<PermissionAnswer | "ask">)
    | undefined;
  /** How long people may think about a permission; then it is rejected. @default as long as the job may run */
  askTimeoutMs?: number | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
}

const MAX_TEXT_CHARS = 200_000;
const MAX_TITLE_CHARS = 1_000;
/** A thought is told when another kind of event follows, or when it is this long. */
const MAX_THOUGHT_CHARS = 2_000;

/** Its input is `{text}`, or the text; its result is the answer as text. */
export function opencodeAgent(options: OpencodeAgentOptions): AgentHandler {
  return async (input, job) => {
    const text = textIn(input);
    const { turn } = job;
    if (turn === undefined) {
      const own = options.conversations.jobUpstream(job.id, upstreamOptions(options));
      await using _ = own.record;
      return await answered(own, text, job, options);
    }
    const session = await options.conversations.upstream(turn.conversationId, upstreamOptions(options));
    return await answered(session, text, job, options);
  };
}

const upstreamOptions = ({ backend, permissionsFor, logger }: OpencodeAgentOptions) => ({
  backend,
  permissionsFor: (record: UpstreamRecord) => permissionsFor?.(record),
  ...(logger === undefined ? {} : { logger }),
});

async function answered<R extends UpstreamRecord>(
  session: UpstreamSession<R>,
  text: string,
  job: JobContext,
  options: OpencodeAgentOptions,
): Promise<unknown> {
  const answer = new Answer(job);
  await withUpstream(
    session,
    async (sessionId) => {
      await enoughLock(job, options);
      const events = options.backend.prompt(
        { sessionId, text, onPermission: (request) => permitted(request, job, options) },
        { signal: job.signal },
      );
      for await (const event of events) await answer.add(event);
    },
    { signal: job.signal },
  );
  return await answer.end();
}

/** Outside calls cannot be fenced: none starts that the lock might not last for (law 3). */
async function enoughLock(job: JobContext, { conversations, backend }: OpencodeAgentOptions): Promise<void> {
  job.signal.throwIfAborted();
  if (job.turn === undefined) return;
  const lock = conversations.lockOf(job.id);
  const needed = backend.createTimeoutMs;
  if (lock !== undefined && lock.remainingMs < needed) await lock.refresh();
  if (lock !== undefined && lock.remainingMs >= needed) return;
  throw ArcpError.detail(
    "LOCK_LOST",
    `The conversation's lock does not last for a call of ${needed} ms; nothing was asked. Try again.`,
    { conversation_id: job.turn.conversationId },
  );
}

async function permitted(
  request: PermissionRequest,
  job: JobContext,
  { onPermission, askTimeoutMs }: OpencodeAgentOptions,
): Promise<PermissionAnswer> {
  const decided = (await onPermission?.(request, job)) ?? "ask";
  if (decided !== "ask") {
    const attributes = { permission_id: request.permissionId, answer: decided };
    await job.log(`Permission for ${shown(request.title)}: ${decided}, by policy.`, { attributes });
    return decided;
  }
  try {
    const answer = await job.ask({
      message: `May the agent use ${shown(request.title)}?`,
      schema: { enum: ANSWERS },
      timeoutMs: askTimeoutMs,
    });
    return ANSWERS.find((known) => known === answer) ?? "reject";
  } catch (error) {
    if (error instanceof ArcpError && error.code === "TIMEOUT" && !job.signal.aborted) return "reject";
    throw error;
  }
}

const ANSWERS: readonly PermissionAnswer[] = ["once", "always", "reject"];

const shown = (title: string): string => title.slice(0, MAX_TITLE_CHARS).toWellFormed();

/** What a prompt brings about, as the job's events. */
class Answer {
  readonly #job: JobContext;
  #out: ResultStream | undefined;
  #thought = "";
  /** Something else came since the last text. */
  #apart = false;

  constructor(job: JobContext) {
    this.#job = job;
  }

  async add(event: BackendEvent): Promise<void> {
    const job = this.#job;
    if (event.type !== "reasoning") await this.#think();
    switch (event.type) {
      case "text":
        if (this.#out === undefined) this.#out = job.stream({ contentType: "text/markdown" });
        else if (this.#apart) await this.#out.write("\n\n");
        this.#apart = false;
        await this.#out.write(event.text);
        return;
      case "reasoning":
        this.#thought += event.text;
        if (this.#thought.length >= MAX_THOUGHT_CHARS) await this.#think();
        return;
      case "tool_call":
        this.#apart = true;
        await job.toolCall({ tool: event.tool, args: event.args, call_id: event.callId });
        return;
      case "tool_result": {
        const { callId, result, error } = event;
        await job.toolResult({ call_id: callId, ...(error === undefined ? { result } : { error }) });
        return;
      }
      case "cost":
        await job.metric({ name: "cost.inference", value: event.amount, unit: event.currency });
        return;
      case "permission":
      case "done":
        return;
    }
  }

  /** @returns the job's result: nothing where it was streamed */
  async end(): Promise<unknown> {
    await this.#think();
    return this.#out === undefined ? "" : undefined;
  }

  async #think(): Promise<void> {
    const text = this.#thought.trim();
    this.#thought = "";
    if (text !== "") await this.#job.thought(text.toWellFormed());
  }
}

/** @throws ArcpError INVALID_REQUEST naming the field */
function textIn(input: unknown): string {
  const text = typeof input === "object" && input !== null && "text" in input ? input.text : input;
  if (typeof text === "string" && text.trim() !== "" && text.length <= MAX_TEXT_CHARS) return text.toWellFormed();
  const what = typeof text === "string" ? `a text of ${text.length} characters` : `a value of type ${typeof text}`;
  throw new ArcpError(
    "INVALID_REQUEST",
    `input.text: ${what} is no prompt; give {"text": "…"} with 1 to ${MAX_TEXT_CHARS} characters, or the text alone.`,
  );
}

/**
 * OpenCode's event stream, read as what one prompt brings about. The stream has everything that happens in a
 * directory, whole parts again and again, and what an earlier prompt left behind; out of it come text and reasoning
 * piece by piece, each tool's call and result once, permission requests (its subagents' too), costs and the end.
 * What it does not know it passes over. Holds what it has told of this prompt's parts, and no text but their lengths.
 */
import { BackendError, type BackendEvent } from "../../conversation/index.ts";

/** A question that the model asks by a tool; nobody is there to answer it. */
export interface AskedQuestion {
  type: "question";
  questionId: string;
}

/** A permission request was answered, by us or elsewhere. */
export interface RepliedPermission {
  type: "replied";
  permissionId: string;
}

export type PromptEvent = BackendEvent | AskedQuestion | RepliedPermission;

interface Part {
  type: "text" | "reasoning";
  /** How much of it was told. */
  told: number;
}

type Fields = Readonly<Record<string, unknown>>;

/** `waiting` until the server has taken the prompt, `working` from the first sign that it works on it. */
type Phase = "waiting" | "taken" | "working" | "over";

export class PromptEvents {
  readonly #sessionId: string;
  readonly #partId: string;
  readonly #text: string;
  /** The session, and the sessions of its subagents. */
  readonly #family: Set<string>;
  /** Messages of the model that are part of the answer. */
  readonly #answers = new Set<string>();
  /** Messages that were there before, or that are no answer: a summary, the prompt. */
  readonly #others = new Set<string>();
  readonly #parts = new Map<string, Part>();
  /** Tool parts, by id, with the id that their call was told under. */
  readonly #calls = new Map<string, { callId: string; done: boolean }>();
  readonly #callIds = new Set<string>();
  readonly #asked = new Set<string>();
  /** Steps whose cost was told. */
  readonly #steps = new Set<string>();
  #phase: Phase = "waiting";
  #error: BackendError | undefined;
  #concerned = 0;

  /** @param prompt `partId` is how the prompt's own message is told from others' */
  constructor(prompt: { sessionId: string; partId: string; text: string }) {
    this.#sessionId = prompt.sessionId;
    this.#partId = prompt.partId;
    this.#text = prompt.text;
    this.#family = new Set([prompt.sessionId]);
  }

  /**
   * What the session failed with. It may be an earlier prompt's, or one that the server gets over: it counts once
   * the session is idle, or when nothing follows.
   */
  get error(): BackendError | undefined {
    return this.#error;
  }

  /** How many events were about this session or its subagents': a sign of life. */
  get concerned(): number {
    return this.#concerned;
  }

  /** @param event as it came: anything @throws BackendError what the prompt ends with, if not well */
  read(event: unknown): PromptEvent[] {
    if (this.#phase === "over" || !isFields(event) || !isFields(event["properties"])) return [];
    const properties = event["properties"];
    const sessionId = sessionIdOf(properties);
    if (sessionId !== undefined && this.#family.has(sessionId)) this.#concerned += 1;
    switch (event["type"]) {
      case "session.created":
      case "session.updated":
        this.#session(properties["info"]);
        return [];
      case "permission.asked":
      case "permission.updated":
        return this.#permission(properties);
      case "permission.replied":
        return this.#replied(properties);
      case "question.asked":
        return this.#question(properties);
      default:
        return sessionId === this.#sessionId ? this.#own(event["type"], properties) : [];
    }
  }

  #own(type: unknown, properties: Fields): PromptEvent[] {
    switch (type) {
      case "message.updated":
        this.#message(properties["info"]);
        return [];
      case "message.part.updated":
        return this.#part(properties["part"], properties["delta"]);
      case "message.part.delta":
        return this.#delta(properties);
      case "session.status":
        return this.#status(properties["status"]);
      case "session.idle":
        return this.#idle();
      case "session.error":
        this.#error = failure(properties["error"]);
        return [];
      case "session.deleted":
        // The next prompt finds that it is gone, before it has shown anything.
        throw new BackendError("unavailable", "The session was deleted while it worked on the prompt.");
      default:
        return [];
    }
  }

  #session(info: unknown): void {
    if (!isFields(info) || typeof info["id"] !== "string" || typeof info["parentID"] !== "string") return;
    if (this.#family.has(info["parentID"])) this.#family.add(info["id"]);
  }

  #message(info: unknown): void {
    if (!isFields(info) || typeof info["id"] !== "string") return;
    const { id, role, summary } = info;
    if (this.#answers.has(id) || this.#others.has(id)) return;
    if (this.#phase === "waiting" || role !== "assistant" || summary === true) {
      this.#others.add(id);
      return;
    }
    this.#answers.add(id);
    this.#phase = "working";
    // It goes on: the error was one that the server gets over, such as a context that was too long.
    this.#error = undefined;
  }

  #part(part: unknown, delta: unknown): PromptEvent[] {
    if (!isFields(part) || typeof part["id"] !== "string") return [];
    const { id, messageID, type, text } = part;
    if (this.#phase === "waiting") {
      if (id === this.#partId || (type === "text" && text === this.#text)) {
        this.#phase = "taken";
        this.#error = undefined;
      }
      return [];
    }
    if (typeof messageID !== "string" || !this.#answers.has(messageID)) return [];
    switch (type) {
      case "text":
      case "reasoning":
        return part["synthetic"] === true ? [] : this.#piece(id, type, text, delta);
      case "tool":
        return this.#tool(id, part);
      case "step-finish":
        return this.#step(id, part["cost"]);
      default:
        return [];
    }
  }

  /** A part comes empty, then in pieces, then whole; by older servers whole each time, with the newest piece. */
  #piece(id: string, type: Part["type"], text: unknown, delta: unknown): PromptEvent[] {
    const known = this.#parts.get(id);
    const part: Part = known ?? { type, told: 0 };
    if (known === undefined) this.#parts.set(id, part);
    const whole = typeof text === "string" ? text : "";
    const rest = typeof delta === "string" ? delta : whole.slice(part.told);
    return this.#told(part, rest);
  }

  #step(id: string, cost: unknown): PromptEvent[] {
    if (typeof cost !== "number" || !(cost > 0) || this.#steps.has(id)) return [];
    this.#steps.add(id);
    return [{ type: "cost", amount: cost, currency: "USD" }];
  }

  #delta({ partID, field, delta }: Fields): PromptEvent[] {
    if (field !== "text" || typeof delta !== "string" || typeof partID !== "string") return [];
    const part = this.#parts.get(partID);
    return part === undefined ? [] : this.#told(part, delta);
  }

  #told(part: Part, text: string): PromptEvent[] {
    if (text === "") return [];
    part.told += text.length;
    return [{ type: part.type, text }];
  }

  #tool(id: string, part: Fields): PromptEvent[] {
    const { state, tool } = part;
    if (!isFields(state)) return [];
    const { status } = state;
    // Until it runs, its input is incomplete.
    if (status !== "running" && status !== "completed" && status !== "error") return [];
    const events: PromptEvent[] = [];
    let call = this.#calls.get(id);
    if (call === undefined) {
      call = { callId: this.#callId(part["callID"], id), done: false };
      this.#calls.set(id, call);
      const name = typeof tool === "string" && tool !== "" ? tool : "unknown";
      events.push({ type: "tool_call", callId: call.callId, tool: name, args: state["input"] ?? {} });
    }
    if (status === "running" || call.done) return events;
    call.done = true;
    events.push(
      status === "completed"
        ? { type: "tool_result", callId: call.callId, result: state["output"] ?? null }
        : { type: "tool_result", callId: call.callId, error: textOr(state["error"], "the tool failed") },
    );
    return events;
  }

  /** The model names its calls, and may name two alike. */
  #callId(given: unknown, partId: string): string {
    const callId = typeof given === "string" && given !== "" && !this.#callIds.has(given) ? given : partId;
    this.#callIds.add(callId);
    return callId;
  }

  #permission(properties: Fields): PromptEvent[] {
    const { id, sessionID, metadata } = properties;
    if (typeof id !== "string" || typeof sessionID !== "string" || !this.#family.has(sessionID)) return [];
    if (this.#asked.has(id)) return [];
    this.#asked.add(id);
    const tool = properties["permission"] ?? properties["type"];
    const patterns = properties["patterns"] ?? properties["pattern"];
    const name = typeof tool === "string" ? tool : undefined;
    const shown = [patterns].flat().filter((pattern) => typeof pattern === "string");
    const title = textOr(properties["title"], [name ?? "something", ...shown].join(" "));
    return [{ type: "permission", permissionId: id, title, tool: name, args: isFields(metadata) ? metadata : {} }];
  }

  /** Older servers say `permissionID`. */
  #replied({ requestID, permissionID }: Fields): PromptEvent[] {
    const permissionId = requestID ?? permissionID;
    return typeof permissionId === "string" && this.#asked.has(permissionId) ? [{ type: "replied", permissionId }] : [];
  }

  #question({ id, sessionID }: Fields): PromptEvent[] {
    if (typeof id !== "string" || typeof sessionID !== "string" || !this.#family.has(sessionID)) return [];
    return [{ type: "question", questionId: id }];
  }

  #status(status: unknown): PromptEvent[] {
    if (!isFields(status)) return [];
    if (status["type"] === "busy" && this.#phase === "taken") this.#phase = "working";
    return status["type"] === "idle" ? this.#idle() : [];
  }

  /** An earlier prompt's end comes before this one was taken. */
  #idle(): PromptEvent[] {
    if (this.#phase !== "working") return [];
    if (this.#error !== undefined) throw this.#error;
    this.#phase = "over";
    return [{ type: "done" }];
  }
}

const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null;

/** Older servers tell the session in the message or the part only. */
function sessionIdOf({ sessionID, info, part }: Fields): string | undefined {
  const id =
    sessionID ?? (isFields(info) ? info["sessionID"] : undefined) ?? (isFields(part) ? part["sessionID"] : undefined);
  return typeof id === "string" ? id : undefined;
}

const textOr = (value: unknown, otherwise: string): string =>
  typeof value === "string" && value !== "" ? value : otherwise;

const MAX_MESSAGE_CHARS = 500;

/** What the server says of a failure, in one line: its messages may carry a stack. */
function failure(error: unknown): BackendError {
  const name = isFields(error) ? textOr(error["name"], "an error") : "an error";
  const data = isFields(error) && isFields(error["data"]) ? error["data"] : {};
  const message = textOr(data["message"], name).split("\n", 1)[0]?.slice(0, MAX_MESSAGE_CHARS) ?? name;
  if (name === "MessageAbortedError") {
    return new BackendError("rejected", "The prompt was aborted in OpenCode, by somebody else.");
  }
  // What the model's provider could not do now; OpenCode has tried again by itself before.
  const kind = data["isRetryable"] === true ? "unavailable" : "rejected";
  return new BackendError(kind, `OpenCode could not answer the prompt: ${message}`);
}

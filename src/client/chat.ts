/**
 * A chat with an agent, for a page: what was said and answered in a room, by whichever page, and the way to say
 * something oneself (SPEC.md, WEB). Reads the log of the room's job, so a reload, a lost connection and a second page
 * see the same; when that job is gone it opens the room again by itself. Holds the newest 1,000 messages.
 */
import { type Clock, sleep, systemClock } from "../clock.ts";
import { ArcpError, isErrorCode } from "../protocol/errors.ts";
import { newMessageId } from "../protocol/ids.ts";
import type { JobEvent } from "./event-buffer.ts";
import type { JobHandle } from "./job-handle.ts";
import { questionOf } from "./questions.ts";
import type { Session } from "./session.ts";

/** One message; an update has the id and part of what it takes the place of. */
export interface ChatMessage {
  readonly id: string;
  /** 0 for what was said by people; an answer's parts from 1. */
  readonly part: number;
  readonly from: "user" | "agent";
  readonly text: string;
  /** Of an answer: `working`, then how its turn ended. Of what was said: what became of it. */
  readonly status: string;
  /** The turn, once there is one. */
  readonly jobId: string | undefined;
  /** Of what was said and waits: from 1. */
  readonly place: number | undefined;
  readonly files: readonly ChatFile[];
}

/** A file that came with an answer. */
export interface ChatFile {
  readonly name: string;
  readonly contentType: string;
  readonly bytes: number;
  /** `undefined` where it is more than a chat carries (some 384 KiB per message); the job's result has it. */
  readonly base64: string | undefined;
}

export interface ChatOptions {
  /** The room's name; one's own, as every principal has its own rooms. */
  room: string;
  /** Who answers, unless `say` names another: `name` or `name@version`. */
  agent: string;
  /** @default the system's */
  clock?: Clock | undefined;
}

export interface SayOptions {
  /** While a turn of the room runs. @default "enqueue" */
  onBusy?: "reject" | "enqueue" | "interrupt" | undefined;
  /** The same one is one message. @default a new one */
  messageId?: string | undefined;
  /** @default the chat's */
  agent?: string | undefined;
}

/** What became of something that was said. */
export interface Said {
  readonly messageId: string;
  readonly jobId: string;
  readonly state: "running" | "queued";
  readonly place: number | undefined;
}

const ROOM_AGENT = "chat-room";
const CHAT_EVENT = "x-vendor.holdfast.chat";
const MAX_MESSAGES = 1_000;
/** Things said that no room has taken yet. */
const MAX_WAITING = 100;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** After an answer that the runtime could not take just now. */
const RETRY_MS = 500;

type Wish = { do: "say"; id: string; text: string; agent: string; on_busy?: string } | { do: "stop" };

/** Something that is on its way to the room. */
interface Waiting {
  wish: Wish;
  /** The room has it; what becomes of it is not known yet. */
  sent: boolean;
  done: PromiseWithResolvers<Said | undefined>;
}

/**
 * Opens a room, or joins those who have it open; once in each session. Rejects as `session.turn` does.
 */
export async function openChat(session: Session, options: ChatOptions): Promise<Chat> {
  const chat = new Chat(session, options);
  await chat.open();
  return chat;
}

export class Chat implements AsyncIterable<ChatMessage>, Disposable {
  readonly #session: Session;
  readonly #options: ChatOptions;
  readonly #clock: Clock;
  readonly #messages = new Map<string, ChatMessage>();
  /** Places of messages that changed since they were last handed out. */
  readonly #changed = new Set<string>();
  readonly #waiting: Waiting[] = [];
  readonly #closing = new AbortController();
  #handle: JobHandle | undefined;
  #question: string | undefined;
  #asking = false;
  #wake: (() => void) | undefined;
  #end: { error: Error | undefined } | undefined;

  /** @see openChat */
  constructor(session: Session, options: ChatOptions) {
    this.#session = session;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** For {@link openChat}. */
  async open(): Promise<void> {
    const first = await this.#join(isPassing);
    void this.#stay(first).then(
      () => this.#finish(undefined),
      (error: unknown) => this.#finish(error instanceof Error ? error : new Error(String(error))),
    );
  }

  /** All that is known of the room, in order. */
  get messages(): readonly ChatMessage[] {
    return [...this.#messages.values()];
  }

  /**
   * Says something; resolves when its turn runs, or waits. Rejects with the runtime's `ArcpError`, with
   * `details.code` CONVERSATION_BUSY when it is not taken.
   */
  async say(text: string, options: SayOptions = {}): Promise<Said> {
    const { onBusy, messageId = newMessageId(), agent = this.#options.agent } = options;
    const wish: Wish = { do: "say", id: messageId, text, agent, ...(onBusy === undefined ? {} : { on_busy: onBusy }) };
    const said = await this.#ask(wish);
    if (said === undefined) throw new Error("The chat was closed.");
    return said;
  }

  /** Stops the turn that runs, if there is one; resolves when the room has been told. */
  async stop(): Promise<void> {
    await this.#ask({ do: "stop" });
  }

  /** Leaves the room; what runs there runs on. Idempotent. */
  close(): void {
    if (this.#end !== undefined) return;
    this.#closing.abort(new Error("The chat was closed."));
    this.#finish(undefined);
    // A session without a connection tells the runtime when it has one again; nobody waits for that.
    if (this.#handle !== undefined) this.#session.unsubscribe(this.#handle.id).catch(() => undefined);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * The room's messages, those that were there first, then each as it comes or changes; of several changes that nobody
   * took meanwhile, the last. Ends when the chat or its session is closed. For one reader.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<ChatMessage, undefined, undefined> {
    for (;;) {
      for (const place of this.#changed) {
        this.#changed.delete(place);
        const message = this.#messages.get(place);
        if (message !== undefined) yield message;
      }
      if (this.#changed.size > 0) continue;
      if (this.#end !== undefined) {
        if (this.#end.error !== undefined) throw this.#end.error;
        return undefined;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Opens the room, or joins it where it is open; again and again, after failures that may pass. */
  async #join(mayPass: (error: unknown) => boolean): Promise<JobHandle> {
    const { room } = this.#options;
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
      try {
        return await this.#session.turn(
          { source: "x-chat-room", parts: [room] },
          ROOM_AGENT,
          { room },
          { onBusy: "reject" },
        );
      } catch (error) {
        const jobId = runningJobOf(error);
        if (jobId === undefined && !mayPass(error)) throw error;
        if (jobId !== undefined) {
          try {
            return await this.#session.subscribe(jobId, { history: true });
          } catch (gone) {
            if (!mayPass(gone)) throw gone;
          }
        }
      }
      // The room has just ended, or is about to open.
      await sleep(this.#clock, pauseMs, this.#closing.signal);
    }
  }

  async #stay(first: JobHandle): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS;
    for (let handle = first; ; handle = await this.#join((error) => this.#mayPass(error))) {
      this.#handle = handle;
      // However the room's job ends, the room is opened again.
      handle.result.catch(() => undefined);
      let opened = false;
      for await (const event of handle) {
        if (this.#end !== undefined) return;
        opened = this.#see(event) || opened;
      }
      this.#question = undefined;
      if (this.#end !== undefined || this.#session.status.state === "closed") return;
      pauseMs = opened ? FIRST_PAUSE_MS : Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
      if (!opened) await sleep(this.#clock, pauseMs, this.#closing.signal);
    }
  }

  /** A room that was open stays so through a restart of its server. */
  #mayPass(error: unknown): boolean {
    return isPassing(error) || (isTransient(error) && this.#session.status.state !== "closed");
  }

  /** @returns whether the room says that it is open */
  #see(event: JobEvent): boolean {
    const question = questionOf(event);
    if (question !== undefined) {
      this.#question = question.questionId;
      this.#pump();
    }
    if (event.kind !== CHAT_EVENT) return false;
    const body = event.body as Readonly<Record<string, unknown>>;
    if (body["type"] === "opened") {
      // A room that went on from another has acted upon all that the other was told; what it does not know is said again.
      for (const waiting of this.#waiting) waiting.sent = false;
      this.#pump();
      return true;
    }
    const message = messageOf(body);
    if (message === undefined) return false;
    this.#show(message);
    if (body["type"] === "said") this.#settle(message, body["error"]);
    return false;
  }

  #show(message: ChatMessage): void {
    const place = `${message.part} ${message.id}`;
    const before = this.#messages.get(place);
    if (before !== undefined && JSON.stringify(before) === JSON.stringify(message)) return;
    this.#messages.set(place, message);
    for (const oldest of this.#messages.keys()) {
      if (this.#messages.size <= MAX_MESSAGES) break;
      this.#messages.delete(oldest);
      this.#changed.delete(oldest);
    }
    this.#changed.add(place);
    this.#wake?.();
  }

  #settle({ id, status, jobId, place }: ChatMessage, error: unknown): void {
    if (status === "received") return;
    for (const waiting of this.#waiting.filter(({ wish }) => wish.do === "say" && wish.id === id)) {
      this.#forget(waiting);
      if (status === "refused") waiting.done.reject(errorOf(error));
      else
        waiting.done.resolve({
          messageId: id,
          jobId: jobId ?? "",
          state: status === "queued" ? status : "running",
          place,
        });
    }
  }

  #ask(wish: Wish): Promise<Said | undefined> {
    if (this.#end !== undefined) return Promise.reject(this.#end.error ?? new Error("The chat was closed."));
    if (this.#waiting.length >= MAX_WAITING) {
      const message = `chat: ${MAX_WAITING} messages wait for the room already; wait for one of them.`;
      return Promise.reject(new ArcpError("INVALID_REQUEST", message));
    }
    const waiting: Waiting = { wish, sent: false, done: Promise.withResolvers() };
    this.#waiting.push(waiting);
    this.#pump();
    return waiting.done.promise;
  }

  /** Answers the room's question with the first thing that it does not have yet. */
  #pump(): void {
    const waiting = this.#waiting.find(({ sent }) => !sent);
    const { id: jobId } = this.#handle ?? {};
    const questionId = this.#question;
    if (this.#asking || waiting === undefined || jobId === undefined || questionId === undefined) return;
    this.#asking = true;
    void this.#answer(jobId, questionId, waiting).then((isDone) => {
      this.#asking = false;
      if (isDone && this.#question === questionId) this.#question = undefined;
      this.#pump();
    });
  }

  /** @returns whether another question has to come before the next try */
  async #answer(jobId: string, questionId: string, waiting: Waiting): Promise<boolean> {
    try {
      await this.#session.answer(jobId, questionId, waiting.wish);
      // What becomes of something said, the room tells.
      waiting.sent = true;
      if (waiting.wish.do === "say") return true;
      this.#forget(waiting);
      waiting.done.resolve(undefined);
      return true;
    } catch (error) {
      // Somebody else was first, or the room is gone: the next question will do.
      if (isPassing(error)) return true;
      if (isTransient(error) && this.#session.status.state !== "closed") {
        await sleep(this.#clock, RETRY_MS, this.#closing.signal).catch(() => undefined);
        return false;
      }
      this.#forget(waiting);
      waiting.done.reject(error);
      return false;
    }
  }

  #forget(waiting: Waiting): void {
    const at = this.#waiting.indexOf(waiting);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  #finish(error: Error | undefined): void {
    if (this.#end !== undefined) return;
    this.#end = { error };
    for (const { done } of this.#waiting.splice(0)) {
      done.reject(error ?? new Error("The chat was closed."));
      done.promise.catch(() => undefined);
    }
    this.#wake?.();
  }
}

const PASSING = ["ALREADY_ANSWERED", "QUESTION_CLOSED", "QUESTION_NOT_FOUND", "CONVERSATION_BUSY"];

/** Whether the room has moved on, or is about to. */
function isPassing(error: unknown): boolean {
  if (!(error instanceof ArcpError)) return false;
  return error.code === "JOB_NOT_FOUND" || PASSING.includes(String(error.details?.["code"]));
}

/** The runtime's trouble, not this request's. */
const isTransient = (error: unknown): boolean => error instanceof ArcpError && error.code === "INTERNAL_ERROR";

function runningJobOf(error: unknown): string | undefined {
  if (!(error instanceof ArcpError) || error.details?.["code"] !== "CONVERSATION_BUSY") return undefined;
  const jobId = error.details["job_id"];
  return typeof jobId === "string" ? jobId : undefined;
}

function errorOf(error: unknown): ArcpError {
  const { code, message, details } = (error ?? {}) as Readonly<Record<string, unknown>>;
  return new ArcpError(
    isErrorCode(code) ? code : "INTERNAL_ERROR",
    typeof message === "string" ? message : "Refused.",
    {
      ...(typeof details === "object" && details !== null ? { details: details as Record<string, unknown> } : {}),
    },
  );
}

/** What an event shows; `undefined` for one that is of another form. */
function messageOf(body: Readonly<Record<string, unknown>>): ChatMessage | undefined {
  const { type, id, part, text, state, status, job_id: jobId, place, files } = body;
  if (typeof id !== "string" || typeof part !== "number" || typeof text !== "string") return undefined;
  if (type !== "said" && type !== "answer") return undefined;
  return {
    ...{ id, part, text, from: type === "said" ? "user" : "agent", status: String(type === "said" ? state : status) },
    jobId: typeof jobId === "string" ? jobId : undefined,
    place: typeof place === "number" ? place : undefined,
    files: (Array.isArray(files) ? files : []).map((file: Readonly<Record<string, unknown>>) => ({
      name: String(file["name"]),
      contentType: String(file["content_type"]),
      bytes: Number(file["bytes"]),
      base64: typeof file["base64"] === "string" ? file["base64"] : undefined,
    })),
  };
}

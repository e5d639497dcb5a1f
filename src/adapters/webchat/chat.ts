/**
 * A chat on a page: rooms, each with a log that every page in it reads, and turns of the room's conversation for what
 * is said there (WEB).
 *
 * A room is a long turn of a conversation of its own, `x-chat-room`, by the agent `chat-room`: its lock sees to it that
 * one job has the room, in whatever process, and that another may have it when that process dies. The job asks one
 * question again and again, "what next?"; whatever a page says is an answer to it. So a thing said is stored before
 * it is acted upon, once, in order, and a job that goes on for one that died finds it there. Costs a running job per
 * open room, and a question and a few events per thing said.
 */
import { type ConversationKey, type Conversations, conversationIdOf } from "../../conversation/index.ts";
import { ArcpError } from "../../protocol/index.ts";
import type { AnswerPolicy, JobContext, Runtime } from "../../runtime/index.ts";
import type { WebChannel } from "./channel.ts";
import { CHAT_EVENT, type ChatEvent, type ChatWish, ROOM_AGENT, type SaidEvent } from "./events.ts";
import { type ChatMessageEvent, Messages, RoomLog } from "./room-log.ts";

export interface WebChatOptions {
  runtime: Pick<Runtime, "agent" | "jobs">;
  conversations: Pick<Conversations, "startTurn" | "get">;
  /** The same as `conversations` has among its deliveries' channels. */
  channel: WebChannel;
  /** A room that nobody speaks in for so long ends; a page that is open opens it again. @default 3_600_000 */
  idleMs?: number | undefined;
}

const MAX_ROOM_CHARS = 200;
const MAX_ID_CHARS = 200;
/** An answer to a question may have 64 KiB in all. */
const MAX_SAID_CHARS = 60_000;
/** Jobs that are looked through for what was said before: those that died before they had it themselves. */
const MAX_BEFORE = 5;

const WISH_SCHEMA = {
  oneOf: [
    {
      type: "object",
      properties: {
        do: { const: "say" },
        id: { type: "string", minLength: 1, maxLength: MAX_ID_CHARS },
        text: { type: "string", minLength: 1, maxLength: MAX_SAID_CHARS },
        agent: { type: "string", minLength: 1, maxLength: 256 },
        on_busy: { enum: ["reject", "enqueue", "interrupt"] },
      },
      required: ["do", "id", "text", "agent"],
      additionalProperties: false,
    },
    { type: "object", properties: { do: { const: "stop" } }, required: ["do"], additionalProperties: false },
  ],
};

/** For the runtime's `mayAnswer`: whoever's room it is may speak in it, from any page. */
export const mayChat: AnswerPolicy = (principal, job) =>
  job.principal === principal && job.agent.split("@", 1)[0] === ROOM_AGENT;

export interface WebChat {
  /**
   * Ends the rooms of this process; before the runtime stops, which waits for jobs that run. Open pages open them again
   * where they find a server. Idempotent.
   */
  stop(): void;
}

/** Offers rooms. The runtime needs {@link mayChat} as its `mayAnswer`, or within it. */
export function webChat(options: WebChatOptions): WebChat {
  const stopping = new AbortController();
  options.runtime.agent(ROOM_AGENT, (input, job) => new Room(roomOf(input, job), job, options, stopping.signal).run());
  return { stop: () => stopping.abort() };
}

/** @throws ArcpError INVALID_REQUEST */
function roomOf(input: unknown, job: JobContext): string {
  const room = (input as { room?: unknown } | null)?.room;
  if (typeof room !== "string" || room === "" || room.length > MAX_ROOM_CHARS) {
    throw new ArcpError("INVALID_REQUEST", `input.room: give a name of 1 to ${MAX_ROOM_CHARS} characters.`);
  }
  const key: ConversationKey = { source: "x-chat-room", parts: [room] };
  if (job.turn?.conversationId !== conversationIdOf(key, job.principal)) {
    throw new ArcpError("INVALID_REQUEST", "A room is a turn of its own conversation, x-chat-room; use openChat.");
  }
  return room;
}

class Room {
  readonly #options: WebChatOptions;
  readonly #job: JobContext;
  readonly #room: string;
  readonly #key: ConversationKey;
  readonly #conversationId: string;
  readonly #log: RoomLog;
  readonly #stopping: AbortSignal;
  /** `undefined` in place of a wish, once nothing is heard any more. */
  readonly #stopped: Promise<undefined>;

  constructor(room: string, job: JobContext, options: WebChatOptions, stopping: AbortSignal) {
    this.#options = options;
    this.#job = job;
    this.#room = room;
    this.#key = { source: "web", chat: room };
    this.#conversationId = conversationIdOf(this.#key, job.principal);
    this.#log = new RoomLog(job);
    this.#stopping = stopping;
    this.#stopped = new Promise((resolve) =>
      stopping.addEventListener("abort", () => resolve(undefined), { once: true, signal: job.signal }),
    );
  }

  async run(): Promise<{ room: string }> {
    const { channel, idleMs = 3_600_000 } = this.#options;
    if (this.#stopping.aborted) throw new ArcpError("INTERNAL_ERROR", "The rooms of this server are closing.");
    const unheard = await this.#restore();
    channel.enter(this.#conversationId, this.#log);
    try {
      for (const wish of unheard) await this.#hear(wish);
      await this.#log.put({ type: "opened" });
      while (!this.#log.isFull && !this.#stopping.aborted) {
        const asked = this.#job.ask({ message: "What next?", schema: WISH_SCHEMA, timeoutMs: idleMs });
        const wish = await Promise.race([asked, this.#stopped]);
        if (wish === undefined) {
          asked.catch(() => undefined);
          break;
        }
        await this.#hear(wish as ChatWish);
      }
    } catch (error) {
      if (!(error instanceof ArcpError) || error.code !== "TIMEOUT" || this.#job.signal.aborted) throw error;
    } finally {
      channel.leave(this.#conversationId, this.#log);
    }
    return { room: this.#room };
  }

  /** Goes on from the room's last job. @returns what was said to that one and not acted upon */
  async #restore(): Promise<ChatWish[]> {
    const { conversations, runtime } = this.#options;
    const { principal, id, turn } = this.#job;
    const { turns } = await conversations.get(turn?.conversationId ?? "", { principal, operator: false });
    for (const { jobId } of turns.filter((one) => one.jobId !== id).slice(0, MAX_BEFORE)) {
      const before = await this.#read(jobId).catch(unlessGone);
      if (before === undefined || !before.opened) continue;
      for (const message of before.messages) await this.#log.put(message);
      const questions = await runtime.jobs.questions(jobId, principal);
      return questions
        .filter(({ state }) => state === "answered")
        .map(({ answer }) => answer as ChatWish)
        .filter((wish) => wish.do === "say" && !before.heard.has(wish.id));
    }
    return [];
  }

  async #read(jobId: string): Promise<{ messages: ChatMessageEvent[]; heard: Set<string>; opened: boolean }> {
    const messages = new Messages();
    const heard = new Set<string>();
    let opened = false;
    let afterN = 0;
    for (;;) {
      const page = await this.#options.runtime.jobs.events(jobId, this.#job.principal, afterN);
      for (const { kind, payload } of page) {
        if (kind !== CHAT_EVENT) continue;
        const event = (payload as { body: ChatEvent }).body;
        if (event.type === "opened") opened = true;
        else messages.put(event);
        if (event.type === "said" && event.state !== "received") heard.add(event.id);
      }
      const last = page.at(-1);
      if (last === undefined) return { messages: messages.all(), heard, opened };
      afterN = last.n;
    }
  }

  async #hear(wish: ChatWish): Promise<void> {
    if (wish.do === "stop") await this.#stop();
    else await this.#say(wish);
  }

  async #say({ id, text, agent, on_busy: onBusy }: Extract<ChatWish, { do: "say" }>): Promise<void> {
    const { conversations, channel } = this.#options;
    const { principal } = this.#job;
    const said: SaidEvent = { type: "said", id, part: 0, text, state: "received" };
    await this.#log.put(said);
    try {
      const started = await conversations.startTurn({
        key: this.#key,
        principal,
        agent,
        input: { text },
        onBusy,
        messageId: id,
        replyTo: {
          routeKey: { channel: channel.name, bridge: principal, room: this.#room },
          fallbacks: { externalRoomId: this.#conversationId, channel: channel.name },
        },
      });
      const { jobId, place } = started;
      await this.#log.put({
        ...said,
        state: started.state === "queued" ? "queued" : "running",
        job_id: jobId,
        ...(place === undefined ? {} : { place }),
      });
    } catch (error) {
      // What is not said in the room's own words is the room's own trouble.
      if (!(error instanceof ArcpError) || this.#job.signal.aborted) throw error;
      const { code, message, details } = error;
      await this.#log.put({
        ...said,
        state: "refused",
        error: { code, message, ...(details === undefined ? {} : { details }) },
      });
    }
  }

  async #stop(): Promise<void> {
    const { conversations, runtime } = this.#options;
    const { principal } = this.#job;
    try {
      const { turns } = await conversations.get(this.#conversationId, { principal, operator: false });
      const running = turns.find(({ state }) => state === "running");
      if (running !== undefined) await runtime.jobs.cancel(running.jobId, principal, "stopped in the chat");
    } catch (error) {
      unlessGone(error);
    }
  }
}

/** Its retention has passed, or nothing was ever said: then there is nothing. @throws whatever else it is */
function unlessGone(error: unknown): undefined {
  if (error instanceof ArcpError && (error.code === "JOB_NOT_FOUND" || error.code === "INVALID_REQUEST"))
    return undefined;
  throw error;
}

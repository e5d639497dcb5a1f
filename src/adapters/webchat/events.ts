/**
 * What the log of a room says, and what a page says to it: the words between `src/adapters/webchat` and
 * `src/client/chat.ts` (SPEC.md, WEB). Plain JSON in events of the kind {@link CHAT_EVENT}; an event with the id and
 * part of an earlier one takes its place.
 */

/** What a room is run by, as a turn of the conversation `{source: "x-chat-room", parts: [room]}`. */
export const ROOM_AGENT = "chat-room";
export const CHAT_EVENT = "x-vendor.holdfast.chat";

export interface ChatFile {
  name: string;
  content_type: string;
  /** Of the file itself. */
  bytes: number;
  /** Absent where it is more than an event carries; the job's result has it. */
  base64?: string;
}

/** Something that somebody said in the room. */
export interface SaidEvent {
  type: "said";
  id: string;
  part: 0;
  text: string;
  /** `received`: its turn is about to start. */
  state: "received" | "running" | "queued" | "refused";
  job_id?: string;
  /** Of a queued one, from 1. */
  place?: number;
  /** Of a refused one. */
  error?: { code: string; message: string; details?: Record<string, unknown> };
}

/** What an agent answers, or shows while it works. */
export interface AnswerEvent {
  type: "answer";
  /** The delivery's. */
  id: string;
  /** From 1. */
  part: number;
  text: string;
  status: "working" | "success" | "error" | "cancelled" | "timed_out";
  job_id: string;
  files: ChatFile[];
}

/** What was said before is all there; from here on it is live. */
export interface OpenedEvent {
  type: "opened";
}

export type ChatEvent = SaidEvent | AnswerEvent | OpenedEvent;

/** What a page answers to the room's one question. */
export type ChatWish =
  | { do: "say"; id: string; text: string; agent: string; on_busy?: "reject" | "enqueue" | "interrupt" }
  | { do: "stop" };

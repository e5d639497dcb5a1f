/**
 * The log of a room: what its job appends, and what is read back of one. While the job runs here it remembers the
 * places of the newest messages, not their texts, so that a delivery is found again. Costs a commit per event.
 */
import type { JobContext } from "../../runtime/index.ts";
import { type AnswerEvent, CHAT_EVENT, type ChatEvent, type SaidEvent } from "./events.ts";

export type ChatMessageEvent = SaidEvent | AnswerEvent;

/** Of what one room shows again in its next job: the newest. */
const MAX_MESSAGES = 200;
const MAX_CHARS = 4 * 1024 * 1024;

/** A job's log ends some time: the room goes on in another job, with the newest messages. */
const MAX_EVENTS = 5_000;
const MAX_LOG_CHARS = 16 * 1024 * 1024;

export class RoomLog {
  readonly #job: Pick<JobContext, "emit" | "flush">;
  /** By delivery: the parts that are there. */
  readonly #parts = new Map<string, Set<number>>();
  #events = 0;
  #chars = 0;

  constructor(job: Pick<JobContext, "emit" | "flush">) {
    this.#job = job;
  }

  /** Whether another job should take the room on. */
  get isFull(): boolean {
    return this.#events >= MAX_EVENTS || this.#chars >= MAX_LOG_CHARS;
  }

  /** The parts of a delivery that are among the newest messages. */
  partsOf(deliveryId: string): number[] {
    return [...(this.#parts.get(deliveryId) ?? [])];
  }

  /** Resolves when it is stored. */
  async put(event: ChatEvent): Promise<void> {
    this.#events += 1;
    this.#chars += charsOf(event);
    await this.#job.emit(CHAT_EVENT, event);
    await this.#job.flush();
    if (event.type === "answer") this.#remember(event);
  }

  #remember({ id, part }: AnswerEvent): void {
    const parts = this.#parts.get(id) ?? new Set();
    this.#parts.set(id, parts.add(part));
    for (const oldest of this.#parts.keys()) {
      if (this.#parts.size <= MAX_MESSAGES) break;
      this.#parts.delete(oldest);
    }
  }
}

/** The newest messages of a log, in the order in which they came; a later one takes the place of one with its id and part. */
export class Messages {
  readonly #byPlace = new Map<string, ChatMessageEvent>();
  #chars = 0;

  put(message: ChatMessageEvent): void {
    const place = `${message.part} ${message.id}`;
    const before = this.#byPlace.get(place);
    this.#chars += charsOf(message) - (before === undefined ? 0 : charsOf(before));
    this.#byPlace.set(place, message);
    for (const [oldest, dropped] of this.#byPlace) {
      if (this.#byPlace.size <= MAX_MESSAGES && this.#chars <= MAX_CHARS) break;
      this.#byPlace.delete(oldest);
      this.#chars -= charsOf(dropped);
    }
  }

  all(): ChatMessageEvent[] {
    return [...this.#byPlace.values()];
  }
}

/** What an event weighs, nearly. */
function charsOf(event: ChatEvent): number {
  switch (event.type) {
    case "opened":
      return 0;
    case "said":
      return event.text.length;
    case "answer":
      return event.files.reduce((sum, { base64 = "" }) => sum + base64.length, event.text.length);
  }
}

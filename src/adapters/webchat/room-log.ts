/**
 * The log of a room while its job runs here: appends, and remembers the newest messages, so that a delivery is found
 * again and the room's next job can go on from them. Holds at most {@link MAX_MESSAGES} messages and as many
 * characters of text as those have.
 */
import type { JobContext } from "../../runtime/index.ts";
import { type AnswerEvent, CHAT_EVENT, type ChatEvent, type SaidEvent } from "./events.ts";

export type ChatMessageEvent = SaidEvent | AnswerEvent;

export const MAX_MESSAGES = 200;

export class RoomLog {
  readonly #job: Pick<JobContext, "id" | "emit" | "flush">;
  readonly #messages = new Messages();
  #appended = 0;

  constructor(job: Pick<JobContext, "id" | "emit" | "flush">) {
    this.#job = job;
  }

  /** Events of this job. */
  get appended(): number {
    return this.#appended;
  }

  get(id: string, part: number): ChatMessageEvent | undefined {
    return this.#messages.get(id, part);
  }

  partsOf(id: string): number[] {
    return this.#messages
      .all()
      .filter((message) => message.id === id)
      .map(({ part }) => part);
  }

  /** Resolves when it is stored. */
  async put(event: ChatEvent): Promise<void> {
    this.#appended += 1;
    await this.#job.emit(CHAT_EVENT, event);
    await this.#job.flush();
    if (event.type !== "opened") this.#messages.put(event);
  }
}

/** Messages in the order in which they came; a later one takes the place of one with its id and part. */
export class Messages {
  readonly #byPlace = new Map<string, ChatMessageEvent>();

  put(message: ChatMessageEvent): void {
    this.#byPlace.set(placeOf(message.id, message.part), message);
    for (const place of this.#byPlace.keys()) {
      if (this.#byPlace.size <= MAX_MESSAGES) break;
      this.#byPlace.delete(place);
    }
  }

  get(id: string, part: number): ChatMessageEvent | undefined {
    return this.#byPlace.get(placeOf(id, part));
  }

  all(): ChatMessageEvent[] {
    return [...this.#byPlace.values()];
  }
}

const placeOf = (id: string, part: number): string => `${part} ${id}`;

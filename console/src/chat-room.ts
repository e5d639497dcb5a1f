/**
 * A chat with an agent as the view sees it: what was said and answered, and ways to say more and to stop. Each thing
 * that is said is a turn of a conversation of one's own, so the room has one turn at a time and the rest wait. A
 * room's lines live as long as the page; its turns, and their jobs, are kept by the server.
 */
import type { JobHandle, Terminal } from "../../src/client/index.ts";
import { ask } from "./api.ts";
import { live } from "./live.ts";
import { Observable } from "./observable.ts";

export interface ChatLine {
  id: string;
  from: "user" | "agent";
  text: string;
  /** Of an answer: the turn that makes it. */
  jobId: string | undefined;
  /** `waiting` is a turn that has its place in the queue. */
  status: "waiting" | "working" | Terminal["final_status"];
  place: number | undefined;
}

/** The oldest go. */
const MAX_LINES = 500;
const MAX_ROOMS = 20;

export class ChatRoom {
  readonly name: string;
  readonly lines = new Observable<readonly ChatLine[]>([]);

  constructor(name: string) {
    this.name = name;
  }

  /** Resolves when the turn is taken. @throws ArcpError as `session.turn` */
  async say(agent: string, text: string, onBusy: "enqueue" | "interrupt" | "reject"): Promise<void> {
    const messageId = crypto.randomUUID();
    const key = { source: "web", chat: this.name };
    const handle = await live.turn(key, agent, { text }, { onBusy, messageId });
    this.#add({ id: messageId, from: "user", text, jobId: undefined, status: "success", place: undefined });
    const waits = handle.turn?.state === "queued";
    this.#add({
      id: handle.id,
      from: "agent",
      text: "",
      jobId: handle.id,
      status: waits ? "waiting" : "working",
      place: handle.turn?.place,
    });
    void this.#follow(handle);
  }

  /** Asks the turns that run or wait to stop. */
  async stop(): Promise<void> {
    const open = this.lines.value.filter(({ status }) => status === "waiting" || status === "working");
    for (const { jobId } of open.toReversed()) {
      if (jobId !== undefined) await ask("POST", `/jobs/${encodeURIComponent(jobId)}/cancel`, { body: {} });
    }
  }

  async #follow(handle: JobHandle): Promise<void> {
    const change = (part: Partial<ChatLine>) =>
      this.lines.set(this.lines.value.map((one) => (one.id === handle.id ? { ...one, ...part } : one)));
    try {
      change({ status: (await handle.terminal).final_status });
    } catch {
      // The session is over; the view shows what the job's log says under the next one.
    }
  }

  #add(one: ChatLine): void {
    this.lines.set([...this.lines.value, one].slice(-MAX_LINES));
  }
}

const rooms = new Map<string, ChatRoom>();

/** The room of that name, with what was said in it since the page was opened. */
export function roomOf(name: string): ChatRoom {
  const room = rooms.get(name) ?? new ChatRoom(name);
  rooms.delete(name);
  rooms.set(name, room);
  const [oldest] = rooms.keys();
  if (rooms.size > MAX_ROOMS && oldest !== undefined) rooms.delete(oldest);
  return room;
}

/**
 * A chat room as the view sees it: what was said and answered in it by whichever page, and ways to say more and to
 * stop. It has a session of its own, so that its job can be looked at in the page's other one; what is there is kept by
 * the server, so a reload, a lost connection and a restart of the server lose nothing (docs/webchat.md).
 */
import { ArcpError, type Chat, type ChatMessage, openChat } from "../../src/client/index.ts";
import { sleep, systemClock } from "../../src/clock.ts";
import { openSession } from "./live.ts";
import { Observable } from "./observable.ts";

export type RoomState =
  | { phase: "opening" | "open" | "not offered" }
  | { phase: "refused"; code: string; message: string };

type OnBusy = "enqueue" | "interrupt" | "reject";

const RETRY_MS = 3_000;

export class ChatRoom {
  readonly name: string;
  readonly state = new Observable<RoomState>({ phase: "opening" });
  readonly messages = new Observable<readonly ChatMessage[]>([]);
  #chat: Chat | undefined;

  constructor(name: string) {
    this.name = name;
  }

  /** Opens it, and keeps it open. @returns what closes it */
  open(): () => void {
    const closed = new AbortController();
    void this.#keepOpen(closed.signal);
    return () => closed.abort();
  }

  /** Resolves when the turn runs, or waits. @throws ArcpError as `Chat.say` */
  async say(agent: string, text: string, onBusy: OnBusy): Promise<void> {
    await this.#need().say(text, { agent, onBusy });
  }

  /** Asks the turn that runs to stop; one that waits is next. */
  async stop(): Promise<void> {
    await this.#need().stop();
  }

  #need(): Chat {
    if (this.#chat === undefined) throw new Error("The room is not open yet; wait until it is.");
    return this.#chat;
  }

  /** Session after session, until it is closed or the server refuses it. */
  async #keepOpen(closed: AbortSignal): Promise<void> {
    while (!closed.aborted) {
      this.state.set({ phase: "opening" });
      try {
        await this.#stay(closed);
      } catch (error) {
        if (closed.aborted) return;
        const refusal = refusalOf(error);
        if (refusal !== undefined) {
          this.state.set(refusal);
          return;
        }
      } finally {
        this.#chat = undefined;
      }
      await sleep(systemClock, RETRY_MS, closed).catch(() => undefined);
    }
  }

  async #stay(closed: AbortSignal): Promise<void> {
    await using session = await openSession(closed);
    // Each thing that is said names its agent.
    using chat = await openChat(session, { room: this.name, agent: "" });
    closed.addEventListener("abort", () => chat.close(), { once: true });
    if (closed.aborted) return;
    this.#chat = chat;
    this.state.set({ phase: "open" });
    for await (const _ of chat) this.messages.set(chat.messages);
  }
}

/** `undefined` for what may pass. */
function refusalOf(error: unknown): RoomState | undefined {
  if (!(error instanceof ArcpError)) return undefined;
  const { code, message } = error;
  if (code === "AGENT_NOT_AVAILABLE") return { phase: "not offered" };
  return error.retryable || code === "UNAUTHENTICATED" ? undefined : { phase: "refused", code, message };
}

/** Turns that are not over, the one that runs first; the others wait behind it. */
export function openTurnsOf(messages: readonly ChatMessage[]): string[] {
  const ended = new Set(messages.filter((one) => one.from === "agent" && one.status !== "working").map(jobOf));
  return messages
    .filter(({ from, status }) => from === "user" && (status === "running" || status === "queued"))
    .map(jobOf)
    .filter((jobId) => jobId !== undefined)
    .filter((jobId) => !ended.has(jobId));
}

const jobOf = ({ jobId }: ChatMessage): string | undefined => jobId;

/**
 * The bus that PostgreSQL brings along: `NOTIFY` on a channel that is named as the schema. Needs nothing but the
 * database, and is lost with it.
 *
 * What a commit touched is told right after it, many ids in one message; while one is on its way the next gathers. It
 * is not part of the commit, for commits that notify wait for each other on the whole server, flush to disk included.
 *
 * Listening takes a connection of its own, for as long as somebody listens. One that is lost is made again, with
 * growing delays; one that may be lost without a word is asked now and then.
 */
import { randomUUID } from "node:crypto";
import type { Clock, Timer } from "../../clock.ts";
import { type Bus, hintKey } from "../../cluster/bus.ts";
import type { Logger } from "../../logger.ts";
import type { Hint } from "../store.ts";
import type { PostgresClient } from "./database.ts";

/** A connection that is nobody else's, to the server itself. */
export interface ListeningClient {
  client: Pick<PostgresClient, "query" | "on">;
  /** Closes it, or gives it up. */
  end(): void;
}

/** PostgreSQL takes less than 8,000 bytes in one message. */
const MESSAGE_BYTES = 7_900;
/** Hints that wait to be told; what is above is left to the sweep. */
const MAX_PENDING = 10_000;
const SHORTEST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
const CHECK_EVERY_MS = 15_000;

export interface NotifyBusOptions {
  channel: string;
  /** Sends messages on a channel, in one statement. */
  notify: (channel: string, messages: readonly string[]) => Promise<unknown>;
  connect: () => Promise<ListeningClient>;
  clock: Clock;
  logger: Logger;
}

export class NotifyBus implements Bus {
  readonly #options: NotifyBusOptions;
  /** Our own messages come back, and tell us nothing new. */
  readonly #sender = randomUUID();
  readonly #listeners = new Set<(hint: Hint) => void>();
  readonly #pending = new Map<string, Hint>();
  #telling = false;
  #client: ListeningClient | undefined;
  #connecting = false;
  #timer: Timer | undefined;
  #pauseMs = 0;
  #stopped = false;

  constructor(options: NotifyBusOptions) {
    this.#options = options;
  }

  // ------------------------------------------------------------------------------------------ telling

  tell(hints: Iterable<Hint>): void {
    if (this.#stopped) return;
    for (const hint of hints) {
      if (this.#pending.size < MAX_PENDING) this.#pending.set(hintKey(hint), hint);
    }
    if (!this.#telling && this.#pending.size > 0) void this.#tell();
  }

  async #tell(): Promise<void> {
    this.#telling = true;
    while (this.#pending.size > 0 && !this.#stopped) {
      const messages = messagesOf(this.#sender, this.#pending.values());
      this.#pending.clear();
      try {
        await this.#options.notify(this.#options.channel, messages);
      } catch (error) {
        this.#options.logger.debug({ err: error }, "hints could not be told");
      }
    }
    this.#telling = false;
  }

  // ---------------------------------------------------------------------------------------- listening

  get hears(): boolean {
    return this.#client !== undefined;
  }

  on(listener: (hint: Hint) => void): () => void {
    if (this.#stopped) return () => undefined;
    // A listener of its own for each call: the same function may be given twice.
    const own = (hint: Hint) => listener(hint);
    this.#listeners.add(own);
    this.#listen();
    return () => {
      this.#listeners.delete(own);
      if (this.#listeners.size === 0) this.#hangUp();
    };
  }

  stop(): void {
    this.#stopped = true;
    this.#listeners.clear();
    this.#pending.clear();
    this.#hangUp();
  }

  #listen(): void {
    if (this.#client !== undefined || this.#connecting || this.#timer !== undefined) return;
    this.#connecting = true;
    this.#connect().then(
      () => {
        this.#connecting = false;
        this.#pauseMs = 0;
        if (this.#listeners.size === 0) this.#hangUp();
        else this.#checkLater();
      },
      (error: unknown) => {
        this.#connecting = false;
        this.#lost(error);
      },
    );
  }

  async #connect(): Promise<void> {
    const listening = await this.#options.connect();
    const { client } = listening;
    const lost = (error?: Error) => {
      if (this.#client === listening) this.#lost(error);
    };
    client.on("error", lost);
    client.on("end", lost);
    client.on("notification", ({ payload }) => this.#heard(payload ?? ""));
    try {
      await client.query({ text: `LISTEN "${this.#options.channel.replaceAll('"', '""')}"` });
    } catch (error) {
      listening.end();
      throw error;
    }
    this.#client = listening;
  }

  #lost(error: unknown): void {
    this.#hangUp();
    if (this.#listeners.size === 0) return;
    if (this.#pauseMs === 0) {
      this.#options.logger.warn({ err: error }, "hints of other processes are not heard; the sweep goes on");
    }
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, Math.max(SHORTEST_PAUSE_MS, this.#pauseMs * 2));
    this.#timer = this.#options.clock.after(this.#pauseMs * (0.5 + Math.random() / 2), () => {
      this.#timer = undefined;
      this.#listen();
    });
  }

  #checkLater(): void {
    this.#timer = this.#options.clock.after(CHECK_EVERY_MS, () => {
      const listening = this.#client;
      // Unanswered by the next time, it is lost.
      this.#timer = this.#options.clock.after(CHECK_EVERY_MS, () => this.#lost(new Error("no answer")));
      listening?.client.query({ text: "SELECT 1" }).then(
        () => {
          if (this.#client !== listening) return;
          this.#timer?.cancel();
          this.#checkLater();
        },
        (error: unknown) => {
          if (this.#client === listening) this.#lost(error);
        },
      );
    });
  }

  #hangUp(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    const listening = this.#client;
    this.#client = undefined;
    listening?.end();
  }

  #heard(payload: string): void {
    const [sender, ...hints] = payload.split(" ");
    if (sender === this.#sender) return;
    for (const text of hints) {
      const hint = hintOf(text);
      if (hint !== undefined) this.#pass(hint);
    }
  }

  #pass(hint: Hint): void {
    for (const listener of this.#listeners) {
      try {
        listener(hint);
      } catch (error) {
        this.#options.logger.warn({ err: error }, "a listener of the bus failed");
      }
    }
  }
}

/** A message is its sender and its hints, each a letter and an id. */
function messagesOf(sender: string, hints: Iterable<Hint>): string[] {
  const messages: string[] = [];
  let message = sender;
  for (const hint of hints) {
    const text = hintKey(hint);
    if (Buffer.byteLength(sender) + 1 + Buffer.byteLength(text) > MESSAGE_BYTES || text.includes(" ")) continue;
    if (Buffer.byteLength(message) + 1 + Buffer.byteLength(text) > MESSAGE_BYTES) {
      messages.push(message);
      message = sender;
    }
    message += ` ${text}`;
  }
  messages.push(message);
  return messages;
}

function hintOf(text: string): Hint | undefined {
  switch (text[0]) {
    case "j":
      return { jobId: text.slice(1) };
    case "s":
      return { sessionId: text.slice(1) };
    default:
      return undefined;
  }
}

/**
 * The bus between several stores of one process: runtimes that share a database in a program or a test. It costs a
 * microtask for all that is told in one turn of the event loop, and loses nothing.
 */
import { type Logger, silentLogger } from "../logger.ts";
import type { Hint } from "../store/store.ts";
import { type Bus, hintKey } from "./bus.ts";

export interface ProcessBus {
  /** A new end of it, for one store. */
  join(): Bus;
}

export function processBus({ logger = silentLogger }: { logger?: Logger } = {}): ProcessBus {
  const members = new Set<Member>();
  return {
    join() {
      const member = new Member(members, logger);
      members.add(member);
      return member;
    },
  };
}

class Member implements Bus {
  readonly #members: Set<Member>;
  readonly #logger: Logger;
  readonly #listeners = new Set<(hint: Hint) => void>();
  readonly #pending = new Map<string, Hint>();

  constructor(members: Set<Member>, logger: Logger) {
    this.#members = members;
    this.#logger = logger;
  }

  get hears(): boolean {
    return this.#listeners.size > 0;
  }

  tell(hints: Iterable<Hint>): void {
    if (!this.#members.has(this)) return;
    const waits = this.#pending.size > 0;
    for (const hint of hints) this.#pending.set(hintKey(hint), hint);
    if (!waits && this.#pending.size > 0) queueMicrotask(() => this.#pass());
  }

  on(listener: (hint: Hint) => void): () => void {
    if (!this.#members.has(this)) return () => undefined;
    // A listener of its own for each call: the same function may be given twice.
    const own = (hint: Hint) => listener(hint);
    this.#listeners.add(own);
    return () => void this.#listeners.delete(own);
  }

  stop(): void {
    this.#members.delete(this);
    this.#listeners.clear();
    this.#pending.clear();
  }

  #pass(): void {
    const hints = [...this.#pending.values()];
    this.#pending.clear();
    for (const other of this.#members) {
      if (other !== this) for (const hint of hints) other.#hear(hint);
    }
  }

  #hear(hint: Hint): void {
    for (const listener of this.#listeners) {
      try {
        listener(hint);
      } catch (error) {
        this.#logger.warn({ err: error }, "a listener of the bus failed");
      }
    }
  }
}

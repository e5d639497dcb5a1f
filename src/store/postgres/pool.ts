/**
 * Connections to work with: at most so many at a time, waited for in order, and none for a while after the server
 * could not be reached. A store that is down so fails its callers at once rather than one by one after a timeout, and
 * is asked again with growing delays (STO-12).
 */
import type { Clock, Timer } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { StoreUnavailable } from "../store.ts";
import type { PostgresClient } from "./database.ts";

export interface PooledClient extends PostgresClient {
  /** @param destroy true: the connection is not to be used again */
  release(destroy?: boolean): void;
}

/** A pool: `pg`'s fits. */
export interface PostgresPool {
  connect(): Promise<PooledClient>;
  on(event: "error", listener: (error: Error) => void): unknown;
  off(event: "error", listener: (error: Error) => void): unknown;
}

/** Operations that may wait for a connection; more are refused. */
const MAX_WAITING = 10_000;
const SHORTEST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 5_000;

export class Connections {
  readonly #source: Pick<PostgresPool, "connect">;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #connectTimeoutMs: number;
  #free: number;
  readonly #waiting: (() => void)[] = [];
  #pauseMs = 0;
  #pausedUntil = Number.NEGATIVE_INFINITY;
  #failure: unknown;

  constructor(
    source: Pick<PostgresPool, "connect">,
    options: { size: number; connectTimeoutMs: number; clock: Clock; logger: Logger },
  ) {
    this.#source = source;
    this.#free = options.size;
    this.#connectTimeoutMs = options.connectTimeoutMs;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** Runs `work` with a connection of its own. `work` says whether it may be used again. */
  async use<T>(work: (client: PooledClient, giveUp: () => void) => Promise<T>): Promise<T> {
    await this.#slot();
    try {
      const client = await this.#connect();
      let destroy = false;
      // The query that was under way rejects; without a listener the event would end the process.
      const onError = () => {
        destroy = true;
      };
      client.on("error", onError);
      try {
        return await work(client, onError);
      } finally {
        client.off("error", onError);
        client.release(destroy);
      }
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }

  async #slot(): Promise<void> {
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    if (this.#waiting.length >= MAX_WAITING) {
      throw new StoreUnavailable(`${MAX_WAITING} operations wait for the store already`);
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  async #connect(): Promise<PooledClient> {
    if (this.#clock.monotonic() < this.#pausedUntil) {
      throw new StoreUnavailable("the store cannot be reached", { cause: this.#failure });
    }
    try {
      const client = await this.#inTime(this.#source.connect());
      if (this.#pauseMs > 0) this.#logger.info({}, "the store can be reached again");
      this.#pauseMs = 0;
      return client;
    } catch (error) {
      this.#pause(error);
      throw new StoreUnavailable(`the store cannot be reached: ${messageOf(error)}`, { cause: error });
    }
  }

  /** Several tries that fail together lengthen the pause once. */
  #pause(error: unknown): void {
    const now = this.#clock.monotonic();
    if (now < this.#pausedUntil) return;
    if (this.#pauseMs === 0) this.#logger.warn({ err: error }, "the store cannot be reached");
    this.#failure = error;
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, Math.max(SHORTEST_PAUSE_MS, this.#pauseMs * 2));
    this.#pausedUntil = now + this.#pauseMs * (0.5 + Math.random() / 2);
  }

  async #inTime(connecting: Promise<PooledClient>): Promise<PooledClient> {
    const { promise, reject } = Promise.withResolvers<never>();
    let late = false;
    const timer: Timer = this.#clock.after(this.#connectTimeoutMs, () => {
      late = true;
      reject(new Error(`no connection within ${this.#connectTimeoutMs} ms`));
    });
    connecting.then(
      (client) => late && client.release(),
      () => undefined,
    );
    try {
      return await Promise.race([connecting, promise]);
    } finally {
      timer.cancel();
    }
  }
}

/** Of several addresses that were tried, `pg` tells in an error without a message. */
function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") return messageOf(error.errors[0]);
  return error instanceof Error ? error.message : String(error);
}

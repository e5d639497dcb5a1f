/** What `connect` takes, and what it makes of it. */
import { type Clock, systemClock } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { FEATURES, type Feature } from "../protocol/index.ts";
import type { WebSocketConstructor } from "../transport/websocket.ts";
import type { Backoff } from "./backoff.ts";

/** Everything that another process needs to go on with a session (`session.resumeState`). A secret. */
export interface ResumeState {
  sessionId: string;
  resumeToken: string;
  /** The highest event number that was consumed, with all below it. */
  lastEventSeq: number;
}

export interface ReconnectOptions {
  /** The window of the first attempt's random delay. @default 100 */
  initialMs?: number | undefined;
  /** The window doubles with each attempt, up to this. @default 10_000 */
  maxMs?: number | undefined;
  /** How long to go on trying. @default the runtime's resume window */
  giveUpAfterMs?: number | undefined;
  /** For tests: where the jitter comes from, in [0, 1). @default Math.random */
  random?: (() => number) | undefined;
}

export interface ConnectOptions {
  /** A bearer token, or what gives one; it is asked anew for each connection. */
  token: string | (() => string | Promise<string>);
  /** @default { name: "holdfast", version: "0" } */
  client?: { name: string; version: string } | undefined;
  /** What to offer; the session gets those that the runtime offers too. @default all */
  features?: readonly Feature[] | undefined;
  /** Aborts the first connection. A session that is open is ended with `close`. */
  signal?: AbortSignal | undefined;
  /** How long the first welcome may take, and each attempt of a later connection. @default 10_000 */
  timeoutMs?: number | undefined;
  reconnect?: ReconnectOptions | undefined;
  /** Goes on with a session of an earlier process instead of opening a new one. */
  resume?: ResumeState | undefined;
  /** Ack at the latest after so many consumed events. @default 256 */
  ackEvery?: number | undefined;
  /** Ack at the latest so long after an event was consumed. @default 200 */
  ackEveryMs?: number | undefined;
  /** Requests that may wait for an answer; one more is refused with `LIMIT_EXCEEDED`. @default 1_024 */
  maxPendingRequests?: number | undefined;
  /**
   * What is held of a job's chunked result, in bytes (characters of text): until it is asked for or read, or
   * of a stream, until its reader takes it. More is dropped, and asking or reading is an error then. @default
   * 67_108_864 (64 MiB)
   */
  maxResultBytes?: number | undefined;
  /** @default globalThis.WebSocket */
  WebSocket?: WebSocketConstructor | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
}

/** The options with their defaults. */
export interface Settings {
  token: ConnectOptions["token"];
  client: { name: string; version: string };
  features: readonly Feature[];
  timeoutMs: number;
  backoff: Backoff;
  giveUpAfterMs: number | undefined;
  resume: ResumeState | undefined;
  ackEvery: number;
  ackEveryMs: number;
  maxPendingRequests: number;
  maxResultBytes: number;
  clock: Clock;
  logger: Logger;
}

export function settle(options: ConnectOptions): Settings {
  const { reconnect = {} } = options;
  return {
    token: options.token,
    client: options.client ?? { name: "holdfast", version: "0" },
    features: options.features ?? FEATURES,
    timeoutMs: options.timeoutMs ?? 10_000,
    backoff: {
      initialMs: reconnect.initialMs ?? 100,
      maxMs: reconnect.maxMs ?? 10_000,
      random: reconnect.random ?? Math.random,
    },
    giveUpAfterMs: reconnect.giveUpAfterMs,
    resume: options.resume,
    ackEvery: options.ackEvery ?? 256,
    ackEveryMs: options.ackEveryMs ?? 200,
    maxPendingRequests: options.maxPendingRequests ?? 1_024,
    maxResultBytes: options.maxResultBytes ?? 64 * 1024 * 1024,
    clock: options.clock ?? systemClock,
    logger: options.logger ?? silentLogger,
  };
}

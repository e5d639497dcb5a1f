/**
 * The client's side of a WebSocket, over any class of the standard shape: the platform's own (browsers,
 * Node) or one that is handed in, such as that of `ws`. One text frame is one envelope; binary frames
 * are ignored. The standard class tells nobody when its buffer drains, so `drained` looks again after a
 * delay that grows from 1 to 32 ms.
 */
import { type Clock, sleep, systemClock, type Timer } from "../clock.ts";
import { fitReason } from "./close-frame.ts";
import type { Transport, TransportEvents } from "./transport.ts";

/** What is used of an event: `data` of a message, the code and reason of a close, the error of an error. */
export interface WebSocketLikeEvent {
  readonly type: string;
  readonly data?: unknown;
  readonly code?: number;
  readonly reason?: string;
  readonly error?: unknown;
}

/** What is used of a WebSocket. */
export interface WebSocketLike {
  readonly readyState: number;
  readonly bufferedAmount: number;
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: WebSocketLikeEvent) => void): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

export interface OpenWebSocketOptions {
  /** @default globalThis.WebSocket */
  WebSocket?: WebSocketConstructor | undefined;
  /** Gives up while the connection is not open yet. */
  signal?: AbortSignal | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
  /** How long the connection may take to open. @default 10_000 */
  timeoutMs?: number | undefined;
  /** How long the peer may take to answer a close. @default 2_000 */
  closeTimeoutMs?: number | undefined;
}

const OPEN = 1;
const LONGEST_POLL_MS = 32;
/** What a page may send as a close code; the platform throws for others. */
const allowedCode = (code: number): boolean => code === 1000 || (code >= 3000 && code <= 4999);

class WebSocketTransport implements Transport {
  readonly #socket: WebSocketLike;
  readonly #clock: Clock;
  readonly #closeTimeoutMs: number;
  #events: TransportEvents | undefined;
  /** Frames that came before `start`. */
  #early: string[] = [];
  #closing = false;
  #closed: { code: number; reason: string } | undefined;
  #closeTimer: Timer | undefined;

  constructor(socket: WebSocketLike, clock: Clock, closeTimeoutMs: number) {
    this.#socket = socket;
    this.#clock = clock;
    this.#closeTimeoutMs = closeTimeoutMs;
    socket.addEventListener("message", (event) => {
      if (typeof event.data !== "string" || this.#closing) return;
      if (this.#events === undefined) this.#early.push(event.data);
      else this.#events.onFrame(event.data);
    });
    socket.addEventListener("close", (event) => {
      this.#finish(event.code ?? 1006, event.reason ?? "");
    });
  }

  get open(): boolean {
    return !this.#closing && this.#closed === undefined && this.#socket.readyState === OPEN;
  }

  get bufferedBytes(): number {
    return this.#socket.bufferedAmount;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    const early = this.#early;
    this.#early = [];
    for (const frame of early) {
      if (!this.#closing) events.onFrame(frame);
    }
    if (this.#closed !== undefined) events.onClose(this.#closed.code, this.#closed.reason);
  }

  send(frames: readonly string[]): void {
    if (!this.open) return;
    for (const frame of frames) this.#socket.send(frame);
  }

  async drained(limitBytes: number): Promise<void> {
    for (
      let delayMs = 1;
      this.open && this.bufferedBytes > limitBytes;
      delayMs = Math.min(LONGEST_POLL_MS, delayMs * 2)
    ) {
      await sleep(this.#clock, delayMs);
    }
  }

  close(code = 1000, reason = ""): void {
    if (this.#closing || this.#closed !== undefined) return;
    this.#closing = true;
    this.#socket.close(allowedCode(code) ? code : 1000, fitReason(reason));
    // A dead peer never answers, and the platform may wait for minutes before it says so.
    this.#closeTimer = this.#clock.after(this.#closeTimeoutMs, () =>
      this.#finish(1006, "The peer did not answer the close."),
    );
  }

  #finish(code: number, reason: string): void {
    if (this.#closed !== undefined) return;
    this.#closed = { code, reason };
    this.#closeTimer?.cancel();
    this.#events?.onClose(code, reason);
  }
}

/**
 * Opens a WebSocket and resolves once it is open.
 *
 * Rejects with an `Error` that names the address when the connection fails or takes longer than
 * `timeoutMs`, and with the signal's reason when it aborts. The address is told without its query.
 */
export function openWebSocket(url: string, options: OpenWebSocketOptions = {}): Promise<Transport> {
  const { signal, clock = systemClock, timeoutMs = 10_000, closeTimeoutMs = 2_000 } = options;
  const Constructor = options.WebSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
  const where = url.split(/[?#]/)[0];
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    if (Constructor === undefined) {
      throw new Error("This platform has no WebSocket; hand one in as the option `WebSocket`.");
    }
    const socket = new Constructor(url);
    const transport = new WebSocketTransport(socket, clock, closeTimeoutMs);
    let cause: unknown;
    const settle = (done: () => void) => {
      timer.cancel();
      signal?.removeEventListener("abort", onAbort);
      done();
    };
    const giveUp = (reason: unknown) =>
      settle(() => {
        transport.close();
        reject(reason);
      });
    const onAbort = () => giveUp(signal?.reason);
    const timer = clock.after(timeoutMs, () => giveUp(new Error(`${where} did not answer within ${timeoutMs} ms.`)), {
      keepAlive: true,
    });
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.addEventListener("open", () => settle(() => resolve(transport)));
    // An `error` event is always followed by `close`; it is listened to for its cause, and because
    // some classes throw an error that nobody listens to.
    socket.addEventListener("error", (event) => {
      cause = event.error;
    });
    socket.addEventListener("close", (event) => {
      const why = cause instanceof Error && cause.message !== "" ? cause.message : `closed with ${event.code}`;
      settle(() => reject(new Error(`Could not connect to ${where}: ${why}.`, { cause })));
    });
  });
}

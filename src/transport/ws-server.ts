/**
 * The server's side of a WebSocket, and only that (a client's frames are masked): a connection that `ws`
 * has upgraded, as a transport. The hot path of the runtime ends here: a batch of frames becomes one piece
 * of memory and one write, which costs far less than handing `ws` each of them. (Its sender writes at once
 * as well, since nothing is compressed, so its pongs and its close frame fall between batches.) An error of
 * the socket is logged and ends in `onClose`; it never escapes.
 */
import type { Duplex } from "node:stream";
import type { RawData, WebSocket } from "ws";
import { type Clock, systemClock, type Timer } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { fitReason } from "./close-frame.ts";
import { textFrames } from "./text-frames.ts";
import type { Transport, TransportEvents } from "./transport.ts";

export interface FromWsOptions {
  /** @default systemClock */
  clock?: Clock | undefined;
  /** How long the peer may take to read what is queued and answer a close. @default 2_000 */
  closeTimeoutMs?: number | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
}

interface DrainWaiter {
  limitBytes: number;
  resolve(): void;
}

/** Codes that may be sent; 1004 to 1006 and 1015 are for reporting only. */
const allowedCode = (code: number): boolean =>
  (code >= 1000 && code <= 1014 && (code < 1004 || code > 1006)) || (code >= 3000 && code <= 4999);

class WsServerTransport implements Transport {
  readonly #ws: WebSocket;
  readonly #socket: Duplex;
  readonly #clock: Clock;
  readonly #closeTimeoutMs: number;
  #events: TransportEvents | undefined;
  /** Frames that came before `start`. */
  #early: string[] = [];
  #closing = false;
  #closed: { code: number; reason: string } | undefined;
  #closeTimer: Timer | undefined;
  /** Batches that the operating system has not taken yet. */
  #batches = 0;
  #gathering = false;
  #waiters: DrainWaiter[] = [];

  constructor(ws: WebSocket, socket: Duplex, clock: Clock, closeTimeoutMs: number, logger: Logger) {
    this.#ws = ws;
    this.#socket = socket;
    this.#clock = clock;
    this.#closeTimeoutMs = closeTimeoutMs;
    ws.on("message", (data: RawData, isBinary: boolean) => {
      if (isBinary || this.#closing) return;
      const frame = data.toString();
      if (this.#events === undefined) this.#early.push(frame);
      else this.#events.onFrame(frame);
    });
    ws.on("error", (error) => logger.debug({ err: error }, "a WebSocket failed"));
    ws.on("close", (code, reason) => this.#finish(code, reason.toString()));
    socket.on("drain", () => this.#wake());
  }

  get open(): boolean {
    return !this.#closing && this.#closed === undefined && this.#ws.readyState === this.#ws.OPEN;
  }

  get bufferedBytes(): number {
    // Without a batch on its way only what `ws` wrote itself (a pong) can be there.
    return this.#batches === 0 ? 0 : this.#ws.bufferedAmount;
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
    if (frames.length === 0 || !this.open) return;
    this.#batches += 1;
    const batch = textFrames(frames);
    this.#gather();
    this.#socket.write(batch.bytes, (error) => {
      this.#batches -= 1;
      if (error === null || error === undefined) batch.release();
      if (this.#waiters.length > 0) this.#wake();
    });
  }

  /** What is sent until the end of this turn (the answers to requests that one commit stored) goes in one write. */
  #gather(): void {
    if (this.#gathering) return;
    this.#gathering = true;
    this.#socket.cork();
    process.nextTick(() => {
      this.#gathering = false;
      this.#socket.uncork();
    });
  }

  drained(limitBytes: number): Promise<void> {
    if (!this.open || this.bufferedBytes <= limitBytes) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ limitBytes, resolve }));
  }

  close(code = 1000, reason = ""): void {
    if (this.#closing || this.#closed !== undefined) return;
    this.#closing = true;
    this.#ws.close(allowedCode(code) ? code : 1000, fitReason(reason));
    this.#closeTimer = this.#clock.after(this.#closeTimeoutMs, () => this.#ws.terminate());
    this.#wake();
  }

  #finish(code: number, reason: string): void {
    this.#closed = { code, reason };
    this.#closeTimer?.cancel();
    this.#wake();
    this.#events?.onClose(code, reason);
  }

  #wake(): void {
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (!this.open || this.bufferedBytes <= waiter.limitBytes) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}

/**
 * An upgraded connection as a transport.
 *
 * @param ws what `handleUpgrade` gave, with `perMessageDeflate` off and `maxPayload` set.
 * @param socket the raw socket of the upgrade.
 */
export function fromWs(ws: WebSocket, socket: Duplex, options: FromWsOptions = {}): Transport {
  const { clock = systemClock, closeTimeoutMs = 2_000, logger = silentLogger } = options;
  return new WsServerTransport(ws, socket, clock, closeTimeoutMs, logger);
}

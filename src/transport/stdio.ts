/**
 * NDJSON over a pair of byte streams: one line is one envelope. `stdioTransport` speaks it over streams
 * that are there already (a runtime on its own standard input and output), `spawnStdio` starts a child
 * process and speaks to it (a client whose runtime is a program on this machine). No port is opened, and
 * who may talk is who holds the pipe.
 *
 * The wire has no close frame: the end of a stream is the goodbye, so neither code nor reason of a
 * `close` reaches the peer. Memory is bounded: of a line that has not ended at most a frame is kept,
 * and a longer one ends the connection. An error of a stream is logged and ends in `onClose`.
 */
import { isUtf8 } from "node:buffer";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { type Clock, systemClock, type Timer } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { MAX_FRAME_BYTES } from "../protocol/index.ts";
import type { Transport, TransportEvents } from "./transport.ts";

/** The codes of the WebSocket transport for the same ends, so that whoever logs them has one table. */
const NORMAL = 1000;
const ABNORMAL = 1006;
const NOT_UTF8 = 1007;
const TOO_BIG = 1009;

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const LINE_BREAKS = /[\r\n]+/g;
/** Where the kept part of a line starts to grow from. */
const SMALLEST_PARTIAL = 4 * 1024;

type TakeLine = (line: Buffer) => void;

/** Cuts a byte stream into lines. A line costs no copy, unless it came in several chunks. */
class LineReader {
  readonly #maxBytes: number;
  /** The beginning of a line whose end has not come. */
  #partial = Buffer.alloc(0);
  #kept = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /**
   * Hands out the lines that are complete now, without their ends.
   *
   * @returns false when a line is longer than allowed, ended or not; nothing may be read after that
   */
  read(chunk: Buffer, take: TakeLine): boolean {
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      let line = chunk.subarray(from, end);
      from = end + 1;
      if (this.#kept > 0) {
        if (!this.#keep(line)) return false;
        line = this.#partial.subarray(0, this.#kept);
        this.#partial = Buffer.alloc(0);
        this.#kept = 0;
      }
      if (line.at(-1) === CARRIAGE_RETURN) line = line.subarray(0, -1);
      if (line.length > this.#maxBytes) return false;
      if (line.length > 0) take(line);
    }
    return this.#keep(chunk.subarray(from));
  }

  /** Bytes of a line that has not ended. */
  get kept(): number {
    return this.#kept;
  }

  #keep(bytes: Buffer): boolean {
    const length = this.#kept + bytes.length;
    // One more than a line may have: it may be the carriage return of its end.
    if (length > this.#maxBytes + 1) return false;
    if (length > this.#partial.length) {
      const room = Math.max(SMALLEST_PARTIAL, length, Math.min(this.#partial.length * 2, this.#maxBytes + 1));
      const grown = Buffer.allocUnsafe(room);
      this.#partial.copy(grown, 0, 0, this.#kept);
      this.#partial = grown;
    }
    bytes.copy(this.#partial, this.#kept);
    this.#kept = length;
    return true;
  }
}

interface DrainWaiter {
  limitBytes: number;
  resolve(): void;
}

interface Closing {
  code: number;
  reason: string;
}

export interface StdioStreams {
  /** What the peer writes. Read from `start` on, to its end. */
  input: Readable;
  /** What the peer reads. Ended by `close`. */
  output: Writable;
}

export interface StdioOptions {
  /** @default systemClock */
  clock?: Clock | undefined;
  /** How long the peer may take to read what is queued and end its stream after a close. @default 2_000 */
  closeTimeoutMs?: number | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
}

class StdioTransport implements Transport {
  readonly #input: Readable;
  readonly #output: Writable;
  readonly #clock: Clock;
  readonly #closeTimeoutMs: number;
  readonly #logger: Logger;
  readonly #lines = new LineReader(MAX_FRAME_BYTES);
  #events: TransportEvents | undefined;
  /** Frames are handed out. False from `close` on, and once a line was refused. */
  #reading = true;
  /** Frames are taken. False from `close` on, and once the peer reads no more. */
  #writing = true;
  /** How the connection will have ended, once its streams have. */
  #closing: Closing | undefined;
  #closed: Closing | undefined;
  #closeTimer: Timer | undefined;
  #waiters: DrainWaiter[] = [];
  readonly #onWritten = (): void => {
    if (this.#waiters.length > 0) this.#wake();
  };

  constructor({ input, output }: StdioStreams, clock: Clock, closeTimeoutMs: number, logger: Logger) {
    this.#input = input;
    this.#output = output;
    this.#clock = clock;
    this.#closeTimeoutMs = closeTimeoutMs;
    this.#logger = logger;
    input.on("error", (error) => logger.debug({ err: error }, "the input of a stdio connection failed"));
    input.on("end", () => this.#finish(this.#closing ?? { code: NORMAL, reason: "The peer ended its stream." }));
    input.on("close", () => this.#finish(this.#closing ?? { code: ABNORMAL, reason: "The input was cut." }));
    output.on("error", (error) => {
      logger.debug({ err: error }, "the output of a stdio connection failed");
      this.#noMoreOutput();
    });
    output.on("close", () => this.#noMoreOutput());
  }

  get open(): boolean {
    return this.#writing && !this.#output.destroyed && !this.#input.destroyed;
  }

  get bufferedBytes(): number {
    return this.#output.destroyed ? 0 : this.#output.writableLength;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    if (this.#closed !== undefined) {
      events.onClose(this.#closed.code, this.#closed.reason);
      return;
    }
    this.#input.on("data", (chunk: Buffer | string) => this.#onData(chunk));
  }

  send(frames: readonly string[]): void {
    if (frames.length === 0 || !this.open) return;
    let text = "";
    // A line break inside of JSON text is white space between its parts.
    for (const frame of frames) text += `${frame.includes("\n") ? frame.replace(LINE_BREAKS, " ") : frame}\n`;
    this.#output.write(Buffer.from(text), this.#onWritten);
  }

  drained(limitBytes: number): Promise<void> {
    if (!this.open || this.bufferedBytes <= limitBytes) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ limitBytes, resolve }));
  }

  close(code = NORMAL, reason = ""): void {
    if (this.#closing !== undefined || this.#closed !== undefined) return;
    this.#reading = false;
    this.#close({ code, reason });
  }

  /** Says goodbye: what is queued is written, and the peer's stream read (and dropped) to its end. */
  #close(how: Closing): void {
    this.#closing = how;
    this.#writing = false;
    this.#closeTimer = this.#clock.after(this.#closeTimeoutMs, () =>
      this.#cut({ code: ABNORMAL, reason: "The peer did not end its stream." }),
    );
    this.#output.end();
    // A peer that waits for room in its own pipe would never come to see the end of ours.
    this.#input.resume();
    this.#wake();
  }

  #onData(chunk: Buffer | string): void {
    if (!this.#reading) return;
    const whole = this.#lines.read(typeof chunk === "string" ? Buffer.from(chunk) : chunk, (line) => {
      if (!this.#reading) return;
      if (isUtf8(line)) this.#events?.onFrame(line.toString());
      else this.close(NOT_UTF8, "a line is not UTF-8");
    });
    if (!whole) this.close(TOO_BIG, `a line is longer than ${MAX_FRAME_BYTES} bytes`);
  }

  /** The peer reads no more. What it has written before that is still read, to the end of its stream. */
  #noMoreOutput(): void {
    if (!this.#writing) return;
    this.#close({ code: ABNORMAL, reason: "The peer stopped reading." });
  }

  #cut(how: Closing): void {
    this.#input.destroy();
    this.#output.destroy();
    this.#finish(how);
  }

  /** The input has ended, so the connection has. */
  #finish(how: Closing): void {
    if (this.#closed !== undefined) return;
    this.#closed = how;
    this.#reading = false;
    if (this.#lines.kept > 0) this.#logger.debug({ bytes: this.#lines.kept }, "half a line was dropped");
    this.#closeTimer?.cancel();
    if (!this.#output.destroyed) this.#endOutput();
    this.#writing = false;
    this.#wake();
    this.#events?.onClose(how.code, how.reason);
  }

  /** What is queued still goes out to a peer that reads; one that does not is left. */
  #endOutput(): void {
    const timer = this.#clock.after(this.#closeTimeoutMs, () => this.#output.destroy());
    this.#output.once("close", () => timer.cancel());
    this.#output.end(() => timer.cancel());
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (!this.open || this.bufferedBytes <= waiter.limitBytes) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}

/** Speaks NDJSON over streams that are there, such as `process.stdin` and `process.stdout`. */
export function stdioTransport(streams: StdioStreams, options: StdioOptions = {}): Transport {
  const { clock = systemClock, closeTimeoutMs = 2_000, logger = silentLogger } = options;
  return new StdioTransport(streams, clock, closeTimeoutMs, logger);
}

export interface SpawnStdioOptions {
  /** @default that of this process */
  cwd?: string | undefined;
  /** The child's whole environment. @default that of this process */
  env?: NodeJS.ProcessEnv | undefined;
  /** Takes what the child writes to its standard error, line by line. @default it is passed through to ours */
  logger?: Logger | undefined;
  /**
   * How long the child may take to exit once its input has ended, before it gets SIGTERM.
   * @default 12_000, since `holdfast serve` gives its jobs 10_000
   */
  termAfterMs?: number | undefined;
  /** How long it may go on after SIGTERM, before it gets SIGKILL. @default 2_000 */
  killAfterMs?: number | undefined;
  /** Called with the child once it runs, for what a transport does not offer. */
  onSpawn?: ((child: ChildProcess) => void) | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
}

/** After the child's end, how long others that hold its standard output may keep us reading. */
const LAST_WORDS_MS = 500;
/** What one line of a child's standard error may bring into a log. */
const MAX_LOGGED_CHARACTERS = 4_096;

interface Limits {
  termAfterMs: number;
  killAfterMs: number;
}

/** A child process and the connection to it: it closes when both are over. */
class ChildTransport implements Transport {
  readonly #child: ChildProcess;
  readonly #inner: Transport;
  readonly #name: string;
  readonly #clock: Clock;
  readonly #limits: Limits;
  #events: TransportEvents | undefined;
  #own: Closing | undefined;
  #streamsEnded = false;
  #exited: { code: number | null; signal: NodeJS.Signals | null } | undefined;
  #timer: Timer | undefined;
  #ending = false;

  constructor(child: ChildProcess, inner: Transport, name: string, clock: Clock, limits: Limits) {
    this.#child = child;
    this.#inner = inner;
    this.#name = name;
    this.#clock = clock;
    this.#limits = limits;
    child.once("exit", (code, signal) => this.#onExit(code, signal));
  }

  get open(): boolean {
    return this.#inner.open;
  }

  get bufferedBytes(): number {
    return this.#inner.bufferedBytes;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    this.#inner.start({
      onFrame: (frame) => events.onFrame(frame),
      onClose: () => {
        this.#streamsEnded = true;
        this.#end();
        this.#tell();
      },
    });
    if (this.#exited !== undefined) this.#readLastWords();
  }

  send(frames: readonly string[]): void {
    this.#inner.send(frames);
  }

  drained(limitBytes: number): Promise<void> {
    return this.#inner.drained(limitBytes);
  }

  close(code = NORMAL, reason = ""): void {
    this.#own ??= { code, reason };
    this.#inner.close(code, reason);
    this.#end();
  }

  /** The child's input has ended: it has so long to go by itself, then it is made to. */
  #end(): void {
    if (this.#ending || this.#exited !== undefined) return;
    this.#ending = true;
    const { termAfterMs, killAfterMs } = this.#limits;
    this.#timer = this.#clock.after(termAfterMs, () => {
      this.#child.kill("SIGTERM");
      this.#timer = this.#clock.after(killAfterMs, () => this.#child.kill("SIGKILL"));
    });
  }

  #onExit(code: number | null, signal: NodeJS.Signals | null): void {
    this.#exited = { code, signal };
    this.#timer?.cancel();
    if (this.#events === undefined) return;
    this.#readLastWords();
    this.#tell();
  }

  /** What the child had written is still in the pipe; a child of its own may hold that open for ever. */
  #readLastWords(): void {
    const { stdout } = this.#child;
    if (stdout === null || stdout.closed) return;
    const timer = this.#clock.after(LAST_WORDS_MS, () => stdout.destroy());
    stdout.once("close", () => timer.cancel());
  }

  #tell(): void {
    if (this.#exited === undefined || !this.#streamsEnded) return;
    const { code, signal } = this.#exited;
    const how = signal === null ? `exited with status ${code}` : `was ended by ${signal}`;
    const closing = this.#own ?? { code: code === 0 ? NORMAL : ABNORMAL, reason: `${this.#name} ${how}` };
    this.#events?.onClose(closing.code, closing.reason);
  }
}

/**
 * Starts a program that speaks NDJSON on its standard input and output, and resolves once it runs:
 * `connect(() => spawnStdio("holdfast", ["serve", "--stdio"]), …)`. No shell is involved.
 *
 * Closing ends the child's input, then sends SIGTERM, then SIGKILL, each after its time; `onClose` comes
 * when the child has exited, and says how.
 *
 * Rejects with an `Error` that names the command when it cannot be started.
 */
export async function spawnStdio(
  command: string,
  args: readonly string[],
  options: SpawnStdioOptions = {},
): Promise<Transport> {
  const { clock = systemClock, termAfterMs = 12_000, killAfterMs = 2_000, logger } = options;
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: options.env,
    stdio: ["pipe", "pipe", logger === undefined ? "inherit" : "pipe"],
    windowsHide: true,
  });
  try {
    await once(child, "spawn");
  } catch (error) {
    throw new Error(`${command} could not be started: ${(error as Error).message}`, { cause: error });
  }
  options.onSpawn?.(child);
  // Signals that could not be sent; the child's end is told by its exit.
  child.on("error", (error) => (logger ?? silentLogger).debug({ err: error }, "a child process failed"));
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null) throw new Error(`${command} was started without pipes.`);
  if (logger !== undefined && stderr !== null) {
    createInterface({ input: stderr }).on("line", (line) =>
      logger.info({ command, pid: child.pid }, line.slice(0, MAX_LOGGED_CHARACTERS)),
    );
  }
  const inner = stdioTransport(
    { input: stdout, output: stdin },
    // The streams stay until the child has had all of its time.
    { clock, closeTimeoutMs: termAfterMs + killAfterMs, ...(logger === undefined ? {} : { logger }) },
  );
  return new ChildTransport(child, inner, command, clock, { termAfterMs, killAfterMs });
}

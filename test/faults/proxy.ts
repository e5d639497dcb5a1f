/**
 * The network between one client and the servers: a TCP proxy that does to the byte stream what networks
 * do. It knows of WebSockets only where the upgrade ends. Timers are its own clock's and end with it.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { type Clock, sleep, systemClock } from "../../src/clock.ts";
import type { Random } from "../random.ts";
import type { Direction, Plan } from "./plan.ts";

const HEADERS_END = "\r\n\r\n";
const MERGE_MS = 15;

/** What happens to the first bytes behind the upgrade. */
type Greeting = "pass" | "lose welcome" | "hold hello";

/** One connection through the proxy. */
class Pipe {
  readonly #client: Socket;
  readonly #upstream: Socket;
  readonly #proxy: FaultProxy;
  readonly #greeting: Greeting;
  readonly #upgraded: Record<Direction, boolean> = { up: false, down: false };
  /** What is still to pass, in order. */
  readonly #queues: Record<Direction, Buffer[]> = { up: [], down: [] };
  readonly #draining: Record<Direction, boolean> = { up: false, down: false };
  readonly #cutAfter: Record<Direction, number> = { up: Number.POSITIVE_INFINITY, down: Number.POSITIVE_INFINITY };
  /** The hello that is held back. */
  #held: Buffer[] = [];
  #stalled = 0;
  #lingering = false;
  #deaf = false;
  #gone = false;

  constructor(proxy: FaultProxy, client: Socket, port: number, greeting: Greeting) {
    this.#proxy = proxy;
    this.#client = client;
    this.#greeting = greeting;
    this.#upstream = connect(port, "127.0.0.1");
    for (const socket of [client, this.#upstream]) {
      socket.setNoDelay(true);
      // A reset is a way to close; `close` follows.
      socket.on("error", () => undefined);
    }
    client.on("data", (chunk: Buffer) => this.#take("up", chunk));
    this.#upstream.on("data", (chunk: Buffer) => this.#take("down", chunk));
    client.on("close", () => {
      if (!this.#lingering) this.destroy();
    });
    this.#upstream.on("close", () => {
      // What the server said last still arrives; the drain ends it.
      if (!this.#draining.down) this.destroy();
    });
  }

  destroy(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#client.destroy();
    this.#upstream.destroy();
    this.#proxy.forget(this);
  }

  cutAfter(direction: Direction, bytes: number): void {
    // Once something was left out, nothing may follow it.
    if (this.#cutAfter[direction] >= 0) this.#cutAfter[direction] = bytes;
  }

  /** Nothing passes, either way, and nobody is told. */
  async stall(forMs: number): Promise<void> {
    this.#stalled += 1;
    await this.#proxy.wait(forMs);
    this.#stalled -= 1;
    void this.#drain("up");
    void this.#drain("down");
  }

  /** Nothing more comes down; then it is cut. */
  async deafen(forMs: number): Promise<void> {
    this.#deaf = true;
    await this.#proxy.wait(forMs);
    this.destroy();
  }

  /** The client loses its side; the server's stays open and is not read, until it is dropped. */
  async halfOpen(forMs: number): Promise<void> {
    this.#lingering = true;
    this.#upstream.pause();
    this.#client.destroy();
    await this.#proxy.wait(forMs);
    this.destroy();
  }

  /** Lets the held hello through, whatever became of its client. */
  release(): void {
    for (const chunk of this.#held.splice(0)) this.#upstream.write(chunk);
  }

  #take(direction: Direction, chunk: Buffer): void {
    if (direction === "down" && this.#deaf) return;
    let rest = chunk;
    if (!this.#upgraded[direction]) {
      const end = chunk.indexOf(HEADERS_END);
      if (end >= 0) {
        this.#upgraded[direction] = true;
        rest = chunk.subarray(end + HEADERS_END.length);
        this.#push(direction, chunk.subarray(0, end + HEADERS_END.length));
      } else {
        this.#push(direction, chunk);
        return;
      }
    }
    if (rest.length === 0) return;
    if (direction === "up" && this.#greeting === "hold hello") {
      if (this.#held.length === 0) {
        this.#lingering = true;
        this.#held.push(rest);
        this.#proxy.holding(this);
      }
      return;
    }
    if (direction === "down" && this.#greeting === "lose welcome") {
      this.destroy();
      return;
    }
    if (direction === "down") this.#proxy.welcomed();
    this.#push(direction, rest);
  }

  #push(direction: Direction, chunk: Buffer): void {
    const left = this.#cutAfter[direction];
    this.#cutAfter[direction] = left - chunk.length;
    this.#queues[direction].push(left < chunk.length ? chunk.subarray(0, Math.max(0, left)) : chunk);
    void this.#drain(direction);
  }

  async #drain(direction: Direction): Promise<void> {
    if (this.#draining[direction]) return;
    this.#draining[direction] = true;
    const target = direction === "up" ? this.#upstream : this.#client;
    const source = direction === "up" ? this.#client : this.#upstream;
    const queue = this.#queues[direction];
    while (queue.length > 0 && this.#stalled === 0 && !this.#gone) {
      if (this.#proxy.chop === "merge") await this.#proxy.wait(MERGE_MS);
      const whole = this.#proxy.chop === "merge" ? Buffer.concat(queue.splice(0)) : (queue.shift() as Buffer);
      for (const piece of this.#pieces(whole)) {
        if (this.#gone) return;
        if (!target.write(piece)) {
          source.pause();
          await new Promise<void>((resolve) => {
            target.once("drain", resolve);
            target.once("close", () => resolve());
          });
          source.resume();
        }
        if (this.#proxy.chop === "split") await new Promise<void>((resolve) => setImmediate(resolve));
      }
    }
    this.#draining[direction] = false;
    const cut = this.#cutAfter[direction] < 0 && queue.length === 0;
    const over = direction === "down" && this.#upstream.destroyed && queue.length === 0;
    if ((cut || over) && !this.#gone) {
      // Gone once what was let through has left.
      target.end(() => this.destroy());
    }
  }

  *#pieces(chunk: Buffer): Iterable<Buffer> {
    if (this.#proxy.chop !== "split") {
      yield chunk;
      return;
    }
    for (let from = 0; from < chunk.length; ) {
      const to = from + this.#proxy.random.int(1, this.#proxy.random.next() < 0.2 ? 8 : 3_000);
      yield chunk.subarray(from, to);
      from = to;
    }
  }
}

export class FaultProxy implements AsyncDisposable {
  readonly random: Random;
  readonly chop: Plan["chop"];
  readonly #server: Server;
  readonly #clock: Clock;
  /** Where a new connection goes; `undefined` while nobody listens there. */
  readonly #target: () => number | undefined;
  readonly #pipes = new Set<Pipe>();
  readonly #ending = new AbortController();
  #newest: Pipe | undefined;
  #greetings: Greeting[] = [];
  #late: { pipe: Pipe; byMs: number } | undefined;
  #lateByMs = 0;
  #cutNext: { direction: Direction; bytes: number } | undefined;

  private constructor(target: () => number | undefined, chop: Plan["chop"], random: Random, clock: Clock) {
    this.#target = target;
    this.chop = chop;
    this.random = random;
    this.#clock = clock;
    this.#server = createServer((client) => this.#accept(client));
  }

  static async start(options: {
    target: () => number | undefined;
    chop: Plan["chop"];
    random: Random;
    clock?: Clock;
  }): Promise<FaultProxy> {
    const proxy = new FaultProxy(options.target, options.chop, options.random, options.clock ?? systemClock);
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  cut(): void {
    this.#newest?.destroy();
  }

  cutAfter(direction: Direction, bytes: number): void {
    this.#newest?.cutAfter(direction, bytes);
  }

  deafen(forMs: number): void {
    void this.#newest?.deafen(forMs);
  }

  /** Cuts, and cuts the next connection after so many bytes. */
  cutNext(direction: Direction, bytes: number): void {
    this.#cutNext = { direction, bytes };
    this.cut();
  }

  stall(forMs: number): void {
    void this.#newest?.stall(forMs);
  }

  halfOpen(forMs: number): void {
    void this.#newest?.halfOpen(forMs);
  }

  /** Cuts, and lets so many of the next welcomes be lost with their connections. */
  loseWelcomes(count: number): void {
    this.#greetings = Array<Greeting>(count).fill("lose welcome");
    this.cut();
  }

  /** Cuts, and holds the next hello until so long after the welcome of the one that follows. */
  delayHello(byMs: number): void {
    this.#lateByMs = byMs;
    this.#greetings = ["hold hello"];
    this.cut();
  }

  /** Passes everything from now on; a hello that is still held is dropped. */
  heal(): void {
    this.#greetings = [];
    this.#cutNext = undefined;
    this.#late?.pipe.destroy();
    this.#late = undefined;
  }

  wait(forMs: number): Promise<void> {
    return sleep(this.#clock, forMs, this.#ending.signal).catch(() => undefined);
  }

  /** For a pipe: it holds a hello. */
  holding(pipe: Pipe): void {
    this.#late = { pipe, byMs: this.#lateByMs };
  }

  /** For a pipe: a server has answered on it. */
  welcomed(): void {
    const late = this.#late;
    if (late === undefined) return;
    this.#late = undefined;
    void this.wait(late.byMs).then(() => late.pipe.release());
    void this.wait(late.byMs + 1_000).then(() => late.pipe.destroy());
  }

  /** For a pipe: it has ended. */
  forget(pipe: Pipe): void {
    this.#pipes.delete(pipe);
    if (this.#newest === pipe) this.#newest = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const pipe of this.#pipes) pipe.destroy();
    await closed;
  }

  #accept(client: Socket): void {
    const port = this.#target();
    if (port === undefined) {
      client.on("error", () => undefined);
      client.destroy();
      return;
    }
    const pipe = new Pipe(this, client, port, this.#greetings.shift() ?? "pass");
    if (this.#cutNext !== undefined) pipe.cutAfter(this.#cutNext.direction, this.#cutNext.bytes);
    this.#cutNext = undefined;
    this.#pipes.add(pipe);
    this.#newest = pipe;
  }
}

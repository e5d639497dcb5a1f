/**
 * The whole server on a free port of 127.0.0.1 and a file, and connections to it over real sockets: what
 * a memory transport cannot show (sockets that die, fill up, or are never read) is shown here.
 */
import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { join } from "node:path";
import { WebSocket } from "ws";
import { burst, echo, ticker } from "../src/agents/index.ts";
import { type AgentHandler, Runtime, type RuntimeOptions } from "../src/runtime/index.ts";
import { bearerTokens, type HoldfastServer, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import type { Transport } from "../src/transport/transport.ts";
import { openWebSocket, type WebSocketConstructor } from "../src/transport/websocket.ts";
import type { HelloOptions } from "./memory-runtime.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { WireClient } from "./wire-client.ts";

/** A WebSocket, the socket under it, and the client that speaks over them. */
export class SocketLine {
  readonly ws: WebSocket;
  readonly socket: Socket;
  readonly client: WireClient;

  constructor(ws: WebSocket, socket: Socket, transport: Transport) {
    this.ws = ws;
    this.socket = socket;
    this.client = new WireClient(transport);
  }

  /** As when the network goes: no close frame, a reset for whoever still writes. */
  cut(): void {
    this.socket.resetAndDestroy();
  }

  /** Reads nothing any more, so that the other side's buffers fill up. */
  stopReading(): void {
    this.socket.pause();
  }

  goOnReading(): void {
    this.socket.resume();
  }
}

export async function openLine(url: string): Promise<SocketLine> {
  let ws: WebSocket | undefined;
  let socket: Socket | undefined;
  class Dialled extends WebSocket {
    constructor(address: string) {
      super(address, { perMessageDeflate: false });
      ws = this;
      this.once("upgrade", (response) => {
        socket = response.socket;
      });
    }
  }
  const transport = await openWebSocket(url, { WebSocket: Dialled as unknown as WebSocketConstructor });
  assert(ws !== undefined && socket !== undefined);
  return new SocketLine(ws, socket, transport);
}

/** Says hello and waits for the welcome. */
export async function greet(
  line: SocketLine,
  { token = "alice", features, resume, extensions }: HelloOptions = {},
): Promise<SocketLine> {
  line.client.hello({
    token,
    ...(features === undefined ? {} : { features }),
    ...(extensions === undefined ? {} : { extensions }),
    ...(resume === undefined
      ? {}
      : { rest: { resume: { session_id: resume.sessionId, resume_token: resume.token, last_event_seq: resume.seq } } }),
  });
  await line.client.waitFor(({ type }) => type === "session.welcome", "the welcome");
  return line;
}

export class SocketServer {
  readonly #folder: Awaited<ReturnType<typeof temporaryFolder>>;
  readonly #settings: Partial<RuntimeOptions>;
  readonly #agents = new Map<string, AgentHandler>([
    ["burst", burst],
    ["echo", echo],
    ["ticker", ticker],
  ]);
  readonly #lines: SocketLine[] = [];
  #runtime: Runtime | undefined;
  #server: HoldfastServer | undefined;

  constructor(folder: Awaited<ReturnType<typeof temporaryFolder>>, settings: Partial<RuntimeOptions>) {
    this.#folder = folder;
    this.#settings = settings;
  }

  get runtime(): Runtime {
    assert(this.#runtime !== undefined);
    return this.#runtime;
  }

  async start(): Promise<void> {
    this.#runtime = new Runtime({
      // Clients here do not ack, and count every number: a notice would be one too many.
      backPressureThreshold: 1_000_000,
      store: sqlite(join(this.#folder.path, "holdfast.db")),
      auth: bearerTokens({ alice: "alice", bob: "bob" }),
      ...this.#settings,
    });
    for (const [name, handler] of this.#agents) this.#runtime.agent(name, handler);
    this.#server = await serve(this.#runtime, { port: 0 });
  }

  agent(name: string, handler: AgentHandler): this {
    this.#agents.set(name, handler);
    this.runtime.agent(name, handler);
    return this;
  }

  /** A connection on which nothing was said yet. */
  async line(): Promise<SocketLine> {
    assert(this.#server !== undefined);
    const line = await openLine(this.#server.url);
    this.#lines.push(line);
    return line;
  }

  /** A connection that was welcomed. */
  async connect(options: HelloOptions = {}): Promise<SocketLine> {
    return greet(await this.line(), options);
  }

  /** Stops at once, and starts anew on the same file. */
  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  async stop(): Promise<void> {
    await this.#server?.stop({ drainMs: 1 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { ws } of this.#lines) ws.terminate();
    await this.stop();
    await this.#folder[Symbol.asyncDispose]();
  }
}

export async function socketServer(settings: Partial<RuntimeOptions> = {}): Promise<SocketServer> {
  const server = new SocketServer(await temporaryFolder(), settings);
  await server.start();
  return server;
}

/**
 * The service's own side of the wire: one JSON line in, one JSON line out, and the connection is over. Whoever is slow,
 * long-winded or many is cut off, so that what strangers on this machine do costs the host little and its sessions
 * nothing: a line has 64 KiB, a connection one second, and of too many connections the oldest makes room (PRS-9).
 */
import { hash, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import type { Clock } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { SOURCE } from "./record.ts";
import type { Answer, Registry } from "./registry.ts";

export const HOST = "127.0.0.1";
export const MAX_LINE_BYTES = 64 * 1024;
const MAX_CONNECTIONS = 256;
const NEWLINE = 0x0a;
const MAX_SHOWN_CHARS = 64;

export interface ServiceOptions {
  registry: Registry;
  token: string;
  /** Taken if it is free; else any. */
  port: number;
  /** How long a connection may take. */
  timeoutMs: number;
  clock: Clock;
  logger: Logger;
}

const digest = (text: string): Buffer => hash("sha256", text, "buffer");

/** A stranger's word in an answer: short, and nothing that moves a cursor. */
const shown = (text: string): string => text.slice(0, MAX_SHOWN_CHARS).replaceAll(/[^\x20-\x7e]/g, "?");

export class Service {
  readonly port: number;
  readonly #server: Server;
  readonly #sockets: Set<Socket>;

  private constructor(server: Server, sockets: Set<Socket>, port: number) {
    this.#server = server;
    this.#sockets = sockets;
    this.port = port;
  }

  /** @throws Error when no port of loopback can be had */
  static async start(options: ServiceOptions): Promise<Service> {
    const sockets = new Set<Socket>();
    const desk = new Desk(options);
    // A client may close its side with its line: the answer still goes out.
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.add(socket);
      const [oldest] = sockets;
      if (sockets.size > MAX_CONNECTIONS) oldest?.destroy();
      socket.once("close", () => sockets.delete(socket));
      serveConnection(socket, desk, options);
    });
    let port: number;
    try {
      port = await listening(server, options.port);
    } catch (error) {
      // Somebody else's port: the discovery file tells everybody which one it is instead.
      options.logger.info({ err: error, port: options.port }, "the presence service takes another port");
      port = await listening(server, 0);
    }
    server.on("error", (error) => options.logger.warn({ err: error }, "the presence service's listener failed"));
    return new Service(server, sockets, port);
  }

  async stop(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

async function listening(server: Server, port: number): Promise<number> {
  // Exclusive: a cluster's worker would otherwise share the port with all others.
  server.listen({ host: HOST, port, exclusive: true });
  server.unref();
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("The presence service has no port.");
  return address.port;
}

function serveConnection(socket: Socket, desk: Desk, { timeoutMs, clock }: ServiceOptions): void {
  socket.unref();
  socket.on("error", () => socket.destroy());
  const limit = clock.after(timeoutMs, () => socket.destroy());
  socket.once("close", () => limit.cancel());
  const chunks: Buffer[] = [];
  let kept = 0;
  const answer = (text: string): void => {
    socket.off("data", take);
    socket.off("end", ended);
    socket.write(`${text}\n`);
    socket.destroySoon();
  };
  const ended = (): void => {
    if (kept === 0) socket.destroy();
    else answer(desk.answerTo(Buffer.concat(chunks)));
  };
  const take = (chunk: Buffer): void => {
    const end = chunk.indexOf(NEWLINE);
    chunks.push(end < 0 ? chunk : chunk.subarray(0, end));
    kept += end < 0 ? chunk.length : end;
    if (kept > MAX_LINE_BYTES || end >= 0) answer(desk.answerTo(Buffer.concat(chunks)));
  };
  socket.on("data", take);
  socket.on("end", ended);
}

/** From a line to its answer. */
export class Desk {
  readonly #registry: Registry;
  readonly #token: Buffer;

  constructor({ registry, token }: Pick<ServiceOptions, "registry" | "token">) {
    this.#registry = registry;
    this.#token = digest(token);
  }

  answerTo(line: Buffer): string {
    return JSON.stringify(this.#answer(line));
  }

  #answer(line: Buffer): Answer {
    if (line.length > MAX_LINE_BYTES) return { ok: false, error: `a request is at most ${MAX_LINE_BYTES} bytes` };
    let request: unknown;
    try {
      request = JSON.parse(line.toString());
    } catch {
      return { ok: false, error: "a request is one line of JSON" };
    }
    if (typeof request !== "object" || request === null || Array.isArray(request)) {
      return { ok: false, error: "a request is a JSON object with command, auth and payload" };
    }
    const { command, auth, payload } = request as Record<string, unknown>;
    // Of their hashes: neither the text nor its length shows in how long it takes.
    if (typeof auth !== "string" || !timingSafeEqual(digest(auth), this.#token)) {
      return { ok: false, error: "unauthorized" };
    }
    switch (command) {
      case "ping":
        return { ok: true, payload: { source: SOURCE, owner_pid: process.pid } };
      case "upsert":
        return this.#registry.upsert(payload);
      case "remove":
        return this.#registry.remove(payload);
      case "snapshot":
        return { ok: true, payload: this.#registry.snapshot() };
      default:
        return {
          ok: false,
          error: `unknown command: ${shown(typeof command === "string" ? command : (JSON.stringify(command) ?? ""))}`,
        };
    }
  }
}

/**
 * One question to the service, over a connection of its own. Answers `undefined` when there is no answer in time or
 * none that can be read, and never rejects: to a host it is all the same why nobody is there.
 */
import { connect } from "node:net";
import type { Clock } from "../clock.ts";
import type { Answer } from "./registry.ts";
import { HOST } from "./service.ts";

/** Beyond every snapshot that a service makes. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export interface ClientOptions {
  token: string;
  port: number;
  clock: Clock;
}

export interface RequestOptions {
  timeoutMs: number;
  /** The process may end meanwhile. */
  background: boolean;
  /** Gives up, when it aborts. */
  signal: AbortSignal | undefined;
}

export class Client {
  readonly token: string;
  readonly port: number;
  readonly #clock: Clock;

  constructor(options: ClientOptions) {
    this.token = options.token;
    this.port = options.port;
    this.#clock = options.clock;
  }

  /** @param payload JSON text, or nothing */
  request(command: string, payload: string | undefined, options: RequestOptions): Promise<Answer | undefined> {
    const { promise, resolve } = Promise.withResolvers<Answer | undefined>();
    const socket = connect({ host: HOST, port: this.port, noDelay: true });
    if (options.background) socket.unref();
    const limit = this.#clock.after(options.timeoutMs, () => socket.destroy(), { keepAlive: !options.background });
    const chunks: Buffer[] = [];
    let kept = 0;
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk: Buffer) => {
      kept += chunk.length;
      if (kept > MAX_ANSWER_BYTES) socket.destroy();
      else chunks.push(chunk);
    });
    socket.once("close", () => {
      limit.cancel();
      resolve(kept > MAX_ANSWER_BYTES ? undefined : readAnswer(Buffer.concat(chunks).toString()));
    });
    const giveUp = (): void => void socket.destroy();
    options.signal?.addEventListener("abort", giveUp, { once: true });
    socket.once("close", () => options.signal?.removeEventListener("abort", giveUp));
    socket.write(requestLine(command, this.token, payload));
    return promise;
  }
}

export const requestLine = (command: string, token: string, payload: string | undefined): string =>
  `{"command":${JSON.stringify(command)},"auth":${JSON.stringify(token)}${payload === undefined ? "" : `,"payload":${payload}`}}\n`;

/** @returns nothing for what is no answer of the service */
export function readAnswer(text: string): Answer | undefined {
  try {
    const answer: unknown = JSON.parse(text);
    if (typeof answer !== "object" || answer === null) return undefined;
    const { ok, payload, error } = answer as Record<string, unknown>;
    if (ok === true) return { ok, payload };
    return ok === false && typeof error === "string" ? { ok, error } : undefined;
  } catch {
    return undefined;
  }
}

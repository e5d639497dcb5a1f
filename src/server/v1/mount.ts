/**
 * Puts `/v1`, and what else is ours, on an HTTP server that serves other things as well. Node tells every listener
 * of every request, so the server's own listeners are taken off and asked for all other paths; they are put back
 * at the end. A listener that is added later sees the requests to `/v1` too, and must leave them alone.
 *
 * Between Node's requests and the app's stand a few lines of our own: the public adapter writes to the
 * console, and cuts the sender of a large body off before it can read why. A body is read whole, at most
 * 64 KiB of it are kept (a message's length where it brings a job's input), within 30 s. An answer that is a stream
 * goes out as its reader takes it (SRV-23).
 */
import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import { TLSSocket } from "node:tls";
import type { Conversations } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError, MAX_FRAME_BYTES } from "../../protocol/index.ts";
import type { RouteKeeper } from "../../routing/index.ts";
import type { Runtime } from "../../runtime/index.ts";
import type { Door } from "../auth/door.ts";
import type { CountedRequest } from "../metrics.ts";
import type { Site } from "../site.ts";
import type { AskActiveSessions } from "./active-sessions.ts";
import { v1App } from "./app.ts";
import { type Problem, problemOf } from "./problem.ts";
import { streamTo } from "./stream.ts";

/** What a request may bring. */
const MAX_BODY_BYTES = 64 * 1024;
/** What brings a job's input may be as long as on the wire. */
const WITH_INPUT: ReadonlySet<string> = new Set(["/v1/jobs", "/v1/turns"]);
/** Of a larger body so much is read and dropped, for a sender that reads no answer before its end. */
const MAX_DROPPED_BYTES = 1024 * 1024;
/** What all bodies that are being read may hold. */
const MAX_BODIES_BYTES = 64 * 1024 * 1024;
const BODY_TIMEOUT_MS = 30_000;

/** The platform's `Request` takes a body with neither of these, and no request at all with the others. */
const WITHOUT_BODY: ReadonlySet<string> = new Set(["GET", "HEAD"]);
const UNSPEAKABLE: ReadonlySet<string> = new Set(["TRACE", "TRACK", "CONNECT"]);

export interface MountOptions {
  /** The path of a request, `undefined` where its target is none. */
  pathOf(request: IncomingMessage): string | undefined;
  /** Why a request is refused (SRV-2), or `undefined`. */
  refusalOf(request: IncomingMessage): string | undefined;
  conversations: Conversations | undefined;
  routes: RouteKeeper | undefined;
  activeSessions: AskActiveSessions | undefined;
  logger: Logger;
  door: Door;
  secureCookies: boolean | undefined;
  /** Told of each request that was answered. */
  counted(request: CountedRequest): void;
  /** What is ours beside `/v1`. */
  sites: readonly Site[];
}

/** @returns what takes it off again; a second call does nothing */
export function mountV1(runtime: Runtime, httpServer: Server, options: MountOptions): () => void {
  const { logger, sites } = options;
  const app = v1App(runtime, options);
  const theirs = httpServer.listeners("request") as RequestListener[];
  const leaving = new AbortController();
  const bodies = new Bodies(runtime);

  const answer = async (request: IncomingMessage, response: ServerResponse, path: string) => {
    const method = request.method ?? "GET";
    if (UNSPEAKABLE.has(method)) return tell(response, problemOf(invalid(`${method} is not possible here.`), 405));
    const most = method === "POST" && WITH_INPUT.has(path) ? MAX_FRAME_BYTES : MAX_BODY_BYTES;
    const body = await bodies.read(request, most);
    if (!(body instanceof Uint8Array)) return tell(response, body);
    const gone = goneWith(response, leaving.signal);
    const answered = await app.fetch(
      new Request(`http://host${request.url}`, {
        method,
        headers: headersOf(request),
        body: WITHOUT_BODY.has(method) ? null : body,
      }),
      { address: request.socket.remoteAddress ?? "", secure: request.socket instanceof TLSSocket, gone },
    );
    response.writeHead(answered.status, headersFor(answered));
    if (answered.headers.get("content-type")?.startsWith("text/event-stream") === true && answered.body !== null) {
      await streamTo(response, answered.body, { signal: gone, clock: runtime.clock });
    } else {
      response.end(Buffer.from(await answered.arrayBuffer()));
    }
  };
  const onRequest = (request: IncomingMessage, response: ServerResponse) => {
    const path = options.pathOf(request);
    const isV1 = path === "/v1" || path?.startsWith("/v1/") === true;
    const site = path === undefined || isV1 ? undefined : sites.find((candidate) => candidate.covers(path));
    if (path === undefined || (!isV1 && site === undefined)) {
      for (const listener of theirs) listener.call(httpServer, request, response);
      return;
    }
    const refusal = options.refusalOf(request);
    if (refusal !== undefined) {
      tell(response, problemOf(new ArcpError("PERMISSION_DENIED", refusal)));
      return;
    }
    const answering = site === undefined ? answer(request, response, path) : site.answer(request, response, path);
    answering.catch((error: unknown) => {
      logger.debug({ err: error }, "a request broke off");
      response.destroy();
    });
  };
  httpServer.removeAllListeners("request");
  httpServer.on("request", onRequest);
  return () => {
    leaving.abort();
    if (!httpServer.listeners("request").includes(onRequest)) return;
    httpServer.off("request", onRequest);
    for (const listener of theirs) httpServer.on("request", listener);
  };
}

const invalid = (message: string): ArcpError => new ArcpError("INVALID_REQUEST", message);

function tell(response: ServerResponse, problem: Problem): void {
  response.writeHead(problem.status, problem.headers).end(problem.body);
}

/** Aborts when the peer hangs up before its answer is complete, or the server goes. */
function goneWith(response: ServerResponse, leaving: AbortSignal): AbortSignal {
  const gone = new AbortController();
  const go = () => gone.abort();
  leaving.addEventListener("abort", go, { once: true });
  response.once("close", () => {
    leaving.removeEventListener("abort", go);
    go();
  });
  if (leaving.aborted) go();
  return gone.signal;
}

/** Reads bodies, and knows how much of them there is. */
class Bodies {
  readonly #runtime: Runtime;
  #bytes = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** The whole body, or what the sender is told that sends too much or too slowly. */
  async read(request: IncomingMessage, most: number): Promise<Uint8Array<ArrayBuffer> | Problem> {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let kept = 0;
    let late = false;
    const timer = this.#runtime.clock.after(BODY_TIMEOUT_MS, () => {
      late = true;
      request.destroy();
    });
    try {
      for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes <= most && this.#bytes + chunk.length > MAX_BODIES_BYTES) {
          return problemOf(
            ArcpError.detail("LIMIT_EXCEEDED", "Too many bodies are being read; try again.", { retry_after_ms: 1_000 }),
            503,
          );
        }
        if (bytes <= most) {
          chunks.push(chunk);
          kept += chunk.length;
          this.#bytes += chunk.length;
        }
        if (bytes > most + MAX_DROPPED_BYTES) break;
      }
    } catch (error) {
      throw late ? new Error(`a body was not complete within ${BODY_TIMEOUT_MS} ms`) : error;
    } finally {
      timer.cancel();
      this.#bytes -= kept;
    }
    if (bytes > most) return problemOf(invalid(`body: at most ${most} bytes are taken.`), 413);
    return new Uint8Array(Buffer.concat(chunks));
  }
}

function headersOf(request: IncomingMessage): Headers {
  const headers = new Headers();
  for (const [name, values] of Object.entries(request.headersDistinct)) {
    for (const value of values ?? []) headers.append(name, value);
  }
  return headers;
}

/** Cookies each in a line of its own; of all else a name comes once. */
function headersFor(response: Response): Record<string, string | string[]> {
  const cookies = response.headers.getSetCookie();
  return { ...Object.fromEntries(response.headers), ...(cookies.length === 0 ? {} : { "set-cookie": cookies }) };
}

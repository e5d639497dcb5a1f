/**
 * Puts `/v1` on an HTTP server that serves other things as well. Node tells every listener of every
 * request, so the server's own listeners are taken off and asked for all other paths; they are put back
 * at the end. A listener that is added later sees the requests to `/v1` too, and must leave them alone.
 *
 * Between Node's requests and the app's stand a few lines of our own: the public adapter writes to the
 * console, and cuts the sender of a large body off before it can read why. A body is read whole, at most
 * 64 KiB of it are kept.
 */
import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import type { Conversations } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import type { Routes } from "../../routing/index.ts";
import type { Runtime } from "../../runtime/index.ts";
import { v1App } from "./app.ts";
import { type Problem, problemOf } from "./problem.ts";

/** What a request may bring. */
const MAX_BODY_BYTES = 64 * 1024;
/** Of a larger body so much is read and dropped, for a sender that reads no answer before its end. */
const MAX_DROPPED_BYTES = 1024 * 1024;

/** The platform's `Request` takes a body with neither of these, and no request at all with the others. */
const WITHOUT_BODY: ReadonlySet<string> = new Set(["GET", "HEAD"]);
const UNSPEAKABLE: ReadonlySet<string> = new Set(["TRACE", "TRACK", "CONNECT"]);

export interface MountOptions {
  /** The path of a request, `undefined` where its target is none. */
  pathOf(request: IncomingMessage): string | undefined;
  /** Why a request is refused (SRV-2), or `undefined`. */
  refusalOf(request: IncomingMessage): string | undefined;
  conversations: Conversations | undefined;
  routes: Routes | undefined;
  logger: Logger;
}

/** @returns what takes it off again; a second call does nothing */
export function mountV1(runtime: Runtime, httpServer: Server, options: MountOptions): () => void {
  const { logger, conversations, routes } = options;
  const app = v1App(runtime, { conversations, routes, logger });
  const theirs = httpServer.listeners("request") as RequestListener[];

  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const refusal = options.refusalOf(request);
    if (refusal !== undefined) return tell(response, problemOf(new ArcpError("PERMISSION_DENIED", refusal)));
    const method = request.method ?? "GET";
    if (UNSPEAKABLE.has(method)) return tell(response, problemOf(invalid(`${method} is not possible here.`), 405));
    const body = await bodyOf(request);
    if (body === undefined) {
      return tell(response, problemOf(invalid(`body: at most ${MAX_BODY_BYTES} bytes are taken.`), 413));
    }
    const answered = await app.fetch(
      new Request(`http://host${request.url}`, {
        method,
        headers: headersOf(request),
        body: WITHOUT_BODY.has(method) ? null : body,
      }),
    );
    response.writeHead(answered.status, Object.fromEntries(answered.headers));
    response.end(Buffer.from(await answered.arrayBuffer()));
  };
  const onRequest = (request: IncomingMessage, response: ServerResponse) => {
    const path = options.pathOf(request);
    if (path === "/v1" || path?.startsWith("/v1/") === true) {
      answer(request, response).catch((error: unknown) => {
        logger.debug({ err: error }, "a request under /v1 broke off");
        response.destroy();
      });
    } else {
      for (const listener of theirs) listener.call(httpServer, request, response);
    }
  };
  httpServer.removeAllListeners("request");
  httpServer.on("request", onRequest);
  return () => {
    if (!httpServer.listeners("request").includes(onRequest)) return;
    httpServer.off("request", onRequest);
    for (const listener of theirs) httpServer.on("request", listener);
  };
}

const invalid = (message: string): ArcpError => new ArcpError("INVALID_REQUEST", message);

function tell(response: ServerResponse, problem: Problem): void {
  response.writeHead(problem.status, problem.headers).end(problem.body);
}

/** The whole body, or `undefined` when it is too large. */
async function bodyOf(request: IncomingMessage): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk);
    if (bytes > MAX_DROPPED_BYTES) break;
  }
  return bytes > MAX_BODY_BYTES ? undefined : new Uint8Array(Buffer.concat(chunks));
}

function headersOf(request: IncomingMessage): Headers {
  const headers = new Headers();
  for (const [name, values] of Object.entries(request.headersDistinct)) {
    for (const value of values ?? []) headers.append(name, value);
  }
  return headers;
}

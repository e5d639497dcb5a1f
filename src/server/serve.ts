/**
 * A server of its own for one runtime: `/arcp` for the wire, `/healthz` for whoever watches it. Listens on
 * loopback unless told otherwise (SRV-1), because a token in the clear is everybody's.
 */
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { Runtime } from "../runtime/index.ts";
import { bracketed, isLoopback, reachableHost, refusalOf } from "./addresses.ts";
import { ARCP_PATH, type AttachOptions, attach, pathOf } from "./attach.ts";
import { CONSOLE_PATH } from "./console.ts";

export interface ServeOptions extends AttachOptions {
  /** As for `attach`. @default true */
  console?: boolean | { directory: string };
  /** 0 takes any free one. @default 7777 */
  port?: number;
  /** @default "127.0.0.1" */
  host?: string;
  /** PEM texts; with them the server speaks `wss:`. */
  tls?: { cert: string | Buffer; key: string | Buffer };
  /** Listens on an address that others reach, without TLS: tokens and events go in the clear. @default false */
  insecurePlaintext?: boolean;
  /** How long a peer may take for the headers of a request, idle time before them included (SRV-8). @default 10_000 */
  headersTimeoutMs?: number;
}

export interface HoldfastServer extends AsyncDisposable {
  /** Where clients of this machine connect: `ws://127.0.0.1:7777/arcp`. */
  readonly url: string;
  readonly port: number;
  /** Sockets that are open now. */
  readonly connections: number;
  /** Resolves when the server has stopped. */
  readonly closed: Promise<void>;
  /**
   * Takes no new connection, gives running jobs `drainMs` (as {@link Runtime.stop}, with its default), then
   * stops the runtime and cuts what is left (SRV-5). Idempotent; a later, shorter drain does not cut an earlier short.
   */
  stop(options?: { drainMs?: number }): Promise<void>;
}

const REQUEST_TIMEOUT_MS = 30_000;
const CHECK_INTERVAL_MS = 2_000;
/** Beyond the WebSockets: health checks, and sockets that have not asked for anything yet. */
const SPARE_SOCKETS = 100;

function answer(response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, {
    "content-type": type,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  });
  response.end(body);
}

/** RFC 9457. */
const problem = (response: ServerResponse, status: number, title: string, detail: string): void =>
  answer(response, status, "application/problem+json", JSON.stringify({ type: "about:blank", title, status, detail }));

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

/**
 * Starts the runtime and serves it; the server's end is the runtime's.
 *
 * @throws RangeError for an address that others reach, without TLS and without `insecurePlaintext` (SRV-1)
 * @throws Error what the system says when the port is taken (`EADDRINUSE`) or not allowed
 */
export async function serve(runtime: Runtime, options: ServeOptions = {}): Promise<HoldfastServer> {
  const { port = 7777, host = "127.0.0.1", tls, insecurePlaintext = false, maxConnections = 20_000 } = options;
  const { headersTimeoutMs = 10_000 } = options;
  if (!isLoopback(host) && tls === undefined && !insecurePlaintext) {
    throw new RangeError(
      `host: ${host} is reached from other machines, and without TLS tokens would travel in the clear; ` +
        "give a certificate and key, or allow it with insecurePlaintext.",
    );
  }
  const rules = {
    boundHost: host,
    allowedHosts: options.allowedHosts ?? [],
    allowedOrigins: options.allowedOrigins ?? [],
  };
  const onRequest: RequestListener = (request: IncomingMessage, response: ServerResponse) => {
    const refusal = refusalOf(request, rules);
    if (refusal !== undefined) {
      answer(response, 403, "text/plain; charset=utf-8", `Forbidden: ${refusal}\n`);
      return;
    }
    const target = pathOf(request)?.path;
    if (target === "/healthz") {
      answer(response, 200, "application/json", '{"status":"ok"}');
    } else if (target === "/" && options.console !== false) {
      response.writeHead(302, { location: `${CONSOLE_PATH}/`, "cache-control": "no-store" }).end();
    } else if (target === ARCP_PATH) {
      response.setHeader("upgrade", "websocket");
      problem(response, 426, "Upgrade Required", "ARCP is spoken over a WebSocket here.");
    } else {
      problem(response, 404, "Not Found", "Nothing is served here; ARCP is at /arcp.");
    }
  };
  const limits = {
    headersTimeout: headersTimeoutMs,
    requestTimeout: Math.max(REQUEST_TIMEOUT_MS, headersTimeoutMs),
    connectionsCheckingInterval: Math.min(CHECK_INTERVAL_MS, headersTimeoutMs),
  };
  const httpServer =
    tls === undefined ? createServer(limits, onRequest) : createTlsServer({ ...limits, ...tls }, onRequest);
  httpServer.maxConnections = maxConnections + SPARE_SOCKETS;

  const attachment = await attach(runtime, httpServer, { console: true, ...options });
  try {
    await listen(httpServer, port, host);
  } catch (error) {
    await attachment.stop();
    await runtime.stop();
    throw error;
  }
  const bound = (httpServer.address() as AddressInfo).port;

  const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>();
  const end = async (drain: { drainMs?: number }) => {
    attachment.refuse();
    const listening = new Promise<void>((resolve) => httpServer.close(() => resolve()));
    await runtime.stop(drain);
    await attachment.stop();
    httpServer.closeAllConnections();
    await listening;
    onClosed();
  };
  let ending: Promise<void> | undefined;
  const stop = (drain: { drainMs?: number } = {}): Promise<void> => {
    ending ??= end(drain);
    return ending;
  };
  return {
    url: `${tls === undefined ? "ws" : "wss"}://${bracketed(reachableHost(host))}:${bound}${ARCP_PATH}`,
    port: bound,
    get connections() {
      return attachment.connections;
    },
    closed,
    stop,
    [Symbol.asyncDispose]: () => stop(),
  };
}

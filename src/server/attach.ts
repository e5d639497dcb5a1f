/**
 * The WebSocket side of the server: checks who asks, upgrades, hands each socket to the runtime. Costs a
 * listener on somebody's HTTP server; touches no path but its own (SRV-7).
 */
import { type IncomingMessage, type Server, STATUS_CODES } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import type { Conversations } from "../conversation/index.ts";
import { type Logger, silentLogger } from "../logger.ts";
import type { Snapshot } from "../presence/index.ts";
import { MAX_FRAME_BYTES } from "../protocol/index.ts";
import type { RouteKeeper } from "../routing/index.ts";
import type { Runtime } from "../runtime/index.ts";
import { fromWs } from "../transport/ws-server.ts";
import { type AddressRules, refusalOf } from "./addresses.ts";
import { DEFAULT_RATE, Door } from "./auth/door.ts";
import type { Rate } from "./auth/rate-limit.ts";
import { consoleSite } from "./console.ts";
import { Metrics, metricsSite } from "./metrics.ts";
import type { Site } from "./site.ts";
import { mountV1 } from "./v1/mount.ts";

/** Where the wire is spoken. */
export const ARCP_PATH = "/arcp";

export interface AttachOptions {
  /** Further names under which the server is reached, without a port (SRV-2). @default none */
  allowedHosts?: readonly string[];
  /** Further origins whose pages may connect, e.g. `https://app.example.com`. @default none */
  allowedOrigins?: readonly string[];
  /** Sockets at the same time; one more is answered 503. @default 20_000 */
  maxConnections?: number;
  /** Sockets that have not said a good hello yet; one more is answered 503. @default 1_000 */
  maxUnauthenticated?: number;
  /** The runtime's, to be asked about under `/v1`. @default none, and nothing is served there about them */
  conversations?: Conversations;
  /** The table that operators may see and write to under `/v1`. @default none */
  routes?: RouteKeeper;
  /**
   * Lists the processes of this machine for operators under `/v1`; of `ActiveSessions`, its `querySnapshot`.
   * @default none, and nothing is served there about them
   */
  activeSessions?: () => Promise<Snapshot>;
  /** Serves the console under `/console/` (SRV-26): `true`, or where it was built. @default false */
  console?: boolean | { directory: string };
  /** Serves `/metrics` for Prometheus (SRV-32): to whoever has a good token, or to everybody. @default not at all */
  metrics?: "token" | "open";
  /** What one principal may ask under `/v1` (SRV-24). @default { perSecond: 100, burst: 400 } */
  rateLimit?: Rate;
  /**
   * Whether a login's cookie goes over TLS alone. Say `true` behind a proxy that speaks TLS.
   * @default where the request itself came over TLS
   */
  secureCookies?: boolean;
  /** @default a logger that says nothing */
  logger?: Logger;
}

export interface Attachment extends AsyncDisposable {
  /** Sockets that are open now. */
  readonly connections: number;
  /** Answers upgrades 503 from now on, and leaves the open sockets alone. */
  refuse(): void;
  /** Closes every socket, within 2 s, and lets go of the HTTP server. The runtime runs on. Idempotent. */
  stop(): Promise<void>;
}

/** WebSocket close code: the server goes away. */
const GOING_AWAY = 1001;
/** How long a peer may take to read what is queued for it and answer the close. */
const CLOSE_TIMEOUT_MS = 2_000;

/** What a stranger's socket may bring before its welcome: what a session reads then, and what is around it. */
const MAX_EARLY_BYTES = 320 * 1024;

/** Answers an upgrade that does not take place, and waits for nobody to hang up. */
function decline(socket: Duplex, status: number, message: string): void {
  socket.once("finish", () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n` +
      `Content-Length: ${Buffer.byteLength(message)}\r\n\r\n${message}`,
  );
}

const boundHostOf = (server: Server): string => (server.address() as AddressInfo | null)?.address ?? "127.0.0.1";

/** `/arcp` of `/arcp?x=1`; `undefined` for a target that is no path. */
export function pathOf(request: IncomingMessage): { path: string; query: URLSearchParams } | undefined {
  const base = "http://host";
  const target = request.url ?? "";
  // `http://elsewhere/arcp` names a host of its own; behind our own host `//elsewhere/arcp` names none.
  if (!target.startsWith("/") || !URL.canParse(`${base}${target}`)) return undefined;
  const { pathname, searchParams } = new URL(`${base}${target}`);
  return { path: pathname, query: searchParams };
}

function sitesOf(runtime: Runtime, options: AttachOptions, metrics: Metrics | undefined): Site[] {
  const { console = false, metrics: access } = options;
  return [
    ...(console === false ? [] : [consoleSite(console === true ? undefined : console.directory)]),
    ...(metrics === undefined || access === undefined ? [] : [metricsSite(runtime, metrics, access)]),
  ];
}

/**
 * Serves the runtime on `/arcp` of an HTTP server that serves other things as well. Starts the runtime,
 * and never stops it. Upgrades to other paths are left to the server's other listeners, and answered 404
 * when there is none.
 *
 * @throws RangeError for a `rateLimit` that is none
 */
export async function attach(runtime: Runtime, httpServer: Server, options: AttachOptions = {}): Promise<Attachment> {
  const { maxConnections = 20_000, maxUnauthenticated = 1_000, logger = silentLogger } = options;
  const door = new Door(runtime, { clock: runtime.clock, rate: options.rateLimit ?? DEFAULT_RATE });
  const rulesNow = (): AddressRules => ({
    boundHost: boundHostOf(httpServer),
    allowedHosts: options.allowedHosts ?? [],
    allowedOrigins: options.allowedOrigins ?? [],
  });
  // No compression: a frame of a log is small, and a compressor per socket is not.
  const upgrades = new WebSocketServer({ noServer: true, maxPayload: MAX_FRAME_BYTES, perMessageDeflate: false });
  const sockets = new Set<WebSocket>();
  const metrics = options.metrics === undefined ? undefined : new Metrics(runtime, () => sockets.size);
  let unauthenticated = 0;
  let refusing = false;

  // Given no request: what lives as long as the connection must not hold on to its headers.
  const welcome = (ws: WebSocket, socket: Socket) => {
    sockets.add(ws);
    unauthenticated += 1;
    let stranger = true;
    const known = () => {
      if (stranger) unauthenticated -= 1;
      stranger = false;
      socket.off("data", onEarlyData);
    };
    // A message that never ends reaches no session that could count it.
    const before = socket.bytesRead;
    const onEarlyData = () => {
      if (socket.bytesRead - before <= MAX_EARLY_BYTES) return;
      logger.warn({ maxBytes: MAX_EARLY_BYTES }, "a stranger sends too much; its connection is cut");
      ws.terminate();
    };
    socket.on("data", onEarlyData);
    ws.once("close", () => {
      sockets.delete(ws);
      known();
    });
    runtime.accept(fromWs(ws, socket, { clock: runtime.clock, logger }), { onWelcome: known });
  };

  const onUpgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    // Node has let go of the socket: an error that nobody listens to would end the process.
    const onError = (error: Error) => logger.debug({ err: error }, "socket failed during its upgrade");
    const target = pathOf(request);
    if (target?.path !== ARCP_PATH) {
      if (httpServer.listenerCount("upgrade") > 1) return;
      socket.on("error", onError);
      decline(socket, 404, "Nothing is served here; ARCP is at /arcp.");
      return;
    }
    socket.on("error", onError);
    const refusal = refusalOf(request, rulesNow());
    if (refusal !== undefined) {
      logger.warn({ host: request.headers.host, origin: request.headers.origin }, "upgrade refused");
      decline(socket, 403, `Forbidden: ${refusal}`);
    } else if (
      request.headers["transfer-encoding"] !== undefined ||
      Number(request.headers["content-length"] ?? 0) !== 0
    ) {
      // What Node takes for frames, a proxy before us took for a body.
      decline(socket, 400, "An upgrade has no body.");
    } else if (target.query.size > 0) {
      // Addresses end up in logs and histories (SRV-4).
      decline(socket, 400, "No query is taken here: a token travels in session.hello, never in a URL.");
    } else if (refusing || sockets.size >= maxConnections || unauthenticated >= maxUnauthenticated) {
      if (!refusing)
        logger.warn({ connections: sockets.size, unauthenticated }, "too many connections; upgrade refused");
      decline(socket, 503, refusing ? "The server is stopping." : "Too many connections; try again later.");
    } else {
      upgrades.handleUpgrade(request, socket, head, (ws) => {
        socket.off("error", onError);
        welcome(ws, request.socket);
      });
    }
  };

  await runtime.start();
  httpServer.on("upgrade", onUpgrade);
  const unmountV1 = mountV1(runtime, httpServer, {
    pathOf: (request) => pathOf(request)?.path,
    refusalOf: (request) => refusalOf(request, rulesNow()),
    conversations: options.conversations,
    routes: options.routes,
    activeSessions: options.activeSessions,
    logger,
    door,
    secureCookies: options.secureCookies,
    sites: sitesOf(runtime, options, metrics),
    counted: (request) => metrics?.count(request),
  });

  const stop = async () => {
    refusing = true;
    httpServer.off("upgrade", onUpgrade);
    unmountV1();
    const open = [...sockets];
    const closed = open.map((ws) => new Promise<void>((resolve) => ws.once("close", () => resolve())));
    for (const ws of open) ws.close(GOING_AWAY, "the server is stopping");
    const timer = runtime.clock.after(CLOSE_TIMEOUT_MS, () => {
      for (const ws of sockets) ws.terminate();
    });
    await Promise.all(closed);
    timer.cancel();
  };
  return {
    get connections() {
      return sockets.size;
    },
    refuse() {
      refusing = true;
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

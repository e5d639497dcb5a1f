/**
 * The HTTP API under `/v1`: what the protocol has no message for, for programs that keep no session, and pages. The
 * same tokens as on the wire, in a header or as a login; the same visibility; JSON in, JSON out (SRV-12 to SRV-15).
 */
import { z } from "zod";
import type { Conversations } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError, newMessageId } from "../../protocol/index.ts";
import type { RouteKeeper } from "../../routing/index.ts";
import { type Runtime, VERSION } from "../../runtime/index.ts";
import type { Door } from "../auth/door.ts";
import type { CountedRequest } from "../metrics.ts";
import { accessRoutes } from "./access.ts";
import { type AskActiveSessions, activeSessionRoutes } from "./active-sessions.ts";
import { Api } from "./api.ts";
import { conversationRoutes } from "./conversations.ts";
import { deliveryRoutes } from "./deliveries.ts";
import { eventRoutes } from "./events.ts";
import { jobRoutes } from "./jobs.ts";
import { overviewRoutes } from "./overview.ts";
import { COMMON_HEADERS, problemResponse } from "./problem.ts";
import { type Env, invalid, UnsupportedBody } from "./request.ts";
import { routeTable } from "./routes.ts";
import { turnRoutes } from "./turns.ts";

export interface V1Options {
  conversations: Conversations | undefined;
  routes: RouteKeeper | undefined;
  activeSessions: AskActiveSessions | undefined;
  logger: Logger;
  door: Door;
  /** Told of each request that was answered. */
  counted(request: CountedRequest): void;
  /** @default where the request came over TLS */
  secureCookies?: boolean | undefined;
}

export interface V1 {
  fetch(request: Request, bindings: Env["Bindings"]): Response | Promise<Response>;
}

export function v1App(runtime: Runtime, options: V1Options): V1 {
  const { conversations, routes, activeSessions, logger, door } = options;
  const { clock } = runtime;
  const api = new Api(door);
  const { app } = api;

  app.use(async (context, next) => {
    const requestId = newMessageId();
    const since = clock.monotonic();
    context.set("requestId", requestId);
    await next();
    for (const [name, value] of Object.entries(COMMON_HEADERS)) context.header(name, value);
    context.header("x-request-id", requestId);
    const { method } = context.req;
    const ms = clock.monotonic() - since;
    options.counted({ route: context.get("route"), method, status: context.res.status, ms });
    const line = {
      request_id: requestId,
      method,
      route: context.get("route"),
      // Names the job or the conversation.
      path: context.req.path.slice(0, 256),
      status: context.res.status,
      ms: Math.round(ms),
      principal: context.get("principal"),
    };
    // What an operator changes is told, whatever it is (SRV-19).
    if (method !== "GET" && method !== "HEAD" && context.get("operator")) {
      logger.info({ audit: "operator.request", ...line }, "an operator's request");
    } else {
      logger.debug(line, "a request under /v1");
    }
  });

  overviewRoutes(api, runtime);
  accessRoutes(api, { runtime, door, clock, logger, secureCookies: options.secureCookies });
  jobRoutes(api, runtime);
  eventRoutes(api, runtime);
  if (conversations !== undefined) {
    conversationRoutes(api, { conversations, clock, logger });
    turnRoutes(api, { conversations, clock, logger });
    deliveryRoutes(api, { conversations, clock, logger });
  }
  if (routes !== undefined) routeTable(api, { routes });
  if (activeSessions !== undefined) activeSessionRoutes(api, { ask: activeSessions });
  api.route(
    {
      method: "get",
      path: "/openapi.json",
      access: "open",
      tag: "service",
      summary: "This document.",
      answers: { 200: { description: "OpenAPI 3.1.", schema: z.looseObject({ openapi: z.string() }) } },
    },
    ({ context }) => context.json(document),
  );
  api.seal();
  const document = api.document(VERSION);

  app.notFound((context) => problemResponse(invalid(`Nothing is served at ${context.req.path.slice(0, 256)}.`), 404));
  app.onError((error) => {
    if (error instanceof ArcpError) return problemResponse(error);
    if (error instanceof UnsupportedBody) return problemResponse(invalid("body: send application/json."), 415);
    logger.error({ err: error }, "a request under /v1 failed");
    return problemResponse(new ArcpError("INTERNAL_ERROR", "The runtime failed on this request; its log says why."));
  });
  return app;
}

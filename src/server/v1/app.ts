/**
 * The HTTP API under `/v1`: what the protocol has no message for, for programs that keep no session. The
 * same tokens as on the wire, in a header; the same visibility; JSON in, JSON out (SRV-12 to SRV-15).
 */
import { Hono, type MiddlewareHandler } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { z } from "zod";
import type { Conversations } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError, REQUESTS } from "../../protocol/index.ts";
import type { Routes } from "../../routing/index.ts";
import type { Runtime } from "../../runtime/index.ts";
import { conversationRoutes } from "./conversations.ts";
import { deliveryRoutes } from "./deliveries.ts";
import { COMMON_HEADERS, problemOf } from "./problem.ts";
import { bodyOf, type Env, invalid, NoQuery, PAGE, parse, queryOf, UnsupportedBody } from "./request.ts";
import { routeTable } from "./routes.ts";

/** As `session.list_jobs` filters, flat. */
const ListQuery = z.strictObject({ ...REQUESTS["session.list_jobs"].shape.filter.unwrap().shape, ...PAGE });
const AnswerBody = z.strictObject({ answer: REQUESTS["x-vendor.holdfast.answer"].shape.answer });
const CancelBody = z.strictObject({ reason: REQUESTS["job.cancel"].shape.reason });

function respond(error: ArcpError, status?: number, headers: Record<string, string> = {}): Response {
  const problem = problemOf(error, status);
  return new Response(problem.body, { status: problem.status, headers: { ...problem.headers, ...headers } });
}

/** Wall milliseconds as the store takes them. */
const wallOf = (time: string | undefined): number | undefined => (time === undefined ? undefined : Date.parse(time));

export function v1App(
  runtime: Runtime,
  parts: { conversations: Conversations | undefined; routes: Routes | undefined; logger: Logger },
): Hono<Env> {
  const { conversations, routes, logger } = parts;
  const app = new Hono<Env>().basePath("/v1");

  const authenticated: MiddlewareHandler<Env> = async (context, next) => {
    const token = /^Bearer +(\S+)$/i.exec(context.req.header("authorization") ?? "")?.[1];
    const identity = token === undefined ? undefined : await runtime.authenticate(token);
    if (identity === undefined) {
      throw new ArcpError("UNAUTHENTICATED", "Send a good token as `Authorization: Bearer TOKEN`.");
    }
    context.set("principal", identity.principal);
    context.set("operator", identity.operator === true);
    await next();
  };
  /** The last word on a path: its methods are those registered before. */
  const others = (path: string, allowed: string) =>
    app.all(path, (context) =>
      respond(invalid(`${context.req.method} is not possible here; ${allowed} is.`), 405, { allow: allowed }),
    );

  app.use(async (context, next) => {
    await next();
    for (const [name, value] of Object.entries(COMMON_HEADERS)) context.header(name, value);
  });
  app.get("/health", (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    return context.json({ status: "ok" });
  });
  others("/health", "GET, HEAD");

  app.get("/jobs", authenticated, async (context) => {
    const query = parse(ListQuery, queryOf(context.req.url), "query");
    const { created_after, created_before, ...rest } = query;
    const page = await runtime.jobs.list(context.get("principal"), {
      ...rest,
      createdAfter: wallOf(created_after),
      createdBefore: wallOf(created_before),
    });
    return context.json(page);
  });
  others("/jobs", "GET, HEAD");

  app.get("/jobs/:id", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    return context.json(await runtime.jobs.get(context.req.param("id"), context.get("principal")));
  });
  others("/jobs/:id", "GET, HEAD");

  app.get("/jobs/:id/result", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const jobId = context.req.param("id");
    const outcome = await runtime.jobs.result(jobId, context.get("principal"));
    const status: ContentfulStatusCode = outcome.status === "pending" || outcome.status === "running" ? 202 : 200;
    return context.json({ job_id: jobId, ...outcome }, status);
  });
  others("/jobs/:id/result", "GET, HEAD");

  app.post("/jobs/:id/cancel", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const { reason } = parse(CancelBody, await bodyOf(context.req), "body");
    const jobId = context.req.param("id");
    const answer = await runtime.jobs.cancel(jobId, context.get("principal"), reason, {
      operator: context.get("operator"),
    });
    return context.json({ job_id: jobId, ...answer }, answer.outcome === "requested" ? 202 : 200);
  });
  others("/jobs/:id/cancel", "POST");

  app.get("/jobs/:id/questions", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const jobId = context.req.param("id");
    const questions = await runtime.jobs.questions(jobId, context.get("principal"));
    return context.json({ job_id: jobId, questions });
  });
  others("/jobs/:id/questions", "GET, HEAD");

  app.post("/jobs/:id/questions/:question/answer", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const { answer } = parse(AnswerBody, await bodyOf(context.req), "body");
    const { id: jobId, question: questionId } = context.req.param();
    await runtime.jobs.answer(jobId, questionId, context.get("principal"), answer);
    return context.json({ job_id: jobId, question_id: questionId, outcome: "accepted" });
  });
  others("/jobs/:id/questions/:question/answer", "POST");

  if (conversations !== undefined) {
    const given = { conversations, clock: runtime.clock, logger, authenticated, others };
    conversationRoutes(app, given);
    deliveryRoutes(app, given);
  }
  if (routes !== undefined) routeTable(app, { routes, authenticated, others });

  app.notFound((context) => respond(invalid(`Nothing is served at ${context.req.path.slice(0, 256)}.`), 404));
  app.onError((error) => {
    if (error instanceof ArcpError) return respond(error);
    if (error instanceof UnsupportedBody) return respond(invalid("body: send application/json."), 415);
    logger.error({ err: error }, "a request under /v1 failed");
    return respond(new ArcpError("INTERNAL_ERROR", "The runtime failed on this request; its log says why."));
  });
  return app;
}

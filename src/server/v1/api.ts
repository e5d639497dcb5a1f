/**
 * One way to declare a route of `/v1`: the schemas that check a request are the ones that the OpenAPI document
 * shows, so neither can say what the other does not (SRV-22). Around each handler stands what all routes have in
 * common: who asks, whether it may, how often (SRV-20, SRV-21, SRV-24), and the line in the log.
 */
import { OpenAPIHono } from "@hono/zod-openapi";
import type { Context, MiddlewareHandler } from "hono";
import { z } from "zod";
import { ArcpError } from "../../protocol/index.ts";
import type { Door } from "../auth/door.ts";
import { PROBLEM_TYPE, problemResponse } from "./problem.ts";
import { bodyOf, type Env, invalid, parse, queryOf } from "./request.ts";

/**
 * - `open`: everybody.
 * - `look`: whoever has a good token or login.
 * - `own`: the same, for what changes nothing but the asker's own access.
 * - `change`: no observer, and a login shows its CSRF token.
 * - `operator`: as `change`, by an operator.
 */
type Access = "open" | "look" | "own" | "change" | "operator";

/** What an answer may be: a schema of JSON, or the content types of something else. */
type AnswerSchema = z.ZodType | { readonly contentType: string };

interface Described {
  description: string;
  schema: AnswerSchema;
}

export interface RouteSpec<Query, Body> {
  method: "get" | "post" | "put" | "delete";
  /** As OpenAPI writes it: `/jobs/{id}`. */
  path: `/${string}`;
  access: Access;
  tag: string;
  summary: string;
  /** @default none is taken */
  query?: z.ZodType<Query>;
  /** An object; an empty body is an empty one. @default none is taken */
  body?: z.ZodType<Body>;
  /** Headers that it looks at. */
  headers?: Readonly<Record<string, { schema: z.ZodType; description: string }>>;
  answers: Readonly<Record<number, Described>>;
}

export interface Request<Query, Body> {
  query: Query;
  body: Body;
  /** What stands in the path's place of that name. */
  param(name: string): string;
  context: Context<Env>;
}

const Nothing = z.strictObject({});
type Nothing = z.infer<typeof Nothing>;

const UNSAFE: ReadonlySet<string> = new Set(["post", "put", "delete"]);

export const Problem = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string(),
  retryable: z.boolean(),
  details: z.looseObject({}).optional(),
});

export class Api {
  readonly app = new OpenAPIHono<Env>();
  readonly #door: Door;
  /** What each path takes, in the order of declaration. */
  readonly #methods = new Map<string, string[]>();

  constructor(door: Door) {
    this.#door = door;
  }

  route<Query = Nothing, Body = Nothing>(
    spec: RouteSpec<Query, Body>,
    handler: (request: Request<Query, Body>) => Response | Promise<Response>,
  ): void {
    const path = `/v1${spec.path}`;
    const { method, access } = spec;
    this.#describe(path, spec);
    const names = method === "get" ? ["GET", "HEAD"] : [method.toUpperCase()];
    this.#methods.set(path, [...(this.#methods.get(path) ?? []), ...names]);
    this.app.on(method.toUpperCase(), honoPath(path), this.#admits(path, access), async (context) => {
      const query = parse<Query | Nothing>(spec.query ?? Nothing, queryOf(context.req.url), "query") as Query;
      const given = UNSAFE.has(method) ? await bodyOf(context.req) : {};
      const body = parse<Body | Nothing>(spec.body ?? Nothing, given, "body") as Body;
      return await handler({ query, body, param: (name) => context.req.param(name) ?? "", context });
    });
  }

  /** After the last route: what other methods ask of its path is told which ones there are. */
  seal(): void {
    for (const [path, methods] of this.#methods) {
      const allowed = methods.join(", ");
      this.app.all(honoPath(path), (context) =>
        problemResponse(invalid(`${context.req.method} is not possible here; ${allowed} is.`), 405, { allow: allowed }),
      );
    }
  }

  /** The OpenAPI document of all routes. */
  document(version: string): object {
    return this.app.getOpenAPI31Document({
      openapi: "3.1.0",
      info: {
        title: "Holdfast",
        version,
        description: "What the wire has no message for, for programs that keep no session.",
      },
    });
  }

  #describe(path: string, spec: RouteSpec<unknown, unknown>): void {
    const params = [...path.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => name);
    const responses = Object.fromEntries(
      Object.entries(spec.answers).map(([status, { description, schema }]) => [
        status,
        {
          description,
          content:
            schema instanceof z.ZodType
              ? { "application/json": { schema } }
              : { [schema.contentType]: { schema: z.string() } },
        },
      ]),
    );
    const headers = Object.entries(spec.headers ?? {}).map(([name, { schema }]) => [name, schema] as const);
    this.app.openAPIRegistry.registerPath({
      method: spec.method,
      path,
      summary: spec.summary,
      tags: [spec.tag],
      security: spec.access === "open" ? [] : [{ bearer: [] }, { login: [] }],
      request: {
        ...(params.length === 0
          ? {}
          : { params: z.object(Object.fromEntries(params.map((name) => [name, z.string()]))) }),
        ...(spec.query === undefined ? {} : { query: spec.query as z.ZodObject }),
        ...(headers.length === 0 ? {} : { headers: z.object(Object.fromEntries(headers)) }),
        ...(spec.body === undefined ? {} : { body: { content: { "application/json": { schema: spec.body } } } }),
      },
      responses: {
        ...responses,
        default: { description: "A problem (RFC 9457).", content: { [PROBLEM_TYPE]: { schema: Problem } } },
      },
    });
  }

  #admits(route: string, access: Access): MiddlewareHandler<Env> {
    return async (context, next) => {
      context.set("route", route);
      if (access !== "open")
        await this.#door.admit(context, { mayChange: access === "change" || access === "operator" });
      if (access === "operator" && context.get("role") !== "operator") {
        throw new ArcpError("PERMISSION_DENIED", "Only an operator may do this; ask with an operator's token.");
      }
      await next();
    };
  }
}

/** `/jobs/:id` of `/jobs/{id}`. */
const honoPath = (path: string): string => path.replace(/\{(\w+)\}/g, ":$1");

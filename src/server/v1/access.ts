/** How a page gets in (SRV-21): a login for a token, tickets for its WebSockets, and who it is. */
import { deleteCookie, setCookie } from "hono/cookie";
import { z } from "zod";
import type { Clock } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { type Identity, type Login, type Runtime, roleOf, TICKET_TTL_MS } from "../../runtime/index.ts";
import { type Door, LOGIN_COOKIE } from "../auth/door.ts";
import type { Api } from "./api.ts";

const MAX_TOKEN_CHARS = 16_384;

const LoginBody = z.strictObject({ token: z.string().min(1).max(MAX_TOKEN_CHARS) });

const Who = z.object({
  principal: z.string(),
  role: z.enum(["observer", "user", "operator"]),
  expires_at: z.iso.datetime().nullable(),
  csrf_token: z.string().optional(),
});

const whoForWire = (identity: Identity, login?: Login): z.infer<typeof Who> => ({
  principal: identity.principal,
  role: roleOf(identity),
  expires_at: identity.expiresAt === undefined ? null : new Date(identity.expiresAt).toISOString(),
  ...(login === undefined ? {} : { csrf_token: login.csrfToken }),
});

export interface AccessRoutes {
  runtime: Runtime;
  door: Door;
  clock: Clock;
  logger: Logger;
  /** `undefined`: where the request came over TLS. */
  secureCookies: boolean | undefined;
}

export function accessRoutes(api: Api, { runtime, door, clock, logger, secureCookies }: AccessRoutes): void {
  api.route(
    {
      method: "post",
      path: "/login",
      access: "open",
      tag: "access",
      summary: "Change a token for a cookie that no script can read.",
      body: LoginBody,
      answers: { 200: { description: "The cookie is set. Changes need the csrf_token in X-CSRF-Token.", schema: Who } },
    },
    async ({ body, context }) => {
      const { login, cookie } = await door.login(body.token, context.env.address);
      const { principal, expiresAt } = login.identity;
      setCookie(context, LOGIN_COOKIE, cookie, {
        httpOnly: true,
        sameSite: "Strict",
        secure: secureCookies ?? context.env.secure,
        path: "/v1",
        maxAge: Math.max(0, Math.floor((expiresAt - clock.wall()) / 1_000)),
      });
      logger.info({ audit: "login", principal, role: roleOf(login.identity) }, "a page logged in");
      return context.json(whoForWire(login.identity, login));
    },
  );

  api.route(
    {
      method: "post",
      path: "/logout",
      access: "own",
      tag: "access",
      summary: "End the login of the cookie.",
      answers: {
        200: {
          description: "The cookie opens nothing any more.",
          schema: z.object({ outcome: z.literal("logged_out") }),
        },
      },
    },
    async ({ context }) => {
      const cookie = deleteCookie(context, LOGIN_COOKIE, { path: "/v1", secure: secureCookies ?? context.env.secure });
      if (cookie !== undefined) await runtime.logins.close(cookie);
      return context.json({ outcome: "logged_out" as const });
    },
  );

  api.route(
    {
      method: "get",
      path: "/whoami",
      access: "look",
      tag: "access",
      summary: "Who the token or the cookie is.",
      answers: { 200: { description: "With a cookie, its csrf_token too.", schema: Who } },
    },
    ({ context }) => context.json(whoForWire(context.get("identity"), context.get("login"))),
  );

  api.route(
    {
      method: "post",
      path: "/tickets",
      access: "own",
      tag: "access",
      summary: "Get a ticket: the bearer token of one session.hello.",
      answers: {
        201: {
          description: "Good once, for so many seconds, at any node.",
          schema: z.object({ ticket: z.string(), expires_in_sec: z.number() }),
        },
      },
    },
    async ({ context }) => {
      const ticket = await runtime.tickets.issue(context.get("identity"));
      return context.json({ ticket, expires_in_sec: TICKET_TTL_MS / 1_000 }, 201);
    },
  );
}

/** What a request under `/v1` brings, read and checked: a failure names the field (SRV-14). */
import type { Context } from "hono";
import { z } from "zod";
import { ArcpError, describeIssue, REQUESTS } from "../../protocol/index.ts";
import type { Identity, Login, Role } from "../../runtime/index.ts";

export type Env = {
  Bindings: {
    /** Of the peer. */
    address: string;
    /** Whether what it sent came over TLS. */
    secure: boolean;
    /** The connection broke off, or the server goes. */
    gone: AbortSignal;
  };
  Variables: {
    requestId: string;
    /** As declared: `/v1/jobs/{id}`. */
    route: string;
    // What is known of who asks, once it is let in.
    identity: Identity;
    principal: string;
    role: Role;
    operator: boolean;
    login: Login;
  };
};

/** The parameters of every list. */
export const PAGE = {
  limit: z
    .string()
    .regex(/^\d{1,4}$/, "must be a number from 1 to 1000")
    .transform(Number)
    .pipe(z.int().min(1).max(1000))
    .optional(),
  cursor: REQUESTS["session.list_jobs"].shape.cursor.unwrap().unwrap().optional(),
};

/** Whose eyes a request sees with. */
export const askerOf = (context: Context<Env>): { principal: string; operator: boolean } => ({
  principal: context.get("principal"),
  operator: context.get("operator"),
});

export const invalid = (message: string): ArcpError => new ArcpError("INVALID_REQUEST", message);

/** @throws ArcpError INVALID_REQUEST naming the field */
export function parse<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (!result.success) throw invalid(`${describeIssue(result.error, what)}.`);
  return result.data;
}

/** Each parameter by name; `status` may come several times, others that do are no string. */
export function queryOf(url: string): Record<string, string | string[]> {
  const { searchParams } = new URL(url);
  const query: Record<string, string | string[]> = {};
  for (const name of new Set(searchParams.keys())) {
    const values = searchParams.getAll(name);
    query[name] = name === "status" || values.length > 1 ? values : (values[0] ?? "");
  }
  return query;
}

/** An empty body is an empty object. */
export async function bodyOf(request: {
  text(): Promise<string>;
  header(name: string): string | undefined;
}): Promise<unknown> {
  const text = await request.text();
  if (text === "") return {};
  const type = request.header("content-type")?.split(";", 1)[0]?.trim().toLowerCase();
  if (type !== "application/json") throw new UnsupportedBody();
  try {
    return JSON.parse(text);
  } catch {
    throw invalid("body: not JSON.");
  }
}

export class UnsupportedBody extends Error {
  override readonly name = "UnsupportedBody";
}

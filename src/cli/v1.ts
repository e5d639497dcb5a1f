/** Questions to a server's HTTP API, for commands that need no session; failures as one line (CLI-6). */
import { z } from "zod";
import { systemClock } from "../clock.ts";
import type { Target } from "./connection.ts";
import { oneLine, Problem } from "./problem.ts";

const ProblemBody = z.object({
  status: z.number(),
  code: z.string(),
  detail: z.string(),
  details: z.looseObject({ reason: z.string().optional() }).optional(),
});

/** How long a server may take to answer. */
const TIMEOUT_MS = 30_000;

/** `ws://host:7777/arcp` is the wire, `http://host:7777/v1` the API beside it. */
function apiUrl(wireUrl: string, path: string, query: string): URL {
  const url = new URL(wireUrl);
  url.protocol = url.protocol === "wss:" ? "https:" : "http:";
  url.pathname = `${url.pathname.replace(/\/arcp\/?$/, "")}/v1${path}`;
  url.search = query;
  return url;
}

/** What went wrong underneath: `fetch` itself says only that it failed. */
function causeOf(error: unknown): string {
  const { cause } = error as { cause?: unknown };
  return oneLine(cause instanceof Error && cause.message !== "" ? cause : error);
}

/** What there is of a job. */
type JobPath = "" | "/result" | "/cancel" | "/questions" | `/questions/${string}/answer`;

/**
 * Asks about one job.
 *
 * @throws Problem when the server cannot be reached, refuses the token, or knows no such job
 */
export function askAboutJob<T>(
  target: Target,
  jobId: string,
  question: { method: "GET" | "POST"; path: JobPath; body?: object },
  schema: z.ZodType<T>,
): Promise<T> {
  const unknown = `No job ${jobId} of yours is there; \`holdfast jobs\` lists them.`;
  const path = `/jobs/${encodeURIComponent(jobId)}${question.path}`;
  return ask(target, { ...question, path }, schema, (problem) =>
    problem.code === "JOB_NOT_FOUND" ? unknown : undefined,
  );
}

/**
 * Asks about conversations, or about the one of an id.
 *
 * @throws Problem when the server cannot be reached, refuses the token, keeps none, or knows no such conversation
 */
export function askAboutConversations<T>(
  target: Target,
  question: { method: "GET" | "POST" | "DELETE"; path: "/conversations" | "/locks"; query?: string; body?: object } & (
    | { id?: undefined }
    | { id: string; of: "" | "/lock/break" }
  ),
  schema: z.ZodType<T>,
): Promise<T> {
  const { id, query = "" } = question;
  const rest = id === undefined ? "" : `/${encodeURIComponent(id)}${question.of}`;
  return ask(target, { ...question, path: `${question.path}${rest}`, query }, schema, ({ details }) =>
    details?.reason === "unknown_conversation"
      ? `No conversation ${id} of yours is there; \`holdfast conversations\` lists them.`
      : undefined,
  );
}

/**
 * Asks about answers on their way out, or about the one of an id.
 *
 * @throws Problem when the server cannot be reached, refuses the token, keeps none, or knows no such delivery
 */
export function askAboutDeliveries<T>(
  target: Target,
  question: { method: "GET"; query: string } | { method: "GET" | "POST"; id: string; of: "" | "/retry" | "/discard" },
  schema: z.ZodType<T>,
): Promise<T> {
  const { method } = question;
  if ("query" in question) {
    return ask(target, { method, path: "/deliveries", query: question.query }, schema, () => undefined);
  }
  const path = `/deliveries/${encodeURIComponent(question.id)}${question.of}`;
  return ask(target, { method, path }, schema, ({ details }) =>
    details?.reason === "unknown_delivery"
      ? `No delivery ${question.id} of yours is there; \`holdfast deliveries\` lists them.`
      : undefined,
  );
}

/**
 * Asks about the table of routes, or writes to it.
 *
 * @throws Problem when the server cannot be reached, refuses the token or the key, or offers no table
 */
export const askAboutRoutes = <T>(
  target: Target,
  question: { method: "GET"; query: string } | { method: "PUT"; body: object },
  schema: z.ZodType<T>,
): Promise<T> => ask(target, { ...question, path: "/routes" }, schema, () => undefined);

/** Asks about the servers that share the store. @throws Problem when the server cannot be reached or refuses the token */
export const askAboutNodes = <T>(target: Target, schema: z.ZodType<T>): Promise<T> =>
  ask(target, { method: "GET", path: "/nodes" }, schema, () => undefined);

/** Asks about sessions. @throws Problem when the server cannot be reached or refuses the token */
export const askAboutSessions = <T>(target: Target, query: string, schema: z.ZodType<T>): Promise<T> =>
  ask(target, { method: "GET", path: "/sessions", query }, schema, () => undefined);

/** @param known what a failure means here; otherwise its code and detail are told */
async function ask<T>(
  target: Target,
  question: { method: "GET" | "POST" | "PUT" | "DELETE"; path: string; query?: string; body?: object },
  schema: z.ZodType<T>,
  known: (problem: z.infer<typeof ProblemBody>) => string | undefined,
): Promise<T> {
  const { method, path, query = "", body } = question;
  const headers = { authorization: `Bearer ${target.token}`, "content-type": "application/json" };
  const late = new AbortController();
  const timer = systemClock.after(TIMEOUT_MS, () => late.abort(new Error(`no answer within ${TIMEOUT_MS} ms`)));
  let status: number;
  let answer: unknown;
  try {
    const response = await fetch(apiUrl(target.url, path, query), {
      method,
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      redirect: "error",
      signal: late.signal,
    });
    status = response.status;
    answer = await response.json();
  } catch (error) {
    throw new Problem(
      `${target.url} cannot be reached (${causeOf(error)}). Start it with \`holdfast serve\`, or give another --url.`,
      1,
      error,
    );
  } finally {
    timer.cancel();
  }
  if (status < 300) return schema.parse(answer);
  const problem = ProblemBody.safeParse(answer).data;
  if (problem?.code === "UNAUTHENTICATED") {
    throw new Problem(`${target.url} refuses the token; give a good one with --token or HOLDFAST_TOKEN.`);
  }
  if (problem === undefined) throw new Problem(`${target.url} answered ${status}.`);
  throw new Problem(known(problem) ?? `${problem.code}: ${problem.detail}`);
}

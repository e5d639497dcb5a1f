/** Questions to a server's HTTP API, for commands that need no session; failures as one line (CLI-6). */
import { z } from "zod";
import { systemClock } from "../clock.ts";
import type { Target } from "./connection.ts";
import { oneLine, Problem } from "./problem.ts";

const ProblemBody = z.object({ status: z.number(), code: z.string(), detail: z.string() });

/** How long a server may take to answer. */
const TIMEOUT_MS = 30_000;

/** `ws://host:7777/arcp` is the wire, `http://host:7777/v1` the API beside it. */
function apiUrl(wireUrl: string, path: string): URL {
  const url = new URL(wireUrl);
  url.protocol = url.protocol === "wss:" ? "https:" : "http:";
  url.pathname = `${url.pathname.replace(/\/arcp\/?$/, "")}/v1${path}`;
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
export async function askAboutJob<T>(
  target: Target,
  jobId: string,
  question: { method: "GET" | "POST"; path: JobPath; body?: object },
  schema: z.ZodType<T>,
): Promise<T> {
  const { method, path, body } = question;
  const headers = { authorization: `Bearer ${target.token}`, "content-type": "application/json" };
  const late = new AbortController();
  const timer = systemClock.after(TIMEOUT_MS, () => late.abort(new Error(`no answer within ${TIMEOUT_MS} ms`)));
  let status: number;
  let answer: unknown;
  try {
    const response = await fetch(apiUrl(target.url, `/jobs/${encodeURIComponent(jobId)}${path}`), {
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
  if (problem?.code === "JOB_NOT_FOUND") {
    throw new Problem(`No job ${jobId} of yours is there; \`holdfast jobs\` lists them.`);
  }
  throw new Problem(problem === undefined ? `${target.url} answered ${status}.` : `${problem.code}: ${problem.detail}`);
}

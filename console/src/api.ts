/**
 * What the protocol has no message for, asked over `/v1` with the login's cookie. Nothing is kept in the page but the
 * login's CSRF token, in memory; the cookie no script can read.
 */
import { Observable } from "./observable.ts";

export interface Who {
  principal: string;
  role: "observer" | "user" | "operator";
  csrf_token?: string;
}

/** - `unknown`: we have not asked yet. - `out`: a login is needed; `was` is whose has ended, so that the page stays. */
export type Access =
  | { state: "unknown" }
  | { state: "out"; was: Who | undefined }
  | { state: "in"; who: Who }
  | { state: "unreachable"; problem: Problem };

export const access = new Observable<Access>({ state: "unknown" });

/** A refusal, as the server told it, or what kept it from being asked (status 0). */
export class Problem extends Error {
  override readonly name = "Problem";
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const csrfToken = (): string => (access.value.state === "in" ? (access.value.who.csrf_token ?? "") : "");

function problemIn(status: number, body: unknown): Problem {
  const { code, detail } = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
  return new Problem(
    status,
    typeof code === "string" ? code : `HTTP ${status}`,
    typeof detail === "string" ? detail : "The server gave no reason.",
  );
}

/** @throws Problem */
export async function ask<T>(
  method: "GET" | "POST" | "DELETE",
  path: string,
  options: { body?: unknown; signal?: AbortSignal } = {},
): Promise<T> {
  const asked = access.value;
  let response: Response;
  let body: unknown;
  try {
    response = await fetch(`/v1${path}`, {
      method,
      credentials: "same-origin",
      signal: options.signal ?? null,
      headers: {
        accept: "application/json",
        ...(method === "GET" ? {} : { "x-csrf-token": csrfToken() }),
        ...(options.body === undefined ? {} : { "content-type": "application/json" }),
      },
      body: options.body === undefined ? null : JSON.stringify(options.body),
    });
    const text = await response.text();
    body = text === "" ? undefined : parsed(text);
  } catch (error) {
    if (options.signal?.aborted === true) throw error;
    throw new Problem(0, "UNREACHABLE", "The server cannot be reached. It is asked again.");
  }
  if (response.ok) return body as T;
  // What was asked before a new login says nothing about it.
  if (response.status === 401 && path !== "/login" && asked === access.value && asked.state !== "out") {
    access.set({ state: "out", was: asked.state === "in" ? asked.who : undefined });
  }
  throw problemIn(response.status, body);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Asks who we are; a cookie of an earlier visit may still be good. */
export async function lookWhoWeAre(): Promise<void> {
  try {
    const who = await ask<Who>("GET", "/whoami");
    access.set({ state: "in", who });
  } catch (error) {
    if (error instanceof Problem && error.status !== 401) access.set({ state: "unreachable", problem: error });
  }
}

/** @throws Problem */
export async function login(token: string): Promise<void> {
  const who = await ask<Who>("POST", "/login", { body: { token } });
  access.set({ state: "in", who });
}

export async function logout(): Promise<void> {
  await ask("POST", "/logout").catch((error: unknown) => {
    if (!(error instanceof Problem)) throw error;
  });
  access.set({ state: "out", was: undefined });
}

/** The bearer token of one `session.hello`. @throws Problem */
export const newTicket = async (): Promise<string> => (await ask<{ ticket: string }>("POST", "/tickets")).ticket;

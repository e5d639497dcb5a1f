/** A server over HTTP for tests: a runtime on a file of its own, tokens of each role, and what asks its API. */
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type IncomingHttpHeaders, type IncomingMessage, request } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { buffer } from "node:stream/consumers";
import { Conversations } from "../src/conversation/index.ts";
import { Runtime, type RuntimeOptions } from "../src/runtime/index.ts";
import { bearerTokens, type ServeOptions, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { ManualClock } from "../src/testing/manual-clock.ts";
import { FaultyStore } from "./faulty-store.ts";

export interface Asking {
  /** "" for none. @default alice's */
  token?: string;
  method?: string;
  /** An object goes as JSON. */
  body?: string | object;
  headers?: Record<string, string>;
}

export interface Answer {
  status: number | undefined;
  headers: IncomingHttpHeaders;
  content: Buffer;
  text: string;
  json: Record<string, unknown>;
}

export async function ask(port: number, target: string, asking: Asking = {}): Promise<Answer> {
  const { token = "alices", method = "GET", body, headers = {} } = asking;
  const outgoing = request({ port, host: "127.0.0.1", path: target, method, agent: false });
  if (token !== "") outgoing.setHeader("authorization", `Bearer ${token}`);
  if (typeof body === "object") outgoing.setHeader("content-type", "application/json");
  for (const [name, value] of Object.entries(headers)) outgoing.setHeader(name, value);
  outgoing.end(typeof body === "object" ? JSON.stringify(body) : body);
  const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
  const content = await buffer(incoming);
  const text = content.toString();
  const json = text.startsWith("{") ? (JSON.parse(text) as Record<string, unknown>) : {};
  return { status: incoming.statusCode, headers: incoming.headers, content, text, json };
}

/**
 * alice and bob are users, olga an operator, otto an observer who shares alice's principal. Agents: `echo`, and
 * `wait`, which logs a line and sleeps.
 */
export async function newHttpServer(
  stack: AsyncDisposableStack,
  given: {
    runtime?: Partial<RuntimeOptions>;
    server?: ServeOptions;
    prepare?: (runtime: Runtime) => void;
  } = {},
) {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-http-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const file = path.join(root, "test.db");
  const store = new FaultyStore(sqlite(file));
  const auth = bearerTokens({
    alices: "alice",
    bobs: "bob",
    olgas: { principal: "olga", operator: true },
    ottos: { principal: "alice", observer: true },
  });
  const runtime = new Runtime({ store, auth, ...given.runtime });
  runtime.agent("echo", (input) => input);
  runtime.agent("wait", async (_, job) => {
    await job.log("waiting");
    await job.sleep(3_600_000);
  });
  given.prepare?.(runtime);
  const conversations = new Conversations(runtime);
  const server = await serve(runtime, { port: 0, conversations, ...given.server });
  stack.defer(async () => {
    const stopped = server.stop({ drainMs: 0 });
    let over = false;
    void stopped.then(() => {
      over = true;
    });
    const { clock } = given.runtime ?? {};
    while (clock instanceof ManualClock && !over) await clock.advance(100);
    await stopped;
  });
  return {
    runtime,
    server,
    store,
    file,
    conversations,
    ask: (target: string, asking?: Asking) => ask(server.port, target, asking),
  };
}

/** `name=value` of the cookie that an answer sets. */
export function cookieOf(answer: Answer): string {
  const [cookie = ""] = answer.headers["set-cookie"] ?? [];
  return cookie.split(";", 1)[0] ?? "";
}

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, request } from "node:http";
import { type AddressInfo, connect as tcpConnect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { WebSocket } from "ws";
import { connect } from "../client/index.ts";
import { MAX_FRAME_BYTES } from "../protocol/index.ts";
import { Runtime } from "../runtime/index.ts";
import { sqlite } from "../store/sqlite/index.ts";
import { attach } from "./attach.ts";
import { type ServeOptions, serve } from "./serve.ts";
import { bearerTokens } from "./tokens.ts";

const TOKEN = "good-token";

/** A runtime on a file of its own, with an agent that answers and one that waits to be stopped. */
async function newRuntime(stack: AsyncDisposableStack): Promise<Runtime> {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-server-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const runtime = new Runtime({ store: sqlite(path.join(root, "test.db")), auth: bearerTokens({ [TOKEN]: "alice" }) });
  runtime.agent("echo", (input) => input);
  runtime.agent("wait", async (_, job) => {
    await job.log("waiting");
    await job.sleep(3_600_000);
  });
  return runtime;
}

async function newServer(stack: AsyncDisposableStack, options: ServeOptions = {}) {
  const runtime = await newRuntime(stack);
  return stack.use(await serve(runtime, { port: 0, ...options }));
}

interface Answer {
  status: number | undefined;
  type: string | undefined;
  body: string;
}

async function get(port: number, target: string, headers: Record<string, string> = {}): Promise<Answer> {
  const outgoing = request({ port, host: "127.0.0.1", path: target, headers, agent: false }).end();
  const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
  return { status: incoming.statusCode, type: incoming.headers["content-type"], body: await text(incoming) };
}

/** The status that an upgrade is answered with; 101 when it takes place. */
async function upgrade(url: string, options: { origin?: string; host?: string } = {}): Promise<number | undefined> {
  const headers: Record<string, string> = {};
  if (options.host !== undefined) headers["host"] = options.host;
  if (options.origin !== undefined) headers["origin"] = options.origin;
  const ws = new WebSocket(url, { headers });
  return await new Promise((resolve, reject) => {
    ws.on("open", () => {
      ws.once("close", () => resolve(101));
      ws.terminate();
    });
    ws.on("unexpected-response", (_, incoming) => {
      incoming.resume();
      incoming.once("close", () => resolve(incoming.statusCode));
    });
    ws.on("error", reject);
  });
}

test("[SRV-1] it listens on loopback, and refuses another address without TLS unless told", async () => {
  await using stack = new AsyncDisposableStack();
  const server = await newServer(stack);
  assert.equal(server.url, `ws://127.0.0.1:${server.port}/arcp`);
  const other = await newRuntime(stack);
  await assert.rejects(serve(other, { port: 0, host: "0.0.0.0" }), /insecurePlaintext/);
  const open = stack.use(await serve(other, { port: 0, host: "0.0.0.0", insecurePlaintext: true }));
  assert.equal(await upgrade(open.url), 101);
});

test("[SRV-1] a taken port is told", async () => {
  await using stack = new AsyncDisposableStack();
  const server = await newServer(stack);
  const second = await newRuntime(stack);
  await assert.rejects(serve(second, { port: server.port }), { code: "EADDRINUSE" });
});

test("[SRV-2] a foreign Host is refused on every route, ours and allowed ones are not", async () => {
  await using stack = new AsyncDisposableStack();
  const { port, url } = await newServer(stack, { allowedHosts: ["agents.example.com"] });
  for (const host of [
    "evil.example.com",
    `evil.example.com:${port}`,
    "127.0.0.1.evil.example.com",
    "a@localhost",
    "10.0.0.1",
  ]) {
    for (const target of ["/healthz", "/nothing"]) {
      const answer = await get(port, target, { host });
      assert.equal(answer.status, 403, host);
      assert.match(answer.type ?? "", /^text\/plain/);
    }
    assert.equal(await upgrade(url, { host }), 403, host);
  }
  for (const host of ["localhost", `127.0.0.1:${port}`, "[::1]", "LOCALHOST:1", "agents.example.com"]) {
    assert.equal((await get(port, "/healthz", { host })).status, 200, host);
    assert.equal(await upgrade(url, { host }), 101, host);
  }
});

test("[SRV-2] a foreign Origin is refused; none, our own and an allowed one are not", async () => {
  await using stack = new AsyncDisposableStack();
  const { port, url } = await newServer(stack, { allowedOrigins: ["https://app.example.com"] });
  for (const origin of [
    "https://evil.example.com",
    "null",
    `http://127.0.0.1:${port + 1}`,
    "https://app.example.com.evil.com",
  ]) {
    assert.equal(await upgrade(url, { origin }), 403, origin);
    assert.equal((await get(port, "/healthz", { origin })).status, 403, origin);
  }
  for (const origin of [undefined, `http://127.0.0.1:${port}`, "https://app.example.com"]) {
    assert.equal(await upgrade(url, origin === undefined ? {} : { origin }), 101, origin);
  }
});

test("[SRV-4] an address with a query is refused, so no token gets used to travelling there", async () => {
  await using stack = new AsyncDisposableStack();
  const { url } = await newServer(stack);
  assert.equal(await upgrade(`${url}?token=${TOKEN}`), 400);
});

test("[SRV-7] health is told, other paths are a problem in JSON", async () => {
  await using stack = new AsyncDisposableStack();
  const { port } = await newServer(stack);
  assert.deepEqual(await get(port, "/healthz"), { status: 200, type: "application/json", body: '{"status":"ok"}' });
  const missing = await get(port, "/nothing");
  assert.equal(missing.type, "application/problem+json");
  assert.equal(JSON.parse(missing.body).status, 404);
  assert.equal((await get(port, "/arcp")).status, 426);
});

test("[SRV-7] attach leaves the other paths of a server alone, and lets go of it", async () => {
  await using stack = new AsyncDisposableStack();
  const runtime = stack.use(await newRuntime(stack));
  const http = createServer((_, response) => response.end("theirs"));
  stack.defer(() => {
    http.close();
    http.closeAllConnections();
  });
  const attachment = stack.use(await attach(runtime, http));
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  const { port } = http.address() as AddressInfo;
  const url = `ws://127.0.0.1:${port}`;

  assert.equal((await get(port, "/page")).body, "theirs");
  assert.equal(await upgrade(`${url}/other`), 404);
  http.on("upgrade", (incoming, socket) => {
    if (incoming.url === "/other") socket.end("HTTP/1.1 418 I'm a teapot\r\nConnection: close\r\n\r\n");
  });
  assert.equal(await upgrade(`${url}/other`), 418);

  await using session = await connect(`${url}/arcp`, { token: TOKEN });
  assert.deepEqual(await (await session.submit("echo", { a: 1 })).result, { a: 1 });
  assert.equal(attachment.connections, 1);
  await session.close();
  await attachment.stop();
  assert.equal(attachment.connections, 0);
  assert.equal(http.listenerCount("upgrade"), 1);
  assert.equal((await get(port, "/page")).body, "theirs");
});

test("[SRV-6] an oversized frame closes its own connection, a binary one is ignored, others notice nothing", async () => {
  await using stack = new AsyncDisposableStack();
  const server = await newServer(stack);
  await using session = await connect(server.url, { token: TOKEN });
  const loud = new WebSocket(server.url);
  await once(loud, "open");
  loud.send(Buffer.from("binary"));
  loud.send("x".repeat(MAX_FRAME_BYTES + 1));
  const [code] = await once(loud, "close");
  assert.equal(code, 1009);
  assert.deepEqual(await (await session.submit("echo", "still here")).result, "still here");
  assert.equal(session.status.state, "connected");
});

test("[SRV-6] more sockets than allowed are refused, strangers count on their own, and a free place is given again", async () => {
  await using stack = new AsyncDisposableStack();
  const server = await newServer(stack, { maxConnections: 3, maxUnauthenticated: 1 });
  const stranger = new WebSocket(server.url);
  await once(stranger, "open");
  assert.equal(await upgrade(server.url), 503);
  stranger.terminate();
  await once(stranger, "close");
  const sessions: AsyncDisposable[] = [];
  for (let count = 0; count < 3; count += 1) {
    sessions.push(stack.use(await connect(server.url, { token: TOKEN, reconnect: { initialMs: 5, maxMs: 20 } })));
  }
  assert.equal(server.connections, 3);
  assert.equal(await upgrade(server.url), 503);
});

test("[SRV-5] stopping refuses newcomers, gives jobs their time and ends them with a reason", async () => {
  await using stack = new AsyncDisposableStack();
  const server = await newServer(stack);
  await using session = await connect(server.url, { token: TOKEN, reconnect: { giveUpAfterMs: 1 } });
  const job = await session.submit("wait");
  for await (const event of job) {
    assert.equal(event.kind, "log");
    break;
  }
  const stopping = server.stop({ drainMs: 50 });
  assert.equal(server.stop(), stopping);
  const end = await job.terminal;
  assert.equal(end.final_status, "error");
  assert.equal(end.code, "INTERNAL_ERROR");
  assert.equal(end.retryable, true);
  assert.equal(end.details?.["reason"], "shutdown");
  await stopping;
  await server.closed;
  const late = tcpConnect(server.port, "127.0.0.1");
  const [error] = await once(late, "error");
  assert.equal((error as NodeJS.ErrnoException).code, "ECONNREFUSED");
});

/**
 * Holdfast on a server that you have already: plain Node, Express, Fastify. `attach` takes the paths `/arcp` and
 * `/v1` (and `/console`, `/metrics` where you say so) and leaves all others to yours.
 *
 *     node examples/mounts.ts
 */
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import express from "express";
import fastify from "fastify";
import { type Attachment, attach, bearerTokens, Runtime } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

/** A server with a page of its own, and what closes it. */
const servers: Record<string, () => Promise<{ server: Server; close: () => Promise<unknown> }>> = {
  async node() {
    const server = createServer((_, response) => response.end("node's own page"));
    server.listen(0, "127.0.0.1");
    return { server, close: async () => server.close() };
  },

  async express() {
    const app = express();
    app.get("/", (_, response) => void response.send("express's own page"));
    const server = app.listen(0, "127.0.0.1");
    return { server, close: async () => server.close() };
  },

  async fastify() {
    const app = fastify();
    app.get("/", () => "fastify's own page");
    await app.listen({ port: 0, host: "127.0.0.1" });
    return { server: app.server, close: () => app.close() };
  },
};

for (const [name, start] of Object.entries(servers)) {
  const folder = await mkdtemp(path.join(tmpdir(), "holdfast-mount-"));
  const runtime = new Runtime({ store: sqlite(path.join(folder, "h.db")), auth: bearerTokens({ t: "alice" }) });
  runtime.agent("echo", (input) => input);

  const { server, close } = await start();
  const attachment: Attachment = await attach(runtime, server);
  if (!server.listening) await once(server, "listening");
  const { port } = server.address() as AddressInfo;

  const page = await fetch(`http://127.0.0.1:${port}/`);
  const health = await fetch(`http://127.0.0.1:${port}/v1/health`);
  const session = await connect(`ws://127.0.0.1:${port}/arcp`, { token: "t" });
  const job = await session.submit("echo", name);
  console.log(`${name}: ${await page.text()}; /v1/health ${health.status}; the job says ${await job.result}`);

  await session.close();
  await runtime.stop();
  await attachment.stop();
  await close();
  await rm(folder, { recursive: true });
}

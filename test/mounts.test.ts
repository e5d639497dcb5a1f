/** Holdfast on servers of others: each keeps its own paths, ours work whole, and at the end they are as they were. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import express from "express";
import fastify from "fastify";
import { connect } from "../src/client/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { attach, bearerTokens } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { eventSource, restOf } from "./event-source.ts";
import { ask } from "./http-server.ts";

const DEADLINE = { timeout: 60_000 };

/** Servers with `GET /` and `POST /echo` of their own, listening. */
const hosts: Record<string, (stack: AsyncDisposableStack) => Promise<Server>> = {
  async "plain Node"(stack) {
    const server = createServer((request, response) => {
      if (request.url === "/") response.end("own page");
      else if (request.url === "/echo") request.pipe(response);
      else response.writeHead(404).end("own 404");
    }).listen(0, "127.0.0.1");
    stack.defer(() => {
      server.close();
      server.closeAllConnections();
    });
    await once(server, "listening");
    return server;
  },

  async Express(stack) {
    const app = express();
    // Reads every body that reaches it: ours must not.
    app.use(express.json());
    app.get("/", (_, response) => void response.send("own page"));
    app.post("/echo", (request, response) => void response.json(request.body));
    app.use((_, response) => void response.status(404).send("own 404"));
    const server = app.listen(0, "127.0.0.1");
    stack.defer(() => {
      server.close();
      server.closeAllConnections();
    });
    await once(server, "listening");
    return server;
  },

  async Fastify(stack) {
    const app = fastify();
    app.get("/", () => "own page");
    app.post("/echo", (request) => request.body);
    app.setNotFoundHandler((_, reply) => reply.code(404).send("own 404"));
    await app.listen({ port: 0, host: "127.0.0.1" });
    stack.defer(() => {
      app.server.closeAllConnections();
      return app.close();
    });
    return app.server;
  },
};

for (const [name, host] of Object.entries(hosts)) {
  test(`[SRV-7] under ${name} each has its own paths, and all of ours works`, DEADLINE, async () => {
    await using stack = new AsyncDisposableStack();
    const root = await mkdtemp(path.join(tmpdir(), "holdfast-mounts-"));
    stack.defer(() => rm(root, { recursive: true, force: true }));
    const auth = bearerTokens({ alices: "alice" });
    const runtime = new Runtime({ store: sqlite(path.join(root, "test.db")), auth });
    runtime.agent("echo", (input) => input);
    stack.defer(() => runtime.stop({ drainMs: 0 }));
    const server = await host(stack);
    const { port } = server.address() as AddressInfo;
    const before = server.listeners("request");
    const attachment = await attach(runtime, server, { metrics: "open" });
    stack.defer(() => attachment.stop());

    const own = async () => {
      assert.equal((await ask(port, "/")).text, "own page");
      assert.deepEqual((await ask(port, "/echo", { method: "POST", body: { a: 1 } })).json, { a: 1 });
      for (const target of ["/v10", "/console/", "/arcp/x"]) {
        const missing = await ask(port, target);
        assert.deepEqual([missing.status, missing.text], [404, "own 404"], target);
      }
    };
    await own();
    const input = { text: "x".repeat(100_000) };
    const submitted = await ask(port, "/v1/jobs", { method: "POST", body: { agent: "echo", input } });
    assert.equal(submitted.status, 201);
    const events = await restOf(await eventSource(port, `/v1/jobs/${submitted.json["job_id"]}/events`));
    assert.deepEqual(
      events.map(({ id, event }) => [id, event]),
      [["1", "job.result"]],
    );
    const session = await connect(`ws://127.0.0.1:${port}/arcp`, { token: "alices" });
    assert.deepEqual(await (await session.submit("echo", input)).result, input);
    await session.close();
    assert.match((await ask(port, "/metrics")).text, /^holdfast_jobs_started_total 2$/m);
    assert.equal((await ask(port, "/v1/jobs", { headers: { host: "evil.example.com" } })).status, 403);

    await attachment.stop();
    await own();
    assert.equal((await ask(port, "/v1/health")).text, "own 404");
    assert.deepEqual(server.listeners("request"), before);
  });
}

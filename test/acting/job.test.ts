/** Acting through a whole runtime: the host's tools, a submit's lease, and what a client sees of it. */
import assert from "node:assert/strict";
import { realpath, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { z } from "zod";
import { runtimeFixture, turns } from "../runtime-fixture.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { arcpError } from "./acting-job.ts";

test("[ACT-1] a client sees what a job does: a tool, a file and a request, under the lease that it asked for", async () => {
  await using folder = await temporaryFolder();
  const root = await realpath(folder.path);
  await writeFile(`${root}/a.txt`, "hello");
  const http = createServer((request, response) => response.end(request.headers["traceparent"])).listen(0, "127.0.0.1");
  await new Promise((listening) => http.once("listening", listening));
  const origin = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  try {
    await using fixture = await runtimeFixture({
      policy: () => ({ "tool.call": "any", "fs.read": "any", "net.fetch": [`${origin}/**`] }),
    });
    fixture.runtime.tool("double", ({ n }) => n * 2, { input: z.object({ n: z.number() }) });
    fixture.runtime.tool("shell", () => assert.fail("ran"));
    const client = await fixture.connect();
    const lease = { "tool.call": ["double"], "fs.read": [`${root}/**`], "net.fetch": [`${origin}/**`] };
    const jobId = await client.start("puppet", null, { lease_request: lease });
    const { job, end } = await fixture.puppet(jobId);

    assert.deepEqual(
      job.tools.list().map(({ name }) => name),
      ["double"],
    );
    assert.equal(await job.tools.call("double", { n: 21 }), 42);
    await assert.rejects(job.tools.call("shell"), arcpError("PERMISSION_DENIED"));
    assert.equal(await job.fs.readText(`${root}/a.txt`), "hello");
    assert.equal(await (await job.fetch(`${origin}/a`)).text(), job.traceparent);
    end("done");
    await client.terminal(jobId);

    const events = client.of(jobId).flatMap(({ payload }) => {
      const { call_id, ...body } = (payload["body"] ?? {}) as Record<string, unknown>;
      const { kind } = payload;
      return kind === "tool_call" || kind === "tool_result" ? [{ kind, ...body }] : [];
    });
    assert.deepEqual(
      events.map((event) => ("error" in event ? (event.error as { code: string }).code : event)),
      [
        { kind: "tool_call", tool: "double", args: { n: 21 } },
        { kind: "tool_result", result: 42 },
        { kind: "tool_call", tool: "shell", args: {} },
        "PERMISSION_DENIED",
        { kind: "tool_call", tool: "fs.read", args: { path: `${root}/a.txt` } },
        { kind: "tool_result", result: { bytes: 5 } },
        { kind: "tool_call", tool: "net.fetch", args: { method: "GET", url: `${origin}/a` } },
        { kind: "tool_result", result: { status: 200, bytes: 55 } },
      ],
    );
  } finally {
    http.close();
  }
});

test("[ACT-2] an agent without a lease can do nothing, and ends with the refusal when it lets it rise", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  fixture.runtime.agent("reader", (_, job) => job.fs.readText("/etc/passwd"));
  const jobId = await client.start("reader");
  const { payload } = await client.terminal(jobId);
  assert.equal(payload["code"], "PERMISSION_DENIED");
});

test("[JOB-23] a cancel rejects what the agent has begun and nobody awaits, and the process lives on", async () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown) => void unhandled.push(reason);
  process.on("unhandledRejection", note);
  try {
    await using fixture = await runtimeFixture();
    fixture.runtime.tool("slow", () => new Promise(() => undefined));
    const begun = Promise.withResolvers<void>();
    const refused: Promise<unknown>[] = [];
    fixture.runtime.agent("careless", async (_, job) => {
      const first = job.tools.call("slow");
      void job.tools.call("slow");
      void job.sleep(1_000_000);
      void job.ask({ message: "?" });
      begun.resolve();
      try {
        await first;
      } finally {
        const { fs } = job;
        for (const promise of [
          fs.readFile("/a"),
          fs.readFile("/a", { maxBytes: 0 }),
          fs.readText("/a"),
          fs.readChunks("/a").next(),
          fs.list("/a"),
          fs.stat("/a"),
          fs.exists("/a"),
          fs.writeFile("/a", ""),
          fs.appendFile("/a", ""),
          fs.mkdir("/a"),
          fs.remove("/a"),
          job.fetch("https://a.example/"),
          job.credentials.rotate(),
        ]) {
          refused.push(promise);
        }
      }
    });
    const client = await fixture.connect();
    const jobId = await client.start("careless", null, { lease_request: { "tool.call": ["slow"] } });
    await begun.promise;
    client.send("job.cancel", { job_id: jobId });
    assert.equal((await client.terminal(jobId)).payload["final_status"], "cancelled");
    await turns();
    assert.deepEqual(unhandled, []);
    const outcomes = await Promise.allSettled(refused);
    assert.deepEqual([...new Set(outcomes.map(({ status }) => status))], ["rejected"]);
  } finally {
    process.off("unhandledRejection", note);
  }
});

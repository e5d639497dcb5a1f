import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { ArcpError } from "../../src/protocol/index.ts";
import type { ToolCall } from "../../src/runtime/acting/tools.ts";
import { eventually } from "../runtime-fixture.ts";
import { actingJob, arcpError, TRACE_ID, TRACEPARENT } from "./acting-job.ts";

const ALL = { "tool.call": ["*"] };

test("[ACT-1] a tool call is in the stream with its arguments and its result, and the tool knows who calls", async () => {
  const job = actingJob(ALL);
  let known: ToolCall | undefined;
  job.registry.register("add", ({ a, b }: { a: number; b: number }, call) => {
    known = call;
    return a + b;
  });
  assert.equal(await job.tools.call("add", { a: 1, b: 2 }), 3);
  assert.deepEqual(job.told, [
    { kind: "tool_call", tool: "add", args: { a: 1, b: 2 } },
    { kind: "tool_result", result: 3 },
  ]);
  assert.equal(known?.jobId, "job_1");
  assert.equal(known?.principal, "alice");
  assert.equal(known?.traceId, TRACE_ID);
  assert.equal(known?.traceparent, TRACEPARENT);
  assert.match(known?.callId ?? "", /^call_/);
});

test("[ACT-2] a tool outside the lease is refused to the agent and in the stream, unrun, and the job goes on", async () => {
  const job = actingJob({ "tool.call": ["search.*"] });
  let ran = false;
  job.registry.register("search.web", () => "found");
  job.registry.register("shell", () => {
    ran = true;
  });
  await assert.rejects(job.tools.call("shell", { command: "ls" }), arcpError("PERMISSION_DENIED", "shell"));
  assert.equal(ran, false);
  assert.equal(job.told[0]?.kind, "tool_call");
  assert.equal(job.outcome?.error?.code, "PERMISSION_DENIED");
  assert.equal(job.outcome?.error?.retryable, false);
  assert.equal(await job.tools.call("search.web"), "found");
});

test("[ACT-2] a lease that is over refuses every tool", async () => {
  const job = actingJob(ALL, { expiresAtMs: Date.UTC(2026, 0, 1) });
  job.registry.register("t", () => 1);
  await assert.rejects(job.tools.call("t"), arcpError("LEASE_EXPIRED"));
  assert.equal(job.outcome?.error?.code, "LEASE_EXPIRED");
});

test("[ACT-3] a tool's own failure is neutral in the stream; the agent has the cause, and so has the runtime's log", async () => {
  const logged: object[] = [];
  const quiet = { debug() {}, info() {}, warn() {} };
  const job = actingJob(ALL, { logger: { ...quiet, error: (fields) => logged.push(fields) } });
  const cause = new Error("connect ECONNREFUSED /var/run/secret.sock");
  job.registry.register("t", () => Promise.reject(cause));
  await assert.rejects(job.tools.call("t"), (error: unknown) => {
    assert.ok(error instanceof ArcpError);
    assert.equal(error.cause, cause);
    return error.code === "INTERNAL_ERROR";
  });
  assert.equal(job.outcome?.error?.code, "INTERNAL_ERROR");
  assert.doesNotMatch(JSON.stringify(job.told), /secret|ECONNREFUSED/);
  assert.equal((logged[0] as { err?: unknown }).err, cause);
});

test("[ACT-3] an ArcpError of a tool is passed on as it is, and its details are left out when they are large", async () => {
  const job = actingJob(ALL);
  job.registry.register("small", () => {
    throw new ArcpError("INVALID_REQUEST", "no such city", { details: { city: "X" } });
  });
  job.registry.register("large", () => {
    throw new ArcpError("INVALID_REQUEST", "x".repeat(5_000), { details: { text: "y".repeat(20_000) } });
  });
  await assert.rejects(job.tools.call("small"), arcpError("INVALID_REQUEST", "no such city"));
  assert.deepEqual(job.outcome?.error?.details, { city: "X" });
  await assert.rejects(job.tools.call("large"), arcpError("INVALID_REQUEST"));
  assert.equal(job.outcome?.error?.details, undefined);
  assert.equal(job.outcome?.error?.message.length, 2_000);
});

test("[ACT-4] a tool that is not there is INVALID_REQUEST and tells what the job may call", async () => {
  const job = actingJob({ "tool.call": ["a", "c"] });
  job.registry.register("a", () => 1);
  job.registry.register("b", () => 1);
  await assert.rejects(job.tools.call("c"), (error: unknown) => {
    assert.ok(error instanceof ArcpError && error.code === "INVALID_REQUEST");
    assert.deepEqual(error.details, { tool: "c", available: ["a"] });
    return true;
  });
  assert.equal(job.outcome?.error?.code, "INVALID_REQUEST");
});

test("[ACT-4] arguments that the schema does not take are INVALID_REQUEST naming the field; the tool gets parsed ones", async () => {
  const job = actingJob(ALL);
  const seen: unknown[] = [];
  const input = z.object({ city: z.string(), days: z.number().default(3) });
  job.registry.register("weather", ({ city, days }: z.output<typeof input>) => seen.push([city, days]), { input });
  await assert.rejects(job.tools.call("weather", { city: 7 }), arcpError("INVALID_REQUEST", "args.city"));
  assert.deepEqual(seen, []);
  await job.tools.call("weather", { city: "Bern" });
  assert.deepEqual(seen, [["Bern", 3]]);
});

test("[ACT-5] arguments that are not JSON or over 1 MiB are refused before anything is logged", async () => {
  const job = actingJob(ALL);
  job.registry.register("t", () => 1);
  await assert.rejects(job.tools.call("t", { n: 1n }), arcpError("INVALID_REQUEST", "not JSON"));
  await assert.rejects(job.tools.call("t", "x".repeat(1024 * 1024)), arcpError("INVALID_REQUEST", "1048576"));
  assert.deepEqual(job.told, []);
});

test("[ACT-5] a result that does not fit is a note in the stream, and whole for the agent", async () => {
  const job = actingJob(ALL);
  const long = "x".repeat(1024 * 1024);
  const cyclic: { self?: unknown } = {};
  cyclic.self = cyclic;
  job.registry.register("long", () => long);
  job.registry.register("cyclic", () => cyclic);
  job.registry.register("nothing", () => undefined);
  assert.equal(await job.tools.call("long"), long);
  assert.deepEqual(job.outcome?.result, { omitted: "too long", bytes: 1024 * 1024 + 2, limit: 1024 * 1024 });
  assert.equal(await job.tools.call("cyclic"), cyclic);
  assert.deepEqual(job.outcome?.result, { omitted: "not JSON" });
  assert.equal(await job.tools.call("nothing"), undefined);
  assert.equal(job.outcome?.result, null);
});

test("[ACT-6] the listing holds what the lease allows, with descriptions and schemas", () => {
  const job = actingJob({ "tool.call": ["search.*"] });
  const input = z.object({});
  job.registry.register("search.web", () => 1, { description: "Searches.", input });
  job.registry.register("shell", () => 1);
  assert.deepEqual(job.tools.list(), [{ name: "search.web", description: "Searches.", input }]);
  assert.deepEqual(job.told, []);
  assert.deepEqual(actingJob({}).tools.list(), []);
});

test("[ACT-6] a tool's name has to be one that a lease can name, new, and not the runtime's own", () => {
  const { registry } = actingJob({});
  registry.register("t", () => 1);
  for (const name of ["t", "", "a b", "*", "fs.read", "net.fetch", "x".repeat(129)]) {
    assert.throws(() => registry.register(name, () => 1), RangeError, name);
  }
});

test("[ACT-7] a job that is told to stop acts no more, and a call under way is over", async () => {
  const job = actingJob(ALL);
  let started = 0;
  job.registry.register("slow", () => {
    started += 1;
    return new Promise(() => undefined);
  });
  const call = job.tools.call("slow");
  await eventually(() => started === 1, "the tool");
  job.stop(new ArcpError("CANCELLED", "The job was cancelled."));
  await assert.rejects(call, arcpError("CANCELLED"));
  assert.equal(job.outcome?.error?.code, "CANCELLED");
  const before = job.told.length;
  await assert.rejects(job.tools.call("slow"), arcpError("CANCELLED"));
  assert.equal(started, 1);
  assert.equal(job.told.length, before);
});

test("[ACT-8] a job has 256 acts under way at the most", async () => {
  const job = actingJob(ALL);
  const release = Promise.withResolvers<void>();
  job.registry.register("wait", () => release.promise);
  const calls = Array.from({ length: 256 }, () => job.tools.call("wait"));
  await assert.rejects(job.tools.call("wait"), (error: unknown) => {
    assert.ok(error instanceof ArcpError);
    assert.equal(error.details?.["code"], "LIMIT_EXCEEDED");
    return true;
  });
  release.resolve();
  await Promise.all(calls);
  await job.tools.call("wait");
});

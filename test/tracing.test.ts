/** Spans of a real runtime, as OpenTelemetry's own SDK records them. */
import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import * as api from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { ArcpError, FEATURES } from "../src/protocol/index.ts";
import { openTelemetry, type Tracing } from "../src/runtime/index.ts";
import { formatTraceParent, traceParentOf } from "../src/runtime/tracing/traceparent.ts";
import { eventually, runtimeFixture } from "./runtime-fixture.ts";

const TRACE = "4bf92f3577b34da6a3ce929d0e0e4736";
const UPSTREAM = "00f067aa0ba902b7";
const SECRET = "hunter2";

const exporter = new InMemorySpanExporter();
const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] });
// `api` as a host without an SDK has it.
const bare = openTelemetry(api);
api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
after(() => api.context.disable());
beforeEach(() => exporter.reset());

/** The API with the SDK of this test behind it. */
const watched = (): Tracing =>
  openTelemetry({
    ...api,
    trace: {
      getTracer: (name: string) => provider.getTracer(name),
      setSpan: api.trace.setSpan,
      setSpanContext: api.trace.setSpanContext,
      getSpanContext: api.trace.getSpanContext,
    },
  });

async function spans(count: number): Promise<Map<string, ReadableSpan>> {
  await eventually(() => exporter.getFinishedSpans().length >= count, `${count} spans`);
  const finished = exporter.getFinishedSpans();
  exporter.reset();
  assert.equal(finished.length, count, finished.map(({ name }) => name).join(", "));
  return new Map(finished.map((span) => [span.name, span]));
}

const get = (all: Map<string, ReadableSpan>, name: string): ReadableSpan => {
  const span = all.get(name);
  assert.ok(span, `no span ${name}, but ${[...all.keys()].join(", ")}`);
  return span;
};

test("[TRC-1] a session, its jobs and their operations have spans, one within the other, the agent's own too", async () => {
  await using fixture = await runtimeFixture({ tracing: watched() });
  const expiresAt = new Date(fixture.clock.wall() + 60_000).toISOString();
  fixture.runtime.agent("worker", async (_input, job) => {
    await job.flush();
    await provider.getTracer("agent").startActiveSpan("own", async (span) => {
      await job.delegate("child", null);
      span.end();
    });
    return "done";
  });
  fixture.runtime.agent("child", () => "grown up");
  const client = await fixture.connect({ features: FEATURES });
  const submitted = await client.submit(
    "worker",
    { secret: SECRET },
    {
      lease_request: { "tool.call": ["b"], "agent.delegate": ["child"] },
      lease_constraints: { expires_at: expiresAt },
    },
    { trace_id: `00-${TRACE}-${UPSTREAM}-01` },
  );
  assert.equal(submitted.type, "job.accepted", JSON.stringify(submitted));
  assert.equal(submitted.trace_id, TRACE);
  const jobId = submitted.job_id as string;
  await client.terminal(jobId);
  const jobSpans = await spans(4);
  client.pair.cut();
  const sessionSpan = get(await spans(1), "arcp.session");
  assert.deepEqual(sessionSpan.attributes, {
    "arcp.session_id": client.sessionId,
    "arcp.client": sessionSpan.attributes["arcp.client"],
    "arcp.resumed": false,
  });
  assert.notEqual(sessionSpan.spanContext().traceId, TRACE);

  const job = get(jobSpans, "arcp.job worker@1.0.0");
  assert.deepEqual(job.attributes, {
    "arcp.job_id": jobId,
    "arcp.agent": "worker@1.0.0",
    "arcp.trace_id": TRACE,
    "arcp.session_id": client.sessionId,
    "arcp.lease.capabilities": "agent.delegate,tool.call",
    "arcp.lease.expires_at": expiresAt,
    "arcp.job.status": "success",
  });
  const own = get(jobSpans, "own");
  const operation = get(jobSpans, "arcp.agent.delegate");
  const child = get(jobSpans, "arcp.job child@1.0.0");
  assert.equal(operation.attributes["arcp.job_id"], jobId);
  assert.equal(child.attributes["arcp.parent_job_id"], jobId);
  for (const span of jobSpans.values()) assert.equal(span.spanContext().traceId, TRACE, span.name);
  assert.deepEqual(
    [job, own, operation, child].map((span) => span.parentSpanContext?.spanId),
    [UPSTREAM, job.spanContext().spanId, own.spanContext().spanId, operation.spanContext().spanId],
  );
});

test("[TRC-2] a job's span is of the job's trace, whatever the submit named", async () => {
  await using fixture = await runtimeFixture({ tracing: watched() });
  const client = await fixture.connect();
  for (const [given, parent] of [
    [TRACE, TRACE.slice(16)],
    [`00-${TRACE}-${UPSTREAM}-01`, UPSTREAM],
    // A zero span is none.
    [`00-${TRACE}-${"0".repeat(16)}-01`, TRACE.slice(16)],
    [`${"a".repeat(16)}${"0".repeat(16)}`, "a".repeat(16)],
  ] as const) {
    const answer = await client.submit("echo", 1, {}, { trace_id: given });
    await client.terminal(answer.job_id as string);
    const span = get(await spans(1), "arcp.job echo@1.0.0");
    assert.equal(span.spanContext().traceId, answer.trace_id);
    assert.equal(span.parentSpanContext?.spanId, parent);
    assert.equal(span.parentSpanContext?.isRemote, true);
  }
  // Who began the trace does not record it: neither do we.
  const quiet = await client.submit("echo", 1, {}, { trace_id: `00-${TRACE}-${UPSTREAM}-00` });
  await client.terminal(quiet.job_id as string);
  const unnamed = await client.submit("echo");
  await client.terminal(unnamed.job_id as string);
  assert.equal(get(await spans(1), "arcp.job echo@1.0.0").spanContext().traceId, unnamed.trace_id);
  client.pair.cut();
  await spans(1);
});

test("[TRC-3] job.traceparent names the span under way; without a tracer or an SDK, the one the submit came with", async () => {
  const headers = async (tracing: Tracing | undefined, traceId: string) => {
    await using fixture = await runtimeFixture(tracing === undefined ? {} : { tracing });
    const seen: string[] = [];
    fixture.runtime.agent("parent", async (_input, job) => {
      seen.push(job.traceparent);
      await (await job.delegate("child", null)).result;
    });
    fixture.runtime.agent("child", (_input, job) => void seen.push(job.traceparent));
    const client = await fixture.connect({ features: FEATURES });
    const lease = { "agent.delegate": ["child"] };
    const answer = await client.submit("parent", null, { lease_request: lease }, { trace_id: traceId });
    assert.equal((await client.terminal(answer.job_id as string)).type, "job.result");
    return seen;
  };
  const upstream = `00-${TRACE}-${UPSTREAM}-01`;
  for (const tracing of [undefined, bare]) {
    assert.deepEqual(await headers(tracing, upstream), [upstream, upstream]);
    const bareId = `00-${TRACE}-${TRACE.slice(16)}-01`;
    assert.deepEqual(await headers(tracing, TRACE), [bareId, bareId]);
  }
  exporter.reset();
  const traced = await headers(watched(), upstream);
  const jobs = exporter.getFinishedSpans().filter(({ name }) => name.startsWith("arcp.job"));
  assert.deepEqual(traced.toSorted(), jobs.map((span) => `00-${TRACE}-${span.spanContext().spanId}-01`).toSorted());
  exporter.reset();
});

test("[TRC-3] a tool is handed the span of its own call", async () => {
  await using fixture = await runtimeFixture({ tracing: watched() });
  const handed: string[] = [];
  fixture.runtime.tool("look", (_args, { traceparent }) => void handed.push(traceparent));
  fixture.runtime.agent("worker", async (_input, job) => {
    await Promise.all([job.tools.call("look", { at: SECRET }), job.tools.call("look", { at: SECRET })]);
  });
  const client = await fixture.connect({ features: FEATURES });
  const answer = await client.submit("worker", null, { lease_request: { "tool.call": ["look"] } });
  assert.equal((await client.terminal(answer.job_id as string)).type, "job.result");
  const calls = exporter.getFinishedSpans().filter(({ name }) => !name.startsWith("arcp.job"));
  assert.equal(calls.length, 2);
  assert.deepEqual(
    handed.toSorted(),
    calls.map((span) => `00-${answer.trace_id}-${span.spanContext().spanId}-01`).toSorted(),
  );
  for (const { attributes } of calls) {
    assert.deepEqual(attributes, { "arcp.job_id": answer.job_id, "arcp.tool": "look" });
  }
  client.pair.cut();
  exporter.reset();
});

test("[TRC-3] a header is taken only when it is of the trace and names a span", () => {
  const half = { traceId: TRACE, spanId: TRACE.slice(16), flags: 1 };
  for (const header of [
    undefined,
    "",
    "nonsense",
    `00-${"1".repeat(32)}-${UPSTREAM}-01`,
    `00-${TRACE}-${"0".repeat(16)}-01`,
  ]) {
    assert.deepEqual(traceParentOf(TRACE, header), half, header);
  }
  assert.deepEqual(traceParentOf(TRACE, `00-${TRACE}-${UPSTREAM}-ff`), { traceId: TRACE, spanId: UPSTREAM, flags: 1 });
  assert.deepEqual(traceParentOf(TRACE, `00-${TRACE}-${UPSTREAM}-00`).flags, 0);
  assert.equal(formatTraceParent(half), `00-${TRACE}-${TRACE.slice(16)}-01`);
});

test("[TRC-4] spans of failures tell the code, and nothing that an agent or a client has said", async () => {
  await using fixture = await runtimeFixture({ tracing: watched() });
  fixture.runtime.agent("fails", () => {
    throw new ArcpError("TIMEOUT", `no way in with ${SECRET}`);
  });
  fixture.runtime.agent("denied", async (_input, job) => {
    await job.delegate("echo", SECRET);
  });
  const client = await fixture.connect({ features: FEATURES });
  await client.terminal(await client.start("fails", { secret: SECRET }));
  const failed = get(await spans(1), "arcp.job fails@1.0.0");
  assert.equal(failed.status.code, api.SpanStatusCode.ERROR);
  assert.deepEqual([failed.attributes["error.type"], failed.attributes["arcp.job.status"]], ["TIMEOUT", "timed_out"]);
  await client.terminal(await client.start("denied", SECRET));
  const denied = await spans(2);
  assert.equal(get(denied, "arcp.agent.delegate").attributes["error.type"], "PERMISSION_DENIED");
  const jobId = await client.start("sleeper");
  await client.ask("job.cancel", {}, { job_id: jobId });
  await client.terminal(jobId);
  const cancelled = await spans(1);
  assert.equal(get(cancelled, "arcp.job sleeper@1.0.0").attributes["arcp.job.status"], "cancelled");
  client.pair.cut();
  const all = [failed, ...denied.values(), ...cancelled.values(), ...(await spans(1)).values()];
  for (const { name, attributes, status, events } of all) {
    const told = JSON.stringify({ name, attributes, status, events });
    assert.ok(!told.includes(SECRET), told);
    assert.ok(!told.includes("alice"), told);
  }
});

/**
 * Tracing: with OpenTelemetry's API, a session, a job, each of its operations, and its children have spans; the
 * agent's own hang among them, and what it calls gets a W3C `traceparent`.
 *
 *     node examples/tracing.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as api from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { bearerTokens, openTelemetry, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

// As `NodeSDK` sets it up, with an exporter that keeps what it gets.
const exporter = new InMemorySpanExporter();
api.context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
api.trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
  tracing: openTelemetry(api),
});

runtime.tool("search", (_args, { traceparent }) => (/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/.test(traceparent) ? 3 : 0));
runtime.agent("helper", (_input, job) => job.tools.call("search"));
runtime.agent("worker", (_input, job) =>
  api.trace.getTracer("my agent").startActiveSpan("plan the work", async (span) => {
    const found = await job.tools.call("search");
    const helper = await job.delegate("helper", null, { lease: { "tool.call": ["search"] } });
    const helped = await helper.result;
    span.end();
    return { found, helped };
  }),
);

{
  await using server = await serve(runtime, { port: 0 });
  await using session = await connect(server.url, { token: "dev-token" });
  const job = await session.submit("worker", null, {
    leaseRequest: { "tool.call": ["*"], "agent.delegate": ["*"] },
    // Of whoever asked us: the job's span hangs under it.
    traceId: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
  });
  console.log("result:", await job.result);
}

const started = ({ startTime: [seconds, nanoseconds] }: ReadableSpan): number => seconds * 1e9 + nanoseconds;
const spans = exporter.getFinishedSpans().toSorted((a, b) => started(a) - started(b));
const ids = new Set(spans.map((span) => span.spanContext().spanId));

function print(span: ReadableSpan, indent: string): void {
  console.log(`${indent}${span.name}`);
  for (const other of spans) {
    if (other.parentSpanContext?.spanId === span.spanContext().spanId) print(other, `${indent}  `);
  }
}
for (const root of spans.filter(({ parentSpanContext: parent }) => parent === undefined || !ids.has(parent.spanId))) {
  console.log(root.parentSpanContext === undefined ? "a trace of its own:" : "the caller's trace:");
  print(root, "  ");
}

/** Metrics as Prometheus gets them, and that the documents name the same ones. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { eventSource, restOf } from "../../test/event-source.ts";
import { newHttpServer } from "../../test/http-server.ts";
import { connect } from "../client/index.ts";
import { ManualClock } from "../testing/manual-clock.ts";

const DEADLINE = { timeout: 30_000 };

/** The value of a sample by its name with its labels. */
const sampleOf = (text: string, sample: string): number | undefined => {
  const line = text.split("\n").find((candidate) => candidate.startsWith(`${sample} `));
  return line === undefined ? undefined : Number(line.slice(sample.length + 1));
};

/** Names as declared: those of a histogram without their suffixes. */
const declaredIn = (text: string): string[] => [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name = ""]) => name);

test("[SRV-32] what a process does is counted", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, server } = await newHttpServer(stack, { server: { metrics: "token" } });
  const session = stack.use(await connect(server.url, { token: "alices" }));
  await (await session.submit("echo", 1)).result;
  const running = await session.submit("wait");
  for await (const event of running) {
    assert.equal(event.kind, "log");
    break;
  }
  await restOf(await eventSource(server.port, `/v1/jobs/${(await session.listJobs()).jobs.at(-1)?.job_id}/events`));
  await ask("/v1/jobs/job_x");
  await ask("/v1/nothing/at/all");
  const answer = await ask("/metrics");
  assert.equal(answer.status, 200);
  assert.match(String(answer.headers["content-type"]), /^text\/plain; version=0\.0\.4/);
  const { text } = answer;
  for (const [sample, value] of [
    ["holdfast_connections", 1],
    ["holdfast_sessions_attached", 1],
    ["holdfast_followers", 0],
    ["holdfast_jobs_running", 1],
    ["holdfast_events_unstored", 0],
    ["holdfast_jobs_started_total", 2],
    ['holdfast_jobs_ended_total{status="success"}', 1],
    ['holdfast_jobs_ended_total{status="error"}', 0],
    ["holdfast_events_appended_total", 2],
    ['holdfast_events_sent_total{to="session"}', 2],
    ['holdfast_events_sent_total{to="follower"}', 1],
    ['holdfast_store_errors_total{during="append"}', 0],
    ['holdfast_http_requests_total{route="/v1/jobs/{id}",method="GET",status="404"}', 1],
    ['holdfast_http_requests_total{route="none",method="GET",status="404"}', 1],
  ] as const) {
    assert.equal(sampleOf(text, sample), value, `${sample}\n${text}`);
  }
  assert.ok((sampleOf(text, "holdfast_append_seconds_count") ?? 0) >= 2);
  assert.doesNotMatch(text, /alice|job_x|at\/all/);
});

test("[SRV-32] a store that fails is counted by what it failed at", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const { ask, store } = await newHttpServer(stack, { runtime: { clock }, server: { metrics: "open" } });
  store.goDown();
  await ask("/v1/jobs");
  await ask("/v1/jobs/job_x");
  store.recover();
  const { text } = await ask("/metrics", { token: "" });
  assert.equal(sampleOf(text, 'holdfast_store_errors_total{during="request"}'), 2);
});

test("[SRV-32] metrics are for good tokens, for everybody, or not there, as the host says", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const status = async (metrics: "token" | "open" | undefined, token: string, method = "GET") => {
    const { ask } = await newHttpServer(stack, { server: metrics === undefined ? {} : { metrics } });
    return (await ask("/metrics", { token, method })).status;
  };
  assert.equal(await status("token", ""), 401);
  assert.equal(await status("token", "wrong"), 401);
  assert.equal(await status("token", "ottos"), 200);
  assert.equal(await status("open", ""), 200);
  assert.equal(await status("open", "", "POST"), 405);
  assert.equal(await status(undefined, "alices"), 404);
});

test("[SRV-33] the documented metrics and those of the dashboard are the ones that exist", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack, { server: { metrics: "open" } });
  const names = declaredIn((await ask("/metrics", { token: "" })).text).sort();
  const docs = new URL("../../docs/", import.meta.url);
  const documented = [...(await readFile(new URL("metrics.md", docs), "utf8")).matchAll(/^\| `(holdfast_\w+)`/gm)];
  assert.deepEqual(documented.map(([, name]) => name).sort(), names);
  const dashboard = await readFile(new URL("grafana-dashboard.json", docs), "utf8");
  const shown = new Set(
    [...dashboard.matchAll(/holdfast_\w+/g)].map(([name]) => name.replace(/_(bucket|count|sum)$/, "")),
  );
  assert.deepEqual([...shown].sort(), names);
});

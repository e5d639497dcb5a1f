/** A job's events over HTTP: history, live, resumed, trimmed, slow readers. */
import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import type { ServerResponse } from "node:http";
import { test } from "node:test";
import { eventSource, nextEvent, restOf, type SentEvent } from "../../../test/event-source.ts";
import { newHttpServer } from "../../../test/http-server.ts";
import { Runtime } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";
import { streamTo } from "./stream.ts";

const DEADLINE = { timeout: 40_000 };

const idsOf = (events: readonly SentEvent[]): number[] => events.map(({ id }) => Number(id));
const upTo = (last: number, first = 1): number[] => Array.from({ length: last - first + 1 }, (_, at) => first + at);

/** A server whose agent `steps` logs a line whenever the test says so, and ends at the test's word. */
async function newStage(stack: AsyncDisposableStack, given: Parameters<typeof newHttpServer>[1] = {}) {
  const said = new EventEmitter();
  const { server, ask, runtime, ...rest } = await newHttpServer(stack, {
    ...given,
    prepare: (runtime) => {
      runtime.agent("steps", async (_, job) => {
        for (;;) {
          const [text] = (await once(said, "step", { signal: job.signal })) as [string];
          if (text === "end") return { done: true };
          await job.log(text);
          await job.flush();
          said.emit("stored");
        }
      });
      runtime.agent("many", async (input, job) => {
        for (let n = 1; n < Number(input); n += 1) await job.log("x".repeat(1_000));
      });
      given.prepare?.(runtime);
    },
  });
  const submit = async (agent: string, input: unknown = null) => {
    const { status, json } = await ask("/v1/jobs", { method: "POST", body: { agent, input } });
    assert.equal(status, 201);
    return String(json["job_id"]);
  };
  const step = async (text: string) => {
    const stored = once(said, "stored");
    said.emit("step", text);
    await stored;
  };
  const follow = (jobId: string, asking: Parameters<typeof eventSource>[2] = {}) =>
    eventSource(server.port, `/v1/jobs/${jobId}/events`, asking);
  const ended = async (jobId: string) => {
    const source = await follow(jobId);
    await restOf(source);
  };
  const otherProcess = async () => {
    const other = new Runtime({ store: sqlite(rest.file), auth: bearerTokens({ alices: "alice" }) });
    const { port, stop } = await serve(other, { port: 0 });
    stack.defer(() => stop({ drainMs: 0 }));
    return port;
  };
  return {
    server,
    ask,
    runtime,
    otherProcess,
    submit,
    step,
    follow,
    ended,
    end: () => said.emit("step", "end"),
    ...rest,
  };
}

test("[SRV-23] what is stored and what comes is one stream, until the terminal event", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { submit, step, follow, end } = await newStage(stack);
  const jobId = await submit("steps");
  await step("one");
  const source = await follow(jobId);
  assert.equal(source.status, 200);
  assert.equal(source.headers["content-type"], "text/event-stream; charset=utf-8");
  assert.equal(source.headers["cache-control"], "no-store");
  const first = await nextEvent(source);
  assert.deepEqual([first?.id, first?.event], ["1", "job.event"]);
  const { kind, body } = JSON.parse(String(first?.data)) as { kind: string; body: { message: string } };
  assert.deepEqual([kind, body.message], ["log", "one"]);
  await step("two\nlines");
  const second = await nextEvent(source);
  assert.equal((JSON.parse(String(second?.data)) as { body: { message: string } }).body.message, "two\nlines");
  end();
  const [last, ...more] = await restOf(source);
  assert.deepEqual([last?.id, last?.event, more], ["3", "job.result", []]);
  assert.deepEqual((JSON.parse(String(last?.data)) as { result: unknown }).result, { done: true });
});

test("[SRV-23] Last-Event-ID goes on after what was had; after the end there is nothing", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { submit, follow, ended } = await newStage(stack);
  const jobId = await submit("many", 40);
  await ended(jobId);
  for (const [had, first] of [
    ["0", 1],
    ["", 1],
    ["17", 18],
    ["39", 40],
  ] as const) {
    const events = await restOf(await follow(jobId, { headers: { "last-event-id": had } }));
    assert.deepEqual(idsOf(events), upTo(40, first), had);
  }
  assert.equal((await follow(jobId, { headers: { "last-event-id": "40" } })).status, 204);
  for (const wrong of ["41", "-1", "x", "1e3", "999999999999999999"]) {
    assert.equal((await follow(jobId, { headers: { "last-event-id": wrong } })).status, 400, wrong);
  }
});

test("[SRV-23] another's job is not there, and nobody follows what he may not", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { submit, follow, runtime, ask } = await newStage(stack);
  const jobId = await submit("wait");
  assert.equal((await follow(jobId, { token: "bobs" })).status, 404);
  assert.equal((await follow("job_x")).status, 404);
  assert.equal((await ask(`/v1/jobs/${jobId}/events`, { method: "HEAD" })).status, 200);
  assert.equal(runtime.jobs.followers, 0);
  assert.equal((await nextEvent(await follow(jobId, { token: "ottos" })))?.id, "1");
});

test(
  "[SRV-23] events that were removed are a gap that says which, and the reader goes on behind it",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const clock = new ManualClock();
    const { submit, step, end, store, otherProcess } = await newStage(stack, {
      runtime: { clock, caps: { maxBufferedEvents: 3 }, janitorIntervalMs: 1_000 },
    });
    const jobId = await submit("steps");
    for (const text of ["1", "2", "3", "4", "5", "6", "7", "8"]) await step(text);
    while ((await store.jobs.get(jobId))?.floorN !== 5) await clock.advance(1_000);
    // Who wrote them has them in memory still.
    const elsewhere = await otherProcess();
    const follow = (had: string) =>
      eventSource(elsewhere, `/v1/jobs/${jobId}/events`, { headers: { "last-event-id": had } });
    const source = await follow("2");
    const gap = await nextEvent(source);
    assert.deepEqual([gap?.event, gap?.id, gap?.data], ["gap", "5", '{"from":3,"through":5,"count":3}']);
    assert.equal((await nextEvent(source))?.id, "6");
    source.request.destroy();
    const again = await follow(String(gap?.id));
    end();
    assert.deepEqual(idsOf(await restOf(again)), [6, 7, 8, 9]);
  },
);

test("[SRV-23] a quiet stream says that it lives", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const { submit, follow } = await newStage(stack, { runtime: { clock } });
  const source = await follow(await submit("wait"));
  assert.equal((await nextEvent(source))?.id, "1");
  const next = source.events.next();
  let told = false;
  void next.then(() => {
    told = true;
  });
  while (!told) await clock.advance(1_000);
  assert.deepEqual((await next).value, { comment: "" });
});

test("[SRV-23] events of a job that another process runs come as they are stored there", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { submit, step, end, otherProcess } = await newStage(stack);
  const port = await otherProcess();
  const jobId = await submit("steps");
  const source = await eventSource(port, `/v1/jobs/${jobId}/events`);
  await step("over there");
  assert.equal((await nextEvent(source))?.id, "1");
  end();
  assert.deepEqual(idsOf(await restOf(source)), [2]);
});

test("[SRV-23] a reader that hangs up, and a token that ends, free what they held", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const auth = bearerTokens({ alices: { principal: "alice", expiresAt: clock.wall() + 5_000 } }, { clock });
  const { submit, follow, runtime } = await newStage(stack, { runtime: { clock, auth } });
  const jobId = await submit("wait");
  const [left, over] = [await follow(jobId), await follow(jobId)];
  await nextEvent(left);
  await nextEvent(over);
  assert.equal(runtime.jobs.followers, 2);
  left.request.destroy();
  while (runtime.jobs.followers > 1) await new Promise((resolve) => setImmediate(resolve));
  await clock.advance(5_000);
  assert.deepEqual(await restOf(over), []);
  assert.equal(runtime.jobs.followers, 0);
});

test("[SRV-23] a server that stops tells its readers how their jobs ended", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { submit, follow, server } = await newStage(stack);
  const source = await follow(await submit("wait"));
  assert.equal((await nextEvent(source))?.id, "1");
  const stopped = server.stop({ drainMs: 0 });
  const [last] = await restOf(source);
  await stopped;
  assert.equal(last?.event, "job.error");
  assert.deepEqual((JSON.parse(String(last?.data)) as { details: unknown }).details, { reason: "shutdown" });
});

test("[SRV-23] nobody waits for a reader that does not read, and it misses nothing", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { submit, follow, ask } = await newStage(stack);
  const jobId = await submit("many", 20_000);
  const slow = await follow(jobId);
  slow.response.pause();
  const quick = await restOf(await follow(jobId));
  assert.equal(quick.length, 20_000);
  assert.equal((await ask(`/v1/jobs/${jobId}`)).json["status"], "success");
  assert.deepEqual(idsOf(await restOf(slow)), upTo(20_000));
});

/** A response whose socket takes nothing until it is told to. */
class StuckResponse extends EventEmitter {
  writableLength = 0;
  ended = false;
  destroyed = false;
  flushHeaders(): void {
    this.writableLength = 0;
  }
  write(piece: Uint8Array): boolean {
    this.writableLength += piece.length;
    return false;
  }
  end(): void {
    this.ended = true;
  }
  destroy(): void {
    this.destroyed = true;
    this.emit("close");
  }
  take(): void {
    this.writableLength = 0;
    this.emit("drain");
  }
}

function stuckStream(clock = new ManualClock()) {
  const response = new StuckResponse();
  let pieces = 0;
  const body = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        if (pieces === 40) controller.close();
        else controller.enqueue(new Uint8Array(64 * 1024));
        pieces += 1;
      },
    },
    { highWaterMark: 0 },
  );
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  const done = streamTo(response as unknown as ServerResponse, body, { signal: gone.signal, clock });
  const settled = async () => {
    for (let turn = 0; turn < 500; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    return pieces;
  };
  return { response, done, settled, clock };
}

test("[SRV-23] no more is read for a reader while 256 KiB wait for it", DEADLINE, async () => {
  const { response, done, settled } = stuckStream();
  assert.equal(await settled(), 5);
  response.take();
  assert.equal(await settled(), 10);
  while (!response.ended) {
    response.take();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await done;
});

test("[SRV-23] a reader that takes nothing for a minute is cut", DEADLINE, async () => {
  const { response, done, settled, clock } = stuckStream();
  await settled();
  await clock.advance(59_999);
  assert.equal(response.destroyed, false);
  await clock.advance(1);
  assert.equal(response.destroyed, true);
  await done;
});

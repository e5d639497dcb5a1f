/** Results in pieces from the agent's hand to the client's: a real runtime, a real client, memory between. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError, type ConnectOptions, connect, type JobHandle, type ResultPiece } from "../src/client/index.ts";
import { FEATURES } from "../src/protocol/index.ts";
import type { ResultStream } from "../src/runtime/index.ts";
import { type MemoryPair, memoryPair } from "../src/transport/memory.ts";
import { eventually, type RuntimeFixture, runtimeFixture, turns } from "./runtime-fixture.ts";

const INLINE = FEATURES.filter((feature) => feature !== "result_chunk");

/** A client's session, and the wire of its newest connection. */
async function clientOf(fixture: RuntimeFixture, options: Partial<ConnectOptions> = {}) {
  const pairs: MemoryPair[] = [];
  const session = await connect(
    async () => {
      const pair = memoryPair({ auto: true });
      pairs.push(pair);
      fixture.runtime.accept(pair.b);
      return pair.a;
    },
    { token: "alice", clock: fixture.clock, reconnect: { random: () => 0.5 }, ...options },
  );
  return { session, cut: () => pairs.at(-1)?.cut() };
}

/** Reads in the background. */
function reading(job: JobHandle) {
  const stream = job.stream();
  const pieces: ResultPiece[] = [];
  const done = (async () => {
    for await (const piece of stream) pieces.push(piece);
  })();
  done.catch(() => undefined);
  return { stream, pieces, done };
}

const isCode = (code: string, message: RegExp) => (error: unknown) =>
  error instanceof ArcpError && error.code === code && message.test(error.message);

test("[JOB-20] what an agent streams arrives while it runs, and its return ends it", async () => {
  await using fixture = await runtimeFixture();
  const { session } = await clientOf(fixture);
  const outs = new Map<string, ResultStream>();
  const go = Promise.withResolvers<void>();
  fixture.runtime.agent("poet", async (_input, job) => {
    const out = job.stream({ contentType: "text/plain" });
    outs.set(job.id, out);
    await out.write("roses are ");
    await go.promise;
    await out.write("red 🌹");
  });
  const job = await session.submit("poet");
  const { stream, pieces, done } = reading(job);
  await eventually(() => pieces.length === 1, "the first piece");
  assert.deepEqual(pieces, ["roses are "]);
  assert.equal(stream.contentType, "text/plain");
  go.resolve();
  await done;
  assert.equal(pieces.join(""), "roses are red 🌹");
  const end = await job.terminal;
  assert.match(end.result_id ?? "", /^res_/);
  assert.equal(end.result_size, Buffer.byteLength("roses are red 🌹"));
  assert.equal(end.result, undefined);
  await assert.rejects(job.result, /was read as a stream/);
  await session.close();
});

test("[CLT-13] text is a string and bytes are bytes, in chunks or in one, awaited or read", async () => {
  await using fixture = await runtimeFixture();
  const bytes = Uint8Array.from({ length: 200_000 }, (_, index) => index % 251);
  const text = "žluťoučký kůň 🐎 ".repeat(10_000);
  fixture.runtime.agent("give", async (input, job) => {
    const out = job.stream();
    await out.write(input === "bytes" ? bytes : text);
    await out.end("as asked");
  });
  for (const features of [FEATURES, INLINE]) {
    const { session } = await clientOf(fixture, { features });
    assert.equal(session.features.includes("result_chunk"), features === FEATURES);
    const asText = await session.submit("give", "text");
    assert.equal(await asText.result, text);
    assert.equal((await asText.terminal).summary, "as asked");
    assert.deepEqual(await (await session.submit("give", "bytes")).result, bytes);

    const readText = reading(await session.submit("give", "text"));
    await readText.done;
    assert.equal(readText.pieces.join(""), text);
    const readBytes = reading(await session.submit("give", "bytes"));
    await readBytes.done;
    assert.deepEqual(Buffer.concat(readBytes.pieces as Uint8Array[]), Buffer.from(bytes));
    assert.ok(readBytes.pieces.length === (features === FEATURES ? 4 : 1));

    // Results that were never in pieces; and late, when the job is over.
    for (const [value, expected] of [
      ["plain", ["plain"]],
      [{ a: 1 }, ['{"a":1}']],
      [null, []],
    ] as const) {
      const job = await session.submit("echo", value);
      const { pieces, done } = reading(job);
      await done;
      assert.deepEqual(pieces, expected);
      assert.deepEqual(await job.result, value);
      const late = await session.submit("echo", value);
      await late.result;
      const all = reading(late);
      await all.done;
      assert.deepEqual(all.pieces, expected);
    }
    const late = await session.submit("give", "text");
    await late.terminal;
    const all = reading(late);
    await all.done;
    assert.equal(all.pieces.join(""), text);
    await session.close();
  }
});

test("[CLT-14] a reader goes on through drops and resumes, and gets each piece once", async () => {
  await using fixture = await runtimeFixture();
  const { session, cut } = await clientOf(fixture);
  const job = await session.submit("puppet");
  const { job: context, end } = await fixture.puppet(job.id);
  const out = context.stream();
  const { pieces, done } = reading(job);
  const written: string[] = [];
  for (let round = 0; round < 20; round += 1) {
    for (let index = 0; index < 5; index += 1) {
      const piece = `${round}.${index} `;
      written.push(piece);
      await out.write(piece);
    }
    if (round % 4 === 0) cut();
    await turns(round % 3);
    await fixture.clock.advance(1_000);
  }
  end();
  let over = false;
  void done.finally(() => {
    over = true;
  });
  while (!over) {
    await fixture.clock.advance(100);
    await turns(1);
  }
  assert.deepEqual(pieces, written);
  await session.close();
});

test("[CLT-14] a reader is told when the job fails, after what came before; and when the session closes", async () => {
  await using fixture = await runtimeFixture();
  const { session } = await clientOf(fixture);
  const job = await session.submit("puppet");
  const { job: context, fail } = await fixture.puppet(job.id);
  const out = context.stream();
  await out.write("some");
  fail(new ArcpError("BUDGET_EXHAUSTED", "no more"));
  await job.terminal;
  const { pieces, done } = reading(job);
  await assert.rejects(done, isCode("BUDGET_EXHAUSTED", /no more/));
  assert.deepEqual(pieces, ["some"]);

  const live = await session.submit("puppet");
  const second = await fixture.puppet(live.id);
  const reader = reading(live);
  await second.job.stream().write("some");
  await eventually(() => reader.pieces.length === 1, "the piece");
  second.fail(new ArcpError("TIMEOUT", "too slow"));
  await assert.rejects(reader.done, isCode("TIMEOUT", /too slow/));

  const left = await session.submit("puppet");
  await (await fixture.puppet(left.id)).job.stream().write("some");
  const cutOff = reading(left);
  await eventually(() => cutOff.pieces.length === 1, "the piece");
  await session.close();
  await assert.rejects(cutOff.done, /session was closed/);
});

test("[CLT-14] the same as a WHATWG stream; leaving it early lets go of the rest", async () => {
  await using fixture = await runtimeFixture();
  const { session } = await clientOf(fixture);
  fixture.runtime.agent("count", async (_input, job) => {
    const out = job.stream({ encoding: "utf8" });
    const source = new TransformStream<string, string>();
    const piped = source.readable.pipeTo(out.writable);
    const writer = source.writable.getWriter();
    for (const piece of ["one ", "two ", "three"]) await writer.write(piece);
    await writer.close();
    await piped;
  });
  const job = await session.submit("count");
  const { readable } = job.stream();
  assert.equal(await new Response(readable.pipeThrough(new TextEncoderStream())).text(), "one two three");
  assert.throws(() => job.stream(), /read already/);

  const left = await session.submit("count");
  for await (const piece of left.stream()) {
    assert.equal(piece, "one ");
    break;
  }
  assert.equal((await left.terminal).final_status, "success");
  await assert.rejects(left.result, /read as a stream/);

  const cancelled = await session.submit("count");
  await cancelled.stream().readable.cancel();
  assert.equal((await cancelled.terminal).final_status, "success");
  await session.close();
});

test("[CLT-14] a subscriber in the middle is told that the first chunks are missing", async () => {
  await using fixture = await runtimeFixture();
  const { session } = await clientOf(fixture);
  const job = await session.submit("puppet");
  const { job: context, end } = await fixture.puppet(job.id);
  const out = context.stream();
  await out.write("first");
  await context.flush();
  const { session: other } = await clientOf(fixture);
  const late = reading(await other.subscribe(job.id));
  const { session: third } = await clientOf(fixture);
  const whole = reading(await third.subscribe(job.id, { history: true }));
  await out.write("second");
  end();
  await assert.rejects(late.done, /chunk 1 came where 0 was due.*history: true/);
  await whole.done;
  assert.equal(whole.pieces.join(""), "firstsecond");
  assert.equal(await job.result, "firstsecond");
  await third.close();
  await other.close();
  await session.close();
});

test("[JOB-21] one result: no second stream, no value besides, nothing over the cap, and nothing left half", async () => {
  await using fixture = await runtimeFixture({ maxResultBytes: 10 });
  const { session } = await clientOf(fixture);
  const cases: [name: string, code: string, message: RegExp, handler: Parameters<typeof fixture.runtime.agent>[1]][] = [
    [
      "value",
      "INTERNAL_ERROR",
      /in chunks and returned another/,
      async (_input, job) => {
        await job.stream().write("x");
        return { x: 1 };
      },
    ],
    [
      "value-by-hand",
      "INTERNAL_ERROR",
      /in chunks and returned another/,
      async (_input, job) => {
        await job.emit("result_chunk", { result_id: "r", chunk_seq: 0, data: "x", encoding: "utf8", more: false });
        return "y";
      },
    ],
    [
      "two",
      "INTERNAL_ERROR",
      /second result stream/,
      (_input, job) => {
        job.stream();
        job.stream();
      },
    ],
    [
      "by-hand-besides",
      "INTERNAL_ERROR",
      /is not this job's result/,
      async (_input, job) => {
        await job.stream().write("x");
        await job.emit("result_chunk", { result_id: "r", chunk_seq: 1, data: "x", encoding: "utf8", more: false });
      },
    ],
    [
      "too-much",
      "INTERNAL_ERROR",
      /over 10 bytes/,
      async (_input, job) => {
        const out = job.stream();
        // Nobody awaits it, or asks what became of it.
        void out.write("12345678901");
      },
    ],
    [
      "swallowed",
      "INVALID_REQUEST",
      /no UTF-8/,
      async (_input, job) => {
        const out = job.stream({ encoding: "utf8" });
        await out.write(Uint8Array.of(0xff)).catch(() => undefined);
      },
    ],
  ];
  for (const [name, code, message, handler] of cases) {
    fixture.runtime.agent(name, handler);
    const job = await session.submit(name);
    await assert.rejects(job.result, isCode(code, message), name);
  }
  // A stream that nothing was written to is an empty text.
  fixture.runtime.agent("empty", (_input, job) => void job.stream());
  assert.equal(await (await session.submit("empty")).result, "");
  await session.close();
});

test("[JOB-6] a cancel frees an agent that writes or pipes its result", async () => {
  await using fixture = await runtimeFixture();
  const { session } = await clientOf(fixture);
  fixture.runtime.agent("endless", async (_input, job) => {
    const out = job.stream();
    for (;;) await out.write("on and on ");
  });
  fixture.runtime.agent("silent", async (_input, job) => {
    await new ReadableStream({ pull: () => new Promise(() => undefined) }).pipeTo(job.stream().writable);
  });
  for (const name of ["endless", "silent"]) {
    const job = await session.submit(name);
    await turns(5);
    await job.cancel();
    assert.equal((await job.terminal).final_status, "cancelled");
  }
  await session.close();
});

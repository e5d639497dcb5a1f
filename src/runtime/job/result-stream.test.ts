import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ArcpError, type EventBody } from "../../protocol/index.ts";
import { ChunkedResult } from "./chunked-result.ts";
import { JobResultStream, type StreamOptions } from "./result-stream.ts";

type Chunk = EventBody<"result_chunk">;

/** A stream whose chunks pass the check of every job's, and are kept. */
function opened(options?: StreamOptions, maxBytes = 1e9) {
  const chunks: Chunk[] = [];
  const follower = new ChunkedResult(maxBytes);
  const stop = new AbortController();
  const out = new JobResultStream(
    {
      resultId: "res_1",
      signal: stop.signal,
      emit: async (chunk) => {
        follower.take(chunk);
        chunks.push(chunk);
      },
    },
    options,
  );
  const whole = () => Buffer.concat(chunks.map(({ data, encoding }) => Buffer.from(data, encoding)));
  return { out, chunks, follower, stop, whole };
}

const streamOf = <T>(pieces: Iterable<T> | AsyncIterable<T>) =>
  new ReadableStream<T>({
    start: async (controller) => {
      for await (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });

const code = (expected: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof ArcpError, String(error));
  assert.equal(error.code, expected);
  assert.match(error.message, message);
  return true;
};

/** Pieces of any text or bytes, cut anywhere. */
const cuts = fc.array(fc.nat(400), { maxLength: 12 });
function cut<T extends string | Uint8Array>(whole: T, at: readonly number[]): T[] {
  const places = [0, ...at.map((place) => Math.min(place, whole.length)).sort((a, b) => a - b), whole.length];
  return places.slice(1).map((end, index) => whole.slice(places[index], end) as T);
}
const chunkBytes = fc.integer({ min: 4, max: 64 });
/** Halves of surrogate pairs without the other half included. */
const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 300 }),
  fc.array(fc.constantFrom("a", "\ud83d", "\ude00", "€")).map((units) => units.join("")),
);

test("[JOB-20] any text, cut anywhere, comes together again, and no chunk ends within a character", async () => {
  await fc.assert(
    fc.asyncProperty(anyText, cuts, chunkBytes, async (text, at, size) => {
      const { out, chunks, follower } = opened({ chunkBytes: size, encoding: "utf8" });
      for (const piece of cut(text, at)) await out.write(piece);
      await out.end();
      assert.equal(chunks.map(({ data }) => data).join(""), text.toWellFormed());
      for (const { data, encoding } of chunks) {
        assert.equal(encoding, "utf8");
        assert.ok(data.isWellFormed());
        assert.ok(Buffer.byteLength(data) <= size);
      }
      assert.deepEqual(follower.payload(undefined, undefined), {
        final_status: "success",
        result_id: "res_1",
        result_size: Buffer.byteLength(text.toWellFormed()),
      });
    }),
    { numRuns: 10_000 },
  );
});

test("[JOB-20] any bytes, cut anywhere, come together again, as base64 or as the text that they are", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), cuts, chunkBytes, async (bytes, at, size) => {
      const { out, whole, follower } = opened({ chunkBytes: size, encoding: "base64" });
      for (const piece of cut(bytes, at)) await out.write(piece);
      await out.end();
      assert.deepEqual(whole(), Buffer.from(bytes));
      assert.equal(follower.payload(undefined, undefined)?.result_size, bytes.length);
    }),
    { numRuns: 10_000 },
  );
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: "binary" }), cuts, chunkBytes, async (text, at, size) => {
      const { out, chunks } = opened({ chunkBytes: size, encoding: "utf8" });
      for (const piece of cut(Buffer.from(text), at)) await out.write(piece);
      await out.end();
      assert.equal(chunks.map(({ data }) => data).join(""), text.toWellFormed());
      assert.ok(chunks.every(({ data }) => data.isWellFormed()));
    }),
    { numRuns: 10_000 },
  );
});

test("[JOB-20] text and bytes in one stream keep their order, whichever it is of", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.string({ unit: "binary" })),
      fc.constantFrom("utf8" as const, "base64" as const),
      async (texts, encoding) => {
        const { out, whole } = opened({ encoding, chunkBytes: 7 });
        for (const [index, text] of texts.entries()) await out.write(index % 2 === 0 ? text : Buffer.from(text));
        await out.end();
        assert.equal(whole().toString(), texts.join("").toWellFormed());
      },
    ),
    { numRuns: 1_000 },
  );
});

test("[JOB-20] pieces go out as they come, cut to 64 KiB; the first says what it is, the last that it is the last", async () => {
  const { out, chunks } = opened({ contentType: "text/plain" });
  await out.write("a");
  assert.deepEqual(chunks, [
    { result_id: "res_1", chunk_seq: 0, data: "a", encoding: "utf8", more: true, content_type: "text/plain" },
  ]);
  await out.write("");
  await out.write("€".repeat(50_000));
  await out.end("three sorts");
  assert.deepEqual(
    chunks.map(({ chunk_seq, data, more }) => [chunk_seq, Buffer.byteLength(data), more]),
    [
      [0, 1, true],
      [1, 65_535, true],
      [2, 65_535, true],
      [3, 150_000 - 2 * 65_535, true],
      [4, 0, false],
    ],
  );
  assert.equal(out.summary, "three sorts");
  const bytes = opened();
  await bytes.out.write(new Uint8Array(65_537));
  await bytes.out.end();
  assert.deepEqual(
    bytes.chunks.map(({ encoding, data }) => [encoding, Buffer.from(data, "base64").length]),
    [
      ["base64", 65_536],
      ["base64", 1],
      ["base64", 0],
    ],
  );
  for (const wrong of [0, 3, 5.5, 131_073, Number.NaN]) {
    assert.throws(() => opened({ chunkBytes: wrong }), new RegExp(`chunkBytes: ${wrong} `));
  }
});

test("[JOB-20] writes that nobody awaits keep their order", async () => {
  const { out, whole } = opened({ chunkBytes: 4 });
  const writes = Array.from({ length: 200 }, (_, index) => out.write(`${index},`));
  await out.end();
  await Promise.all(writes);
  assert.equal(whole().toString(), Array.from({ length: 200 }, (_, index) => `${index},`).join(""));
});

test("[JOB-21] a write that is refused ends the result: every later one and the end reject for the same", async () => {
  const failing: [name: string, write: (out: JobResultStream) => Promise<void>, error: (e: unknown) => boolean][] = [
    ["too much", (out) => out.write("x".repeat(101)), code("INTERNAL_ERROR", /over 100 bytes/)],
    ["no UTF-8", (out) => out.write(Uint8Array.of(0xff)), code("INVALID_REQUEST", /no UTF-8.*base64/)],
    ["no piece", (out) => out.write(7 as never), code("INVALID_REQUEST", /not number/)],
    [
      "half a character",
      async (out) => {
        await out.write(Uint8Array.of(0xe2, 0x82));
        await out.write("text");
      },
      code("INVALID_REQUEST", /within a character/),
    ],
  ];
  for (const [name, write, expected] of failing) {
    const { out, follower } = opened({ encoding: "utf8" }, 100);
    await assert.rejects(write(out), expected, name);
    await assert.rejects(out.write("more"), expected, name);
    await assert.rejects(out.end(), expected, name);
    assert.throws(() => follower.payload(undefined, undefined) ?? assert.fail("no result"), Error, name);
  }
  const cutOff = opened({ encoding: "utf8" });
  await cutOff.out.write(Uint8Array.of(0xe2, 0x82));
  await assert.rejects(cutOff.out.end(), code("INVALID_REQUEST", /within a character/));

  const ended = opened();
  await ended.out.end();
  await ended.out.end();
  await assert.rejects(ended.out.write("late"), code("INTERNAL_ERROR", /has its end/));
});

test("[JOB-16] writes that pile up because nobody awaits them are refused", async () => {
  const many = opened();
  const writes = Array.from({ length: 1_025 }, () => many.out.write("x"));
  await assert.rejects(writes[1_024] as Promise<void>, code("INTERNAL_ERROR", /1024 writes.*await each/));
  await Promise.allSettled(writes);
  await assert.rejects(many.out.end(), code("INTERNAL_ERROR", /await each/));

  const large = opened();
  // One large write is the agent's own memory; the next one is what it should have waited with.
  void large.out.write("x".repeat(5_000_000));
  await assert.rejects(large.out.write("x"), code("INTERNAL_ERROR", /await each/));
});

test("[JOB-20] the writable takes a pipe; a source that breaks off fails the result, a stopped job frees a silent one", async () => {
  const { out, whole, chunks } = opened();
  const source = ["pipe ", "d\ud83d", "\ude00"];
  await streamOf(source).pipeTo(out.writable);
  assert.equal(whole().toString(), "pipe d😀");
  assert.equal(chunks.at(-1)?.more, false);

  const broken = opened();
  const failing = async function* () {
    yield "some";
    throw new Error("the source is gone");
  };
  await assert.rejects(streamOf(failing()).pipeTo(broken.out.writable), /the source is gone/);
  await assert.rejects(broken.out.end(), code("INTERNAL_ERROR", /broke off/));

  const silent = opened();
  const piped = new ReadableStream({ pull: () => new Promise(() => undefined) }).pipeTo(silent.out.writable);
  silent.stop.abort(new ArcpError("CANCELLED", "enough"));
  await assert.rejects(piped, code("CANCELLED", /enough/));
  await assert.rejects(silent.out.write("x"), code("CANCELLED", /enough/));
});

test("[JOB-21] a chunk by hand that is not base64 is refused, and the size of what is counts", () => {
  const chunk = (data: string): Chunk => ({ result_id: "r", chunk_seq: 0, data, encoding: "base64", more: false });
  for (const data of ["a", "ab=", "a===", "ab c", "ab-_", "é===", "=abc"]) {
    assert.throws(
      () => new ChunkedResult(100).take(chunk(data)),
      code("INTERNAL_ERROR", /chunk 0 is not base64/),
      data,
    );
  }
  for (const size of [0, 1, 2, 3, 4, 5]) {
    const result = new ChunkedResult(100);
    result.take(chunk(Buffer.alloc(size).toString("base64")));
    assert.equal(result.payload(undefined, undefined)?.result_size, size);
  }
});

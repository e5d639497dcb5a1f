import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Unconsumed } from "./acks.ts";
import { JobResult } from "./job-result.ts";
import type { ResultPiece } from "./result-chunks.ts";

/** A result and, as acks see it, who reads it. */
function result(maxWaiting = 1_000) {
  const readers = new Set<Unconsumed>();
  const counts = { consumed: 0 };
  const of = new JobResult({
    jobId: "job_1",
    maxWaiting,
    listener: (reader) => ({
      consumed: () => {
        counts.consumed += 1;
      },
      iterating: (active) => void (active ? readers.add(reader) : readers.delete(reader)),
    }),
  });
  return { of, readers, counts };
}

const chunk = (seq: number, data: string, more: boolean, rest: object = {}) => ({
  result_id: "r",
  chunk_seq: seq,
  data,
  encoding: "utf8",
  more,
  ...rest,
});
const SUCCESS = { final_status: "success", result_id: "r" } as const;

async function all(pieces: AsyncIterable<ResultPiece>): Promise<ResultPiece[]> {
  const read: ResultPiece[] = [];
  for await (const piece of pieces) read.push(piece);
  return read;
}

test("[CLT-13] any chunks of any bytes come together to the same value, awaited or read", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array(), { minLength: 1 }), async (parts) => {
      const whole = Uint8Array.from(parts.flatMap((part) => [...part]));
      const awaited = result(1e6).of;
      const read = result(1e6).of;
      const pieces = all(read.read());
      for (const [index, part] of parts.entries()) {
        const data = Buffer.from(part).toString("base64");
        const body = chunk(index, data, index < parts.length - 1, { encoding: "base64" });
        awaited.add(body, index + 1);
        read.add(body, index + 1);
      }
      awaited.finish(SUCCESS);
      read.finish(SUCCESS);
      assert.deepEqual(await awaited.value, whole);
      assert.deepEqual(Uint8Array.from((await pieces).flatMap((piece) => [...(piece as Uint8Array)])), whole);
    }),
    { numRuns: 2_000 },
  );
});

test("[CLT-13] a chunk at fault makes the result an error that says so, once the job has ended", async () => {
  const cases: [chunks: object[], fault: RegExp][] = [
    [[], /no chunk of "r" came/],
    [[chunk(1, "a", false)], /chunk 1 came where 0 was due/],
    [[chunk(0, "a", true)], /its last chunk did not come/],
    [[chunk(0, "a", true), chunk(0, "a", false)], /chunk 0 came where 1 was due/],
    [[chunk(0, "a", false), chunk(1, "b", false)], /chunk 1 came after the last one/],
    [[chunk(0, "a", true), chunk(1, "b", false, { result_id: "s" })], /of another result \(s\)/],
    [[chunk(0, "a", false, { result_id: "s" })], /the job's end names "r"/],
    [[chunk(0, "é", false, { encoding: "base64" })], /chunk 0 is not base64/],
    [[{ ...chunk(0, "a", false), data: 7 }], /chunk 0 has no data/],
    [[{}], /of another result|has no data|where 0 was due/],
  ];
  for (const [chunks, fault] of cases) {
    const { of } = result();
    const { of: read } = result();
    const reading = all(read.read());
    reading.catch(() => undefined);
    for (const [index, body] of chunks.entries()) {
      of.add(body, index);
      read.add(body, index);
    }
    of.finish(SUCCESS);
    read.finish(SUCCESS);
    await assert.rejects(of.value, fault);
    await assert.rejects(reading, fault);
    await assert.rejects(all(of.read()), fault);
  }
});

test("[CLT-13] what nobody asks for is held up to maxResultBytes, and its loss is told with what to do", async () => {
  const { of } = result(10);
  of.add(chunk(0, "12345", true), 1);
  of.add(chunk(1, "67890", true), 2);
  of.add(chunk(2, "1", false), 3);
  of.finish(SUCCESS);
  await assert.rejects(of.value, /over maxResultBytes \(10\) and was dropped.*job\.stream\(\)/);
  const fits = result(10).of;
  fits.add(chunk(0, "1234567890", false), 1);
  fits.finish(SUCCESS);
  assert.equal(await fits.value, "1234567890");
});

test("[CLT-14] a reader that keeps up passes any amount; one that does not is told what was dropped", async () => {
  const { of } = result(10);
  const reader = of.read()[Symbol.asyncIterator]();
  of.add(chunk(0, "12345", true), 1);
  for (let seq = 1; seq < 200; seq += 1) {
    // One waits all the time.
    of.add(chunk(seq, "12345", true), seq + 1);
    assert.deepEqual(await reader.next(), { done: false, value: "12345" });
  }
  for (let seq = 200; seq < 202; seq += 1) of.add(chunk(seq, "12345", true), seq + 1);
  await assert.rejects(reader.next(), /More than 10 bytes.*read faster/);
  assert.deepEqual(await reader.next(), { done: true, value: undefined });
});

test("[CLT-5] a piece counts as consumed when its reader has taken it", async () => {
  const { of, readers } = result();
  of.add(chunk(0, "a", true), 7);
  const stream = of.read();
  of.add(chunk(1, "b", true), 9);
  const first = () => [...readers].map((reader) => reader.firstUnconsumed());
  assert.deepEqual(first(), [7]);
  const reader = stream[Symbol.asyncIterator]();
  await reader.next();
  assert.deepEqual(first(), [9]);
  await reader.next();
  assert.deepEqual(first(), [undefined]);
  of.add(chunk(2, "c", false), 11);
  of.finish(SUCCESS);
  assert.deepEqual(first(), [11]);
  await reader.next();
  assert.deepEqual(first(), []);
  assert.equal((await reader.next()).done, true);
});

test("[CLT-14] several steps asked for at once are answered in order; leaving frees those that wait", async () => {
  const { of, readers } = result();
  const reader = of.read()[Symbol.asyncIterator]();
  const steps = [reader.next(), reader.next(), reader.next()];
  of.add(chunk(0, "a", true), 1);
  of.add(chunk(1, "b", true), 2);
  assert.deepEqual(await steps[0], { done: false, value: "a" });
  assert.deepEqual(await steps[1], { done: false, value: "b" });
  await reader.return?.();
  assert.equal((await steps[2])?.done, true);
  assert.equal(readers.size, 0);
  of.add(chunk(2, "c", false), 3);
  assert.equal((await reader.next()).done, true);
});

test("[CLT-13] bytes that came in one are bytes, and what is not the base64 that it says is an error", async () => {
  const inline = result().of;
  inline.finish({ final_status: "success", result: "AP8=", result_encoding: "base64" });
  assert.deepEqual(await inline.value, Uint8Array.of(0, 255));
  assert.deepEqual(await all(inline.read()), [Uint8Array.of(0, 255)]);
  const wrong = result().of;
  wrong.finish({ final_status: "success", result: "é", result_encoding: "base64" });
  await assert.rejects(wrong.value, /not the base64/);
  await assert.rejects(all(wrong.read()), /not the base64/);
});

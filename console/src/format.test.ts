import assert from "node:assert/strict";
import { test } from "node:test";
import type { JobEvent } from "../../src/client/index.ts";
import { bytes, clean, duration, editable, line, record, shortId } from "./format.ts";
import { rowText } from "./row-text.ts";

test("[CON-5] characters that turn or hide text, or control a terminal, are shown as replaced", () => {
  assert.equal(clean("a\u202eb\u0000c\u200bd\u001b[31me"), "a\ufffdb\ufffdc\ufffdd\ufffd[31me");
  assert.equal(clean("žluťoučký 日本 👩‍🚀 line\n"), "žluťoučký 日本 👩‍🚀 line\n");
  assert.equal(editable("a\u202eb"), '"a\\u202eb"');
  assert.equal(JSON.parse(editable("a\u202eb")), "a\u202eb");
});

test("[CON-4] a value is one line, cut where it is long", () => {
  assert.equal(line("a\n  b"), "a b");
  assert.equal(line({ a: [1, "x"] }), '{"a":[1,"x"]}');
  assert.equal(line("x".repeat(500)).length, 401);
  assert.equal(line(undefined), "");
  assert.equal(line(null), "null");
});

test("[CON-2] sizes, times and ids read short", () => {
  assert.deepEqual([0, 1_023, 1_536, 3 * 1_048_576].map(bytes), ["0 B", "1023 B", "1.5 KiB", "3 MiB"]);
  assert.deepEqual([-5, 12, 59_400, 61_000, 3 * 3_600_000, 72 * 3_600_000].map(duration), [
    "0 ms",
    "12 ms",
    "59 s",
    "1 min 1 s",
    "3 h 0 min",
    "3 days",
  ]);
  assert.equal(shortId("job_01M7Z97XP0DYQB1PQ2206Y1GE9"), "…Q2206Y1GE9");
  assert.deepEqual(record([1]), {});
});

test("[CON-4] a row says on one line what an event holds", () => {
  const event = (kind: string, body: unknown) => ({ seq: 1, kind, ts: "", body }) as const;
  const plain = (kind: string, body: unknown) =>
    rowText({ index: 0, seq: 1, ts: "", kind: "plain", event: event(kind, body) as JobEvent });
  assert.deepEqual(plain("log", { level: "error", message: "no", attributes: { a: 1 } }), {
    ...{ label: "error", text: 'no {"a":1}', tone: "bad" },
  });
  assert.equal(plain("metric", { name: "tokens", value: 3, unit: "t" }).text, "tokens = 3 t");
  assert.equal(plain("x-vendor.odd", { a: 1 }).label, "x-vendor.odd");
  assert.equal(plain("log", null).label, "log");
});

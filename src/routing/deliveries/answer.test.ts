/** What an answer says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { answerOf, type Ending } from "./answer.ts";

const success = (result: unknown): Ending => ({ status: "success", result });
const textOf = (file: { data: Uint8Array } | undefined) => new TextDecoder().decode(file?.data);

test("[DLV-12] a text is itself, and nothing is said in a word", () => {
  assert.deepEqual(answerOf(success("The answer.")), { text: "The answer." });
  for (const nothing of ["", null, undefined]) assert.deepEqual(answerOf(success(nothing)), { text: "Done." });
});

test("[DLV-12] an object with a text and files is those", () => {
  assert.deepEqual(answerOf(success({ text: "Here." })), { text: "Here.", files: [] });
  const { text, files = [] } = answerOf(
    success({
      text: "Two files.",
      files: [
        { name: "a.csv", content_type: "text/csv", text: "ä,b" },
        { name: "../../etc/pass\u001b[31mwd", base64: Buffer.from([0, 255]).toString("base64") },
      ],
    }),
  );
  assert.equal(text, "Two files.");
  assert.deepEqual(
    files.map(({ name, contentType }) => [name, contentType]),
    [
      ["a.csv", "text/csv"],
      ["pass[31mwd", "application/octet-stream"],
    ],
  );
  assert.equal(textOf(files[0]), "ä,b");
  assert.deepEqual([...(files[1]?.data ?? [])], [0, 255]);
});

test("[DLV-12] anything else is JSON, and nothing of it is left out", () => {
  assert.equal(answerOf(success({ pages: 12 })).text, '{\n  "pages": 12\n}');
  assert.equal(answerOf(success([1, 2])).text, "[\n  1,\n  2\n]");
  for (const odd of [
    { text: 7 },
    { text: "x", more: 1 },
    { text: "x", files: "none" },
    { text: "x", files: [{ name: "a" }] },
    { text: "x", files: [{ name: 7, text: "b" }] },
    { text: "x", files: [{ name: "a", text: "b", base64: "" }] },
    { text: "x", files: [null] },
  ]) {
    assert.deepEqual(JSON.parse(answerOf(success(odd)).text), odd);
  }
  for (const [value, text] of [
    [7, "7"],
    [false, "false"],
  ] as const) {
    assert.equal(answerOf(success(value)).text, text);
  }
});

test("[DLV-12] a result in pieces is its text, or a file where it is bytes", () => {
  assert.equal(answerOf({ status: "success", result: "long", result_encoding: "utf8" }).text, "long");
  const answer = answerOf({
    status: "success",
    result: Buffer.from([1, 2]).toString("base64"),
    result_encoding: "base64",
    content_type: "image/png",
  });
  assert.notEqual(answer.text, "");
  assert.deepEqual([answer.files?.[0]?.contentType, [...(answer.files?.[0]?.data ?? [])]], ["image/png", [1, 2]]);
});

test("[DLV-12] a failure is told in words, with what to do where that may help", () => {
  const error = { status: "error", code: "INTERNAL_ERROR", message: "It broke.", retryable: true } as const;
  assert.equal(answerOf(error).text, "INTERNAL_ERROR: It broke.\nSend your message again to try once more.");
  assert.equal(answerOf({ ...error, retryable: false }).text, "INTERNAL_ERROR: It broke.");
  assert.match(answerOf({ ...error, details: { code: "LOCK_LOST" } }).text, /^LOCK_LOST: It broke\./);
  assert.equal(answerOf({ ...error, status: "cancelled", code: "CANCELLED" }).text, "Stopped.");
  assert.match(answerOf({ ...error, status: "timed_out", code: "TIMEOUT" }).text, /^TIMEOUT: /);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import type { JobEvent } from "../../src/client/index.ts";
import { newestOf, TimelineRows, textOfResult } from "./timeline-rows.ts";

let seq = 0;
function event(kind: string, body: unknown): JobEvent {
  seq += 1;
  return { seq, kind, ts: "2026-01-01T00:00:00.000Z", body } as JobEvent;
}

function rowsOf(...events: [kind: string, body: unknown][]): TimelineRows {
  const rows = new TimelineRows();
  for (const [kind, body] of events) rows.add(event(kind, body));
  return rows;
}

test("[CON-4] a tool call takes its result in, whenever it comes; a result without a call stands alone", () => {
  const rows = rowsOf(
    ["tool_call", { tool: "a", call_id: "1" }],
    ["tool_call", { tool: "b", call_id: "2" }],
    ["tool_result", { call_id: "1", result: 7 }],
    ["tool_result", { call_id: "3", result: 8 }],
    ["tool_result", { call_id: "1", result: 9 }],
  );
  assert.deepEqual(
    rows.rows.map((row) => (row.kind === "tool" ? [row.call.body, row.result?.body] : [row.kind])),
    [
      [
        { tool: "a", call_id: "1" },
        { call_id: "1", result: 7 },
      ],
      [{ tool: "b", call_id: "2" }, undefined],
      ["plain"],
      ["plain"],
    ],
  );
  assert.equal(rows.events, 5);
});

test("[CON-4] a stretch of progress is one row, replaced as it grows", () => {
  const rows = rowsOf(["progress", { current: 1 }]);
  const [before] = rows.rows;
  rows.add(event("progress", { current: 2 }));
  rows.add(event("log", { level: "info", message: "x" }));
  rows.add(event("progress", { current: 3 }));
  assert.deepEqual(
    rows.rows.map((row) => (row.kind === "progress" ? row.count : row.kind)),
    [2, "plain", 1],
  );
  assert.notEqual(rows.rows[0], before);
  assert.deepEqual(rows.progress?.body, { current: 3 });
});

test("[CON-4] chunks come together by their result, text and bytes alike", () => {
  const chunk = (data: string, more: boolean, encoding = "utf8") => ({ result_id: "r", data, more, encoding });
  const rows = rowsOf(
    ["result_chunk", { ...chunk("žlu", true), content_type: "text/plain" }],
    ["log", { level: "info", message: "between" }],
    ["result_chunk", chunk(btoa("ty"), true, "base64")],
    ["result_chunk", chunk("!", false)],
  );
  const { chunks } = rows;
  assert.equal(rows.rows.length, 2);
  assert.equal(rows.rows[0], chunks);
  assert.deepEqual([chunks?.count, chunks?.done, chunks?.result.contentType], [3, true, "text/plain"]);
  assert.equal(chunks && textOfResult(chunks.result), "žluty!");
});

test("[CON-4] of a result that still comes the end is shown", () => {
  const rows = new TimelineRows();
  for (let index = 0; index < 100; index += 1) {
    rows.add(event("result_chunk", { result_id: "r", data: `${index} `, more: true, encoding: "utf8" }));
  }
  assert.equal(rows.chunks && newestOf(rows.chunks.result), "… 92 93 94 95 96 97 98 99 ");
});

test("[CON-4] a question is open until its outcome, or the job's end", () => {
  const asked = (id: string) => ({ phase: "input_required", question_id: id, message: "?" });
  const rows = rowsOf(
    ["status", asked("1")],
    ["status", asked("2")],
    ["status", { phase: "input_received", question_id: "1" }],
  );
  assert.deepEqual(
    rows.openQuestions.map(({ event: { body } }) => body),
    [asked("2")],
  );
  assert.equal(rows.rows.length, 2);
  rows.end({ final_status: "success" }, "2026-01-01T00:00:00.000Z");
  assert.deepEqual(rows.openQuestions, []);
});

test("[CON-4] a budget is what the job was given, and what its metrics say is left", () => {
  const rows = new TimelineRows();
  rows.setBudget({ USD: 2 });
  rows.add(event("metric", { name: "cost.budget.remaining", value: 0.5, unit: "USD" }));
  rows.add(event("metric", { name: "cost.budget.remaining", value: 3, unit: "EUR" }));
  rows.add(event("metric", { name: "cost.model", value: 9, unit: "USD" }));
  rows.setBudget({ USD: 5 });
  assert.deepEqual(
    [...rows.budgets.values()],
    [
      { currency: "USD", total: 2, remaining: 0.5 },
      { currency: "EUR", total: 3, remaining: 3 },
    ],
  );
});

test("[CON-3] what the runtime tells of the reading is shown, and is neither the job's status nor counted", () => {
  const rows = rowsOf(["status", { phase: "working" }], ["status", { phase: "back_pressure" }]);
  assert.deepEqual([rows.rows.length, rows.events, rows.status?.body], [2, 1, { phase: "working" }]);
});

test("[CON-7] beyond its cap the oldest rows go, counted, and places stay", () => {
  const rows = new TimelineRows();
  const body = { level: "info", message: "x" };
  for (let index = 0; index < 250_001; index += 1) rows.add({ ...event("log", body), seq: index });
  assert.deepEqual([rows.dropped, rows.rows.length, rows.events], [25_000, 225_001, 250_001]);
  assert.equal(rows.at(24_999), undefined);
  assert.equal(rows.at(250_000)?.seq, 250_000);
  assert.equal(rows.rows[0]?.index, 25_000);
});

test("[CON-5] bodies of any form are taken", () => {
  const kinds = [
    "log",
    "tool_call",
    "tool_result",
    "progress",
    "result_chunk",
    "status",
    "metric",
    "delegate",
    "x-vendor.a",
  ];
  for (const kind of kinds) {
    for (const body of [
      null,
      7,
      "text",
      [],
      { data: 5, encoding: "base64", call_id: {} },
      { data: "%", encoding: "base64" },
    ]) {
      assert.equal(rowsOf([kind, body]).rows.length, 1, `${kind} ${JSON.stringify(body)}`);
    }
  }
});

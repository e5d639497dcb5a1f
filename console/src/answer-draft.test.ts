import assert from "node:assert/strict";
import { test } from "node:test";
import { draftOf } from "./answer-draft.ts";

test("[CON-6] an answer begins with the fields that its question asks for", () => {
  const schema = {
    type: "object",
    properties: {
      approve: { type: "boolean" },
      note: { type: "string" },
      how: { enum: ["fast", "well"] },
      count: { type: "integer", default: 3 },
      where: { type: "object", properties: { city: { type: "string" } } },
    },
    required: ["approve", "how", "count", "where"],
  };
  assert.deepEqual(draftOf(schema), { approve: true, how: "fast", count: 3, where: { city: "" } });
  assert.deepEqual(
    [true, null, "x", {}].map((odd) => draftOf(odd)),
    [null, null, null, null],
  );
  const endless: Record<string, unknown> = { type: "object" };
  endless["properties"] = { again: endless };
  assert.deepEqual(draftOf(endless), { again: { again: { again: { again: {} } } } });
});

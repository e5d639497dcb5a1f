import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { blocksOf, pieces } from "./blocks.ts";

const FENCES = /```/g;

test("[SLK-10] a text is cut at a line's end, else at a space, and what fits is left whole", () => {
  assert.deepEqual(pieces("short", 100), ["short"]);
  assert.deepEqual(pieces(`${"a".repeat(60)}\n${"b".repeat(60)}`, 100), ["a".repeat(60), "b".repeat(60)]);
  assert.deepEqual(pieces(`${"a".repeat(60)} ${"b".repeat(60)}`, 100), ["a".repeat(60), ` ${"b".repeat(60)}`]);
});

test("[SLK-10] no cut goes through a link, an escape or a character", () => {
  for (let before = 60; before < 100; before += 1) {
    for (const whole of ["<https://example.com/a|page>", "<https://a.b|a page>", "&amp;", "&lt;", "🎣"]) {
      const cut = pieces(`${"x".repeat(before)}${whole}${"y".repeat(60)}`, 100);
      assert.ok(cut.every((piece) => piece.length <= 100));
      assert.equal(cut.filter((piece) => piece.includes(whole)).length, 1, `${whole} after ${before}`);
      assert.ok(cut.every((piece) => piece.isWellFormed()));
    }
  }
});

test("[SLK-10] a block of code that is cut is closed, and opened again", () => {
  const code = Array.from({ length: 30 }, (_, line) => `line ${line}`).join("\n");
  const cut = pieces(`\`\`\`\n${code}\n\`\`\`\nafter`, 100);
  assert.ok(cut.length > 2);
  for (const piece of cut) {
    assert.ok(piece.length <= 100);
    assert.equal((piece.match(FENCES)?.length ?? 0) % 2, 0, piece);
  }
  assert.deepEqual(
    cut.flatMap((piece) => piece.split("\n")).filter((line) => line.startsWith("line")),
    code.split("\n"),
  );
});

test("[SLK-10] no text is lost, and no piece is too long", () => {
  const scraps = fc.array(fc.constantFrom("word ", "\n", "&amp;", "<https://a.b|c>", "x".repeat(90), "🎣", "日本"), {
    maxLength: 80,
  });
  fc.assert(
    fc.property(scraps, (all) => {
      const text = all.join("");
      const cut = pieces(text, 100);
      assert.ok(cut.every((piece) => piece.length <= 100 && piece.isWellFormed()));
      assert.equal(cut.join("").replaceAll("\n", ""), text.replaceAll("\n", ""));
    }),
  );
});

test("[SLK-7] the button names the turn that it stops", () => {
  const stop = { conversationId: "slack_a", jobId: "job_b", label: "Stop" };
  const [section, actions, ...more] = blocksOf("text", stop);
  assert.equal(section?.type, "section");
  assert.deepEqual(more, []);
  assert(actions?.type === "actions");
  const [button] = actions.elements;
  assert(button?.type === "button");
  assert.equal(button.value, "slack_a job_b");
  assert.deepEqual(
    blocksOf("text", undefined).map(({ type }) => type),
    ["section"],
  );
});

/** Long texts in parts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { beginning, split } from "./split.ts";

const bare = (text: string) => text.replace(/\s+/g, "");

test("[DLV-13] what fits is left as it is", () => {
  for (const text of ["x", "two\n\nparagraphs", "  spaces  ", "x".repeat(200)])
    assert.deepEqual(split(text, 200), [text]);
});

test("[DLV-13] a long text is cut between paragraphs, else lines, else words, else anywhere", () => {
  const paragraph = "Lorem ipsum dolor sit amet, consectetur.";
  assert.deepEqual(split(`${paragraph}\n\n${paragraph}\n\n${paragraph}`, 90), [
    `${paragraph}\n\n${paragraph}`,
    paragraph,
  ]);
  assert.deepEqual(split("one two three\nfour five six\nseven", 20), ["one two three", "four five six\nseven"]);
  assert.deepEqual(split("one two three four", 9), ["one two", "three", "four"]);
  assert.deepEqual(split("x".repeat(25), 10), ["x".repeat(10), "x".repeat(10), "x".repeat(5)]);
});

test("[DLV-13] a paragraph break that would leave a tiny part is passed over", () => {
  const text = `Hi.\n\n${"word ".repeat(40)}`.trimEnd();
  const [first = ""] = split(text, 100);
  assert.ok(first.length > 80, `the first part has ${first.length} characters`);
});

test("[DLV-13] no character is cut in two", () => {
  for (const max of [7, 8, 9]) {
    const parts = split("🎣".repeat(20), max);
    assert.equal(parts.join(""), "🎣".repeat(20));
    for (const part of parts) assert.ok(part.isWellFormed() && part.length <= max);
  }
  assert.ok(beginning(`${"x".repeat(8)}🎣🎣`, 10).isWellFormed());
  assert.equal(beginning("short", 10), "short");
  assert.equal(beginning("a longer text", 9), "a longer…");
});

test("[DLV-13] a block of code that is cut is closed, and opened again", () => {
  const lines = Array.from({ length: 60 }, (_, i) => `const value${i} = ${i};`);
  const parts = split(`Here it is:\n\n\`\`\`ts\n${lines.join("\n")}\n\`\`\`\n\nThat was it.`, 320);
  assert.ok(parts.length > 3);
  for (const part of parts) {
    assert.ok(part.length <= 320, `${part.length} characters`);
    assert.equal((part.match(/^```/gm) ?? []).length % 2, 0, `a block stays open:\n${part}`);
  }
  assert.ok(parts[1]?.startsWith("```ts\nconst value"));
  const code = parts
    .join("\n")
    .split("\n")
    .filter((line) => line.startsWith("const"));
  assert.deepEqual(code, lines);
});

test("[DLV-13] whatever the text, the parts have the right size and nothing is lost", () => {
  const piece = fc.oneof(
    fc.string({ unit: "grapheme", maxLength: 30 }),
    fc.constantFrom("\n", "\n\n", " ", "```", "```ts\n", "\n```\n", "🎣", "x".repeat(70), "a word "),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 80 }), fc.integer({ min: 4, max: 700 }), (pieces, max) => {
      const text = pieces.join("");
      const parts = split(text, max);
      assert.ok(parts.length > 0);
      for (const part of parts) {
        assert.ok(part.length <= max, `a part of ${part.length} characters, of at most ${max}`);
        assert.ok(!text.isWellFormed() || part.isWellFormed());
        assert.ok(parts.length === 1 || part.trim() !== "");
      }
      // Whitespace at the cuts goes, fences are added, all else stays in its order.
      const kept = (value: string) => bare(value).replaceAll("`", "").replaceAll("ts", "");
      assert.equal(kept(parts.join("\n")), kept(text));
    }),
    { numRuns: 2_000 },
  );
});

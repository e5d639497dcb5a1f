/** An example that is not found is not checked. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { findExamples } from "./examples.ts";

function examplesIn(file: string, content: string): { line: number; code: string }[] {
  const root = mkdtempSync(path.join(tmpdir(), "holdfast-examples-"));
  try {
    mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
    writeFileSync(path.join(root, file), content);
    return findExamples(root);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

test("every block of a Markdown file is a module on its own lines; other languages are not", () => {
  const found = examplesIn("docs/deep/a.md", "# A\n```ts\none();\n```\n```sh\nls\n```\n\n```ts\ntwo();\n```\n");
  assert.deepEqual(
    found.map(({ line, code }) => [line, code.trim().split("\n")[0]]),
    [
      [3, "one();"],
      [10, "two();"],
    ],
  );
  for (const { line, code } of found) assert.match(code.split("\n")[line - 1] ?? "", /^(one|two)\(\);$/);
});

test("a block of a doc comment is found without its stars", () => {
  const [example] = examplesIn(
    "src/a.ts",
    "/**\n * Text.\n *\n * ```ts\n * if (x) {\n *   y();\n * }\n *\n * ```\n */\n",
  );
  assert.equal(example?.line, 5);
  assert.equal(example?.code.trim().startsWith("if (x) {\n  y();\n}"), true);
});

test("a block that is not closed is an error that names it", () => {
  assert.throws(() => examplesIn("README.md", "```ts\nx();\n"), /README\.md:1/);
});

/** The checker has to be able to fail. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { checkSpec } from "./spec.ts";

/** A repository of these files; gone when it is disposed of. */
function repository(files: Record<string, string>): { root: string } & Disposable {
  const root = mkdtempSync(path.join(tmpdir(), "holdfast-spec-"));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), content);
  }
  return { root, [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }) };
}

const SPEC = "# Rules\n\n- **RES-1** One.\n- **RES-2** Two,\n  see **RES-9** there.\n";

function problemsOf(files: Record<string, string>): string[] {
  using repo = repository({ "SPEC.md": SPEC, ...files });
  return checkSpec(repo.root).problems;
}

const BOTH = 'test("[RES-1] a", () => {});\nit(`[RES-2] b`, () => {});\n';

test("a spec whose every rule is shown passes", () => {
  assert.deepEqual(problemsOf({ "src/a.test.ts": BOTH }), []);
});

test("several ids, every place where tests live, and every form of a call count", () => {
  assert.deepEqual(problemsOf({ "test/deep/a.test.ts": "it('[RES-1, RES-2] both', fn)" }), []);
  assert.deepEqual(
    problemsOf({
      "src/testing/store-contract.ts": 'context.test(\n  "[RES-1] one", fn)',
      "src/b.test.ts": 'test.skip("[RES-2] two", fn)',
    }),
    [],
  );
});

test("a rule without a test is a problem", () => {
  assert.deepEqual(problemsOf({ "src/a.test.ts": 'test("[RES-1] a", fn)' }), ["SPEC.md: no test shows RES-2."]);
});

test("a test of a rule that does not exist is a problem, with its line", () => {
  const [problem] = problemsOf({ "src/a.test.ts": `${BOTH}test("[RES-9] c", fn)` });
  assert.match(problem ?? "", /^src\/a\.test\.ts:3: .*names RES-9/);
});

test("a title without an id is a problem, and so is one that is not written out", () => {
  assert.match(problemsOf({ "src/a.test.ts": `${BOTH}test("plain", fn)` })[0] ?? "", /does not start with/);
  assert.match(problemsOf({ "src/a.test.ts": `${BOTH}test(title, fn)` })[0] ?? "", /write the title out/);
});

test("a rule that is there twice is a problem", () => {
  assert.match(
    problemsOf({ "SPEC.md": `${SPEC}- **RES-1** Again.\n`, "src/a.test.ts": BOTH })[0] ?? "",
    /RES-1 is there twice/,
  );
});

test("a pattern's own test method is not a test", () => {
  assert.deepEqual(problemsOf({ "src/a.test.ts": `${BOTH}if (/x/.test("y")) {}\npattern.test(value);` }), []);
});

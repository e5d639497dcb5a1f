/** The report has to show what a user would notice, and nothing else. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { apiReports } from "./api-report.ts";
import { firstDifference } from "./first-difference.ts";

/** The reports of a package whose entries are these declaration files. */
function reportsOf(files: Record<string, string>, entries: string[]): Map<string, string> {
  const directory = mkdtempSync(path.join(tmpdir(), "holdfast-api-"));
  try {
    for (const [name, content] of Object.entries(files)) writeFileSync(path.join(directory, name), content);
    return apiReports({
      directory,
      entries: entries.map((name) => ({
        specifier: `pkg/${path.basename(name, ".d.ts")}`,
        types: path.join(directory, name),
      })),
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const report = (declarations: string): string =>
  reportsOf({ "a.d.ts": declarations }, ["a.d.ts"]).get("pkg-a.api.md") ?? "";

test("comments, private members and the order of declarations change nothing", () => {
  const one = report(
    "/** Old. */ export declare const x: number;\nexport declare class C { #private; private y; z: 1; }",
  );
  const other = report(
    "export declare class C { #private; private w; z: 1; }\n/** New. */ export declare const x: number;",
  );
  assert.equal(firstDifference(one, other), undefined);
});

test("a type that is reached but not exported is shown, and its change is a difference", () => {
  const face = (type: string) =>
    report(
      `interface Inner { deep: ${type}; } interface Outer { inner: Inner; } export declare function f(): Outer;\nexport {};`,
    );
  assert.match(face("1"), /interface Inner \{\s+deep: 1;/);
  assert.notEqual(firstDifference(face("1"), face("2")), undefined);
});

test("what another entry exports is left to its report", () => {
  const reports = reportsOf(
    {
      "a.d.ts": "export interface Shared { a: 1 }",
      "b.d.ts": 'import type { Shared } from "./a.ts";\nexport declare const b: Shared;',
    },
    ["a.d.ts", "b.d.ts"],
  );
  assert.match(reports.get("pkg-b.api.md") ?? "", /const b: Shared;/);
  assert.doesNotMatch(reports.get("pkg-b.api.md") ?? "", /interface Shared/);
});

test("the first line that differs is named", () => {
  assert.match(firstDifference("a\nb\nc", "a\nx\nc") ?? "", /^2:\n {2}- b\n {2}\+ x$/);
  assert.match(firstDifference("a", "a\nb") ?? "", /^2:\n {2}- \(end\)\n {2}\+ b$/);
});

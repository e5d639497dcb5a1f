/**
 * SPEC.md and the tests, held against each other in both directions. A rule that no test shows is a
 * promise nobody keeps; a test that names no rule shows something nobody promised. Titles are read
 * from the source text: it costs a few milliseconds and runs nothing.
 */
import { globSync, readFileSync } from "node:fs";
import path from "node:path";

/** Where tests live: beside the source, in test/, and in the contract suites that are exported. */
const TEST_FILES = [
  "src/**/*.test.ts",
  "test/**/*.test.ts",
  "console/src/**/*.test.ts",
  "src/testing/*-contract.ts",
  "src/testing/*-contract/*-cases.ts",
];

/** `- **RES-3** …` at the start of a line. */
const RULE = /^- \*\*([A-Z]{2,4}-\d+)\*\*/gm;
/** `test("…"`, `it(`…`, also `test.skip(` and `t.test(`; not `pattern.test(text)`. */
const TEST_CALL =
  /(?<=^|[\s;{(,])(?:(?:t|context)\.)?(?:test|it)(?:\.(?:only|skip|todo))?\(\s*(?:(["'`])((?:\\.|(?!\1)[^\\])*)\1|([^\s"'`]))/g;
/** A title starts with one or more ids: `[RES-3]`, `[RES-3, RES-9]`, `[RES-3] [RES-9]`. */
const TITLE = /^((?:\[[A-Z]{2,4}-\d+(?:, ?[A-Z]{2,4}-\d+)*\] ?)+)\S/;

export interface SpecReport {
  rules: number;
  titles: number;
  /** One line each, ready to print; empty when everything agrees. */
  problems: string[];
}

/** A title that is not written out where the test is declared cannot be checked, unless it starts so. */
function idsOf(title: string): string[] | undefined {
  const head = TITLE.exec(title)?.[1];
  return head === undefined ? undefined : [...head.matchAll(/[A-Z]{2,4}-\d+/g)].map((match) => match[0]);
}

/** @param root the repository's directory, which holds SPEC.md */
export function checkSpec(root: string): SpecReport {
  const problems: string[] = [];
  const rules = new Set<string>();
  for (const [, id = ""] of readFileSync(path.join(root, "SPEC.md"), "utf8").matchAll(RULE)) {
    if (rules.has(id)) problems.push(`SPEC.md: ${id} is there twice.`);
    rules.add(id);
  }
  if (rules.size === 0) problems.push("SPEC.md: no rule of the form `- **ABC-1** …`.");

  const shown = new Set<string>();
  let titles = 0;
  for (const file of globSync(TEST_FILES, { cwd: root }).sort()) {
    const source = readFileSync(path.join(root, file), "utf8");
    for (const call of source.matchAll(TEST_CALL)) {
      const where = `${file}:${source.slice(0, call.index).split("\n").length}`;
      const title = call[2];
      titles += 1;
      if (title === undefined) {
        problems.push(`${where}: write the title out where the test is declared, starting with a rule's id.`);
        continue;
      }
      const ids = idsOf(title);
      if (ids === undefined) {
        problems.push(`${where}: "${title}" does not start with a rule's id in brackets.`);
        continue;
      }
      for (const id of ids) {
        if (!rules.has(id)) problems.push(`${where}: "${title}" names ${id}, which SPEC.md does not have.`);
        shown.add(id);
      }
    }
  }
  for (const id of rules) {
    if (!shown.has(id)) problems.push(`SPEC.md: no test shows ${id}.`);
  }
  return { rules: rules.size, titles, problems };
}

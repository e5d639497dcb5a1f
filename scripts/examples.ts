/**
 * The TypeScript that documentation shows: every block fenced with ```ts, of a Markdown file or of a doc
 * comment. Each is a module of its own and stands on the line where its author wrote it, so that an
 * error names a place that can be gone to.
 */
import { globSync, readFileSync } from "node:fs";
import path from "node:path";

const SOURCES = ["*.md", "docs/**/*.md", "examples/**/*.md", "src/**/*.ts"];
const OPENS = /^(\s*\* ?|\s*)```ts\s*$/;

export interface Example {
  /** Where it was found, from the repository's root. */
  file: string;
  /** Of its first line, from 1. */
  line: number;
  /** Blank lines as far as its place, then its own. */
  code: string;
}

/** @param root the repository's directory */
export function findExamples(root: string): Example[] {
  return globSync(SOURCES, { cwd: root })
    .sort()
    .flatMap((file) => examplesOf(file, readFileSync(path.join(root, file), "utf8")));
}

function examplesOf(file: string, content: string): Example[] {
  const examples: Example[] = [];
  const lines = content.split("\n");
  for (let index = 0; index < lines.length; index += 1) {
    const prefix = OPENS.exec(lines[index] ?? "")?.[1];
    if (prefix === undefined) continue;
    const start = index + 1;
    const code: string[] = [];
    for (index = start; index < lines.length; index += 1) {
      const line = lines[index] ?? "";
      if (line.trimStart().replace(/^\* ?/, "").startsWith("```")) break;
      code.push(line.startsWith(prefix) ? line.slice(prefix.length) : line.slice(prefix.trimEnd().length));
    }
    if (index === lines.length) throw new Error(`${file}:${start}: a block is opened and not closed.`);
    // A block without an import or an export is a module too.
    examples.push({ file, line: start + 1, code: `${"\n".repeat(start)}${code.join("\n")}\nexport {};\n` });
  }
  return examples;
}

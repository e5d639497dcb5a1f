/**
 * `npm run check:consumer`: compiles what users write, against the package as they get it: the examples of
 * the documentation, and the type tests in test/types. Declarations are checked too, in a project that
 * has only what the package says it needs; files named `*.browser.test-d.ts` are compiled without Node's
 * types, as a browser's project is.
 */
import { cpSync, globSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";
import { findExamples } from "./examples.ts";
import { formatDiagnostics, stagePackage } from "./staged-package.ts";

const OPTIONS: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2024,
  lib: ["lib.es2024.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts"],
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  strict: true,
  exactOptionalPropertyTypes: true,
  skipLibCheck: false,
  skipDefaultLibCheck: true,
  allowImportingTsExtensions: true,
  noEmit: true,
};

/** What a reader installs for one of the examples. They lie where the package's own declarations do not find them. */
const FOR_EXAMPLES = ["@opentelemetry/api", "@opentelemetry/context-async-hooks", "@opentelemetry/sdk-trace-base"];

using staged = stagePackage(process.cwd());
writeFileSync(path.join(staged.consumer, "package.json"), '{ "type": "module" }');

const readers = path.join(staged.consumer, "readers");
for (const name of FOR_EXAMPLES) {
  const link = path.join(readers, "node_modules", name);
  mkdirSync(path.dirname(link), { recursive: true });
  symlinkSync(path.resolve("node_modules", name), link, "junction");
}
const examples = findExamples(process.cwd()).map(({ file, line, code }) => {
  const placed = path.join(readers, `${file.replaceAll(/[\\/]/g, "__")}.${line}.ts`);
  writeFileSync(placed, code);
  return placed;
});
const types = path.join(staged.consumer, "types");
cpSync("test/types", types, { recursive: true });
const forBrowsers = globSync("*.browser.test-d.ts", { cwd: types }).map((file) => path.join(types, file));
const forNode = globSync("*.test-d.ts", { cwd: types })
  .map((file) => path.join(types, file))
  .filter((file) => !forBrowsers.includes(file));

const diagnostics = [...check([...examples, ...forNode], ["node"]), ...check(forBrowsers, [])];
if (diagnostics.length > 0) {
  console.error(formatDiagnostics(diagnostics).replaceAll(/^.*holdfast-package-[^/\\]*[/\\]/gm, ""));
  process.exitCode = 1;
}
const tests = forNode.length + forBrowsers.length;
console.log(`${examples.length} examples, ${tests} type tests, ${diagnostics.length} problems`);

function check(files: string[], withTypes: string[]): ts.Diagnostic[] {
  const host = ts.createCompilerHost(OPTIONS);
  host.getCurrentDirectory = () => staged.consumer;
  const program = ts.createProgram(files, { ...OPTIONS, types: withTypes }, host);
  return [...ts.getPreEmitDiagnostics(program)];
}

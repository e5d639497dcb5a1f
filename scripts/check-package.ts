/**
 * `npm run check:package`: what npm would publish, looked at by publint (what bundlers and Node make of
 * its manifest) and attw (what TypeScript makes of each entry). The package is ESM only, so resolving
 * it by `require` or by the rules of before `exports` is not among its promises.
 */
import { readFileSync } from "node:fs";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { filterProblems, problemKindInfo } from "@arethetypeswrong/core/problems";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { stagePackage } from "./staged-package.ts";

const PROMISED = ["node16-esm", "bundler"] as const;

using staged = stagePackage(process.cwd());
const data = readFileSync(staged.pack());
const problems: string[] = [];

const tarball = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
const { messages, pkg } = await publint({ pack: { tarball }, strict: true });
for (const message of messages) problems.push(`publint: ${formatMessage(message, pkg) ?? message.code}`);

const analysis = await checkPackage(createPackageFromTarballData(data));
if (!analysis.types) {
  problems.push("attw: the package has no types.");
} else {
  for (const resolutionKind of PROMISED) {
    for (const problem of filterProblems(analysis, { resolutionKind })) {
      problems.push(`attw (${resolutionKind}): ${problemKindInfo[problem.kind].title}: ${JSON.stringify(problem)}`);
    }
  }
}

for (const problem of problems) console.error(problem);
console.log(`${staged.entries.length} entries, ${data.length} bytes packed, ${problems.length} problems`);
if (problems.length > 0) process.exitCode = 1;

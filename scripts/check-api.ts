/**
 * `npm run check:api`: fails when api/ is not what the sources offer, and says where they differ.
 * `npm run api` (`--update`) writes it anew, so that a change of the public face is seen in review.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { apiReports } from "./api-report.ts";
import { firstDifference } from "./first-difference.ts";
import { stagePackage } from "./staged-package.ts";

const FOLDER = "api";
const update = process.argv.includes("--update");

using staged = stagePackage(process.cwd());
const reports = apiReports(staged);
mkdirSync(FOLDER, { recursive: true });
const problems: string[] = [];

for (const name of readdirSync(FOLDER).filter((file) => file.endsWith(".api.md") && !reports.has(file))) {
  if (update) rmSync(path.join(FOLDER, name));
  else problems.push(`${FOLDER}/${name}: the package has no such entry any more.`);
}
for (const [name, content] of reports) {
  const file = path.join(FOLDER, name);
  if (update) {
    writeFileSync(file, content);
    continue;
  }
  const difference = firstDifference(read(file), content);
  if (difference !== undefined) problems.push(`${FOLDER}/${name}:${difference}`);
}

for (const problem of problems) console.error(problem);
if (problems.length > 0) {
  console.error("Where the change is meant, run `npm run api` and commit what it writes.");
  process.exitCode = 1;
}
console.log(`${reports.size} entries, ${update ? "written" : `${problems.length} problems`}`);

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

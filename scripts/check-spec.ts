/** `npm run check:spec`: fails when a rule has no test, or a test no rule. */
import { checkSpec } from "./spec.ts";

const { rules, titles, problems } = checkSpec(process.cwd());
for (const problem of problems) console.error(problem);
console.log(`${rules} rules, ${titles} test titles, ${problems.length} problems`);
if (problems.length > 0) process.exitCode = 1;

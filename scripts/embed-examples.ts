/** `npm run docs`: puts the programs of examples/, and what they print, into the pages that show them. */
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { embedExamples } from "./embedded-examples.ts";

const read = (file: string): string => readFileSync(file, "utf8");

for (const page of globSync("docs/*.md")) {
  const before = read(page);
  const after = embedExamples(before, read);
  if (after === before) continue;
  writeFileSync(page, after);
  console.log(page);
}

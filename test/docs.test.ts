/** README.md and docs/: what stands there is what runs. TypeScript is compiled by `npm run check:consumer`. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { embeddedIn, embedExamples } from "../scripts/embedded-examples.ts";
import { type Block, blocksOf, isShown, runBlocks } from "./shell-page.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const PAGE_MS = 120_000;
const INDEX = "docs/README.md";

/** Blocks of commands that are not run, by their first line, each with the reason. */
const NOT_RUN: Readonly<Record<string, string>> = {
  "npm ci && npm start   # the demo: sockets cut, the server killed, nothing lost": "what .ci/run does itself",
  "export HOLDFAST_STORE='postgres://holdfast@db.internal:5432/holdfast'   # the password from PGPASSWORD or PGPASSFILE":
    "needs two machines and a database; test/cli-postgres.test.ts serves from one",
  "npm install holdfast @slack/bolt": "needs an app in Slack; test/slack-crash.test.ts runs the program",
};

/** `text` follows commands or a program; a picture is `text` too. */
const LANGUAGES = new Set(["ts", "sh", "text", "json", "yaml", "sql", "nginx", "haproxy"]);

const read = (file: string): string => readFileSync(path.join(ROOT, file), "utf8");
const pages = ["README.md", ...globSync("docs/*.md", { cwd: ROOT }).sort()];

const isRun = ({ language, text }: Block): boolean => language === "sh" && !(firstLine(text) in NOT_RUN);
const firstLine = (text: string): string => text.split("\n", 1)[0] ?? "";

const compileCache = mkdtempSync(path.join(tmpdir(), "holdfast-compiled-"));
after(() => rmSync(compileCache, { recursive: true, force: true }));

const missing = ["bash", "curl", "sed"].find((program) => spawnSync(program, ["--version"]).error !== undefined);

describe("pages", { concurrency: 2 }, () => {
  for (const page of pages) {
    const blocks = blocksOf(read(page));
    const commands = blocks.filter(isRun);
    if (commands.length === 0) continue;
    test(`[EXA-3] the commands of ${page} run, and print what is shown`, {
      timeout: PAGE_MS,
      skip: missing === undefined ? false : `${missing} is not installed`,
    }, async () => {
      const { status, printed } = await runBlocks(commands, { timeoutMs: PAGE_MS, compileCache });
      const reached = commands[printed.length - 1];
      assert.equal(status, 0, `${page}:${reached?.line}: exits ${status} after\n${printed.at(-1)}`);
      for (const [index, block] of commands.entries()) {
        const next = blocks[blocks.indexOf(block) + 1];
        if (next?.language !== "text") continue;
        const out = printed[index] ?? "";
        assert.ok(isShown(next.text, out), `${page}:${next.line}: this is not what is printed:\n${out}`);
      }
    });
  }
});

test("[EXA-3] what is not run is listed with a reason, and the list names nothing else", () => {
  const first = pages.flatMap((page) => blocksOf(read(page)).map(({ text }) => firstLine(text)));
  for (const line of Object.keys(NOT_RUN)) assert.ok(first.includes(line), `no block begins with: ${line}`);
});

test("[EXA-3] a block of output is compared but for what … stands for", () => {
  assert.ok(isShown("a job_…\n…\nz", "a job_01 b\nx\ny\nz\n"));
  assert.ok(isShown("a\n…\nz", "a\nz\n"));
  assert.ok(!isShown("a\nz", "a\nx\nz\n"));
  assert.ok(!isShown("a.c", "abc\n"));
});

test("[EXA-4] a program that a page shows is the file in examples/, and its output the one that is tested", () => {
  for (const page of pages) {
    const text = read(page);
    assert.equal(text, embedExamples(text, read), `${page} is behind examples/: npm run docs`);
  }
});

test("[EXA-5] docs/README.md names each page with its example, and no other", () => {
  const rows = [...read(INDEX).matchAll(/^\| .* \| \[([a-z-]+\.md)\]\(\1\) \| (.*) \|$/gm)];
  const listed = rows.map(([, page]) => `docs/${page}`);
  assert.deepEqual(listed.toSorted(), pages.filter((page) => page.startsWith("docs/") && page !== INDEX).toSorted());
  for (const [, page, examples = ""] of rows) {
    const named = [...examples.matchAll(/\]\(\.\.\/((?:examples|test)\/[a-z.-]+\.ts)\)/g)].map(([, file = ""]) => file);
    for (const file of named) assert.ok(existsSync(path.join(ROOT, file)), `${page}: there is no ${file}`);
    const text = read(`docs/${page}`);
    const programs = embeddedIn(text).length + named.length + blocksOf(text).filter(isRun).length;
    assert.ok(programs > 0, `${page} has no program that is run`);
  }
});

test("[EXA-5] links from one page to another lead somewhere", () => {
  for (const page of pages) {
    for (const [, target = ""] of read(page).matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)) {
      assert.ok(existsSync(path.join(ROOT, path.dirname(page), target)), `${page}: there is no ${target}`);
    }
  }
});

test("[EXA-6] each block says what it is, and JSON is JSON", () => {
  for (const page of pages) {
    for (const { language, line, text } of blocksOf(read(page))) {
      assert.ok(LANGUAGES.has(language), `${page}:${line - 1}: "${language}" is no language that is looked at`);
      if (language === "json") assert.doesNotThrow(() => JSON.parse(text), `${page}:${line}`);
    }
  }
});

/**
 * Every program in examples/, run as a reader runs it, but on the sources. What it prints is in the file of its name
 * that ends in `.out`; after a wanted change: `node examples/NAME.ts > examples/NAME.out`.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { NO_OPENCODE } from "./opencode/real-server.ts";
import { eventually } from "./runtime-fixture.ts";
import { SlackBot } from "./slack-bot.ts";
import { SlackDouble } from "./slack-double.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const FROM_SOURCE = new URL("holdfast-from-source.ts", import.meta.url).href;
const LONGEST_MS = 60_000;

const examples = globSync("examples/*.ts", { cwd: ROOT })
  .map((file) => path.basename(file, ".ts"))
  .sort();

const presence = mkdtempSync(path.join(tmpdir(), "holdfast-examples-"));
after(() => rmSync(presence, { recursive: true, force: true }));

const read = (name: string): string => readFileSync(path.join(ROOT, "examples", name), "utf8");

/** Without what is another one each time. */
const settled = (out: string): string =>
  out
    .replaceAll("\r\n", "\n")
    .replaceAll(/\b([a-z]+)_[0-9A-HJKMNP-TV-Z]{26}\b/g, "$1_ID")
    .replaceAll(/\bport: \d+/g, "port: PORT")
    .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z/g, "TIME");

const skipped = (name: string): string | false => (name.startsWith("opencode") ? NO_OPENCODE : false);

/** Those that need something else to talk to have a test of their own. */
const alone = examples.filter((name) => name !== "slack-agent");

for (const name of alone) {
  test(`[EXA-1] ${name} runs on its own, prints what it says, and exits 0`, {
    timeout: LONGEST_MS,
    skip: skipped(name),
  }, async () => {
    const child = spawn(process.execPath, ["--import", FROM_SOURCE, `examples/${name}.ts`], {
      cwd: ROOT,
      // Not among the sessions of whoever runs the tests.
      env: { ...process.env, HOLDFAST_PRESENCE_DIR: presence },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: LONGEST_MS,
      killSignal: "SIGKILL",
    });
    const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
    assert.equal(status, 0, err);
    assert.equal(settled(out), settled(read(`${name}.out`)), err);
  });
}

test("[EXA-1] slack-agent answers a mention in Slack's double, prints what it says, and exits 0", {
  timeout: LONGEST_MS,
}, async () => {
  await using folder = await temporaryFolder();
  await using double = await SlackDouble.start();
  await using bot = await SlackBot.start(double, path.join(folder.path, "bot.db"));
  const { thread } = await bot.events.mention({ text: "good morning" });
  await eventually(() => double.thread("C1", thread).length > 0, "the answer");
  await bot.stop();
  assert.match(double.thread("C1", thread)[0]?.text ?? "", /^\*2 words\*/);
  assert.equal(settled(`${bot.printed.join("\n")}\n`), settled(read("slack-agent.out")));
});

test("[EXA-2] the table of examples names each of them, and nothing else", () => {
  const listed = [...read("README.md").matchAll(/^\| \[([a-z-]+)\.ts\]\(\1\.ts\) \| \S/gm)].map(
    ([, name = ""]) => name,
  );
  assert.deepEqual(listed.toSorted(), examples);
  for (const file of globSync("examples/*.out", { cwd: ROOT })) {
    assert.ok(existsSync(path.join(ROOT, file.replace(/\.out$/, ".ts"))), `${file} belongs to no example`);
  }
});

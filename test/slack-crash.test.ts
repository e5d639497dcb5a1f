/** The example bot, killed at the worst moments: each answer arrives in its thread, once, and in no other. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../src/clock.ts";
import { SlackBot } from "./slack-bot.ts";
import { BOT_ID, SlackDouble, shownText } from "./slack-double.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const DEADLINE_MS = 90_000;

async function until(done: () => boolean, what: string): Promise<void> {
  const since = systemClock.monotonic();
  while (!done()) {
    assert(systemClock.monotonic() - since < DEADLINE_MS, `Waited in vain for ${what}.`);
    await new Promise<void>((resolve) => systemClock.after(20, resolve, { keepAlive: true }));
  }
}

for (const hangs of ["before", "after"] as const) {
  test(`[SLK-15] a bot that is killed ${hangs} Slack takes its answer has it there once when it is back`, {
    timeout: 2 * DEADLINE_MS,
  }, async () => {
    await using folder = await temporaryFolder();
    await using double = await SlackDouble.start();
    const file = join(folder.path, "bot.db");
    double.fail("chat.postMessage", { hangs });
    double.fail("chat.postMessage", { hangs });
    const threads: string[] = [];
    {
      await using bot = await SlackBot.start(double, file);
      for (const text of ["one", "two words"]) threads.push((await bot.events.mention({ text })).thread);
      await until(() => double.hanging === 2, "both answers to be on their way");
      await bot.kill();
    }
    await using bot = await SlackBot.start(double, file);
    const shown = (thread = "") =>
      double.thread("C1", thread).flatMap((message) => (message.botId === BOT_ID ? [shownText(message)] : []));
    await until(() => threads.every((thread) => shown(thread).length > 0), "the answers");
    // A third one comes behind whatever else is sent.
    const { thread: last } = await bot.events.mention({ text: "now three words" });
    await until(() => shown(last).length > 0, "the last answer");
    await bot.stop();
    assert.deepEqual([...threads, last].map(shown), [
      ["*1 words*, and 0 files:\n1. one\n"],
      ["*2 words*, and 0 files:\n1. two\n2. words\n"],
      ["*3 words*, and 0 files:\n1. now\n2. three\n3. words\n"],
    ]);
    const answers = double.messages.filter(({ botId }) => botId === BOT_ID);
    assert.equal(answers.length, 3);
  });
}

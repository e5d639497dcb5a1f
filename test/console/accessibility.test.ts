/** Every view with something in it, looked at by axe in light and in dark, and at the width of a phone. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { AxeBuilder } from "@axe-core/playwright";
import type { Page } from "playwright-core";
import { openChat } from "../../src/client/index.ts";
import { withoutChromium } from "./chromium.ts";
import { Stage, sees } from "./stage.ts";

const OPTIONS = { skip: withoutChromium };

let stage: Stage;
/** Where, and what is seen there once it is complete. */
let views: (readonly [where: string, text: string])[];
before(async () => {
  if (withoutChromium !== false) return;
  stage = await Stage.open();
  const session = await stage.session("olgas");
  const held = await session.turn("cli:garden", "talker", { text: "wait" });
  await session.turn("cli:garden", "talker", { text: "later" });
  const planned = await stage.submit("olgas", "planner", null, "USD:2.00");
  const asking = await stage.submit("olgas", "approve", { action: "water the plants" });
  await stage.submit("olgas", "letter", "Dear Bob");
  using chat = await openChat(session, { room: "garden", agent: "talker" });
  await chat.say("good morning");
  views = [
    ["", "this one"],
    ["sessions", "this page"],
    ["jobs", "planner@"],
    [`jobs/${planned}`, "Day two: the castle."],
    [`jobs/${asking}`, "May I water the plants?"],
    ["conversations", "garden"],
    [`conversations/${held.turn?.conversationId}`, "Break the lock"],
    ["deliveries", "the place is archived"],
    ["processes", "a stage"],
    ["submit", "Ctrl+Enter submits."],
    ["chat", "Nothing was said here yet."],
    ["chat/garden", "You said: good morning"],
    ["nowhere", "There is no such page."],
  ];
});
after(() => stage?.[Symbol.asyncDispose]());

async function findings(page: Page): Promise<string[]> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`)}`);
}

async function checkAll(colorScheme: "light" | "dark"): Promise<void> {
  const outside = await stage.page({ colorScheme });
  await outside.page.goto(stage.url);
  await outside.page.getByLabel("Token").waitFor();
  assert.deepEqual(await findings(outside.page), [], "login");
  const { page, faults } = await stage.enter("olgas", "", { colorScheme });
  for (const [where, text] of views) {
    await page.goto(`${stage.url}/console/${where}`);
    await sees(page, text);
    assert.deepEqual(await findings(page), [], where);
  }
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  assert.deepEqual(await findings(page), [], "keys");
  assert.deepEqual(faults, []);
}

test("[CON-8] axe finds nothing serious in any view, in light", OPTIONS, () => checkAll("light"));

test("[CON-8] axe finds nothing serious in any view, in dark", OPTIONS, () => checkAll("dark"));

test("[CON-8] no view is wider than a phone of 360 pixels", OPTIONS, async () => {
  const { page } = await stage.enter("olgas", "", { viewport: { width: 360, height: 640 } });
  for (const [where, text] of views) {
    await page.goto(`${stage.url}/console/${where}`);
    await sees(page, text);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, where);
  }
});

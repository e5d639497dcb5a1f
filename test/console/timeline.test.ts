/** A timeline of a hundred thousand events. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { withoutChromium } from "./chromium.ts";
import { Stage, sees } from "./stage.ts";

let stage: Stage;
before(async () => {
  if (withoutChromium === false) stage = await Stage.open();
});
after(() => stage?.[Symbol.asyncDispose]());

const EVENTS = 100_000;
const MAX_NODES = 1_500;

test("[CON-7] of a hundred thousand events only those in sight are in the page, wherever one scrolls", {
  skip: withoutChromium,
  timeout: 300_000,
}, async () => {
  const jobId = await stage.submit("alices", "burst", { n: EVENTS, bytes: 32 });
  const { page, faults } = await stage.enter("alices", `jobs/${jobId}`);
  await page.locator(`.count[data-events="${EVENTS}"]`).waitFor({ timeout: 240_000 });
  await page.locator(".row .label").filter({ hasText: "success" }).waitFor();
  // A notice that the page is behind may stand between them.
  await page.getByRole("button", { name: "logs" }).click();
  const nodes = () => page.evaluate(() => document.querySelectorAll("*").length);
  assert.ok((await nodes()) < MAX_NODES);
  const scroller = page.getByRole("listbox");
  for (const place of [0, 1, 31_337, 50_000, EVENTS - 2]) {
    await scroller.evaluate((element, top) => element.scrollTo({ top }), place * 30);
    const message = String(place).padStart(8, "0").padEnd(32, ".");
    await page.locator(".row .text").getByText(message, { exact: true }).waitFor();
    assert.ok((await nodes()) < MAX_NODES);
  }
  await scroller.press("Home");
  await page.locator('.row[aria-posinset="1"][aria-selected="true"]').waitFor();
  await page.getByRole("button", { name: "newest" }).click();
  await page
    .locator(".row .text")
    .getByText(`000${EVENTS - 1}`)
    .waitFor();
  await page.getByLabel("Filter events").fill("00077777");
  await page.locator('.row[aria-setsize="1"]').getByText("00077777").waitFor();
  await page.getByLabel("Filter events").fill("nothing like it");
  await sees(page, "No event matches.");
  assert.deepEqual(faults, []);
});

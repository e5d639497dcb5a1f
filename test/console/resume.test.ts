/** The timeline over what breaks: a socket that is cut, a server that crashes and is started again. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { withoutChromium } from "./chromium.ts";
import { login, Stage, says, sees } from "./stage.ts";

const OPTIONS = { skip: withoutChromium };

let stage: Stage;
before(async () => {
  if (withoutChromium === false) stage = await Stage.open();
});
after(() => stage?.[Symbol.asyncDispose]());

/** What each row says, from the first to the last, scrolled through as somebody would. */
async function rowsOf(page: Page): Promise<string[]> {
  return await page.evaluate(async () => {
    const scroller = document.querySelector(".rows");
    if (scroller === null) return [];
    const rows = new Map<number, string>();
    for (let top = 0; ; top += scroller.clientHeight / 2) {
      scroller.scrollTop = top;
      await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
      for (const row of scroller.querySelectorAll(".row")) {
        rows.set(Number(row.getAttribute("aria-posinset")), row.querySelector(".text")?.textContent ?? "");
      }
      if (top >= scroller.scrollHeight) break;
    }
    return [...rows].toSorted(([one], [other]) => one - other).map(([, text]) => text);
  });
}

const ticks = (count: number): string[] => Array.from({ length: count }, (_, index) => `tick ${index}`);

test("[CON-3] a socket that is cut is said, and resumed, with every event once and in order", OPTIONS, async () => {
  const jobId = await stage.submit("alices", "ticker", { n: 200, every_ms: 20 });
  const { page, faults } = await stage.enter("alices", `jobs/${jobId}`);
  await sees(page, "tick 10");
  const { target } = stage.proxy;
  stage.proxy.target = 0;
  stage.proxy.cut();
  await page.locator('.pill[data-state="reconnecting"]').waitFor();
  stage.proxy.target = target;
  await page.locator('.pill[data-state="connected"][data-resumed="1"]').waitFor();
  await page.locator(".row .label").filter({ hasText: "success" }).waitFor();
  const rows = await rowsOf(page);
  assert.deepEqual(rows.slice(0, -1), ticks(200));
  assert.deepEqual(faults, []);
});

test("[CON-3] a server that crashes in mid-timeline and comes back finds the page again", OPTIONS, async () => {
  const jobId = await stage.submit("alices", "ticker", { n: 1_000_000, every_ms: 20 });
  const { page, faults } = await stage.enter("alices", `jobs/${jobId}`);
  await sees(page, "tick 10");
  await stage.crash();
  await page.locator('.pill[data-state="reconnecting"]').waitFor();
  await sees(page, /^tick \d\d/);
  await stage.restart();
  await page.locator('.pill[data-state="connected"][data-resumed="1"]').waitFor();
  await page.getByRole("region", { name: "Result" }).getByText("INTERNAL_ERROR").waitFor();
  const rows = await rowsOf(page);
  const ticked = rows.filter((text) => text.startsWith("tick "));
  assert.ok(ticked.length > 10);
  assert.deepEqual(ticked, ticks(ticked.length));
  const events = (await stage.ask("alices", "GET", `/jobs/${jobId}`))["events"];
  assert.equal(await page.locator(".count").getAttribute("data-events"), String(Number(events) - 1));
  await page.goto(`${stage.url}/console/submit`);
  await page.getByRole("button", { name: "Submit" }).click();
  await page.getByRole("region", { name: "Result" }).getByText("null").waitFor();
  assert.deepEqual(faults, []);
});

test("[CON-1] a login that ends by itself is asked for anew, over what is seen, and all goes on", OPTIONS, async () => {
  const jobId = await stage.submit("alices", "ticker", { n: 200, every_ms: 20 });
  const { page, faults } = await stage.enter("alices", `jobs/${jobId}`);
  await sees(page, "tick 10");
  await stage.endLogin(page);
  stage.proxy.cut();
  await page.getByRole("dialog", { name: "Log in again" }).waitFor();
  await sees(page, /^tick \d\d/);
  await login(page, "alices");
  await page.locator('.pill[data-state="connected"][data-resumed="1"]').waitFor();
  await page.locator(".row .label").filter({ hasText: "success" }).waitFor();
  assert.deepEqual((await rowsOf(page)).slice(0, -1), ticks(200));
  assert.deepEqual(faults, []);
});

test("[CON-10] a chat goes on by itself over a crash of its server, with all that was said", OPTIONS, async () => {
  const { page, faults } = await stage.enter("alices", "chat");
  const answers = page.getByRole("article", { name: "Agent" });
  await says(page, "before");
  await answers.getByText("You said: before").waitFor();
  await stage.crash();
  await page.locator('.pill[data-state="reconnecting"]').waitFor();
  await stage.restart();
  await page.locator('.pill[data-state="connected"]').waitFor();
  await says(page, "after");
  await answers.getByText("You said: after").waitFor();
  await answers.getByText("You said: before").waitFor();
  assert.equal(await page.locator(".user").count(), 2);
  assert.deepEqual(faults, []);
});

/** What strangers name, in every view: it is text, whatever it says. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { openChat } from "../../src/client/index.ts";
import { withoutChromium } from "./chromium.ts";
import { HOSTILE, HOSTILE_START } from "./hostile.ts";
import { Stage, sees } from "./stage.ts";

const OPTIONS = { skip: withoutChromium };

let stage: Stage;
before(async () => {
  if (withoutChromium === false) stage = await Stage.open();
});
after(() => stage?.[Symbol.asyncDispose]());

/** Nothing of the text became a part of the page, or ran. */
async function isUnhurt(page: Page, faults: readonly string[]): Promise<void> {
  const found = await page.evaluate(() => ({
    hurt: "hurt" in globalThis,
    images: document.querySelectorAll("img, iframe, object, embed").length,
    scripts: [...document.querySelectorAll("script")].filter(({ src }) => !src.includes("/console/assets/")).length,
    handlers: document.querySelectorAll("[onload], [onerror], [onclick]").length,
    links: [...document.querySelectorAll("a")].filter(({ href }) => !href.startsWith(location.origin)).length,
    turned: document.body.textContent.includes("\u202e"),
  }));
  assert.deepEqual(found, { hurt: false, images: 0, scripts: 0, handlers: 0, links: 0, turned: false });
  assert.deepEqual(faults, []);
}

test("[CON-5] hostile names of people, clients, jobs and conversations are text in every list", OPTIONS, async () => {
  const session = await stage.session("mallorys", { name: HOSTILE, version: HOSTILE });
  const turn = await session.turn({ source: "cli", name: HOSTILE.replace("\u202e", "") }, "hostile", null, {
    messageId: HOSTILE,
  });
  await turn.terminal;
  await stage.submit("mallorys", "ticker", { n: 1_000_000, every_ms: 50 });
  const { page, faults } = await stage.enter("olgas");
  for (const [where, text] of [
    ["", HOSTILE_START],
    ["sessions", HOSTILE_START],
    ["jobs", HOSTILE_START],
    ["conversations", HOSTILE_START],
    [`conversations/${turn.turn?.conversationId}`, HOSTILE_START],
    [`chat/${encodeURIComponent(HOSTILE)}`, HOSTILE_START],
    [encodeURIComponent(HOSTILE), "There is no such page."],
    [`jobs/${encodeURIComponent(HOSTILE)}`, "There is no such job."],
    [`conversations/${encodeURIComponent(HOSTILE)}`, "There is no such conversation."],
  ] as const) {
    await page.goto(`${stage.url}/console/${where}`);
    await sees(page, text);
    await isUnhurt(page, faults);
  }
});

test(
  "[CON-5] hostile bodies are text in the timeline, whatever their kind, and in what is opened",
  OPTIONS,
  async () => {
    const { page, faults } = await stage.enter("mallorys");
    for (const input of [null, "fail", "stream", "ask"]) {
      const jobId = await stage.submit("mallorys", "hostile", input);
      await page.goto(`${stage.url}/console/jobs/${jobId}`);
      const shows = input === "ask" ? "Question" : "Result";
      await page.getByRole("region", { name: shows }).getByText(HOSTILE_START).first().waitFor();
      await isUnhurt(page, faults);
      const rows = page.locator(".row");
      for (let index = 0; index < (await rows.count()); index += 1) {
        await rows.nth(index).click();
        await page.getByRole("complementary", { name: "Event" }).waitFor();
        await isUnhurt(page, faults);
      }
    }
  },
);

test("[CON-5] hostile things said in a chat, and answers, are text", OPTIONS, async () => {
  const session = await stage.session("mallorys");
  using chat = await openChat(session, { room: "hostile", agent: "hostile" });
  await chat.say(HOSTILE);
  const { page, faults } = await stage.enter("mallorys", "chat/hostile");
  for (const name of ["You", "Agent"]) {
    await page.getByRole("article", { name }).getByText(HOSTILE_START).waitFor();
  }
  await isUnhurt(page, faults);
});

test("[CON-5] hostile deliveries, routes, processes and refusals are text", OPTIONS, async () => {
  const { page, faults } = await stage.enter("olgas");
  const at = "2026-01-01T00:00:00.000Z";
  const record = (names: readonly string[]) => Object.fromEntries(names.map((name) => [name, HOSTILE]));
  const delivery = {
    ...record(["delivery_id", "channel", "route_key", "conversation_id", "job_id", "principal", "last_error"]),
    ...{ state: "failed", route: { [HOSTILE]: HOSTILE }, attempts: 1, failures: 1, next_try_at: null },
    ...{ created_at: at, changed_at: HOSTILE },
  };
  const process = { ...record(["session_name", "role", "frontend"]), pid: 1, uptime_seconds: 1, connected: false };
  const answers: Record<string, unknown> = {
    "/v1/deliveries": { deliveries: [delivery, { ...delivery, delivery_id: "2", state: HOSTILE }], next_cursor: null },
    "/v1/routes": {
      routes: [{ key: HOSTILE, partition: HOSTILE, route: HOSTILE, updated_at: HOSTILE, expires_at: at }],
    },
    "/v1/active-sessions": { sessions: [{ ...process, listener: { host: HOSTILE, port: 1 } }], error: HOSTILE },
  };
  await page.route(/\/v1\/(deliveries|routes|active-sessions)\b/, async (route) => {
    const body = JSON.stringify(answers[new URL(route.request().url()).pathname]);
    await route.fulfill({ status: 200, contentType: "application/json", body });
  });
  for (const where of ["deliveries", "processes"]) {
    await page.goto(`${stage.url}/console/${where}`);
    await sees(page, HOSTILE_START);
    for (const details of await page.locator("summary").all()) await details.click();
    await isUnhurt(page, faults);
  }
  await page.route(/\/v1\/jobs\?/, (route) =>
    route.fulfill({
      status: 500,
      contentType: "application/problem+json",
      body: JSON.stringify({ code: HOSTILE, detail: HOSTILE }),
    }),
  );
  await page.goto(`${stage.url}/console/jobs`);
  await page.getByRole("alert").getByText(HOSTILE_START).first().waitFor();
  await isUnhurt(page, faults);
});

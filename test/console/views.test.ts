/** Each view of the console, in Chromium, before a server that has real jobs. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { withoutChromium } from "./chromium.ts";
import { live, login, Stage, says, sees } from "./stage.ts";

const OPTIONS = { skip: withoutChromium };

let stage: Stage;
before(async () => {
  if (withoutChromium === false) stage = await Stage.open();
});
after(() => stage?.[Symbol.asyncDispose]());

const view = (page: Page, name: string) => page.getByRole("navigation", { name: "Views" }).getByText(name).click();
const row = (page: Page, text: string) => page.locator("tbody tr").filter({ hasText: text });
const end = (id: string): string => id.slice(-10);

test("[CON-1] a token lets in until the logout, and stays nowhere in the page", OPTIONS, async () => {
  const { page, faults } = await stage.page();
  await page.goto(stage.url);
  await page.getByLabel("Token").fill("wrong");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").getByText("is not a good token").waitFor();
  await login(page, "alices");
  await live(page);
  await page.locator(".who").getByText("alice").waitFor();
  const stored = await page.evaluate(() => JSON.stringify([localStorage, sessionStorage, document.cookie]));
  assert.deepEqual(JSON.parse(stored), [{}, {}, ""]);
  assert.equal((await page.content()).includes("alices"), false);
  await page.reload();
  await live(page);
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByLabel("Token").waitFor();
  await page.reload();
  await page.getByLabel("Token").waitFor();
  assert.deepEqual(faults, []);
});

test("[CON-2] the overview counts what runs, how fast events come, and the nodes", OPTIONS, async () => {
  const { page, faults } = await stage.enter("alices");
  await sees(page, "this one");
  await sees(page, "takes work");
  const jobId = await stage.submit("alices", "ticker", { n: 1_000_000, every_ms: 5 });
  await row(page, end(jobId)).waitFor();
  await page.waitForFunction(() => Number(document.querySelector("[data-rate]")?.getAttribute("data-rate")) > 0);
  await page.waitForFunction(
    () => (document.querySelector(".tile polyline")?.getAttribute("points") ?? "").split(" ").length > 2,
  );
  await stage.ask("alices", "POST", `/jobs/${jobId}/cancel`, {});
  await row(page, end(jobId)).waitFor({ state: "detached" });
  assert.deepEqual(faults, []);
});

test("[CON-2] sessions tell whose they are, whether they are connected, and how far", OPTIONS, async () => {
  const { page } = await stage.enter("alices", "sessions");
  await row(page, "this page").filter({ hasText: "attached" }).waitFor();
  const session = await stage.session("alices", { name: "a-notebook", version: "7" });
  const job = await session.submit("echo", 1);
  await job.result;
  await row(page, "a-notebook 7").filter({ hasText: "attached" }).filter({ hasText: "alice" }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("notebook");
  await row(page, "this page").waitFor({ state: "detached" });
  assert.equal(await page.locator("tbody tr").count(), 1);
  const operators = await stage.enter("olgas", "sessions");
  await row(operators.page, "a-notebook 7").waitFor();
});

test("[CON-2] jobs are filtered by status, agent and text, and lead to one", OPTIONS, async () => {
  const jobId = await stage.submit("alices", "echo", "hello");
  const failing = await stage.submit("alices", "ticker", { n: "many" });
  const { page } = await stage.enter("alices", "jobs");
  await row(page, end(jobId)).filter({ hasText: "success" }).waitFor();
  await page.getByLabel("Status").selectOption("error");
  await row(page, end(failing)).waitFor();
  await row(page, end(jobId)).waitFor({ state: "detached" });
  await page.getByLabel("Agent").selectOption("echo");
  await sees(page, "No job matches.");
  await page.getByLabel("Status").selectOption("");
  await page.getByLabel("Filter jobs").fill(end(jobId));
  await row(page, end(jobId)).getByRole("link").click();
  await page.getByRole("region", { name: "Result" }).getByText("hello").waitFor();
  await page.goBack();
  await page.getByRole("heading", { name: "Jobs" }).waitFor();
  await page.goto(`${stage.url}/console/jobs/job_that_is_none`);
  await sees(page, "There is no such job.");
});

test("[CON-4] each kind of event shows as what it is", OPTIONS, async () => {
  const jobId = await stage.submit("alices", "planner", null, "USD:2.00");
  const { page, faults } = await stage.enter("alices", `jobs/${jobId}`);
  await page.getByRole("region", { name: "Result" }).getByText("Day two: the castle.").waitFor();
  const text = (label: string) => page.locator(".row").filter({ hasText: label }).locator(".text").allTextContents();
  const tools = await page
    .locator(".row .label")
    .filter({ hasText: /^tool$/ })
    .count();
  assert.equal(tools, 2, "a call and its result are one row");
  assert.deepEqual(await text("weather"), ['weather {"city":"Lisbon"} → {"sky":"clear","celsius":21}']);
  assert.match(String(await text("maps")), /✗ TIMEOUT: maps did not answer/);
  assert.deepEqual(await text("reading guides"), ["8 of 10 pages · reading guides"]);
  const bar = page.getByRole("region", { name: "Progress" }).getByRole("progressbar");
  assert.deepEqual([await bar.getAttribute("aria-valuenow"), await bar.getAttribute("aria-valuemax")], ["8", "10"]);
  const gauge = page.getByRole("region", { name: "Budget" }).getByRole("meter");
  assert.deepEqual(
    [await gauge.getAttribute("aria-valuenow"), await gauge.getAttribute("aria-valuemax")],
    ["1.25", "2"],
  );
  const tree = page.getByRole("region", { name: "Delegation" });
  await tree.locator("li li li").getByText("echo@1.0.0").waitFor();
  assert.match((await tree.locator("> ul > li > span").textContent()) ?? "", /^planner/);
  await page.locator(".row").filter({ hasText: "weather" }).click();
  await page.getByRole("complementary", { name: "Event" }).getByText('"celsius": 21').waitFor();
  await page.getByRole("listbox").press("End");
  await page.getByRole("complementary", { name: "Event" }).getByText('"final_status": "success"').waitFor();
  await page.getByRole("listbox").press("Escape");
  await page.getByRole("complementary", { name: "Event" }).waitFor({ state: "detached" });
  await page.getByRole("button", { name: "tools" }).click();
  await page.locator(".row").filter({ hasText: "thought" }).waitFor({ state: "detached" });
  await page.getByLabel("Filter events").fill("no such event");
  await sees(page, "No event matches.");
  assert.deepEqual(faults, []);
});

test("[CON-6] a job is cancelled with a reason, and answered when it asks", OPTIONS, async () => {
  const ticking = await stage.submit("alices", "ticker", { n: 1_000_000, every_ms: 20 });
  const { page } = await stage.enter("alices", `jobs/${ticking}`);
  await sees(page, "tick 3");
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByLabel("Reason").fill("seen enough");
  await page.getByRole("button", { name: "Cancel it" }).click();
  await page.getByRole("region", { name: "Result" }).getByText("seen enough").waitFor();
  await page.getByRole("button", { name: "Cancel" }).waitFor({ state: "detached" });

  const asking = await stage.submit("alices", "approve", { action: "water the plants" });
  await page.goto(`${stage.url}/console/jobs/${asking}`);
  const question = page.getByRole("region", { name: "Question" });
  await question.getByText("May I water the plants?").waitFor();
  await question.getByLabel("Answer").fill('{"approve": "perhaps"}');
  await question.getByRole("button", { name: "Answer" }).click();
  await question.getByRole("alert").waitFor();
  await question.getByLabel("Answer").fill('{"approve": true}');
  await question.getByRole("button", { name: "Answer" }).click();
  await page.getByRole("region", { name: "Result" }).getByText('"approve": true').waitFor();
  await question.waitFor({ state: "detached" });
});

test(
  "[CON-2, CON-6] a conversation shows its lock and its queue; an operator breaks the lock with a reason",
  OPTIONS,
  async () => {
    const session = await stage.session("alices");
    const first = await session.turn("cli:garden", "talker", { text: "wait" }, { messageId: "m-1" });
    const second = await session.turn("cli:garden", "talker", { text: "and you?" });
    const { page } = await stage.enter("alices", "conversations");
    await row(page, "garden").filter({ hasText: "epoch 1" }).getByRole("link").click();
    const lock = page.getByRole("region", { name: "Lock" });
    await lock.getByText(end(first.id)).waitFor();
    await row(page, end(second.id)).filter({ hasText: "place 1" }).waitFor();
    await row(page, "m-1").filter({ hasText: "running" }).waitFor();
    await page.getByRole("region", { name: "Binding" }).getByText("no session").waitFor();
    await page.getByRole("region", { name: "Route" }).getByText("and nowhere else").waitFor();
    assert.equal(await page.getByRole("button", { name: "Break the lock" }).count(), 0);

    const operator = await stage.enter("olgas", `conversations/${first.turn?.conversationId}`);
    await operator.page.getByRole("button", { name: "Break the lock" }).click();
    const act = operator.page.getByRole("button", { name: "Break it" });
    assert.equal(await act.isDisabled(), true);
    await operator.page.getByLabel("Reason").fill("the gardener is gone");
    await act.click();
    assert.match(String((await first.terminal).message), /the gardener is gone/);
    assert.equal(await second.result, "You said: and you?");
    await lock.getByText("free").waitFor();
  },
);

test("[CON-2] a failed delivery says why, and an operator sends it again; routes show where to", OPTIONS, async () => {
  await stage.submit("alices", "letter", "Dear Bob");
  const route = { externalRoomId: "C1", threadId: "17.1" };
  await stage.ask("olgas", "PUT", "/routes", { key: "post/T1/C1/17.1", route });
  const { page, faults } = await stage.enter("olgas", "deliveries");
  const letter = row(page, "post/T1/C1/17.1").filter({ has: page.locator("details") });
  await letter.filter({ hasText: "failed" }).filter({ hasText: "the place is archived" }).waitFor();
  await page.getByRole("region", { name: "Routes" }).getByText("post/T1/C1/17.1").waitFor();
  const alices = await stage.enter("alices", "deliveries");
  await row(alices.page, "the place is archived").waitFor();
  assert.equal(await alices.page.getByRole("button", { name: "Retry" }).count(), 0);
  assert.equal(await alices.page.getByRole("region", { name: "Routes" }).count(), 0);
  const opened = await (await stage.session("alices")).submit("post-office", "open");
  await opened.result;
  await letter.getByRole("button", { name: "Retry" }).click();
  await letter.filter({ hasText: "delivered" }).waitFor();
  await page.getByLabel("State").selectOption("failed");
  await sees(page, "No delivery matches.");
  assert.deepEqual(faults, []);
});

test("[CON-2] active sessions are the machine's own, for operators", OPTIONS, async () => {
  const { page, faults } = await stage.enter("olgas", "processes");
  await row(page, "a stage").filter({ hasText: "headless" }).filter({ hasText: "tests" }).waitFor();
  assert.equal((await stage.ask("olgas", "GET", "/active-sessions"))["total"], 2);
  assert.equal(await page.locator("tbody tr").count(), 1, "one is hidden");
  const alices = await stage.enter("alices", "processes");
  await sees(alices.page, "Only operators see");
  assert.deepEqual(faults, []);
});

test("[CON-2] what a server does not offer, each view says", OPTIONS, async () => {
  const bare = await stage.bare();
  const { page, faults } = await stage.page();
  await page.goto(`${bare}/console/deliveries`);
  await login(page, "olgas");
  await live(page);
  await sees(page, "does not offer deliveries");
  await sees(page, "does not offer routes");
  for (const [name, what] of [
    ["Active sessions", "active sessions"],
    ["Conversations", "conversations"],
    ["Chat", "chats"],
  ] as const) {
    await view(page, name);
    await sees(page, `This server does not offer ${what}.`);
  }
  assert.deepEqual(faults, []);
});

test("[CON-10] a job is submitted from the page, and shown as it runs", OPTIONS, async () => {
  const { page } = await stage.enter("alices", "submit");
  await page.getByLabel("Agent").selectOption("ticker");
  await page.getByLabel("Input").fill("{n: 3}");
  await page.getByRole("button", { name: "Submit" }).click();
  await page.getByRole("alert").getByText("no JSON").waitFor();
  await page.getByLabel("Input").fill('{"n": 3, "every_ms": 1}');
  await page.getByLabel("Budget").fill("USD:1.00");
  await page.getByLabel("Input").press("Control+Enter");
  await sees(page, "tick 2");
  await page.getByRole("region", { name: "Result" }).getByText('"n": 3').waitFor();
  await page.getByRole("region", { name: "Budget" }).getByText("1 of 1 USD left").waitFor();
});

test("[CON-10] one chats from the page: answers as they are made, turns that wait, and a stop", OPTIONS, async () => {
  const { page, faults } = await stage.enter("alices", "chat");
  await sees(page, "Nothing was said here yet.");
  const answers = page.getByRole("article", { name: "Agent" });
  await says(page, "good morning");
  await answers.getByText("You said: good morning").waitFor();
  await says(page, "wait");
  await page.locator('.user[data-status="working"]').getByText("wait").waitFor();
  await says(page, "later");
  await page.locator('.user[data-status="waiting"]').getByText("place 1").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.locator('.agent[data-status="cancelled"]').waitFor();
  await answers.getByText("You said: later").waitFor();
  await page.getByRole("button", { name: "Stop", disabled: true }).waitFor();
  await view(page, "Conversations");
  await row(page, "console").filter({ hasText: "web" }).waitFor();
  await view(page, "Chat");
  await answers.getByText("You said: good morning").waitFor();
  assert.deepEqual(faults, []);
});

test("[CON-10] a chat is there after a reload, and in another page, with what is being answered", OPTIONS, async () => {
  const { page, faults } = await stage.enter("alices", "chat/garden%20gate");
  await says(page, "wait");
  await page.locator('.user[data-status="working"]').getByText("wait").waitFor();
  await page.reload();
  await page.locator('.user[data-status="working"]').getByText("wait").waitFor();
  const other = await stage.enter("alices", "chat/garden%20gate");
  await says(other.page, "who is there?", "interrupt");
  for (const one of [page, other.page]) {
    await one.locator('.agent[data-status="cancelled"]').waitFor();
    await one.getByRole("article", { name: "Agent" }).getByText("You said: who is there?").waitFor();
  }
  assert.equal(await page.locator(".user").count(), 2);
  assert.deepEqual([...faults, ...other.faults], []);
});

test("[CON-6] an observer sees no button that would be refused", OPTIONS, async () => {
  const jobId = await stage.submit("alices", "ticker", { n: 1_000_000, every_ms: 20 });
  const asking = await stage.submit("alices", "approve", { action: "look" });
  const { page } = await stage.enter("ottos", `jobs/${jobId}`);
  await sees(page, "tick 3");
  assert.equal(await page.getByRole("button", { name: "Cancel" }).count(), 0);
  assert.equal(await page.getByRole("navigation", { name: "Views" }).getByText("Chat").count(), 0);
  await page.goto(`${stage.url}/console/jobs/${asking}`);
  await sees(page, "May I look?");
  assert.equal(await page.getByRole("button", { name: "Answer" }).count(), 0);
  await page.goto(`${stage.url}/console/submit`);
  await sees(page, "An observer only looks.");
  await stage.ask("alices", "POST", `/jobs/${jobId}/cancel`, {});
});

test("[CON-8] keys lead everywhere, and explain themselves", OPTIONS, async () => {
  const { page } = await stage.enter("alices");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), "Skip to the content");
  await page.keyboard.press("g");
  await page.keyboard.press("j");
  await page.getByRole("heading", { name: "Jobs" }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("g s");
  assert.equal(await page.getByLabel("Filter jobs").inputValue(), "g s");
  await page.getByLabel("Filter jobs").blur();
  await page.keyboard.press("?");
  const help = page.getByRole("dialog", { name: "Keys" });
  await help.getByText("Filter what is listed").waitFor();
  await page.keyboard.press("Escape");
  await help.waitFor({ state: "detached" });
  await page.keyboard.press("g");
  await page.keyboard.press("s");
  await page.getByRole("heading", { name: "Sessions" }).waitFor();
});

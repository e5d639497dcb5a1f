/**
 * `npm run screenshots`: a picture of each view of the console in docs/screenshots, taken in Chromium from a server of
 * its own that runs real jobs. Ids and times differ from run to run, so run it when a view has changed.
 */
import { mkdirSync } from "node:fs";
import path from "node:path";
import type { Page } from "playwright-core";
import { Stage, says, sees } from "./stage.ts";

const FOLDER = path.resolve(import.meta.dirname, "../../docs/screenshots");
const WIDE = { viewport: { width: 1200, height: 750 } };
const PHONE = { viewport: { width: 360, height: 720 }, deviceScaleFactor: 2 };

mkdirSync(FOLDER, { recursive: true });
await using stage = await Stage.open();

const take = async (page: Page, name: string) => {
  await page.screenshot({ path: path.join(FOLDER, `${name}.png`), animations: "disabled" });
  process.stdout.write(`docs/screenshots/${name}.png\n`);
};

const notebook = await stage.session("alices", { name: "notebook", version: "2.1" });
const held = await notebook.turn("cli:garden", "talker", { text: "wait" }, { messageId: "m-1" });
await notebook.turn("cli:garden", "talker", { text: "and the roses?" });
await notebook.turn("cli:garden", "talker", { text: "and the hedge?" });
await stage.submit("alices", "echo", { week: 19 });
await stage.submit("alices", "letter", "The roses are in bloom.");
await stage.ask("olgas", "PUT", "/routes", {
  key: "post/T1/C1/17.1",
  route: { externalRoomId: "C1", threadId: "17.1" },
});
const ticking = await stage.submit("alices", "ticker", { n: 1_000_000, every_ms: 2 });
await stage.submit("alices", "ticker", { n: 1_000_000, every_ms: 7 });
await stage.submit("olgas", "ticker", { n: "many" });
const asking = await stage.submit("olgas", "approve", { action: "water the plants" });
const planned = await stage.submit("olgas", "planner", null, "USD:2.00");

const { page } = await stage.enter("olgas", "", WIDE);
const show = async (where: string, text: string) => {
  await page.goto(`${stage.url}/console/${where}`);
  await sees(page, text);
};

// A sparkline is one after some seconds.
await page.waitForFunction(
  () => (document.querySelector(".tile polyline")?.getAttribute("points") ?? "").split(" ").length > 25,
  undefined,
  { timeout: 60_000 },
);
await take(page, "overview");
await stage.ask("alices", "POST", `/jobs/${ticking}/cancel`, { reason: "seen enough" });
await show("sessions", "notebook");
await take(page, "sessions");
await show("jobs", "planner");
await take(page, "jobs");
await show(`jobs/${planned}`, "Day two: the castle.");
await page.locator(".row").filter({ hasText: "weather" }).click();
await take(page, "job");
await show(`jobs/${asking}`, "May I water the plants?");
await take(page, "question");
await show("conversations", "garden");
await take(page, "conversations");
await show(`conversations/${held.turn?.conversationId}`, "place 2");
await take(page, "conversation");
await show("deliveries", "the place is archived");
await take(page, "deliveries");
await show("processes", "a stage");
await take(page, "active-sessions");
await show("submit", "Ctrl+Enter submits.");
await page.getByLabel("Agent").selectOption("ticker");
await page.getByLabel("Input").fill('{\n  "n": 100,\n  "every_ms": 200\n}');
await take(page, "submit");
await show("chat", "Nothing was said here yet.");
for (const text of ["good morning", "how are the roses?"]) {
  await says(page, text);
  await page.getByRole("article", { name: "Agent" }).getByText(`You said: ${text}`).waitFor();
}
await take(page, "chat");

const dark = await stage.enter("olgas", `jobs/${planned}`, { ...WIDE, colorScheme: "dark" });
await sees(dark.page, "Day two: the castle.");
await take(dark.page, "job-dark");
const phone = await stage.enter("olgas", `jobs/${planned}`, PHONE);
await sees(phone.page, "Day two: the castle.");
await take(phone.page, "phone");

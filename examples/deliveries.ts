/**
 * Deliveries: a turn's answer goes where its message came from, by a channel of one's own, and what does not arrive is
 * tried again, or kept and shown.
 *
 *     node examples/deliveries.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bearerTokens, type Channel, ChannelError, Conversations, Runtime } from "holdfast";
import { Routes } from "holdfast/routing";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

let closed = true;
const postcards: Channel = {
  name: "postcards",
  limits: { maxTextChars: 2_000, minUpdateIntervalMs: 1_000, timeoutMs: 10_000 },
  async send({ route, text, deliveryId }) {
    if (closed) throw new ChannelError("refused", `${route.externalRoomId} takes no post`);
    console.log(`to ${route.externalRoomId}, ${route.threadId}: ${text}`);
    return { id: deliveryId };
  },
  async update(_receipt, { text }) {
    console.log(`instead: ${text}`);
  },
};

const runtime = new Runtime({ store: sqlite(join(folder, "example.db")), auth: bearerTokens({}) });
const routes = new Routes();
const conversations = new Conversations(runtime, { deliveries: { channels: [postcards], routes } });
runtime.agent("clerk", (input) => `done: ${(input as { text: string }).text}`);
await runtime.start();

const thread = { channel: "postcards", bridge: "b1", room: "harbour", thread: "7" };
routes.set(thread, { externalRoomId: "Harbour Street", threadId: "7" });

const failed = Promise.withResolvers<string>();
conversations.deliveries.on("failed", ({ deliveryId, error }) => {
  console.log("failed:", error);
  failed.resolve(deliveryId);
});
const delivered = Promise.withResolvers<void>();
conversations.deliveries.on("delivered", () => delivered.resolve());

await conversations.startTurn({
  key: { source: "x-postcards", parts: ["harbour", "7"] },
  principal: "post",
  agent: "clerk",
  input: { text: "water the plants" },
  messageId: "m-1",
  replyTo: { routeKey: thread },
});
// What happens to the table later does not redirect this turn's answer.
routes.set(thread, { externalRoomId: "Elsewhere", threadId: "7" });

const deliveryId = await failed.promise;
const operator = { principal: "post", operator: true };
const { deliveries } = await conversations.deliveries.list(operator, { state: "failed" });
console.log("kept:", deliveries.length);

closed = false;
await conversations.deliveries.retry(deliveryId, operator);
await delivered.promise;
await runtime.stop();

/**
 * A chat on a page, both sides in one file: the server offers rooms, two pages share one, the answer grows while it is
 * written, and a page that is loaded again finds all of it. In a browser the second half is the same.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { bearerTokens, Conversations, Runtime, serve } from "holdfast";
import { type Chat, connect, openChat } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";
import { mayChat, WebChannel, webChat } from "holdfast/webchat";

const folder = await mkdtemp(path.join(tmpdir(), "holdfast-example-"));
const auth = bearerTokens({ "alices-token": "alice" });
const runtime = new Runtime({ store: sqlite(path.join(folder, "chat.db")), auth, mayAnswer: mayChat });
const channel = new WebChannel();
const conversations = new Conversations(runtime, { deliveries: { channels: [channel] } });
const rooms = webChat({ runtime, conversations, channel });
runtime.agent("clerk", async (input, job) => {
  const { text } = input as { text: string };
  const answer = job.stream();
  for (const word of text.split(" ")) await answer.write(`${word.toUpperCase()} `);
});
const server = await serve(runtime, { port: 0, conversations });

/** Reads a room as a page would draw it, until somebody was answered so many times. */
async function drawn(chat: Chat, answers: number): Promise<void> {
  for await (const { from, status } of chat) {
    if (from === "user" || status === "working") continue;
    if (chat.messages.filter((one) => one.from === "agent").length === answers) return;
  }
}

const room = { room: "front desk", agent: "clerk" };
const connected = () => connect(server.url, { token: "alices-token" });
const [page, otherPage] = [await connected(), await connected()];
const chat = await openChat(page, room);
const other = await openChat(otherPage, room);

const { state } = await chat.say("good morning");
console.log("the turn is", state);
await drawn(other, 1);
await other.say("good evening", { messageId: "m-2" });
await other.say("good evening", { messageId: "m-2" });
await drawn(other, 2);

const reloaded = await connected();
const again = await openChat(reloaded, room);
await drawn(again, 2);
for (const { from, text } of again.messages) console.log(`${from}: ${text.trim()}`);

for (const session of [page, otherPage, reloaded]) await session.close();
rooms.stop();
await server.stop();
await rm(folder, { recursive: true });

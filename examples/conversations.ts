/**
 * Conversations: turns of one place run one at a time and in order. The next ones wait, are turned away, or interrupt;
 * a message that comes twice is one turn.
 *
 *     node examples/conversations.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ArcpError, bearerTokens, Conversations, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
});
const conversations = new Conversations(runtime); // before the runtime starts

runtime.agent("clerk", async (input, job) => {
  const { text } = input as { text: string };
  if (text === "something long") await job.sleep(3_600_000);
  return `done: ${text}`;
});

await using server = await serve(runtime, { port: 0, conversations });
await using session = await connect(server.url, { token: "dev-token" });

const say = (text: string, options?: Parameters<typeof session.turn>[3]) =>
  session.turn("cli:notes", "clerk", { text }, options);

const long = await say("something long", { messageId: "m-1" });
console.log("m-1:", long.turn?.state);
const again = await say("something long", { messageId: "m-1" });
console.log("m-1 once more:", again.id === long.id ? "the same job" : "another job");

const waiting = await say("water the plants", { messageId: "m-2" });
console.log("m-2:", waiting.turn?.state, "at place", waiting.turn?.place);
await say("me too", { onBusy: "reject" }).catch(({ details }: ArcpError) =>
  console.log("me too:", details?.["code"], details?.["job_id"] === long.id ? "with m-1" : ""),
);
const urgent = await say("put the fire out", { onBusy: "interrupt", messageId: "m-3" });

console.log("m-1 ends:", (await long.terminal).final_status);
console.log("m-3 ends:", await urgent.result);
console.log("m-2 ends:", await waiting.result);

// What a program that keeps no session does, such as a channel's adapter: the same queue.
const { conversationId } = await conversations.startTurn({
  key: { source: "cli", name: "notes" },
  principal: "alice",
  agent: "clerk",
  input: { text: "feed the cat" },
});
console.log("the same conversation:", conversationId === urgent.turn?.conversationId);

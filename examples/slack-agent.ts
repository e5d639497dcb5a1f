/**
 * A bot for Slack, all of it: mention it, write to it directly, or go on in a thread that it takes part in. One
 * question at a time in each thread, the answer grows as it is written, Stop stops it, and a crash loses nothing.
 * How to make the app in Slack is in docs/slack.md; then
 *
 *     SLACK_BOT_TOKEN=xoxb-… SLACK_SIGNING_SECRET=… node examples/slack-agent.ts
 */
import { App, HTTPReceiver } from "@slack/bolt";
import { bearerTokens, Conversations, Runtime } from "holdfast";
import { refuseReplays, type SlackInput, slackAgent, slackChannel } from "holdfast/slack";
import { sqlite } from "holdfast/sqlite";

const { SLACK_BOT_TOKEN, SLACK_SIGNING_SECRET, SLACK_API_URL, PORT = "3000", DB = "slack-agent.db" } = process.env;
if (SLACK_BOT_TOKEN === undefined || SLACK_SIGNING_SECRET === undefined) {
  throw new Error("Set SLACK_BOT_TOKEN and SLACK_SIGNING_SECRET; docs/slack.md says where they are.");
}

const runtime = new Runtime({ store: sqlite(DB), auth: bearerTokens({}) });
const channel = slackChannel({ token: SLACK_BOT_TOKEN, slackApiUrl: SLACK_API_URL });
const conversations = new Conversations(runtime, { deliveries: { channels: [channel] } });

// Your agent: a model, opencodeAgent({ backend, conversations }), or this one.
runtime.agent("clerk", async (input, job) => {
  const { text, files = [] } = input as SlackInput;
  await job.thought("Reading it word by word…");
  const answer = job.stream({ contentType: "text/markdown" });
  const words = text.split(/\s+/);
  await answer.write(`**${words.length} words**, and ${files.length} files:\n`);
  for (const [index, word] of words.entries()) await answer.write(`${index + 1}. ${word}\n`);
});

const app = new App({
  token: SLACK_BOT_TOKEN,
  // Slack hears that an event was taken when its turn is stored.
  receiver: refuseReplays(new HTTPReceiver({ signingSecret: SLACK_SIGNING_SECRET, processBeforeResponse: true })),
  ...(SLACK_API_URL === undefined ? {} : { clientOptions: { slackApiUrl: SLACK_API_URL } }),
});
slackAgent(app, { runtime, conversations, agent: "clerk", principal: "slack", onBusy: "enqueue" });

await runtime.start();
const server = await app.start({ port: Number(PORT), host: "127.0.0.1" });
console.log("Slack's events are taken at", server.address());

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, async () => {
    await app.stop();
    await runtime.stop();
    console.log("What was accepted is answered, or kept for the next start.");
  });
}

/** Slack is a channel as every other: the contract, over the real client and Slack's double. */
import { slackChannel } from "../src/adapters/slack/index.ts";
import { channelContract } from "../src/testing/channel-contract.ts";
import { BOT_TOKEN, SlackDouble, shownText, TEAM } from "./slack-double.ts";

channelContract("slack", async () => {
  const double = await SlackDouble.start();
  const channel = slackChannel({ token: BOT_TOKEN, slackApiUrl: double.apiUrl });
  const threads = [double.write("C1", { text: "hello" }), double.write("C1", { text: "another" })];
  const route = (channelId: string, thread = "1.000000") => ({
    channel: "slack",
    bridgeId: TEAM,
    externalRoomId: channelId,
    threadId: thread,
  });
  return {
    channel,
    route: route("C1", threads[0]),
    otherRoute: route("C1", threads[1]),
    refusedRoute: route("C404"),
    shown: ({ externalRoomId, threadId }) =>
      double.thread(String(externalRoomId), threadId).map((message) => ({
        text: shownText(message),
        files: message.files,
      })),
    rateLimitNext: (retryAfterMs) =>
      double.fail("chat.postMessage", { status: 429, headers: { "retry-after": String(retryAfterMs / 1_000) } }),
    loseNextAnswer: () => double.fail("chat.postMessage", { broken: "after" }),
    hangNext: () => double.fail("chat.postMessage", { hangs: "before" }),
    goDown: () => double.stop(),
    [Symbol.asyncDispose]: () => double[Symbol.asyncDispose](),
  };
});

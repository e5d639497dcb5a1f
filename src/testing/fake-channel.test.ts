/** The fake channel is a channel like any other. */
import { channelContract } from "./channel-contract.ts";
import { FakeChannel } from "./fake-channel.ts";

const ROOM = "C1";

channelContract("FakeChannel", () => {
  const channel = new FakeChannel();
  channel.archived = ({ externalRoomId }) => externalRoomId === "C_ARCHIVED";
  return {
    channel,
    route: { externalRoomId: ROOM, threadId: "1" },
    otherRoute: { externalRoomId: ROOM, threadId: "2" },
    refusedRoute: { externalRoomId: "C_ARCHIVED" },
    shown: ({ externalRoomId, threadId }) =>
      channel.shown
        .filter(({ route }) => route.externalRoomId === externalRoomId && route.threadId === threadId)
        .map(({ texts, files }) => ({ text: texts.at(-1) ?? "", files })),
    rateLimitNext: (retryAfterMs) => channel.fail("send", { kind: "rate_limited", retryAfterMs }),
    loseNextAnswer: () => channel.fail("send", { kind: "unclear", late: true }),
    hangNext: () => channel.fail("send", { until: new Promise(() => undefined) }),
    goDown: () => {
      for (const method of ["send", "update", "find"] as const) channel.fail(method, { kind: "unclear" });
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
});

channelContract("FakeChannel that cannot find", () => {
  const channel = new FakeChannel({ finds: false });
  return {
    channel,
    route: { externalRoomId: ROOM, threadId: "1" },
    shown: () => channel.shown.map(({ texts, files }) => ({ text: texts.at(-1) ?? "", files })),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
});

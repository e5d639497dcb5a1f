/** The Slack channel over the real client: what Slack is asked, and what its answers mean. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ulid } from "ulid";
import { type SlackChannelOptions, slackChannel } from "../src/adapters/slack/index.ts";
import { systemClock } from "../src/clock.ts";
import {
  type Channel,
  ChannelError,
  type ChannelErrorKind,
  type OutgoingMessage,
} from "../src/routing/deliveries/channel.ts";
import { BOT_ID, BOT_TOKEN, SlackDouble, type SlackFault, shownText, stopButtonOf, TEAM } from "./slack-double.ts";

const calm = () => ({ signal: new AbortController().signal });

async function scene(options: Partial<SlackChannelOptions> = {}) {
  const double = await SlackDouble.start();
  const channel = slackChannel({ token: BOT_TOKEN, slackApiUrl: double.apiUrl, ...options });
  const thread = double.write("C1", { text: "a question" });
  const message = (given: Partial<OutgoingMessage> = {}): OutgoingMessage => ({
    route: { channel: "slack", bridgeId: TEAM, externalRoomId: "C1", threadId: thread },
    deliveryId: `dlv_${ulid()}`,
    part: 1,
    text: "An answer.",
    status: "success",
    jobId: "job_1",
    conversationId: "slack_1",
    files: [],
    ...given,
  });
  return {
    double,
    channel,
    thread,
    message,
    shown: () => double.thread("C1", thread),
    [Symbol.asyncDispose]: () => double[Symbol.asyncDispose](),
  };
}

/** A channel that is known to find. */
const finding = (channel: Channel) => {
  assert(channel.find !== undefined);
  return channel.find.bind(channel);
};

const file = (name: string, text: string) => ({
  name,
  contentType: "text/plain",
  data: new TextEncoder().encode(text),
});

async function failure(call: Promise<unknown>): Promise<ChannelError> {
  const error: unknown = await call.then(
    () => assert.fail("it worked"),
    (reason: unknown) => reason,
  );
  assert(error instanceof ChannelError, String(error));
  return error;
}

test("[SLK-9] nothing of a message is looked up or fetched by Slack, and names are text", async () => {
  await using the = await scene();
  await the.channel.send(the.message({ text: "@here **look**: https://example.com <!channel>" }), calm());
  const args = the.double.calls.find(({ method }) => method === "chat.postMessage")?.args ?? {};
  assert.equal(args["unfurl_links"], false);
  assert.equal(args["unfurl_media"], false);
  assert.equal(args["parse"], "none");
  assert.equal(args["link_names"], false);
  const said = "@here *look*: <https://example.com> &lt;!channel&gt;";
  assert.equal(args["text"], said);
  assert.deepEqual(the.shown()[0]?.blocks, [
    { type: "section", text: { type: "mrkdwn", text: said, verbatim: true }, expand: true },
  ]);
});

test("[SLK-9] a host may let its agents call people", async () => {
  await using the = await scene({ dangerouslyAllowMentions: true });
  await the.channel.send(the.message({ text: "<@U1> <!here>" }), calm());
  assert.equal(the.shown()[0]?.text, "<@U1> <!here>");
});

test("[SLK-10] the longest text fits, though each of its characters is escaped", async () => {
  await using the = await scene();
  const text = "&".repeat(the.channel.limits.maxTextChars);
  const receipt = await the.channel.send(the.message({ text, status: "working" }), calm());
  await the.channel.update(receipt, the.message({ text }), calm());
  const [message] = the.shown();
  assert(message !== undefined);
  assert.equal(shownText(message), text);
});

test("[SLK-10] an answer without a text says so, and one that has none yet shows that it works", async () => {
  await using the = await scene();
  const receipt = await the.channel.send(the.message({ text: " ", status: "working" }), calm());
  assert.deepEqual(the.shown().map(shownText), ["…"]);
  await the.channel.update(receipt, the.message({ text: "" }), calm());
  assert.deepEqual(the.shown().map(shownText), ["(no text)"]);
});

test("[SLK-7] the button is there while the turn runs, and gone with its end", async () => {
  await using the = await scene();
  const message = the.message({ status: "working" });
  const receipt = await the.channel.send(message, calm());
  const button = () => {
    const [shown] = the.shown();
    return shown === undefined ? undefined : stopButtonOf(shown);
  };
  assert.deepEqual(button(), {
    type: "button",
    action_id: "holdfast_stop",
    text: { type: "plain_text", text: "Stop" },
    style: "danger",
    value: "slack_1 job_1",
  });
  await the.channel.update(receipt, { ...message, text: "more" }, calm());
  assert.notEqual(button(), undefined);
  await the.channel.update(receipt, { ...message, status: "success" }, calm());
  assert.equal(button(), undefined);
});

test("[SLK-7] the button's word is the host's, and there need be none", async () => {
  for (const [stopButton, word] of [
    ["Halt", "Halt"],
    [false, undefined],
  ] as const) {
    await using the = await scene({ stopButton });
    await the.channel.send(the.message({ status: "working" }), calm());
    const [shown] = the.shown();
    assert(shown !== undefined);
    assert.equal(stopButtonOf(shown)?.text.text, word);
  }
});

const ANSWERS: readonly [SlackFault, ChannelErrorKind, ChannelErrorKind, RegExp][] = [
  // What is met, what it means for a send, for an update, and what is told.
  [{ error: "channel_not_found" }, "refused", "refused", /channel_not_found/],
  [{ error: "is_archived" }, "refused", "refused", /archived/],
  [{ error: "is_inactive" }, "refused", "refused", /archived/],
  [{ error: "not_in_channel" }, "refused", "refused", /invite/],
  [{ error: "thread_not_found" }, "refused", "refused", /thread/],
  [{ error: "cannot_reply_to_message" }, "refused", "refused", /thread/],
  [{ error: "message_not_found" }, "refused", "refused", /deleted/],
  [{ error: "cant_update_message" }, "refused", "refused", /not the app's/],
  [{ error: "edit_window_closed" }, "refused", "refused", /edited/],
  [{ error: "msg_too_long" }, "refused", "refused", /too long/],
  [{ error: "msg_blocks_too_long" }, "refused", "refused", /too long/],
  [{ error: "no_text" }, "refused", "refused", /no text/],
  [{ error: "invalid_blocks" }, "refused", "refused", /well-formed/],
  [{ error: "restricted_action" }, "refused", "refused", /forbids/],
  [{ error: "restricted_action_read_only_channel" }, "refused", "refused", /read-only/],
  [{ error: "restricted_action_thread_locked" }, "refused", "refused", /locked/],
  [{ error: "ekm_access_denied" }, "refused", "refused", /administrator/],
  [{ error: "invalid_auth" }, "retry", "retry", /token/],
  [{ error: "token_revoked" }, "retry", "retry", /token/],
  [{ error: "token_expired" }, "retry", "retry", /token/],
  [{ error: "account_inactive" }, "retry", "retry", /token/],
  [{ error: "missing_scope" }, "retry", "retry", /scopes/],
  [{ error: "team_added_to_org" }, "retry", "retry", /team_added_to_org/],
  [{ error: "request_timeout" }, "retry", "retry", /request_timeout/],
  [{ error: "something_new" }, "retry", "retry", /something_new/],
  [{ error: "ratelimited" }, "rate_limited", "rate_limited", /ratelimited/],
  [{ error: "fatal_error" }, "unclear", "retry", /fatal_error/],
  [{ error: "internal_error" }, "unclear", "retry", /internal_error/],
  [{ error: "service_unavailable" }, "unclear", "retry", /service_unavailable/],
  [{ status: 500, body: "no" }, "unclear", "retry", /500/],
  [{ status: 503, body: "no" }, "unclear", "retry", /503/],
  [{ status: 404, body: "no" }, "retry", "retry", /404/],
  [{ status: 200, body: "<html>a gateway\u001b[31m</html>" }, "unclear", "retry", /none of Slack's/],
  [{ status: 302, headers: { location: "https://example.com/" } }, "unclear", "retry", /chat\./],
  [{ broken: "before" }, "unclear", "retry", /chat\./],
  [{ broken: "after" }, "unclear", "retry", /chat\./],
];

for (const [fault, sent, updated, told] of ANSWERS) {
  test(`[SLK-11] what Slack answers decides what becomes of a delivery: ${JSON.stringify(fault)}`, async () => {
    await using the = await scene();
    const receipt = await the.channel.send(the.message(), calm());
    the.double.fail("chat.postMessage", fault);
    the.double.fail("chat.update", fault);
    const sending = await failure(the.channel.send(the.message(), calm()));
    const updating = await failure(the.channel.update(receipt, the.message(), calm()));
    assert.equal(sending.kind, sent);
    assert.equal(updating.kind, updated);
    assert.match(sending.message, told);
    assert.match(updating.message, told);
    assert.doesNotMatch(sending.message, /\p{Cc}|xoxb/u);
    // Nobody but the outbox tries again.
    assert.ok(the.double.count("chat.postMessage") <= 2);
    assert.ok(the.double.count("chat.update") <= 1);
  });
}

test("[SLK-11] a limit says when to come again, and where Slack does not say, it is a second", async () => {
  await using the = await scene();
  for (const [headers, ms] of [
    [{ "retry-after": "30" }, 30_000],
    [{}, 1_000],
    [{ "retry-after": "soon" }, 1_000],
  ] as const) {
    the.double.fail("chat.postMessage", { status: 429, headers });
    const error = await failure(the.channel.send(the.message(), calm()));
    assert.equal(error.kind, "rate_limited");
    assert.equal(error.retryAfterMs, ms);
  }
  assert.deepEqual(the.shown(), []);
});

test("[SLK-11] a Slack that is not reached has taken nothing", async () => {
  await using the = await scene();
  await the.double.stop();
  assert.equal((await failure(the.channel.send(the.message(), calm()))).kind, "retry");
});

test("[SLK-11] a token that there is none of, and routes and receipts of others, are told in words", async () => {
  const asked: (string | undefined)[] = [];
  await using the = await scene({
    token: (teamId) => {
      asked.push(teamId);
      if (teamId !== TEAM) throw new Error("a secret");
      return BOT_TOKEN;
    },
  });
  await the.channel.send(the.message(), calm());
  const none = the.message({ route: { ...the.message().route, bridgeId: "T2" } });
  const error = await failure(the.channel.send(none, calm()));
  assert.equal(error.kind, "retry");
  assert.match(error.message, /T2/);
  assert.doesNotMatch(error.message, /secret/);
  assert.deepEqual(asked, [TEAM, "T2"]);

  for (const externalRoomId of [7, "", {}, ["C1"]]) {
    assert.equal((await failure(the.channel.send(the.message({ route: { externalRoomId } }), calm()))).kind, "refused");
  }
  for (const receipt of [{}, { channel: "C1" }, { channel: "C1", ts: 17 }, { channel: "C1", ts: "latest" }]) {
    assert.equal((await failure(the.channel.update(receipt, the.message(), calm()))).kind, "refused");
  }
});

test("[SLK-11] a call ends with its signal, whatever Slack does", async () => {
  await using the = await scene();
  const late = new AbortController();
  the.double.fail("chat.postMessage", { hangs: "before" });
  const sending = the.channel.send(the.message(), { signal: late.signal });
  queueMicrotask(() => late.abort(new Error("late")));
  assert.ok(["unclear", "retry"].includes((await failure(sending)).kind));
});

test("[SLK-11] a call that was given up before it began is not made", async () => {
  await using the = await scene();
  const error = await failure(the.channel.send(the.message(), { signal: AbortSignal.abort(new Error("late")) }));
  assert.equal(error.kind, "retry");
  assert.deepEqual(the.double.calls, []);
});

test("[SLK-12] files go up unseen, then comes the message, then they are shared in its thread", async () => {
  await using the = await scene();
  const files = [file("a.txt", "aaa"), file("b.txt", "bbbb")];
  await the.channel.send(the.message({ files }), calm());
  assert.deepEqual(
    the.double.calls.map(({ method }) => method),
    ["files.getUploadURLExternal", "files.getUploadURLExternal", "chat.postMessage", "files.completeUploadExternal"],
  );
  const shared = the.shown().flatMap((message) => message.files);
  assert.deepEqual(
    shared.map(({ name, data }) => [name, new TextDecoder().decode(data)]),
    [
      ["a.txt", "aaa"],
      ["b.txt", "bbbb"],
    ],
  );
});

test("[SLK-12] many files come in several messages, and an empty one comes too", async () => {
  await using the = await scene();
  const files = Array.from({ length: 12 }, (_, index) => file(`${index}.txt`, index === 3 ? "" : `${index}`));
  await the.channel.send(the.message({ files }), calm());
  assert.deepEqual(
    the.shown().map((message) => message.files.length),
    [0, 10, 2],
  );
  assert.deepEqual(
    the.shown().flatMap((message) => message.files.map(({ name }) => name)),
    files.map(({ name }) => name),
  );
});

test("[SLK-12] files that cannot go up leave no message, and may be tried again", async () => {
  await using the = await scene();
  const files = [file("a.txt", "aaa")];
  for (const fault of [{ status: 500 }, { broken: "before" }] as const) {
    the.double.fail("upload", fault);
    assert.equal((await failure(the.channel.send(the.message({ files }), calm()))).kind, "retry");
  }
  assert.deepEqual(the.shown(), []);
  const many = Array.from({ length: 21 }, (_, index) => file(`${index}`, "x"));
  assert.equal((await failure(the.channel.send(the.message({ files: many }), calm()))).kind, "refused");
});

for (const broken of ["before", "after"] as const) {
  test(`[SLK-12] a break ${broken} the files are shared leaves it unclear; looking for it shares them once`, async () => {
    await using the = await scene();
    const message = the.message({ files: [file("a.txt", "aaa")] });
    the.double.fail("files.completeUploadExternal", { broken });
    assert.equal((await failure(the.channel.send(message, calm()))).kind, "unclear");
    for (let time = 0; time < 2; time += 1) {
      const found = await finding(the.channel)(message, calm());
      assert.deepEqual(
        found.map(({ part }) => part),
        [1],
      );
    }
    assert.equal(the.shown().filter(({ text }) => text === "An answer.").length, 1);
    assert.equal(the.shown().flatMap(({ files }) => files).length, 1);
  });

  test(`[SLK-12] an update that breaks ${broken} its files are shared is tried again, and they are there once`, async () => {
    await using the = await scene();
    const message = the.message({ files: [file("a.txt", "aaa")] });
    const receipt = await the.channel.send({ ...message, files: [], status: "working" }, calm());
    the.double.fail("files.completeUploadExternal", { broken });
    await failure(the.channel.update(receipt, message, calm()));
    await the.channel.update(receipt, message, calm());
    await the.channel.update(receipt, message, calm());
    assert.deepEqual(
      the.shown().flatMap(({ files }) => files.map(({ name }) => name)),
      ["a.txt"],
    );
    assert.equal(the.double.count("files.getUploadURLExternal"), 1);
  });
}

test("[SLK-12] a limit after the message stands is unclear: the message is not sent again", async () => {
  await using the = await scene();
  const message = the.message({ files: [file("a.txt", "aaa")] });
  the.double.fail("files.completeUploadExternal", { status: 429, headers: { "retry-after": "3" } });
  assert.equal((await failure(the.channel.send(message, calm()))).kind, "unclear");
});

test("[SLK-13] the parts of a delivery are found among many messages, page by page", async () => {
  await using the = await scene();
  the.double.page = 3;
  const message = the.message();
  for (let part = 1; part <= 4; part += 1) {
    await the.channel.send({ ...message, part }, calm());
    for (let other = 0; other < 4; other += 1) the.double.write("C1", { thread: the.thread, text: "chatter" });
  }
  const found = await finding(the.channel)(message, calm());
  assert.deepEqual(
    found.map(({ part, receipt }) => [part, receipt["ts"]]),
    the
      .shown()
      .filter(({ botId }) => botId === BOT_ID)
      .map(({ ts }, index) => [index + 1, ts]),
  );
  assert.ok(the.double.count("conversations.replies") > 3);
});

test("[SLK-13] metadata that somebody else wrote is no delivery", async () => {
  await using the = await scene();
  const { deliveryId, route } = the.message();
  for (const botId of [undefined, "BOTHER"]) {
    the.double.write("C1", {
      thread: the.thread,
      botId,
      metadata: { event_type: "holdfast_delivery", event_payload: { delivery_id: deliveryId, part: 1 } },
    });
  }
  assert.deepEqual(await finding(the.channel)({ route, deliveryId }, calm()), []);
});

test("[SLK-13] only what is newer than the delivery is looked at", async () => {
  await using the = await scene();
  const hourAgo = systemClock.wall() - 3_600_000;
  await finding(the.channel)({ ...the.message(), deliveryId: `dlv_${ulid(hourAgo)}` }, calm());
  const oldest = the.double.calls.find(({ method }) => method === "conversations.replies")?.args["oldest"];
  assert.equal(oldest, `${Math.floor(hourAgo / 1_000) - 600}.000000`);
});

test("[SLK-13] without a thread the channel itself is looked through", async () => {
  await using the = await scene();
  const message = the.message({ route: { externalRoomId: "C2" } });
  const receipt = await the.channel.send(message, calm());
  assert.deepEqual(await finding(the.channel)(message, calm()), [{ part: 1, receipt }]);
  assert.equal(the.double.count("conversations.history"), 1);
});

test("[SLK-14] while nothing is shown, Slack says under the thread that the bot thinks", async () => {
  await using the = await scene();
  const { route } = the.message();
  await the.channel.typing?.(route, calm());
  assert.deepEqual(the.double.statuses, [{ channel_id: "C1", thread_ts: the.thread, status: "is thinking…" }]);
  await the.channel.typing?.({ externalRoomId: "C1" }, calm());
  assert.equal(the.double.statuses.length, 1);
  await using quiet = await scene({ typingText: false });
  assert.equal(quiet.channel.typing, undefined);
});

test("[SLK-11] limits that cannot be are refused when the channel is made", () => {
  for (const bad of [
    { maxTextChars: 0 },
    { maxTextChars: 1.5 },
    { timeoutMs: Number.NaN },
    { minUpdateIntervalMs: -1 },
  ]) {
    assert.throws(() => slackChannel({ token: "x", ...bad }), RangeError);
  }
});

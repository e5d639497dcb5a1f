/** A whole bot: signed events over HTTP into Bolt, turns, and answers in Slack's double. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type SlackAgentOptions,
  type SlackChannelOptions,
  type SlackStop,
  slackAgent,
  slackChannel,
} from "../src/adapters/slack/index.ts";
import { systemClock } from "../src/clock.ts";
import type { ConversationsOptions } from "../src/conversation/index.ts";
import type { Store } from "../src/store/store.ts";
import { eventually, type FixtureOptions, runtimeFixture, turns } from "./runtime-fixture.ts";
import { SlackApp, sign } from "./slack-app.ts";
import {
  BOT_ID,
  BOT_TOKEN,
  BOT_USER,
  SlackDouble,
  type SlackMessageSeen,
  shownText,
  stopButtonOf,
  TEAM,
} from "./slack-double.ts";

const PRINCIPAL = "slack";
const OPERATOR = { principal: PRINCIPAL, operator: true };

interface SceneOptions {
  agent?: Partial<SlackAgentOptions>;
  channel?: Partial<SlackChannelOptions>;
  deliveries?: Omit<NonNullable<ConversationsOptions["deliveries"]>, "channels">;
  wrap?: FixtureOptions["wrap"];
}

async function scene({ agent, channel: channelOptions, deliveries, wrap }: SceneOptions = {}) {
  const double = await SlackDouble.start();
  const channel = slackChannel({ token: BOT_TOKEN, slackApiUrl: double.apiUrl, typingText: false, ...channelOptions });
  const fx = await runtimeFixture({
    conversations: { deliveries: { channels: [channel], ...deliveries } },
    ...(wrap === undefined ? {} : { wrap }),
  });
  const { runtime, conversations } = fx;
  const slack = await SlackApp.start(double, (app) =>
    slackAgent(app, { runtime, conversations, agent: "puppet", principal: PRINCIPAL, ...agent }),
  );
  /** The bot's messages of a thread, as people read them. */
  const said = (thread: string, room = "C1"): string[] => bots(thread, room).map(shownText);
  const bots = (thread: string, room = "C1"): SlackMessageSeen[] =>
    double.thread(room, thread).filter(({ botId }) => botId === BOT_ID);
  return {
    double,
    fx,
    slack,
    said,
    bots,
    /** The only conversation, with its turns. */
    conversation: async () => {
      const { conversations: all } = await fx.conversations.list(OPERATOR);
      assert.equal(all.length, 1);
      return await fx.conversations.get(all[0]?.conversationId ?? "", OPERATOR);
    },
    /** Jobs of the bot, newest first. */
    jobs: async () => (await runtime.jobs.list(PRINCIPAL)).jobs,
    /** The run of the newest job of the agent `puppet`. */
    puppet: async () => {
      const [job] = (await runtime.jobs.list(PRINCIPAL)).jobs;
      assert(job !== undefined, "no turn was started");
      return await fx.puppet(job.job_id);
    },
    async [Symbol.asyncDispose]() {
      await slack[Symbol.asyncDispose]();
      await fx[Symbol.asyncDispose]();
      await double[Symbol.asyncDispose]();
    },
  };
}

test("[SLK-1] [SLK-4] a mention is one turn of its thread, though it comes as two events", async () => {
  await using the = await scene();
  const { thread } = await the.slack.mention({ text: "what is up?" });
  const { conversation, turns: taken } = await the.conversation();
  assert.deepEqual(JSON.parse(conversation.key ?? ""), { channel: "C1", source: "slack", team: TEAM, thread });
  assert.deepEqual(
    taken.map(({ userId, state }) => [userId, state]),
    [["U1", "running"]],
  );
  const puppet = await the.puppet();
  puppet.end("Not much.");
  await eventually(() => the.said(thread).length > 0, "the answer");
  assert.deepEqual(the.said(thread), ["Not much."]);
});

test("[SLK-2] the agent is given what was read in Slack, who wrote it, where, and which files came with it", async () => {
  await using the = await scene();
  const file = {
    id: "F77",
    name: "plan.pdf",
    mimetype: "application/pdf",
    size: 1_234,
    url_private: "https://files.slack.com/F77/plan.pdf",
    created: 1,
    user: "U1",
  };
  const { ts } = await the.slack.mention({
    text: "is 1 &lt; 2 in <#C2|general>? see <https://example.com|example.com>",
    user: "U7",
    rest: { files: [file] },
  });
  const { input } = await the.puppet();
  assert.deepEqual(input, {
    text: "is 1 < 2 in #general? see https://example.com",
    user: "U7",
    team: TEAM,
    channel: "C1",
    thread: ts,
    ts,
    files: [
      {
        id: "F77",
        name: "plan.pdf",
        mimetype: "application/pdf",
        size: 1_234,
        url: "https://files.slack.com/F77/plan.pdf",
      },
    ],
  });
});

test("[SLK-1] a direct message needs no mention, and a message with a file is one", async () => {
  await using the = await scene();
  const event = the.slack.message({
    text: "psst",
    channel: "D1",
    rest: { subtype: "file_share", files: [{ id: "F1" }] },
  });
  await the.slack.send(event);
  const puppet = await the.puppet();
  puppet.end("Yes?");
  await eventually(() => the.said(event.ts, "D1").length > 0, "the answer");
  assert.deepEqual(the.said(event.ts, "D1"), ["Yes?"]);
});

test("[SLK-1] who replies in a thread that the bot takes part in needs no mention, unless the host wants one", async () => {
  for (const [threadReplies, expected] of [
    [true, 2],
    [false, 1],
  ] as const) {
    await using the = await scene({ agent: { threadReplies } });
    const { thread } = await the.slack.mention({ text: "first" });
    await the.slack.send(the.slack.message({ text: "and another thing", thread, user: "U2" }));
    assert.equal((await the.jobs()).length, expected);
    // With a mention it always is.
    await the.slack.mention({ text: "and a last one", thread });
    assert.equal((await the.jobs()).length, expected + 1);
    const { turns: taken } = await the.conversation();
    assert.equal(taken.length, expected + 1);
  }
});

test("[SLK-1] agent and principal may depend on the message and the workspace", async () => {
  await using the = await scene({
    agent: {
      agent: ({ text }) => (text.startsWith("echo") ? "echo" : "puppet"),
      principal: ({ teamId }) => `slack-${teamId}`,
    },
  });
  const { thread } = await the.slack.mention({ text: "echo please" });
  await eventually(() => the.said(thread).length > 0, "the answer");
  const { jobs } = await the.fx.runtime.jobs.list(`slack-${TEAM}`);
  assert.deepEqual(
    jobs.map(({ agent }) => agent.split("@")[0]),
    ["echo"],
  );
});

test("[SLK-5] what no person has just written to the bot starts nothing", async () => {
  await using the = await scene();
  const { slack } = the;
  const elsewhere = the.double.write("C1", { text: "a thread without the bot" });
  const mention = `<@${BOT_USER}> hi`;
  const direct = { channel: "D1", text: "hi" };
  const event = (given: object) => ({ ...slack.message(direct), ...given });
  for (const odd of [
    slack.message({ text: "chatter" }),
    slack.message({ text: "a reply", thread: elsewhere }),
    event({ bot_id: BOT_ID, user: BOT_USER }),
    event({ bot_id: "BOTHER", user: "UOTHER" }),
    event({ subtype: "bot_message", bot_id: "BOTHER", user: undefined }),
    event({ edited: { user: "U1", ts: "1.000000" } }),
    event({ subtype: "message_changed", user: undefined, hidden: true, message: { text: "x", user: "U1", ts: "1.0" } }),
    event({ subtype: "message_deleted", user: undefined, hidden: true, deleted_ts: "1.0" }),
    event({ subtype: "channel_join" }),
    event({ type: "app_mention", text: mention, bot_id: "BOTHER" }),
    event({ type: "app_mention", text: mention, edited: { user: "U1", ts: "1.000000" } }),
  ]) {
    await slack.send(odd);
  }
  assert.deepEqual(await the.jobs(), []);
  assert.deepEqual((await the.fx.conversations.list(OPERATOR)).conversations, []);
  assert.deepEqual(the.double.ephemerals, []);
});

test("[SLK-3] a request that is unsigned, signed wrongly or old is refused, and starts nothing", async () => {
  await using the = await scene();
  const body = the.slack.envelope(the.slack.message({ text: "hi", channel: "D1" }));
  const now = Math.floor(systemClock.wall() / 1_000);
  const post = (options: Parameters<SlackApp["post"]>[2]) => the.slack.post(body, "application/json", options);
  assert.equal(await post({ signature: null }), 401);
  assert.equal(await post({ signature: "" }), 401);
  assert.equal(await post({ signature: sign(body, now, "another secret") }), 401);
  assert.equal(await post({ signature: sign(`${body} `, now) }), 401);
  assert.equal(await post({ signature: sign(body, now).replace("v0=", "v1=") }), 401);
  assert.equal(await post({ timestamp: now - 301 - 5 }), 401);
  // Signed for another time than it claims.
  assert.equal(await post({ timestamp: now, signature: sign(body, now - 3_600) }), 401);
  assert.deepEqual(await the.jobs(), []);
  assert.equal(await post({ timestamp: now }), 200);
  assert.equal((await the.jobs()).length, 1);
});

test("[SLK-4] [SLK-16] an event that Slack sends again is the same turn; somebody's copy of it is refused", async () => {
  await using the = await scene();
  const event = the.slack.message({ text: "once", channel: "D1" });
  const body = the.slack.envelope(event);
  const now = Math.floor(systemClock.wall() / 1_000);
  // Slack signs each of them anew.
  const sent = (retry: number) =>
    the.slack.post(body, "application/json", {
      timestamp: now - 60 + retry,
      headers: retry === 0 ? {} : { "x-slack-retry-num": String(retry), "x-slack-retry-reason": "http_timeout" },
    });
  assert.deepEqual(await Promise.all([0, 1, 2, 3].map(sent)), [200, 200, 200, 200]);
  for (const retry of [0, 2]) assert.equal(await sent(retry), 401);
  (await the.puppet()).end("Once.");
  await eventually(() => the.said(event.ts, "D1").length > 0, "the answer");
  // Long after its end, too.
  assert.equal(await sent(4), 200);
  assert.equal((await the.jobs()).length, 1);
  assert.equal(the.fx.puppets, 1);
  assert.deepEqual(the.said(event.ts, "D1"), ["Once."]);
  assert.deepEqual(the.double.ephemerals, []);
});

test("[SLK-4] [SLK-8] what cannot be stored is not acknowledged, so that Slack sends it again", async () => {
  let down = true;
  const wrap = (store: Store): Store =>
    new Proxy(store, {
      get: (target, name) => {
        if (name !== "conversations" || !down) return Reflect.get(target, name) as unknown;
        return {
          ...target.conversations,
          startTurn: () => Promise.reject(new Error("disk full")),
        };
      },
    });
  await using the = await scene({ wrap });
  const event = the.slack.message({ text: "important", channel: "D1" });
  const body = the.slack.envelope(event);
  assert.equal(await the.slack.post(body, "application/json"), 500);
  await eventually(() => the.double.ephemerals.length > 0, "a word to who wrote it");
  assert.match(the.double.ephemerals[0]?.text ?? "", /went wrong/);
  assert.doesNotMatch(the.double.ephemerals[0]?.text ?? "", /disk/);
  down = false;
  assert.equal(await the.slack.post(body, "application/json", { headers: { "x-slack-retry-num": "1" } }), 200);
  assert.equal((await the.jobs()).length, 1);
});

test("[SLK-6] the answer grows in one message, no faster than the channel allows, and takes its place", async () => {
  await using the = await scene();
  const { clock } = the.fx;
  const { thread } = await the.slack.mention({ text: "tell me" });
  const { job, end } = await the.puppet();
  await job.thought("Let me **think**.");
  await job.flush();
  await clock.advance(1_200);
  await eventually(() => the.said(thread).length === 1, "the first message");
  assert.deepEqual(the.said(thread), ["Let me *think*."]);

  const out = job.stream({ contentType: "text/markdown" });
  const words = ["One", " two", " three", " four", " five", " six"];
  for (const [index, word] of words.entries()) {
    await out.write(word);
    await job.flush();
    const before = the.double.count("chat.update");
    await clock.advance(600);
    // Every other step there is room for an update.
    if (index % 2 === 1) await eventually(() => the.double.count("chat.update") > before, "an update");
    await turns();
  }
  const updates = the.double.count("chat.update");
  assert.ok(updates >= 2 && updates <= 4, `${updates} updates in 3.6 s`);
  end();
  const [message, ...others] = the.bots(thread);
  assert.deepEqual(others, []);
  assert(message !== undefined);
  await eventually(() => stopButtonOf(message) === undefined, "the answer");
  assert.equal(shownText(message), words.join(""));
  for (const text of message.earlier.slice(1)) assert.ok(words.join("").startsWith(text), text);
});

test("[SLK-6] a long answer comes in several messages, in order and whole", async () => {
  await using the = await scene();
  const { thread } = await the.slack.mention({ text: "tell me everything" });
  const paragraphs = Array.from({ length: 40 }, (_, index) => `${index}: ${`word${index} `.repeat(30).trim()}`);
  (await the.puppet()).end(paragraphs.join("\n\n"));
  const all = () => the.said(thread).join("\n\n");
  await eventually(() => all().includes("word39"), "the last part");
  await eventually(() => all().split("\n\n").length === 40, "all of it");
  assert.ok(the.said(thread).length > 2);
  assert.deepEqual(all().split(/\n+/), paragraphs);
});

test("[SLK-6] files of an answer are in its thread", async () => {
  await using the = await scene();
  const { thread } = await the.slack.mention({ text: "a table, please" });
  (await the.puppet()).end({ text: "Here.", files: [{ name: "t.csv", content_type: "text/csv", text: "a,b" }] });
  const files = () => the.bots(thread).flatMap((message) => message.files);
  await eventually(() => files().length > 0, "the file");
  assert.deepEqual(
    files().map(({ name, data }) => [name, new TextDecoder().decode(data)]),
    [["t.csv", "a,b"]],
  );
  assert.equal(the.said(thread)[0], "Here.");
});

test("[SLK-8] who has to wait is told the place, alone, and is answered in turn", async () => {
  await using the = await scene();
  const { thread } = await the.slack.mention({ text: "first" });
  const first = await the.puppet();
  await the.slack.mention({ text: "second", thread, user: "U2" });
  await the.slack.mention({ text: "third", thread, user: "U3" });
  await eventually(() => the.double.ephemerals.length === 2, "both to be told");
  assert.deepEqual(
    the.double.ephemerals.map(({ user, thread_ts, text }) => [user, thread_ts, /number 2|next/.exec(text)?.[0]]).sort(),
    [
      ["U2", thread, "next"],
      ["U3", thread, "number 2"],
    ],
  );
  const [third, second] = await the.jobs();
  first.end("one");
  (await the.fx.puppet(second?.job_id ?? "")).end("two");
  (await the.fx.puppet(third?.job_id ?? "")).end("three");
  await eventually(() => the.said(thread).length === 3, "three answers");
  assert.deepEqual(the.said(thread), ["one", "two", "three"]);
});

test("[SLK-8] where nobody may wait, who comes is told so, in the host's words", async () => {
  await using the = await scene({ agent: { onBusy: "reject", words: { busy: () => "Gleich!" } } });
  const { thread } = await the.slack.mention({ text: "first" });
  await the.slack.mention({ text: "second", thread, user: "U2" });
  await eventually(() => the.double.ephemerals.length > 0, "the word");
  await turns();
  assert.deepEqual(
    the.double.ephemerals.map(({ user, text }) => [user, text]),
    [["U2", "Gleich!"]],
  );
  assert.equal((await the.jobs()).length, 1);
});

test("[SLK-8] where the newest counts, it stops what runs", async () => {
  await using the = await scene({ agent: { onBusy: "interrupt" } });
  const { thread } = await the.slack.mention({ text: "first" });
  const first = await the.puppet();
  first.job.signal.addEventListener("abort", () => first.fail(first.job.signal.reason), { once: true });
  await the.slack.mention({ text: "second", thread });
  const [newest] = await the.jobs();
  (await the.fx.puppet(newest?.job_id ?? "")).end("the second answer");
  await eventually(() => the.said(thread).includes("the second answer"), "the answer");
  assert.deepEqual(the.said(thread), ["Stopped.", "the second answer"]);
});

test("[SLK-8] who is turned away for another reason is told it, escaped, where it is seen", async () => {
  await using the = await scene({ agent: { agent: "<!here>" } });
  await the.slack.send(the.slack.message({ text: "hi", channel: "D1" }));
  await eventually(() => the.double.ephemerals.length > 0, "the word");
  const [told] = the.double.ephemerals;
  assert.match(told?.text ?? "", /^I cannot take this: .*&lt;!here&gt;/);
  // The thread is not open yet.
  assert.equal(told?.thread_ts, undefined);
  assert.deepEqual(await the.jobs(), []);
});

/** A turn that shows its message, with the button. */
async function showing(the: Awaited<ReturnType<typeof scene>>) {
  const { thread } = await the.slack.mention({ text: "a long story", user: "U1" });
  const puppet = await the.puppet();
  puppet.job.signal.addEventListener("abort", () => puppet.fail(puppet.job.signal.reason), { once: true });
  await puppet.job.thought("Once upon a time");
  await puppet.job.flush();
  await the.fx.clock.advance(1_200);
  await eventually(() => the.said(thread).length === 1, "the first message");
  const [message] = the.bots(thread);
  assert(message !== undefined);
  return { thread, puppet, message };
}

test("[SLK-7] a click on Stop ends the turn, and its message says so", async () => {
  await using the = await scene();
  const { thread, message } = await showing(the);
  await the.slack.clickStop(message, "U2");
  await eventually(() => the.said(thread)[0] === "Stopped.", "the end");
  assert.equal(the.bots(thread).length, 1);
  assert.equal(stopButtonOf(message), undefined);
  assert.deepEqual(
    (await the.jobs()).map(({ status }) => status),
    ["cancelled"],
  );
  assert.deepEqual(the.double.ephemerals, []);
});

test("[SLK-7] who may not stop a turn is told so, and it goes on", async () => {
  const asked: SlackStop[] = [];
  await using the = await scene({
    agent: {
      mayStop: (stop) => {
        asked.push(stop);
        return stop.userId === stop.askedBy;
      },
    },
  });
  const { thread, message, puppet } = await showing(the);
  await the.slack.clickStop(message, "U2");
  await eventually(() => the.double.ephemerals.length > 0, "the word");
  assert.deepEqual(the.double.ephemerals[0], {
    channel: "C1",
    user: "U2",
    thread_ts: thread,
    text: "You may not stop this.",
  });
  const { conversationId } = (await the.conversation()).conversation;
  assert.deepEqual(asked, [
    { teamId: TEAM, enterpriseId: undefined, userId: "U2", askedBy: "U1", conversationId, jobId: puppet.job.id },
  ]);
  assert.equal(puppet.job.signal.aborted, false);
  await the.slack.clickStop(message, "U1");
  await eventually(() => the.said(thread)[0] === "Stopped.", "the end");
});

test("[SLK-7] a click that comes too late, or names nothing, is told so", async () => {
  await using the = await scene();
  const { thread, message, puppet } = await showing(the);
  const value = stopButtonOf(message)?.value ?? "";
  puppet.end("The end.");
  await eventually(() => the.said(thread)[0] === "The end.", "the answer");
  for (const late of [value, "", "nothing", "slack_nothing job_nothing", `${value.split(" ")[0]} job_nothing`]) {
    await the.slack.click(message, late);
  }
  await eventually(() => the.double.ephemerals.length === 5, "the words");
  for (const { text } of the.double.ephemerals) assert.equal(text, "That is over already.");
  assert.deepEqual(the.said(thread), ["The end."]);
});

test("[SLK-14] from its start the bot is shown to be thinking", async () => {
  await using the = await scene({ channel: { typingText: "ponders" } });
  const { thread } = await the.slack.mention({ text: "well?" });
  await the.puppet();
  await eventually(() => the.double.statuses.length > 0, "the status");
  assert.deepEqual(the.double.statuses, [{ channel_id: "C1", thread_ts: thread, status: "ponders" }]);
});

test("[SLK-11] a limit is waited out, then the answer comes, once", async () => {
  await using the = await scene();
  const { thread } = await the.slack.mention({ text: "hi" });
  the.double.fail("chat.postMessage", { status: 429, headers: { "retry-after": "30" } });
  (await the.puppet()).end("hello");
  const state = async () => (await the.fx.conversations.deliveries.list(OPERATOR)).deliveries[0]?.state;
  await settles(async () => (await state()) === "pending", "the delivery to wait");
  await the.fx.clock.advance(29_000);
  await turns();
  assert.deepEqual(the.said(thread), []);
  await the.fx.clock.advance(2_000);
  await eventually(() => the.said(thread).length > 0, "the answer");
  assert.deepEqual(the.said(thread), ["hello"]);
});

test("[SLK-15] an answer that arrived without anybody hearing of it is not sent again", async () => {
  await using the = await scene();
  const { thread } = await the.slack.mention({ text: "hi" });
  the.double.fail("chat.postMessage", { broken: "after" });
  (await the.puppet()).end("hello");
  const delivery = async () => (await the.fx.conversations.deliveries.list(OPERATOR)).deliveries[0];
  await settles(async () => (await delivery())?.unclear === true, "the doubt");
  assert.deepEqual(the.said(thread), ["hello"]);
  await the.fx.clock.advance(5_000);
  await settles(async () => (await delivery())?.state === "delivered", "the end of it");
  assert.deepEqual(the.said(thread), ["hello"]);
  assert.equal(the.double.count("chat.postMessage"), 1);
});

test("[SLK-15] an answer whose first message somebody deleted is sent anew", async () => {
  await using the = await scene();
  const { thread, message, puppet } = await showing(the);
  the.double.messages.splice(the.double.messages.indexOf(message), 1);
  puppet.end("Still here.");
  await eventually(() => the.said(thread).length > 0, "the answer");
  assert.deepEqual(the.said(thread), ["Still here."]);
});

test("[SLK-11] an answer that Slack refuses is kept, with the reason, and may be tried again", async () => {
  await using the = await scene();
  const { thread } = await the.slack.mention({ text: "hi" });
  the.double.archived.add("C1");
  (await the.puppet()).end("hello");
  const delivery = async () => (await the.fx.conversations.deliveries.list(OPERATOR)).deliveries[0];
  await settles(async () => (await delivery())?.state === "failed", "the refusal");
  const failed = await delivery();
  assert.match(failed?.lastError ?? "", /is_archived/);
  the.double.archived.delete("C1");
  await the.fx.conversations.deliveries.retry(failed?.deliveryId ?? "", OPERATOR);
  await eventually(() => the.said(thread).length > 0, "the answer");
  assert.deepEqual(the.said(thread), ["hello"]);
});

/** As `eventually`, for what has to be asked. */
async function settles(done: () => Promise<boolean>, what: string): Promise<void> {
  const since = systemClock.monotonic();
  while (!(await done())) {
    assert(systemClock.monotonic() - since < 20_000, `Waited in vain for ${what}.`);
    await turns(1);
  }
}

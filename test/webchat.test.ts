/** A chat on a page: rooms, what is said and answered there, and what survives (SPEC.md, WEB). Real sockets, real files. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";
import { mayChat, WebChannel, type WebChatOptions, webChat } from "../src/adapters/webchat/index.ts";
import { ArcpError, type Chat, type ChatMessage, connect, openChat, type Session } from "../src/client/index.ts";
import { systemClock } from "../src/clock.ts";
import { Conversations } from "../src/conversation/index.ts";
import { Routes } from "../src/routing/index.ts";
import { type AgentHandler, Runtime } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import type { WebSocketConstructor } from "../src/transport/websocket.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const DEADLINE = { timeout: 60_000 };
const LATEST_MS = 30_000;
const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));

const shout: AgentHandler = (input) => (input as { text: string }).text.toUpperCase();
/** Says what it does, and goes on until it is told that it may end. */
function patient() {
  const gate = Promise.withResolvers<void>();
  const handler: AgentHandler = async (input, job) => {
    const { text } = input as { text: string };
    const stream = job.stream();
    await stream.write(`${text}: so far`);
    await Promise.race([
      gate.promise,
      new Promise((_, reject) => job.signal.addEventListener("abort", () => reject(job.signal.reason))),
    ]);
    await stream.write(", and done");
    return undefined;
  };
  return { handler, release: () => gate.resolve() };
}

interface Place {
  url: string;
  runtime: Runtime;
  conversations: Conversations;
  /** With a drain, as one does it; without, as it may happen. */
  stop(drainMs?: number): Promise<void>;
}

interface ServerOptions {
  agents?: Record<string, AgentHandler>;
  /** Puts something between the rooms and the conversations. */
  wrap?: (conversations: Conversations) => WebChatOptions["conversations"];
}

/** A server on a file, with an agent that shouts, and others. */
async function newServer(file: string, { agents = {}, wrap }: ServerOptions = {}): Promise<Place> {
  const auth = bearerTokens({ alices: "alice", bobs: "bob" });
  const runtime = new Runtime({ store: sqlite(file), auth, mayAnswer: mayChat });
  runtime.agent("shout", shout);
  for (const [name, handler] of Object.entries(agents)) runtime.agent(name, handler);
  const channel = new WebChannel({ minUpdateIntervalMs: 20 });
  const conversations = new Conversations(runtime, { deliveries: { channels: [channel], routes: new Routes() } });
  const chat = webChat({ runtime, conversations: wrap?.(conversations) ?? conversations, channel });
  const server = await serve(runtime, { port: 0, conversations });
  return {
    ...{ url: server.url, runtime, conversations },
    stop: (drainMs = 0) => {
      if (drainMs > 0) chat.stop();
      return server.stop({ drainMs });
    },
  };
}

async function fixture(stack: AsyncDisposableStack, options: ServerOptions = {}) {
  const folder = stack.use(await temporaryFolder());
  const file = path.join(folder.path, "chat.db");
  const place = await newServer(file, options);
  stack.defer(() => place.stop());
  const sockets = new Set<WebSocket>();
  class Cuttable extends WebSocket {
    constructor(url: string | URL) {
      super(url);
      sockets.add(this);
    }
  }
  const page = async (options: { token?: string; url?: string } = {}): Promise<Session> =>
    stack.use(
      await connect(options.url ?? place.url, {
        token: options.token ?? "alices",
        WebSocket: Cuttable as unknown as WebSocketConstructor,
      }),
    );
  const open = async (session: Session, room = "lobby", agent = "shout"): Promise<Chat> =>
    stack.use(await openChat(session, { room, agent }));
  return {
    folder: folder.path,
    file,
    place,
    page,
    open,
    cut: () => [...sockets].forEach((socket) => void socket.terminate()),
  };
}

const shortly = (messages: readonly ChatMessage[]) =>
  messages.map(({ from, text, status }) => `${from} ${status}: ${text}`);

/** Reads the chat until it shows these messages; fails with what it showed. */
async function shows(chat: Chat, expected: readonly string[]): Promise<void> {
  const shown = () => shortly(chat.messages);
  const isThere = () => JSON.stringify(shown()) === JSON.stringify(expected);
  if (isThere()) return;
  const late = Promise.withResolvers<never>();
  const timer = systemClock.after(LATEST_MS, () => late.reject(new Error("it is late")), { keepAlive: true });
  const reading = (async () => {
    for await (const _ of chat) if (isThere()) return;
    throw new Error("the chat has ended");
  })();
  try {
    await Promise.race([reading, late.promise]);
  } catch (error) {
    assert.deepEqual(shown(), expected, String(error));
  } finally {
    timer.cancel();
  }
}

test(
  "[WEB-1] what one page says, and its answer, every page in the room sees, a newcomer all of it",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { page, open } = await fixture(stack);
    const one = await open(await page());
    const other = await open(await page());
    const said = await one.say("hello");
    assert.equal(said.state, "running");
    const expected = ["user running: hello", "agent success: HELLO"];
    await shows(one, expected);
    await shows(other, expected);
    await other.say("again");
    const all = [...expected, "user running: again", "agent success: AGAIN"];
    for (const chat of [one, other, await open(await page())]) await shows(chat, all);
    const elsewhere = await open(await page(), "another room");
    assert.deepEqual(elsewhere.messages, []);
    const bobs = await open(await page({ token: "bobs" }));
    assert.deepEqual(bobs.messages, []);
  },
);

test("[WEB-2] an answer is shown while it is written, as one message that grows", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { handler, release } = patient();
  const { page, open } = await fixture(stack, { agents: { patient: handler } });
  const chat = await open(await page());
  await chat.say("wait", { agent: "patient" });
  await shows(chat, ["user running: wait", "agent working: wait: so far"]);
  release();
  await shows(chat, ["user running: wait", "agent success: wait: so far, and done"]);
});

test(
  "[WEB-3] while a turn runs another is refused, waits or interrupts, as it asks for, and the running one can be stopped",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { handler } = patient();
    const { page, open } = await fixture(stack, { agents: { patient: handler } });
    const chat = await open(await page());
    const other = await open(await page());
    await chat.say("first", { agent: "patient" });
    await shows(chat, ["user running: first", "agent working: first: so far"]);
    await assert.rejects(other.say("not now", { onBusy: "reject" }), (error) => {
      assert.ok(error instanceof ArcpError);
      assert.equal(error.details?.["code"], "CONVERSATION_BUSY");
      return true;
    });
    const queued = await other.say("then", { onBusy: "enqueue" });
    assert.deepEqual([queued.state, queued.place], ["queued", 1]);
    await other.stop();
    const stopped = ["user running: first", "agent cancelled: Stopped.", "user refused: not now"];
    await shows(chat, [...stopped, "user queued: then", "agent success: THEN"]);
    await chat.say("once more", { agent: "patient" });
    const working = ["user running: once more", "agent working: once more: so far"];
    await shows(other, [...stopped, "user queued: then", "agent success: THEN", ...working]);
    await other.say("at once", { onBusy: "interrupt" });
    await shows(other, [
      ...[...stopped, "user queued: then", "agent success: THEN"],
      ...["user running: once more", "agent cancelled: Stopped.", "user queued: at once", "agent success: AT ONCE"],
    ]);
    await chat.stop();
  },
);

test("[WEB-4] a message that is said twice is one turn", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { page, open } = await fixture(stack);
  const chat = await open(await page());
  const [one, other] = [await chat.say("once", { messageId: "m-1" }), await chat.say("once", { messageId: "m-1" })];
  assert.equal(one.jobId, other.jobId);
  await shows(chat, ["user running: once", "agent success: ONCE"]);
});

test("[WEB-5] a page whose connection is cut misses nothing", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { handler, release } = patient();
  const { page, open, cut } = await fixture(stack, { agents: { patient: handler } });
  const chat = await open(await page());
  await chat.say("wait", { agent: "patient" });
  cut();
  release();
  await shows(chat, ["user running: wait", "agent success: wait: so far, and done"]);
  cut();
  await chat.say("more");
  await shows(chat, [
    ...["user running: wait", "agent success: wait: so far, and done"],
    ...["user running: more", "agent success: MORE"],
  ]);
});

test(
  "[WEB-6] a room whose server stopped is there again on the next, with what was said, and an answer that was not delivered",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { file, place, page, open } = await fixture(stack);
    const chat = await open(await page());
    await chat.say("before");
    await shows(chat, ["user running: before", "agent success: BEFORE"]);
    await place.stop();
    const next = await newServer(file);
    stack.defer(() => next.stop());
    const again = await open(await page({ url: next.url }));
    await shows(again, ["user running: before", "agent success: BEFORE"]);
    await again.say("after");
    await shows(again, [
      ...["user running: before", "agent success: BEFORE"],
      ...["user running: after", "agent success: AFTER"],
    ]);
  },
);

test("[WEB-7] what cannot be said, or opened, is told by its name", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { page, open } = await fixture(stack);
  const session = await page();
  const chat = await open(session);
  const isCode = (code: string) => (error: unknown) => error instanceof ArcpError && error.code === code;
  await assert.rejects(chat.say("x", { agent: "nobody" }), isCode("AGENT_NOT_AVAILABLE"));
  await assert.rejects(chat.say(""), isCode("INVALID_REQUEST"));
  await assert.rejects(openChat(session, { room: "", agent: "shout" }), isCode("INVALID_REQUEST"));
  const bare = await session.submit("chat-room", { room: "lobby" });
  await assert.rejects(bare.result, /A room is a turn of its own conversation/);
  await assert.rejects(openChat(session, { room: "a\u0000b", agent: "shout" }), isCode("INVALID_REQUEST"));
  const waiting = chat.say("x").catch((error: unknown) => error);
  await chat.close();
  await waiting;
  await assert.rejects(chat.say("late"), /closed/);
});

test(
  "[WEB-8] what a room was told and had not acted upon when its server went is said on the next, and is one turn",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const told = Promise.withResolvers<void>();
    const wrap: ServerOptions["wrap"] = (conversations) => ({
      get: (...args) => conversations.get(...args),
      startTurn: () => {
        told.resolve();
        return new Promise(() => undefined);
      },
    });
    const { file, place, page, open } = await fixture(stack, { wrap });
    const chat = await open(await page());
    chat.say("unheard", { messageId: "m-1" }).catch(() => undefined);
    await told.promise;
    await place.stop();
    const next = await newServer(file);
    stack.defer(() => next.stop());
    const again = await open(await page({ url: next.url }));
    await shows(again, ["user running: unheard", "agent success: UNHEARD"]);
    await again.say("unheard", { messageId: "m-1" });
    assert.deepEqual((await jobsOf(next, "shout")).length, 1);
  },
);

const jobsOf = async ({ runtime }: Place, agent: string) =>
  (await runtime.jobs.list("alice", { limit: 1_000 })).jobs.filter((job) => job.agent.startsWith(agent));

test("[WEB-9] rooms end when they are told to, so that a drain does not wait for them", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { place, page, open } = await fixture(stack);
  const chat = await open(await page());
  await chat.say("hello");
  await shows(chat, ["user running: hello", "agent success: HELLO"]);
  const since = systemClock.monotonic();
  await place.stop(LATEST_MS);
  assert.ok(systemClock.monotonic() - since < LATEST_MS / 2, "the drain waited for the room");
});

test("[WEB-10] a room that is full goes on in another job, with the newest messages", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const long = "x".repeat(58_000);
  const { place, page, open } = await fixture(stack, { agents: { short: () => "short" } });
  const chat = await open(await page());
  // Each is told twice, when it is heard and when its turn runs: 16 MiB after some 145 of them.
  for (let index = 1; index <= 155; index += 1) await chat.say(`${index} ${long}`, { agent: "short" });
  assert.equal((await jobsOf(place, "chat-room")).length, 2);
  const newcomer = await open(await page());
  await newcomer.say("156 still there?");
  const said = newcomer.messages.filter(({ from }) => from === "user").map(({ text }) => text.split(" ")[0]);
  assert.ok(said.length > 20 && said.length < 110, `it shows ${said.length}`);
  assert.deepEqual(said.slice(-2), ["155", "156"]);
});

test(
  "[WEB-11] a file comes with its answer; of one that is too long for a log, its name and size",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const big = "y".repeat(600_000);
    const files = [
      { name: "small.txt", text: "small" },
      { name: "big.txt", text: big },
    ];
    const { page, open } = await fixture(stack, { agents: { clerk: () => ({ text: "Here.", files }) } });
    const chat = await open(await page());
    await chat.say("files, please", { agent: "clerk" });
    await shows(chat, ["user running: files, please", "agent success: Here."]);
    assert.deepEqual(chat.messages.at(-1)?.files, [
      { name: "small.txt", contentType: "text/plain", bytes: 5, base64: Buffer.from("small").toString("base64") },
      { name: "big.txt", contentType: "text/plain", bytes: 600_000, base64: undefined },
    ]);
  },
);

test(
  "[WEB-12] a server that is killed is back with its rooms, and an open page goes on by itself",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { folder, page, open } = await fixture(stack);
    const first = await servedBy(stack, folder, 0);
    const session = await page({ url: first.url });
    const chat = await open(session, "lobby", "echo");
    await chat.say("before");
    const before = ["user running: before", "agent success: before"];
    await shows(chat, before);
    const running = await chat.say("count", { agent: "ticker" });
    await first.kill();
    await servedBy(stack, folder, first.port);
    await chat.say("after");
    const late = systemClock.monotonic() + LATEST_MS;
    for await (const message of chat) {
      if (message.from === "agent" && message.text === "after") break;
      assert.ok(systemClock.monotonic() < late, JSON.stringify(shortly(chat.messages)));
    }
    assert.deepEqual(shortly(chat.messages).slice(0, 2), before);
    const lost = chat.messages.filter(({ from, jobId }) => from === "agent" && jobId === running.jobId);
    assert.deepEqual(
      lost.map(({ status }) => status),
      ["error"],
      "the turn that was killed is told to have failed, once",
    );
    assert.equal(chat.messages.length, 6);
  },
);

/** `holdfast serve --demo` as a process of its own. */
async function servedBy(stack: AsyncDisposableStack, home: string, port: number) {
  const child = spawn(
    process.execPath,
    [MAIN, "serve", "--demo", "--json", "--log-level", "error", "--token", "alices=alice", "--port", String(port)],
    { env: { PATH: process.env["PATH"], HOLDFAST_HOME: home }, stdio: ["ignore", "pipe", "inherit"] },
  );
  const exited = once(child, "exit");
  const kill = async () => {
    child.kill("SIGKILL");
    await exited;
  };
  stack.defer(kill);
  const [line] = (await Promise.race([
    once(createInterface(child.stdout), "line"),
    exited.then(() => assert.fail("the server ended before it served")),
  ])) as [string];
  return { ...(JSON.parse(line) as { url: string; port: number }), kill };
}

/** A chat on a page: rooms, what is said and answered there, and what survives (SPEC.md, WEB). Real sockets, real files. */
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { WebSocket } from "ws";
import { mayChat, WebChannel, webChat } from "../src/adapters/webchat/index.ts";
import { ArcpError, type Chat, type ChatMessage, connect, openChat, type Session } from "../src/client/index.ts";
import { Conversations } from "../src/conversation/index.ts";
import { Routes } from "../src/routing/index.ts";
import { type AgentHandler, Runtime } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import type { WebSocketConstructor } from "../src/transport/websocket.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const DEADLINE = { timeout: 60_000 };
const LATEST_MS = 30_000;

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
  stop(): Promise<void>;
}

/** A server on a file, with an agent that shouts, and others. */
async function newServer(file: string, agents: Record<string, AgentHandler> = {}): Promise<Place> {
  const auth = bearerTokens({ alices: "alice", bobs: "bob" });
  const runtime = new Runtime({ store: sqlite(file), auth, mayAnswer: mayChat });
  runtime.agent("shout", shout);
  for (const [name, handler] of Object.entries(agents)) runtime.agent(name, handler);
  const channel = new WebChannel({ minUpdateIntervalMs: 20 });
  const conversations = new Conversations(runtime, { deliveries: { channels: [channel], routes: new Routes() } });
  webChat({ runtime, conversations, channel });
  const server = await serve(runtime, { port: 0, conversations });
  return { url: server.url, runtime, stop: () => server.stop({ drainMs: 0 }) };
}

async function fixture(stack: AsyncDisposableStack, agents: Record<string, AgentHandler> = {}) {
  const folder = stack.use(await temporaryFolder());
  const file = path.join(folder.path, "chat.db");
  const place = await newServer(file, agents);
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
  return { file, place, page, open, cut: () => [...sockets].forEach((socket) => void socket.terminate()) };
}

const shortly = (messages: readonly ChatMessage[]) =>
  messages.map(({ from, text, status }) => `${from} ${status}: ${text}`);

/** Reads the chat until it shows these messages; fails with what it showed. */
async function shows(chat: Chat, expected: readonly string[]): Promise<void> {
  const late = AbortSignal.timeout(LATEST_MS);
  const isThere = () => JSON.stringify(shortly(chat.messages)) === JSON.stringify(expected);
  const given = new Promise<never>((_, reject) =>
    late.addEventListener("abort", () =>
      reject(new Error(`shown: ${JSON.stringify(shortly(chat.messages))}, not ${JSON.stringify(expected)}`)),
    ),
  );
  if (isThere()) return;
  const reading = (async () => {
    for await (const _ of chat) if (isThere()) return;
    throw new Error(`ended with ${JSON.stringify(shortly(chat.messages))}`);
  })();
  await Promise.race([reading, given]);
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
  const { page, open } = await fixture(stack, { patient: handler });
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
    const { page, open } = await fixture(stack, { patient: handler });
    const chat = await open(await page());
    const other = await open(await page());
    await chat.say("first", { agent: "patient" });
    await assert.rejects(other.say("not now", { onBusy: "reject" }), (error) => {
      assert.ok(error instanceof ArcpError);
      assert.equal(error.details?.["code"], "CONVERSATION_BUSY");
      return true;
    });
    const queued = await other.say("then", { onBusy: "enqueue" });
    assert.deepEqual([queued.state, queued.place], ["queued", 1]);
    await other.stop();
    await shows(
      chat,
      [
        "user running: first",
        "agent cancelled: Stopped.",
        "user refused: not now",
        "user queued: then",
        "agent success: THEN",
      ].toSorted((a, b) => order(a) - order(b)),
    );
  },
);

const order = (line: string): number =>
  ["first", "Stopped", "not now", "then", "THEN"].findIndex((word) => line.includes(word));

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
  const { page, open, cut } = await fixture(stack, { patient: handler });
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
  const waiting = chat.say("x").catch((error: unknown) => error);
  await chat.close();
  await waiting;
  await assert.rejects(chat.say("late"), /closed/);
});

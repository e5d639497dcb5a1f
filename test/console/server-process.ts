/**
 * Started by the console's tests and screenshots: one process that serves a file, with agents whose events are of
 * every kind, until it is killed. Usage: server-process.ts FILE CONSOLE [bare]: a bare one offers jobs and nothing else.
 */
import path from "node:path";
import { mayChat, WebChannel, webChat } from "../../src/adapters/webchat/index.ts";
import { registerDemoAgents } from "../../src/agents/index.ts";
import { Conversations } from "../../src/conversation/index.ts";
import { ActiveSessions, Lifecycle } from "../../src/presence/index.ts";
import { ArcpError } from "../../src/protocol/index.ts";
import { Routes } from "../../src/routing/index.ts";
import { type JobContext, Runtime } from "../../src/runtime/index.ts";
import { type AttachOptions, bearerTokens, serve } from "../../src/server/index.ts";
import { sqlite } from "../../src/store/sqlite/index.ts";
import { FakeChannel } from "../../src/testing/fake-channel.ts";
import { HOSTILE } from "./hostile.ts";

const [file, directory, bare] = process.argv.slice(2);
if (file === undefined || directory === undefined) throw new Error("usage: server-process.ts FILE CONSOLE");

const runtime = new Runtime({
  store: sqlite(file),
  auth: bearerTokens({
    alices: "alice",
    olgas: { principal: "olga", operator: true },
    ottos: { principal: "alice", observer: true },
    mallorys: HOSTILE,
  }),
  // Looks often, so that a test need not wait; a node is dead when the kernel says so, and not before.
  nodeHeartbeatMs: 100,
  sweepIntervalMs: 50,
  nodeTimeoutMs: 3_600_000,
  mayAnswer: mayChat,
});
registerDemoAgents(runtime, { directory: import.meta.dirname });
runtime.tool("weather", (args) => ({ ...(args as object), sky: "clear", celsius: 21 }));

/** Each kind of event, as an agent that plans a trip would send them. */
runtime.agent("planner", async (_, job: JobContext) => {
  await job.status({ phase: "reading", message: "what there is" });
  await job.thought("The sea is nearer than the mountains.");
  await job.toolCall({ tool: "weather", args: { city: "Lisbon" }, call_id: "one" });
  await job.toolCall({ tool: "maps", args: { from: "Porto", to: "Lisbon" }, call_id: "two" });
  await job.toolResult({ call_id: "two", error: { code: "TIMEOUT", message: "maps did not answer" } });
  await job.toolResult({ call_id: "one", result: { sky: "clear", celsius: 21 } });
  for (let current = 1; current <= 8; current += 1) {
    await job.progress({ current, total: 10, units: "pages", message: "reading guides" });
  }
  await job.metric({ name: "cost.model", value: 0.75, unit: "USD" });
  await job.metric({ name: "tokens", value: 1_840, unit: "tokens" });
  await job.artifact({ uri: "https://example.com/map.pdf", content_type: "application/pdf" });
  await job.log("no ferry on Sundays", { level: "warn" });
  const child = await job.delegate(
    "relay",
    { agent: "echo", input: "a bed for two" },
    {
      lease: { "agent.delegate": ["echo"] },
    },
  );
  await job.log("found a bed", { attributes: { bed: await child.result } });
  const out = job.stream({ contentType: "text/plain" });
  for (const piece of ["Day one: the river.\n", "Day two: the ", "castle.\n"]) await out.write(piece);
  await out.end("two days in Lisbon");
});

/** What a stranger may send, in every place that takes text. */
runtime.agent("hostile", async (input, job: JobContext) => {
  await job.status({ phase: HOSTILE, message: HOSTILE });
  await job.thought(HOSTILE);
  await job.log(HOSTILE, { attributes: { [HOSTILE]: HOSTILE } });
  await job.toolCall({ tool: HOSTILE, args: { [HOSTILE]: HOSTILE }, call_id: HOSTILE });
  await job.toolResult({ call_id: HOSTILE, result: HOSTILE });
  await job.progress({ current: 1, total: 2, units: HOSTILE, message: HOSTILE });
  await job.metric({ name: HOSTILE, value: 1, unit: HOSTILE });
  await job.artifact({ uri: `javascript:${HOSTILE}`, content_type: HOSTILE });
  await job.emit("x-vendor.hostile", { html: HOSTILE });
  if (input === "fail") throw new ArcpError("INVALID_REQUEST", HOSTILE);
  if (input === "ask") return await job.ask({ message: HOSTILE, to: HOSTILE, schema: { const: HOSTILE } });
  if (input === "stream") {
    const out = job.stream({ contentType: HOSTILE });
    await out.write(HOSTILE);
    await out.end(HOSTILE);
    return;
  }
  return HOSTILE;
});

/** Talks, slowly enough to be watched. */
runtime.agent("talker", async (input, job: JobContext) => {
  const { text } = input as { text: string };
  if (text === "wait") await job.sleep(3_600_000);
  const out = job.stream({ contentType: "text/plain" });
  for (const word of `You said: ${text}`.split(/(?<= )/)) await out.write(word);
  await out.end();
});

/** Conversations with channels and rooms, routes and presence, as `holdfast serve` has them. */
async function everything(folder: string): Promise<AttachOptions> {
  const web = new WebChannel();
  const post = new FakeChannel({ name: "post" });
  let isShut = true;
  post.archived = () => isShut;
  const routes = new Routes({ ttlMs: 3_600_000 }).start();
  const conversations = new Conversations(runtime, { deliveries: { channels: [web, post], routes } });
  webChat({ runtime, conversations, channel: web });
  /** Sends a letter, which the post refuses until somebody opens its office. */
  runtime.agent("letter", async (text, job: JobContext) => {
    const { jobId } = await conversations.startTurn({
      key: { source: "slack", channel: "C1", thread: "17.1" },
      principal: job.principal,
      agent: "echo",
      input: text,
      replyTo: {
        routeKey: { channel: "post", bridge: "T1", room: "C1", thread: "17.1" },
        fallbacks: { externalRoomId: "C1", threadId: "17.1" },
      },
    });
    return jobId;
  });
  runtime.agent("post-office", (input) => {
    isShut = input !== "open";
    return input;
  });
  const presence = new ActiveSessions({
    enabled: true,
    environment: {},
    directory: path.join(folder, "presence"),
    port: 0,
  });
  await presence.registerSession({ pid: process.ppid, session_name: "the tests", hidden: true });
  new Lifecycle(presence).start({ sessionName: "a stage", role: "headless", frontend: "tests", connected: true });
  return { conversations, routes, activeSessions: () => presence.querySnapshot() };
}

const server = await serve(runtime, {
  port: 0,
  console: { directory },
  ...(bare === undefined ? await everything(path.dirname(file)) : {}),
});
process.stdout.write(`${server.port}\n`);

/**
 * One worker of the delivery run, in a process of its own: conversations on the file that it is given, and a channel
 * over HTTP. It prints a line when it is ready, then starts the turns that the lines on its standard input name.
 */
import { appendFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { systemClock } from "../../../src/clock.ts";
import { Conversations } from "../../../src/conversation/index.ts";
import { type Logger, silentLogger } from "../../../src/logger.ts";
import { type Channel, ChannelError, type OutgoingMessage } from "../../../src/routing/deliveries/index.ts";
import type { Route } from "../../../src/routing/route.ts";
import { Routes } from "../../../src/routing/routes.ts";
import { Runtime } from "../../../src/runtime/index.ts";
import { sqlite } from "../../../src/store/sqlite/index.ts";
import type { DoubleMessage } from "./double.ts";
import { answerTo, MAX_TEXT_CHARS, placeOf, ROOM } from "./words.ts";

export interface WorkerSettings {
  file: string;
  log: string;
  url: string;
  worker: number;
}

/** One message of somebody in a thread. */
export interface WorkerCommand {
  label: string;
  thread: string;
}

export interface WorkerWord {
  label: string;
  /** `undefined`: accepted, now or before. */
  problem?: string;
}

const settings = JSON.parse(process.argv[2] ?? "") as WorkerSettings;

const logged = (level: string) => (fields: object, message: string) => {
  const at = new Date(systemClock.wall()).toISOString();
  appendFileSync(settings.log, `${JSON.stringify({ at, pid: process.pid, level, message, ...fields })}\n`);
};
const logger: Logger = { ...silentLogger, info: logged("info"), warn: logged("warn"), error: logged("error") };

/** What went wrong with a call that nobody answered is not known. */
async function call(signal: AbortSignal, method: string, path: string, body?: DoubleMessage): Promise<unknown> {
  const response = await fetch(`${settings.url}${path}`, {
    method,
    signal,
    body: body === undefined ? null : JSON.stringify(body),
  }).catch((error: unknown) => {
    throw new ChannelError("unclear", String(error), { cause: error });
  });
  if (response.status === 429) throw new ChannelError("rate_limited", "too fast", { retryAfterMs: 100 });
  if (response.status !== 200) throw new ChannelError("refused", `it answered ${response.status}`);
  return await response.json().catch((error: unknown) => {
    throw new ChannelError("unclear", String(error), { cause: error });
  });
}

const messageOf = ({ route, deliveryId, part, text, status }: OutgoingMessage): DoubleMessage => ({
  worker: settings.worker,
  place: placeOf(route),
  deliveryId,
  part,
  text,
  status,
});

const channel: Channel = {
  name: "double",
  limits: { maxTextChars: MAX_TEXT_CHARS, minUpdateIntervalMs: 60, timeoutMs: 1_000 },
  send: async (message, { signal }) => {
    const { id } = (await call(signal, "POST", "/", messageOf(message))) as { id: number };
    return { id };
  },
  update: async (receipt, message, { signal }) => {
    await call(signal, "POST", "/", { ...messageOf(message), id: Number(receipt["id"]) });
  },
  find: async ({ route, deliveryId }, { signal }) => {
    const query = new URLSearchParams({ place: placeOf(route), delivery: deliveryId });
    const found = (await call(signal, "GET", `/?${query}`)) as { part: number; id: number }[];
    return found.map(({ part, id }) => ({ part, receipt: { id } }));
  },
};

const runtime = new Runtime({
  store: sqlite(settings.file, { logger, busyTimeoutMs: 2_500 }),
  auth: { authenticate: () => Promise.resolve(undefined) },
  logger,
  nodeHeartbeatMs: 200,
  nodeTimeoutMs: 3_600_000,
  sweepIntervalMs: 100,
  maxRunningJobsPerPrincipal: 100_000,
});
runtime.agent("talk", async (label, job) => {
  for (let step = 0; step < 4; step += 1) {
    await job.progress({ current: step, message: String(label) });
    await job.sleep(30);
  }
  return answerTo(String(label));
});
const routes = new Routes();
const conversations = new Conversations(runtime, { deliveries: { channels: [channel], routes } });
await runtime.start();

async function start({ label, thread }: WorkerCommand): Promise<void> {
  const routeKey = { channel: "double", bridge: "b", room: ROOM, thread };
  const route: Route = { externalRoomId: ROOM, threadId: thread };
  routes.set(routeKey, route);
  const turn = {
    key: { source: "slack" as const, channel: ROOM, thread },
    principal: "tester",
    agent: "talk",
    input: label,
    messageId: label,
    replyTo: { routeKey },
  };
  const starting = conversations.startTurn(turn);
  // From here on the table would lead astray.
  routes.set(routeKey, { ...route, externalRoomId: "astray" });
  await starting;
}

const say = (word: WorkerWord) => process.stdout.write(`${JSON.stringify(word)}\n`);
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit(0));
lines.on("line", (line) => {
  const command = JSON.parse(line) as WorkerCommand;
  start(command).then(
    () => say({ label: command.label }),
    (error: unknown) => say({ label: command.label, problem: String(error) }),
  );
});
process.stdout.write('"ready"\n');

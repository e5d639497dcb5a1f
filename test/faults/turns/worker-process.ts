/**
 * One worker of a scenario of turns, in a process of its own: started with its settings as JSON, it prints its
 * address, then does what the lines on its standard input say, and ends with it.
 */
import { createInterface } from "node:readline";
import { sleep, systemClock } from "../../../src/clock.ts";
import { type ConversationKey, Conversations } from "../../../src/conversation/index.ts";
import { ArcpError } from "../../../src/protocol/index.ts";
import { Runtime } from "../../../src/runtime/index.ts";
import { bearerTokens, serve } from "../../../src/server/index.ts";
import { sqlite } from "../../../src/store/sqlite/index.ts";
import { logFile } from "../log-file.ts";
import { type Answer, REFUSALS } from "./journal.ts";
import { type Agent, LOCK_TTL_MS, type Message, NODE_TIMEOUT_MS, PRINCIPAL } from "./plan.ts";
import { talking } from "./talking.ts";

export interface WorkerSettings {
  file: string;
  journal: string;
  log: string;
  agents: readonly Agent[];
}

export type WorkerCommand =
  | ({ do: "submit"; ask: number; key: ConversationKey } & Pick<Message, "label" | "agent" | "onBusy" | "input">)
  | { do: "hold"; key: ConversationKey; forMs: number };

export type WorkerWord = { ask: number; answer: Answer };

const settings = JSON.parse(process.argv[2] ?? "") as WorkerSettings;

const logger = logFile(settings.log);
const talk = talking(settings.journal);

const runtime = new Runtime({
  store: sqlite(settings.file, { logger, busyTimeoutMs: 2_500 }),
  auth: bearerTokens({ token: { principal: PRINCIPAL, operator: true } }),
  logger,
  nodeHeartbeatMs: 250,
  nodeTimeoutMs: NODE_TIMEOUT_MS,
  sweepIntervalMs: 250,
  storeTimeoutMs: 1_500,
  cancelGraceMs: 600,
  maxRunningJobsPerPrincipal: 100_000,
});
for (const agent of settings.agents) runtime.agent(agent, talk);
const conversations = new Conversations(runtime, { lockTtlMs: LOCK_TTL_MS, maxQueuedTurns: 30 });
const server = await serve(runtime, { port: 0 });
process.stdout.write(`${JSON.stringify(server.url)}\n`);

async function submit(command: WorkerCommand & { do: "submit" }): Promise<Answer> {
  const { key, label, agent, onBusy, input } = command;
  try {
    const { jobId } = await conversations.startTurn({
      key,
      principal: PRINCIPAL,
      agent,
      input,
      onBusy,
      messageId: label,
    });
    return { said: "accepted", jobId };
  } catch (error) {
    const code = error instanceof ArcpError ? error.details?.["code"] : undefined;
    return REFUSALS.includes(code) ? { said: "refused", code: String(code) } : { said: "unclear", why: String(error) };
  }
}

async function hold(key: ConversationKey, forMs: number): Promise<void> {
  const { conversation } = await conversations.resolve(key, { principal: PRINCIPAL });
  const lock = await conversations.locks.tryAcquire(conversation.conversationId);
  if (lock === undefined) return;
  await sleep(systemClock, forMs, lock.signal).catch(() => undefined);
  await lock.release();
}

process.on("SIGTERM", () => {
  void server.stop({ drainMs: 300 }).then(() => process.exit(0));
});
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit(0));
lines.on("line", (line) => {
  const command = JSON.parse(line) as WorkerCommand;
  if (command.do === "hold") {
    hold(command.key, command.forMs).catch((error: unknown) => logger.warn({ err: error }, "could not hold a lock"));
    return;
  }
  void submit(command).then((answer) => {
    const word: WorkerWord = { ask: command.ask, answer };
    process.stdout.write(`${JSON.stringify(word)}\n`);
  });
});

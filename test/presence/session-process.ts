/**
 * A process with a session, as the presence tests start, stop and kill them. Says a line of JSON for what it does and is
 * asked, and ends with its standard input.
 */
import { fork } from "node:child_process";
import { createInterface } from "node:readline";
import { sleep, systemClock } from "../../src/clock.ts";
import { silentLogger } from "../../src/logger.ts";
import { ActiveSessions, Lifecycle } from "../../src/presence/index.ts";

export interface SessionSettings {
  directory: string;
  name: string;
  heartbeatMs?: number;
  port?: number;
  timeoutMs?: number;
  /** Lives on without whoever started it, for a while. */
  livesMs?: number;
}

/** What it says: that it is ready, that it became the owner, the answer to a command. */
export type SessionEvent =
  | { event: "ready"; pid: number }
  | { event: "owner" }
  | { event: "answer"; value: unknown; tookMs: number };

export type SessionCommand = "fork" | "snapshot" | "querySnapshot" | "serviceInfo" | "stop" | "restart" | "end";

const settings = JSON.parse(process.argv[2] ?? "{}") as SessionSettings;
const say = (event: SessionEvent) => process.stdout.write(`${JSON.stringify(event)}\n`);

const sessions = new ActiveSessions({
  ...settings,
  enabled: true,
  logger: {
    ...silentLogger,
    debug: (_fields, message) => {
      if (message.includes("is the owner")) say({ event: "owner" });
    },
  },
});
const lifecycle = new Lifecycle(sessions, settings);
const start = () => lifecycle.start({ sessionName: settings.name, role: "session", connected: true });

async function obey(command: SessionCommand): Promise<unknown> {
  switch (command) {
    case "fork": {
      const child = { ...settings, name: `${settings.name} child`, livesMs: 120_000 } satisfies SessionSettings;
      return fork(import.meta.filename, [JSON.stringify(child)], { stdio: ["ignore", "ignore", "inherit", "ipc"] }).pid;
    }
    case "snapshot":
      return await sessions.snapshot();
    case "querySnapshot":
      return await sessions.querySnapshot();
    case "serviceInfo":
      return await sessions.serviceInfo();
    case "stop":
      return await lifecycle.stop();
    case "restart":
      return start();
    case "end":
      await lifecycle.stop();
      process.exit(0);
  }
}

start();
say({ event: "ready", pid: process.pid });
if (settings.livesMs !== undefined) await sleep(systemClock, settings.livesMs);
for await (const command of createInterface({ input: process.stdin })) {
  const began = systemClock.monotonic();
  const value = (await obey(command as SessionCommand)) ?? null;
  say({ event: "answer", value, tookMs: systemClock.monotonic() - began });
}
process.exit(0);

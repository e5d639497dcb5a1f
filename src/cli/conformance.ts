/**
 * `holdfast conformance URL`: the wire rules of SPEC.md against a running runtime, ours or another's. A
 * line for each rule; exit status 0 when none fails, 1 when one does, 2 when there was nothing to test.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { Socket } from "node:net";
import { Command, InvalidArgumentError } from "commander";
import { WebSocket } from "ws";
import { sleep, systemClock } from "../clock.ts";
import {
  type CaseResult,
  type ConformanceSummary,
  conformanceRules,
  type RuleResult,
  runConformance,
  type Wire,
} from "../testing/conformance/index.ts";
import { spawnStdio } from "../transport/stdio.ts";
import { openWebSocket, type WebSocketConstructor } from "../transport/websocket.ts";
import { findTarget } from "./connection.ts";
import { oneLine, Problem } from "./problem.ts";
import { shortened, type Terminal } from "./terminal.ts";

interface ConformanceFlags {
  token?: string;
  otherToken?: string;
  expiringToken?: string;
  stdio?: string;
  serve?: string;
  only?: string[];
  timeout?: number;
  json: boolean;
}

function timeoutMs(text: string): number {
  const seconds = Number(text);
  if (text.trim() === "" || !(seconds > 0)) throw new InvalidArgumentError("Give a number of seconds above 0.");
  return seconds * 1_000;
}

function ruleIds(text: string, before: string[] = []): string[] {
  const wanted = text.toUpperCase();
  const rules = conformanceRules();
  if (!rules.some((rule) => rule === wanted || rule.startsWith(`${wanted}-`))) {
    throw new InvalidArgumentError(`No wire rule ${text} has a case; give one like RES or RES-3.`);
  }
  return [...before, wanted];
}

export function conformanceCommand(terminal: Terminal): Command {
  return new Command("conformance")
    .description(
      "Run the wire rules of SPEC.md against a runtime with the agents of `serve --demo`, or echo, burst and ticker at least.",
    )
    .argument("[url]", "the runtime (default: HOLDFAST_URL, else the one on this machine)")
    .option("--stdio <command>", "run this command for each connection, and speak NDJSON with it")
    .option("--serve <command>", "start this command first, and again for the rule that takes a restart")
    .option("--token <token>", "your token (default: HOLDFAST_TOKEN, else that of the server on this machine)")
    .option("--other-token <token>", "a token of another principal, for the rules that need one")
    .option("--expiring-token <token>", "a token that expires within a minute, for the rule that needs one")
    .option("--only <rules>", "only these, such as RES or JOB-5 (repeatable)", ruleIds)
    .option("--timeout <seconds>", "how long a case waits for any one thing (default: 10)", timeoutMs)
    .option("--json", "print one JSON object per rule, and the summary", false)
    .action(async (url: string | undefined, flags: ConformanceFlags) => {
      process.exitCode = await run(url, flags, terminal);
    });
}

const CONNECT_TIMEOUT_MS = 5_000;

/** A connection whose socket can be torn, which the platform's own class does not offer. */
async function openSocket(url: string): Promise<Wire> {
  let socket: Socket | undefined;
  class TornWebSocket extends WebSocket {
    constructor(address: string) {
      super(address, { perMessageDeflate: false });
      this.once("upgrade", (response) => {
        socket = response.socket;
      });
    }
  }
  const transport = await openWebSocket(url, {
    WebSocket: TornWebSocket as unknown as WebSocketConstructor,
    timeoutMs: CONNECT_TIMEOUT_MS,
  });
  return Object.assign(transport, {
    cut: () => void socket?.destroy(),
    stopReading: () => void socket?.pause(),
    readAgain: () => void socket?.resume(),
  });
}

/** A connection to a child process whose output can be left unread, or torn. */
async function openChild(command: string, args: readonly string[]): Promise<Wire> {
  let child: ChildProcess | undefined;
  const transport = await spawnStdio(command, args, {
    onSpawn: (spawned) => {
      child = spawned;
    },
  });
  return Object.assign(transport, {
    cut: () => void child?.stdout?.destroy(),
    stopReading: () => void child?.stdout?.pause(),
    readAgain: () => void child?.stdout?.resume(),
  });
}

const STOP_TIMEOUT_MS = 15_000;
const START_TIMEOUT_MS = 15_000;
const START_POLL_MS = 50;

/** The runtime as a child process that listens at an address, to be stopped and started again (RES-11). */
class ServerProcess {
  readonly #command: string;
  readonly #args: readonly string[];
  readonly #url: string;
  #child: ChildProcess | undefined;

  constructor(command: string, args: readonly string[], url: string) {
    this.#command = command;
    this.#args = args;
    this.#url = url;
  }

  /** Resolves when connections are taken. */
  async start(): Promise<void> {
    const child = spawn(this.#command, this.#args, { stdio: ["ignore", "ignore", "inherit"], windowsHide: true });
    this.#child = child;
    const failed = once(child, "exit").then(([code]) => {
      throw new Error(`${this.#command} exited with status ${code} before ${this.#url} took a connection`);
    });
    const up = this.#answers(child);
    try {
      await Promise.race([failed, up]);
    } catch (error) {
      throw new Problem(`--serve: ${oneLine(error)}`, 2, error);
    } finally {
      failed.catch(() => undefined);
      up.catch(() => undefined);
    }
  }

  /** Resolves when the process has exited. */
  async stop(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGTERM");
    const timer = systemClock.after(STOP_TIMEOUT_MS, () => child.kill("SIGKILL"));
    await exited;
    timer.cancel();
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  async #answers(child: ChildProcess): Promise<void> {
    const deadline = systemClock.monotonic() + START_TIMEOUT_MS;
    for (;;) {
      try {
        (await openSocket(this.#url)).close();
        return;
      } catch (error) {
        if (child.exitCode !== null || systemClock.monotonic() > deadline) throw error;
        await sleep(systemClock, START_POLL_MS);
      }
    }
  }
}

/** The words of a command line; quotes hold several together. No shell is involved. */
function words(command: string): string[] {
  return [...command.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(
    ([, double, single, bare]) => double ?? single ?? bare ?? "",
  );
}

async function run(url: string | undefined, flags: ConformanceFlags, terminal: Terminal): Promise<0 | 1> {
  const { where, server, ...target } = await targetOf(url, flags);
  let summary: ConformanceSummary;
  try {
    await server?.start();
    summary = await runConformance({
      ...target,
      ...(server === undefined ? {} : { restart: () => server.restart() }),
      otherToken: flags.otherToken,
      expiringToken: flags.expiringToken,
      only: flags.only,
      timeoutMs: flags.timeout,
      onResult: (result) => (flags.json ? terminal.json(ruleJson(result)) : printRule(result, terminal)),
    });
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(`${where} cannot be tested: ${oneLine(error)}`, 2, error);
  } finally {
    await server?.stop();
  }
  const { runtime, passed, failed, skipped, notRun, durationMs } = summary;
  if (flags.json) {
    terminal.json({ type: "summary", runtime, passed, failed, skipped, not_run: notRun, duration_ms: durationMs });
  } else {
    const seconds = (durationMs / 1_000).toFixed(1);
    for (const { rule, reason } of notRun) terminal.line(`not run  ${rule.padEnd(7)} because ${reason}`);
    terminal.line(
      `${runtime.name} ${runtime.version}: ${passed} passed, ${failed} failed, ${skipped} skipped in ${seconds} s`,
    );
  }
  return failed === 0 ? 0 : 1;
}

interface ConformanceTarget {
  open(): Promise<Wire>;
  token: string;
  where: string;
  server?: ServerProcess;
  restart?(): Promise<void>;
  maxConnections?: number;
  concurrency?: number;
}

/** Each connection over stdio is a process of its own: fewer at a time. */
const PROCESSES = 4;
const MOST_PROCESSES = 100;

async function targetOf(url: string | undefined, flags: ConformanceFlags): Promise<ConformanceTarget> {
  if (flags.stdio !== undefined) {
    if (url !== undefined) throw new Problem("Give an address or --stdio, not both.", 2);
    if (flags.serve !== undefined) throw new Problem("Give --serve or --stdio, not both.", 2);
    const [command, ...args] = words(flags.stdio);
    if (command === undefined) throw new Problem("--stdio: give the command that runs the runtime.", 2);
    const token = flags.token ?? process.env["HOLDFAST_TOKEN"];
    if (token === undefined || token === "") {
      throw new Problem("--stdio needs a token that the runtime takes; give one with --token or HOLDFAST_TOKEN.", 2);
    }
    return {
      open: () => openChild(command, args),
      token,
      where: command,
      // A process ends with its connection, so the next connection is to a runtime that was started again.
      restart: () => Promise.resolve(),
      maxConnections: MOST_PROCESSES,
      concurrency: PROCESSES,
    };
  }
  const [command, ...args] = words(flags.serve ?? "");
  if (flags.serve !== undefined && (command === undefined || url === undefined)) {
    throw new Problem("--serve: give the command that serves, and the address at which it does.", 2);
  }
  const target = await findTarget(
    { json: flags.json, ...(url === undefined ? {} : { url }), ...tokenOf(flags) },
    process.env,
  );
  return {
    open: () => openSocket(target.url),
    token: target.token,
    where: target.url,
    ...(command === undefined ? {} : { server: new ServerProcess(command, args, target.url) }),
  };
}

const tokenOf = ({ token }: ConformanceFlags) => (token === undefined ? {} : { token });

const ruleJson = ({ cases, ...rule }: RuleResult): object => ({
  type: "rule",
  ...rule,
  cases: cases.map(({ durationMs, ...rest }) => ({ ...rest, duration_ms: durationMs })),
});

const WORDS = { pass: "pass", fail: "FAIL", skipped: "skipped" } as const;
const INDENT = " ".repeat(17);

function printRule({ rule, outcome, cases }: RuleResult, terminal: Terminal): void {
  const head = `${WORDS[outcome].padEnd(8)} ${rule.padEnd(7)}`;
  if (outcome === "pass") {
    terminal.line(
      `${head} ${shortened(cases.map(({ title }) => title).join("; "), Math.max(60, terminal.columns - INDENT.length))}`,
    );
    return;
  }
  const shown = cases.filter((one) => one.outcome === outcome);
  const others = cases.length - shown.length;
  for (const [index, one] of shown.entries()) {
    terminal.line(`${index === 0 ? head : INDENT.slice(1)} ${one.title}`);
    for (const line of reasons(one)) terminal.line(`${INDENT}${line}`);
  }
  if (others > 0)
    terminal.line(
      `${INDENT}(${others} other ${others === 1 ? "case" : "cases"} of this rule: ${otherOutcomes(cases, outcome)})`,
    );
}

function reasons({ expected, got, reason }: CaseResult): string[] {
  if (reason !== undefined) return [`because ${reason}`];
  return [`expected ${expected}`, `got      ${got}`];
}

const otherOutcomes = (cases: readonly CaseResult[], shown: string): string =>
  [...new Set(cases.map(({ outcome }) => outcome).filter((outcome) => outcome !== shown))].join(", ");

/**
 * `holdfast conformance URL`: the wire rules of SPEC.md against a running runtime, ours or another's. A
 * line for each rule; exit status 0 when none fails, 1 when one does, 2 when there was nothing to test.
 */
import type { Socket } from "node:net";
import { Command, InvalidArgumentError } from "commander";
import { WebSocket } from "ws";
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
  stdio?: string;
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
    .description("Run the wire rules of SPEC.md against a runtime that offers echo, burst and ticker.")
    .argument("[url]", "the runtime (default: HOLDFAST_URL, else the one on this machine)")
    .option("--stdio <command>", "run this command for each connection, and speak NDJSON with it")
    .option("--token <token>", "your token (default: HOLDFAST_TOKEN, else that of the server on this machine)")
    .option("--other-token <token>", "a token of another principal, for the rules that need one")
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
  return Object.assign(transport, { cut: () => void socket?.destroy() });
}

/** The words of a command line; quotes hold several together. No shell is involved. */
function words(command: string): string[] {
  return [...command.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(
    ([, double, single, bare]) => double ?? single ?? bare ?? "",
  );
}

async function run(url: string | undefined, flags: ConformanceFlags, terminal: Terminal): Promise<0 | 1> {
  const { open, token, where, concurrency } = await targetOf(url, flags);
  let summary: ConformanceSummary;
  try {
    summary = await runConformance({
      open,
      token,
      otherToken: flags.otherToken,
      only: flags.only,
      timeoutMs: flags.timeout,
      concurrency,
      onResult: (result) => (flags.json ? terminal.json(ruleJson(result)) : printRule(result, terminal)),
    });
  } catch (error) {
    throw new Problem(`${where} cannot be tested: ${oneLine(error)}`, 2, error);
  }
  const { runtime, passed, failed, skipped, durationMs } = summary;
  if (flags.json) terminal.json({ type: "summary", runtime, passed, failed, skipped, duration_ms: durationMs });
  else {
    const seconds = (durationMs / 1_000).toFixed(1);
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
  concurrency?: number;
}

/** Each connection over stdio is a process of its own: fewer at a time. */
const PROCESSES = 4;

async function targetOf(url: string | undefined, flags: ConformanceFlags): Promise<ConformanceTarget> {
  if (flags.stdio !== undefined) {
    if (url !== undefined) throw new Problem("Give an address or --stdio, not both.", 2);
    const [command, ...args] = words(flags.stdio);
    if (command === undefined) throw new Problem("--stdio: give the command that runs the runtime.", 2);
    const token = flags.token ?? process.env["HOLDFAST_TOKEN"];
    if (token === undefined || token === "") {
      throw new Problem("--stdio needs a token that the runtime takes; give one with --token or HOLDFAST_TOKEN.", 2);
    }
    return { open: () => spawnStdio(command, args), token, where: command, concurrency: PROCESSES };
  }
  const target = await findTarget(
    { json: flags.json, ...(url === undefined ? {} : { url }), ...tokenOf(flags) },
    process.env,
  );
  return { open: () => openSocket(target.url), token: target.token, where: target.url };
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

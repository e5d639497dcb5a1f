/**
 * `holdfast serve`: a runtime on a SQLite file, for the programs of this machine, or on a PostgreSQL database, for
 * several machines. Standard output has the banner, standard error the log. The first SIGTERM or Ctrl-C drains, the
 * second forces.
 *
 * With `--stdio` it opens no port: standard input and output are its one connection, and the end of that
 * connection is the first signal.
 */
import { readFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { Command, InvalidArgumentError, Option } from "commander";
import pino from "pino";
import pretty from "pino-pretty";
import { mayChat, WebChannel, type WebChat, webChat } from "../adapters/webchat/index.ts";
import { registerDemoAgents, surveyLease } from "../agents/index.ts";
import { systemClock } from "../clock.ts";
import { Conversations } from "../conversation/index.ts";
import type { Logger } from "../logger.ts";
import { ActiveSessions } from "../presence/index.ts";
import type { Lease } from "../protocol/index.ts";
import { type RouteKeeper, Routes } from "../routing/index.ts";
import { StoredRoutes } from "../routing/stored/stored-routes.ts";
import { type Authenticator, DEFAULT_GRANTS, type Grants, type LeasePolicy, Runtime } from "../runtime/index.ts";
import {
  bearerTokens,
  firstOf,
  generateToken,
  type HoldfastServer,
  jwtAuth,
  parseTokenPairs,
  type ServeOptions,
  serve,
  tokensFromFile,
  withOperators,
} from "../server/index.ts";
import { stdioTransport } from "../transport/stdio.ts";
import { ensureHome, homeDirectory, removeDiscovery, runningServer, writeDiscovery } from "./discovery.ts";
import { joinedLeases, leaseOption } from "./lease-option.ts";
import { type OpencodeFlags, opencodeService } from "./opencode.ts";
import { announce } from "./presence.ts";
import { oneLine, Problem } from "./problem.ts";
import { positiveSeconds, seconds } from "./seconds.ts";
import { namedStore, STORE_OPTION } from "./store.ts";
import type { Terminal } from "./terminal.ts";

interface ServeFlags extends OpencodeFlags {
  port: number;
  host: string;
  stdio: boolean;
  store?: string;
  routes?: "store" | "memory";
  demo: boolean;
  grant: Lease;
  model: string[];
  drain: number;
  heartbeat: number;
  resumeWindow: number;
  retention: number;
  lockTtl: number;
  maxQueued: number;
  token: Record<string, string>;
  tokenFile?: string;
  operator: string[];
  jwksUrl?: string;
  jwtIssuer?: string;
  jwtAudience?: string;
  jwtPrincipalClaim: string;
  jwtRolesClaim: string;
  metrics?: "token" | "open";
  allowHost: string[];
  allowOrigin: string[];
  insecurePlaintext: boolean;
  tlsCert?: string;
  tlsKey?: string;
  logLevel: string;
  json: boolean;
}

function portNumber(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65_535) throw new InvalidArgumentError("A port is 0 (any free one) to 65535.");
  return port;
}

function tokenPair(text: string, before: Record<string, string>): Record<string, string> {
  try {
    return { ...before, ...parseTokenPairs(text) };
  } catch (error) {
    throw new InvalidArgumentError(oneLine(error));
  }
}

function lockTtl(text: string): number {
  const value = positiveSeconds(text);
  if (value > MAX_LOCK_TTL_SEC) throw new InvalidArgumentError(`Give at most ${MAX_LOCK_TTL_SEC} seconds (a day).`);
  return value;
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("Give a whole number from 0.");
  return Number(text);
}

const collect = (text: string, before: string[]): string[] => [...before, text];

const MAX_LOCK_TTL_SEC = 86_400;

/** What says where to listen, or tells where that is. */
const PORT_OPTIONS = ["port", "host", "allowHost", "allowOrigin", "insecurePlaintext", "tlsCert", "tlsKey", "json"];

export function serveCommand(terminal: Terminal): Command {
  return new Command("serve")
    .description("Serve agents on this machine, with everything kept in one SQLite file or in a PostgreSQL database.")
    .option("--port <port>", "0 takes any free one", portNumber, 7777)
    .option("--host <address>", "where to listen; others than loopback need TLS", "127.0.0.1")
    .addOption(
      new Option("--stdio", "serve one connection on standard input and output, and open no port")
        .default(false)
        .conflicts(PORT_OPTIONS),
    )
    .option("--store <file or URL>", STORE_OPTION)
    .addOption(
      new Option(
        "--routes <where>",
        "keep the table of routes in the store, for all its servers, or in memory (default: store with PostgreSQL)",
      ).choices(["store", "memory"]),
    )
    .option("--demo", "offer the agents echo, burst, ticker, survey, approve, relay, meter and spool", false)
    .option(
      "--grant <capability=pattern>",
      "what leases may ask for besides tools, agents and budgets (repeatable)",
      leaseOption,
      {},
    )
    .option("--model <pattern>", "a model that leases may name with model.use (repeatable)", collect, [])
    .option("--opencode <url>", "offer the agent opencode, of the OpenCode server there; spawn starts one")
    .option("--opencode-config <file>", "with spawn: its opencode.json, which names a model and its provider")
    .option("--opencode-command <file>", "with spawn: the program (default: opencode, on the PATH)")
    .option("--drain <seconds>", "how long running jobs may go on after the first signal", seconds, 10)
    .option("--heartbeat <seconds>", "how long a quiet connection goes without a ping", positiveSeconds, 30)
    .option("--resume-window <seconds>", "how long a session without a connection is kept", positiveSeconds, 600)
    .option("--retention <seconds>", "how long a job is kept after its end", positiveSeconds, 86_400)
    .option("--lock-ttl <seconds>", "how long a conversation stays locked by a process that hangs", lockTtl, 180)
    .option("--max-queued <n>", "turns of one conversation that may wait", wholeNumber, 100)
    .option("--token <token=principal>", "accept a token (repeatable, for development)", tokenPair, {})
    .option("--token-file <file>", "accept the tokens of a JSON file, which only you can read")
    .option("--operator <principal>", "may use keys of channels and break locks (repeatable)", collect, [])
    .option("--jwks-url <url>", "accept JSON Web Tokens that are signed with the keys there (needs the package jose)")
    .option("--jwt-issuer <issuer>", "with it: who must have issued them")
    .option("--jwt-audience <audience>", "with it: whom they must be for")
    .option("--jwt-principal-claim <claim>", "with it: the claim that names the principal", "sub")
    .option("--jwt-roles-claim <claim>", "with it: the claim that lists observer, user, operator", "roles")
    .addOption(
      new Option("--metrics <access>", "serve /metrics for Prometheus: for good tokens, or for everybody").choices([
        "token",
        "open",
      ]),
    )
    .option("--allow-host <name>", "a further name under which the server is reached (repeatable)", collect, [])
    .option("--allow-origin <origin>", "a further origin whose pages may connect (repeatable)", collect, [])
    .option("--insecure-plaintext", "allow another address than loopback without TLS", false)
    .option("--tls-cert <file>", "certificate (PEM)")
    .option("--tls-key <file>", "its key (PEM)")
    .option("--log-level <level>", "debug, info, warn or error", "info")
    .option("--json", "print one JSON object instead of the banner", false)
    .addHelpText(
      "after",
      "\nHOLDFAST_TOKENS=TOKEN=PRINCIPAL,… gives tokens too. Without any, one is made: yours, and an operator's.\n" +
        "With --stdio one must be given: a line is a message, the hello brings the token, and the end of standard input stops the server.",
    )
    .action((flags: ServeFlags) => run(flags, terminal));
}

/** pino on standard error: for people where one is watching, JSON lines otherwise. */
function loggerFor(level: string): Logger {
  if (!Object.hasOwn(pino.levels.values, level))
    throw new Problem(`--log-level: ${level} is no level; use debug, info, warn or error.`, 2);
  const stream = process.stderr.isTTY
    ? pretty({ destination: 2, sync: true, translateTime: "SYS:HH:MM:ss.l", ignore: "pid,hostname" })
    : pino.destination({ fd: 2, sync: true });
  return pino({ level }, stream);
}

/** Who is let in, and a token that the commands of this user find by themselves. */
interface Access {
  auth: Authenticator;
  localToken: string;
  principal: string;
  /** No token was given, so this one was made and has to be told. */
  generated: boolean;
}

async function accessFor(flags: ServeFlags, environment: NodeJS.ProcessEnv, logger: Logger): Promise<Access> {
  const fromEnvironment = environment["HOLDFAST_TOKENS"];
  let given: Record<string, string>;
  try {
    given = { ...(fromEnvironment ? parseTokenPairs(fromEnvironment) : {}), ...flags.token };
  } catch (error) {
    throw new Problem(`HOLDFAST_TOKENS: ${oneLine(error)}`, 2);
  }
  const authenticators = [bearerTokens(given)];
  if (flags.tokenFile !== undefined) {
    try {
      authenticators.push(await tokensFromFile(flags.tokenFile, { logger }));
    } catch (error) {
      throw new Problem(`--token-file: ${oneLine(error)}`, 2, error);
    }
  }
  const jwt = await jwtFor(flags, logger);
  if (jwt !== undefined) authenticators.push(jwt);
  const auth = () => withOperators(firstOf(authenticators), flags.operator);
  // A token that was given in the clear serves the local commands as well; a file may hold only hashes.
  const [first] = Object.entries(given);
  if (first !== undefined) return { auth: auth(), localToken: first[0], principal: first[1], generated: false };
  // It is the token of whoever started the server, and may do all that its owner may.
  const localToken = generateToken();
  const principal = userInfo().username;
  authenticators.push(bearerTokens({ [localToken]: { principal, operator: true } }));
  return { auth: auth(), localToken, principal, generated: flags.tokenFile === undefined && jwt === undefined };
}

async function jwtFor(flags: ServeFlags, logger: Logger): Promise<Authenticator | undefined> {
  const { jwksUrl, jwtIssuer: issuer, jwtAudience: audience } = flags;
  if (jwksUrl === undefined && issuer === undefined && audience === undefined) return undefined;
  if (jwksUrl === undefined || issuer === undefined || audience === undefined) {
    throw new Problem("--jwks-url, --jwt-issuer and --jwt-audience go together.", 2);
  }
  const { jwtPrincipalClaim: principalClaim, jwtRolesClaim: rolesClaim } = flags;
  try {
    return await jwtAuth({ jwksUrl, issuer, audience, principalClaim, rolesClaim, logger });
  } catch (error) {
    throw new Problem(`--jwks-url: ${oneLine(error)}`, 2, error);
  }
}

async function tlsFor(flags: ServeFlags): Promise<Pick<ServeOptions, "tls">> {
  if (flags.tlsCert === undefined && flags.tlsKey === undefined) return {};
  if (flags.tlsCert === undefined || flags.tlsKey === undefined) {
    throw new Problem("--tls-cert and --tls-key go together.", 2);
  }
  try {
    return { tls: { cert: await readFile(flags.tlsCert), key: await readFile(flags.tlsKey) } };
  } catch (error) {
    throw new Problem(`--tls-cert, --tls-key: ${oneLine(error)}`, 2, error);
  }
}

function startProblem(error: unknown, flags: ServeFlags): Problem {
  const { code } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") {
    return new Problem(
      `Port ${flags.port} on ${flags.host} is taken; give another with --port, or 0 for any.`,
      1,
      error,
    );
  }
  if (error instanceof RangeError) {
    return new Problem(
      `--host ${flags.host}: others could read tokens on their way; give --tls-cert and --tls-key, or --insecure-plaintext.`,
      2,
      error,
    );
  }
  return new Problem(`The server cannot start: ${oneLine(error)}`, 1, error);
}

async function run(flags: ServeFlags, terminal: Terminal): Promise<void> {
  const logger = loggerFor(flags.logLevel);
  const home = homeDirectory(process.env);
  await ensureHome(home);
  const store = namedStore(flags.store, home, process.env);
  const access = await accessFor(flags, process.env, logger);
  if (flags.stdio && access.generated) {
    throw new Problem("--stdio needs a token that the client knows; give --token, --token-file or HOLDFAST_TOKENS.", 2);
  }
  const opened = store.open({ logger });
  const runtime = new Runtime({
    store: opened,
    auth: access.auth,
    logger,
    heartbeatIntervalSec: flags.heartbeat,
    resumeWindowSec: flags.resumeWindow,
    jobRetentionMs: flags.retention * 1_000,
    models: flags.model,
    policy: policyFor(flags),
    mayAnswer: mayChat,
  });
  await using opencode = await opencodeService(flags, home, logger);
  await using tables = new AsyncDisposableStack();
  const sharesRoutes = (flags.routes ?? (store.file === undefined ? "store" : "memory")) === "store";
  const routes = sharesRoutes
    ? new StoredRoutes({ store: opened.routes, logger })
    : tables.use(new Routes({ logger }).start());
  const channel = new WebChannel();
  const conversations = new Conversations(runtime, {
    lockTtlMs: flags.lockTtl * 1_000,
    maxQueuedTurns: flags.maxQueued,
    deliveries: { channels: [channel], routes },
    ...(opencode === undefined ? {} : { upstream: { backends: [opencode.backend] } }),
  });
  opencode?.register(runtime, conversations);
  if (flags.demo) registerDemoAgents(runtime, { directory: process.cwd() });
  const chat = webChat({ runtime, conversations, channel });
  if (flags.stdio) await serveStdio(runtime, { conversations, chat, flags, logger });
  else {
    const storeName = store.name;
    await servePort(runtime, { conversations, routes, chat, flags, terminal, home, storeName, access, logger });
  }
}

/** What was granted on the command line; and the demo's reader may read where it was started. */
function policyFor({ grant, model, demo }: ServeFlags): LeasePolicy {
  const everybody: Grants = { ...DEFAULT_GRANTS, ...(model.length === 0 ? {} : { "model.use": model }), ...grant };
  const survey: Grants = demo ? { ...everybody, ...joinedLeases(grant, surveyLease(process.cwd())) } : everybody;
  return (_principal, agent) => (agent === "survey" ? survey : everybody);
}

interface StdioParts {
  conversations: Conversations;
  chat: WebChat;
  flags: ServeFlags;
  logger: Logger;
}

interface PortParts extends StdioParts {
  routes: RouteKeeper;
  terminal: Terminal;
  home: string;
  storeName: string;
  access: Access;
}

async function servePort(runtime: Runtime, parts: PortParts): Promise<void> {
  const { conversations, routes, chat, flags, terminal, home, storeName, access, logger } = parts;
  const tls = await tlsFor(flags);
  const older = await runningServer(home).catch((error: unknown) => {
    logger.warn({ err: error }, "the discovery file of an earlier server cannot be used; it is replaced");
    return undefined;
  });
  const presence = new ActiveSessions({ enabled: true, logger });
  let server: HoldfastServer;
  try {
    server = await serve(runtime, {
      port: flags.port,
      host: flags.host,
      allowedHosts: flags.allowHost,
      allowedOrigins: flags.allowOrigin,
      insecurePlaintext: flags.insecurePlaintext,
      ...(flags.metrics === undefined ? {} : { metrics: flags.metrics }),
      conversations,
      routes,
      ...(presence.enabled ? { activeSessions: () => presence.querySnapshot({ background: true }) } : {}),
      logger,
      ...tls,
    });
  } catch (error) {
    throw startProblem(error, flags);
  }
  await writeDiscovery(home, {
    url: server.url,
    token: access.localToken,
    pid: process.pid,
    started_at: new Date(systemClock.wall()).toISOString(),
  });
  if (older !== undefined) {
    logger.warn(
      { pid: older.pid, url: older.url },
      "another server of yours runs; commands without --url now find this one",
    );
  }

  await using listed = announce(
    {
      sessionName: "serve",
      role: "headless",
      connected: true,
      frontend: "cli",
      metadata: () => ({ url: server.url, conversations: conversations.running, jobs: runtime.runningJobs }),
    },
    logger,
  );
  const listener = { host: flags.host, port: server.port };
  listed.lifecycle.updateListener({ ...listener, connected: true });
  const stopping = stopOnSignals(server, flags.drain * 1_000, logger, async () => {
    chat.stop();
    listed.lifecycle.updateListener({ ...listener, connected: false });
    await removeDiscovery(home, process.pid).catch((error: unknown) =>
      logger.warn({ err: error }, "the discovery file stays behind"),
    );
  });
  if (flags.json) {
    terminal.json({
      url: server.url,
      port: server.port,
      store: storeName,
      pid: process.pid,
      principal: access.principal,
    });
  } else {
    banner(terminal, server, storeName, access, flags);
  }
  await stopping.stopped;
}

/** One connection on standard input and output; its end stops the runtime. */
async function serveStdio(runtime: Runtime, { conversations, chat, flags, logger }: StdioParts): Promise<void> {
  try {
    await runtime.start();
  } catch (error) {
    throw startProblem(error, flags);
  }
  // Elsewhere a reader that leaves ends the program; here jobs are under way, and their end is waited for.
  process.stdout.removeAllListeners("error");
  const transport = stdioTransport({ input: process.stdin, output: process.stdout }, { logger });
  await using listed = announce(
    {
      sessionName: "serve --stdio",
      role: "session",
      connected: true,
      frontend: "cli",
      metadata: () => ({ conversations: conversations.running, jobs: runtime.runningJobs }),
    },
    logger,
  );
  const stopping = stopOnSignals(runtime, flags.drain * 1_000, logger, async () => {
    chat.stop();
    listed.lifecycle.updateConnected(false);
  });
  // A pipe that was cut has no end, a file that has ended is not closed.
  for (const event of ["end", "close"]) process.stdin.once(event, () => stopping.begin("the connection ended"));
  runtime.accept(transport);
  await stopping.stopped;
}

function banner(
  terminal: Terminal,
  server: HoldfastServer,
  storeName: string,
  access: Access,
  flags: ServeFlags,
): void {
  terminal.line(`holdfast serves ${server.url}`);
  terminal.line(`  console ${new URL("/console/", server.url.replace(/^ws/, "http"))}`);
  terminal.line(`  store   ${storeName}`);
  terminal.line(`  agents  ${offered(flags)}`);
  if (access.generated)
    terminal.line(`  token   ${access.localToken}  (${access.principal}, an operator; made for this run)`);
  if (flags.demo) terminal.line("  try     holdfast submit survey --follow");
  terminal.line("  stop    Ctrl-C");
}

function offered({ demo, opencode }: ServeFlags): string {
  const agents = [
    demo ? "echo, burst, ticker, survey, approve, relay, meter, spool" : "",
    opencode === undefined ? "" : "opencode",
  ];
  return agents.filter(Boolean).join(", ") || "none; --demo offers some, your own program registers more";
}

interface Stopping {
  /** Resolves once all is stopped. */
  readonly stopped: Promise<void>;
  /** Drains, as the first signal does; from then on a signal does not wait. Idempotent. */
  begin(why: string): void;
}

/** @param farewell done at once, while jobs still run */
function stopOnSignals(
  serving: { stop(options: { drainMs: number }): Promise<void> },
  drainMs: number,
  logger: Logger,
  farewell: () => Promise<void>,
): Stopping {
  const { promise: stopped, resolve, reject } = Promise.withResolvers<void>();
  let leaving: Promise<void> | undefined;
  const begin = (why: string) => {
    if (leaving !== undefined) return;
    logger.info({ why, drain_ms: drainMs }, "stopping; once more stops at once");
    leaving = farewell();
    Promise.all([leaving, serving.stop({ drainMs })]).then(() => resolve(), reject);
  };
  const onSignal = (signal: NodeJS.Signals) => {
    if (leaving === undefined) {
      begin(signal);
      return;
    }
    logger.warn({ signal }, "stopping at once");
    leaving.then(() => process.exit(1), reject);
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  return { stopped, begin };
}

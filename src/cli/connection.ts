/** From the flags of a command to a session: which server, which token, and what to say when it fails. */
import type { Command } from "commander";
import { WebSocket } from "ws";
import { type ConnectOptions, connect, type Session } from "../client/index.ts";
import { ArcpError } from "../protocol/index.ts";
import { VERSION } from "../runtime/index.ts";
import type { WebSocketConstructor } from "../transport/websocket.ts";
import { discover, homeDirectory, runningServer } from "./discovery.ts";
import { oneLine, Problem } from "./problem.ts";

/** The flags that every command has which talks to a server. */
export interface ConnectionFlags {
  url?: string;
  token?: string;
  json: boolean;
}

export const withConnectionFlags = (command: Command): Command =>
  command
    .option("--url <url>", "the server (default: HOLDFAST_URL, else the one on this machine)")
    .option("--token <token>", "your token (default: HOLDFAST_TOKEN, else that of the server on this machine)")
    .option("--json", "print one JSON object per line", false);

export interface Target {
  url: string;
  token: string;
}

function checkUrl(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !/^wss?:$/.test(parsed.protocol)) {
    throw new Problem(`--url: ${url} is no WebSocket address; give one like ws://127.0.0.1:7777/arcp.`, 2);
  }
  if (parsed.username !== "" || parsed.password !== "" || parsed.search !== "") {
    throw new Problem("--url: a token never travels in an address (SRV-4); give it with --token or HOLDFAST_TOKEN.", 2);
  }
  return url;
}

/** Flags first, then the environment, then the server of this machine. */
export async function findTarget(flags: ConnectionFlags, environment: NodeJS.ProcessEnv): Promise<Target> {
  const url = flags.url ?? environment["HOLDFAST_URL"];
  const token = flags.token ?? environment["HOLDFAST_TOKEN"];
  const home = homeDirectory(environment);
  if (url === undefined || url === "") {
    const found = await discover(home);
    return { url: found.url, token: token || found.token };
  }
  checkUrl(url);
  if (token !== undefined && token !== "") return { url, token };
  const local = await runningServer(home);
  // The local token is for the local server only; no other address is told it.
  if (local?.url === url) return { url, token: local.token };
  throw new Problem(`No token for ${url}; give one with --token or HOLDFAST_TOKEN.`, 2);
}

const CONNECT_TIMEOUT_MS = 5_000;

/** The class of `ws` reads faster than the platform's, and says why a connection failed. */
const FastWebSocket = WebSocket as unknown as WebSocketConstructor;

export async function openSession(target: Target, options: Partial<ConnectOptions> = {}): Promise<Session> {
  try {
    return await connect(target.url, {
      token: target.token,
      client: { name: "holdfast-cli", version: VERSION },
      timeoutMs: CONNECT_TIMEOUT_MS,
      WebSocket: FastWebSocket,
      ...options,
    });
  } catch (error) {
    if (error instanceof ArcpError && error.code === "UNAUTHENTICATED") {
      throw new Problem(`${target.url} refuses the token; give a good one with --token or HOLDFAST_TOKEN.`, 1, error);
    }
    if (error instanceof ArcpError) throw new Problem(`${target.url} refuses the session: ${oneLine(error)}`, 1, error);
    const why = oneLine(error);
    // As `ws` tells it. Any other status is a refusal of the server's own, or of what stands before it.
    const remedy = why.includes("server response: 404")
      ? "A server answers, but has no runtime at this path; that of `holdfast serve` is /arcp."
      : "Start it with `holdfast serve`, or give another --url.";
    throw new Problem(`${target.url} cannot be reached (${why}) ${remedy}`, 1, error);
  }
}

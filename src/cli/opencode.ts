/**
 * OpenCode for the commands: a server that runs, or one of Holdfast's own. The adapter and its SDK are loaded only
 * where they are asked for, since not everybody has them.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import type { OpencodeBackend } from "../adapters/opencode/index.ts";
import type { Conversations } from "../conversation/index.ts";
import { type Logger, silentLogger } from "../logger.ts";
import type { Runtime } from "../runtime/index.ts";
import { oneLine, Problem } from "./problem.ts";

export interface OpencodeFlags {
  opencode?: string;
  opencodeConfig?: string;
  opencodeCommand?: string;
}

type Adapter = typeof import("../adapters/opencode/index.ts");

/** What `serve --opencode` offers; ends with it. */
export interface OpencodeService extends AsyncDisposable {
  readonly backend: OpencodeBackend;
  register(runtime: Runtime, conversations: Conversations): void;
}

/**
 * @returns nothing where none is asked for
 * @throws Problem
 */
export async function opencodeService(
  flags: OpencodeFlags,
  home: string,
  logger: Logger,
): Promise<OpencodeService | undefined> {
  const { opencode: where, opencodeConfig: configFile, opencodeCommand: command } = flags;
  if (where !== "spawn" && (configFile !== undefined || command !== undefined)) {
    throw new Problem("--opencode-config and --opencode-command go with --opencode spawn.", 2);
  }
  if (where === undefined) return undefined;
  const adapter = await adapterThere();
  const offer = (backend: OpencodeBackend, stop: () => Promise<void>): OpencodeService => ({
    backend,
    register: (runtime, conversations) => {
      runtime.agent("opencode", adapter.opencodeAgent({ backend, conversations, logger }));
    },
    [Symbol.asyncDispose]: stop,
  });
  if (where !== "spawn") {
    const backend = backendAt(adapter, where, logger);
    // It may come later; until then turns are told so.
    await backend.health().then(
      (version) => logger.info({ version }, "OpenCode answers"),
      (error: unknown) => logger.warn({ err: error }, "OpenCode does not answer yet"),
    );
    return offer(backend, async () => undefined);
  }
  if (configFile === undefined) {
    throw new Problem(
      "--opencode spawn needs --opencode-config FILE, an opencode.json that names a model and its provider: without one OpenCode sends everything to a hosted model.",
      2,
    );
  }
  const config = await readConfig(configFile);
  const options = { home: path.join(home, "opencode"), directory: process.cwd(), config, command, logger };
  try {
    const server = await adapter.OpencodeServer.start(options);
    return offer(adapter.opencode({ ...server.connection, logger }), () => server.stop());
  } catch (error) {
    throw new Problem(`--opencode spawn: ${oneLine(error)}`, error instanceof TypeError ? 2 : 1, error);
  }
}

/** The server of that URL, or the one that a `serve --opencode spawn` of this user has started. */
export async function knownOpencode(
  url: string | undefined,
  home: string,
): Promise<{ url: string; backend: OpencodeBackend } | undefined> {
  if (url !== undefined) return { url, backend: backendAt(await adapterThere(), url, silentLogger) };
  const folder = path.join(home, "opencode");
  if (!existsSync(folder)) return undefined;
  const adapter = await adapterThere();
  let text: string;
  try {
    text = await readFile(adapter.connectionFile(folder), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const known = Connection.parse(JSON.parse(text));
  return { url: known.url, backend: adapter.opencode({ baseUrl: known.url, password: known.password }) };
}

const Connection = z.object({ url: z.string(), password: z.string() });

async function adapterThere(): Promise<Adapter> {
  try {
    return await import("../adapters/opencode/index.ts");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new Problem("OpenCode needs its SDK: npm install @opencode-ai/sdk.", 1, error);
  }
}

/** @throws Problem for a URL that is none */
function backendAt(adapter: Adapter, url: string, logger: Logger): OpencodeBackend {
  try {
    return adapter.opencode({ baseUrl: url, password: process.env["OPENCODE_SERVER_PASSWORD"], logger });
  } catch (error) {
    throw new Problem(`--opencode: ${oneLine(error)}`, 2, error);
  }
}

async function readConfig(file: string): Promise<Record<string, unknown>> {
  let config: unknown;
  try {
    config = JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw new Problem(`--opencode-config ${file}: ${oneLine(error)}`, 2, error);
  }
  if (typeof config === "object" && config !== null && !Array.isArray(config)) return { ...config };
  throw new Problem(`--opencode-config ${file}: is no JSON object.`, 2);
}

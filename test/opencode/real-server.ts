/**
 * The real OpenCode server for tests, with a stand-in for its model. The binary comes with the npm package
 * `opencode-ai`; where it is missing, tests that need it are skipped by name.
 */
import { accessSync, constants } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { OpencodeServer, type OpencodeServerOptions } from "../../src/adapters/opencode/index.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { ModelServer } from "./model-server.ts";

/** Of the npm package, if it is installed for this platform. */
export const OPENCODE = binary();

/** For `test(…, { skip: NO_OPENCODE })`. */
export const NO_OPENCODE = OPENCODE === undefined ? "the npm package opencode-ai is not installed" : false;

function binary(): string | undefined {
  try {
    const manifest = createRequire(import.meta.url).resolve("opencode-ai/package.json");
    const file = path.join(path.dirname(manifest), "bin", "opencode.exe");
    accessSync(file, constants.X_OK);
    return file;
  } catch {
    return undefined;
  }
}

export interface RealOpencode extends AsyncDisposable {
  readonly server: OpencodeServer;
  readonly model: ModelServer;
  /** Where its sessions work. */
  readonly directory: string;
}

/** A server of its own, in a folder of its own: two seconds. */
export async function realOpencode(options: Partial<OpencodeServerOptions> = {}): Promise<RealOpencode> {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder());
  const home = stack.use(await temporaryFolder());
  const model = stack.use(await ModelServer.start());
  const server = stack.use(
    await OpencodeServer.start({
      home: home.path,
      directory: folder.path,
      config: { ...model.config, permission: { bash: "ask" } },
      command: OPENCODE,
      ...options,
    }),
  );
  const all = stack.move();
  return { server, model, directory: folder.path, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

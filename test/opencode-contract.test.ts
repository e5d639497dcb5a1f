/** The backend contract over the real OpenCode: one server for all cases, a directory of sessions for each. */
import { mkdtemp } from "node:fs/promises";
import path from "node:path";
import { after, describe } from "node:test";
import { opencode } from "../src/adapters/opencode/index.ts";
import { backendContract } from "../src/testing/backend-contract.ts";
import { NO_OPENCODE, type RealOpencode, realOpencode } from "./opencode/real-server.ts";

describe("OpenCode", { skip: NO_OPENCODE }, () => {
  let shared: Promise<RealOpencode> | undefined;
  after(async () => (await shared)?.[Symbol.asyncDispose]());

  backendContract("opencode", async () => {
    shared ??= realOpencode();
    const real = await shared;
    const directory = await mkdtemp(path.join(real.directory, "case-"));
    let down = false;
    return {
      backend: opencode({
        ...real.server.connection,
        directory,
        // Nothing listens on port 9.
        baseUrl: () => (down ? "http://127.0.0.1:9" : real.server.url),
      }),
      permissions: [{ permission: "bash", pattern: "*", action: "ask" }],
      unknownId: "ses_0000000000000000000000nobody",
      prompt: "say Hello.",
      endlessPrompt: "hang",
      permissionPrompt: 'use bash {"command":"echo hi","description":"greets"}',
      badPermissions: [{ permission: "bash", pattern: "*", action: "maybe" }],
      goDown: () => {
        down = true;
      },
      [Symbol.asyncDispose]: async () => undefined,
    };
  });
});

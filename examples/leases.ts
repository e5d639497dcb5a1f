/**
 * Leases: what a job may do. The host's policy says what may be asked for, a submit asks for some of it, and
 * every act of the agent is checked: tools, files, requests, and operations of its own.
 *
 *     node examples/leases.ts
 */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ArcpError, bearerTokens, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";
import { z } from "zod";

const folder = realpathSync(mkdtempSync(join(tmpdir(), "holdfast-example-")));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
mkdirSync(join(folder, "docs"));
writeFileSync(join(folder, "docs", "hello.md"), "hello, lease\n");
writeFileSync(join(folder, "secret.txt"), "not for agents\n");
const say = (text: string): void => console.log(text.replaceAll(folder, "FOLDER"));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
  // The most that anybody may ask for, here whoever it is and whichever agent.
  policy: () => ({ "fs.read": [`${folder}/docs/**`], "tool.call": "any", "x-vendor.acme.print": ["office/*"] }),
});

runtime.tool("upper", ({ text }) => text.toUpperCase(), { input: z.object({ text: z.string() }) });
runtime.tool("erase-the-disk", () => console.log("this is never printed"));

runtime.agent("reader", async (_input, job) => {
  const attempt = async (what: string, act: () => unknown): Promise<void> => {
    try {
      say(`${what}: ${JSON.stringify(await act())}`);
    } catch (error) {
      if (!(error instanceof ArcpError)) throw error;
      say(`${what}: ${error.code}`);
    }
  };
  await attempt("read what is granted", () => job.fs.readText(`${folder}/docs/hello.md`));
  await attempt("read what is not", () => job.fs.readText(`${folder}/secret.txt`));
  await attempt("the same in disguise", () => job.fs.readText(`${folder}/docs/%2e%2e/secret.txt`));
  await attempt("call a tool", () => job.tools.call("upper", { text: "hello" }));
  await attempt("call it wrongly", () => job.tools.call("upper", { text: 42 }));
  await attempt("call another", () => job.tools.call("erase-the-disk"));
  await attempt("fetch", () => job.fetch("https://example.com/"));
  // The agent's own operations: ask first, then use the target as it comes back.
  await attempt("print at the office", () => job.authorize("x-vendor.acme.print", "office/laser"));
  await attempt("print at home", () => job.authorize("x-vendor.acme.print", "home/inkjet"));
});

await using server = await serve(runtime, { port: 0 });
await using session = await connect(server.url, { token: "dev-token" });

const job = await session.submit("reader", null, {
  leaseRequest: {
    "fs.read": [`${folder}/docs/*.md`],
    "tool.call": ["upper"],
    "x-vendor.acme.print": ["office/laser"],
  },
});
// Whoever follows the job sees what it did and what it was refused, but no content of files.
let acts = 0;
for await (const { kind } of job) if (kind === "tool_call") acts += 1;
say(`its log tells of ${acts} acts`);

const greedy = session.submit("reader", null, { leaseRequest: { "fs.read": ["/etc/**"] } });
say(
  await greedy.then(
    () => "accepted",
    (error: ArcpError) => `${error.code}: ${error.message}`,
  ),
);

/** Started by store-failure.test.ts: one process that serves the file it is given, until it is killed. */
import { ticker } from "../src/agents/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error("usage: node-process.ts FILE");

const runtime = new Runtime({
  store: sqlite(file),
  auth: bearerTokens({ alice: "alice" }),
  // Looks often, so that a test need not wait; a node is dead when the kernel says so, and not before.
  nodeHeartbeatMs: 100,
  sweepIntervalMs: 50,
  nodeTimeoutMs: 3_600_000,
}).agent("ticker", ticker);
const server = await serve(runtime, { port: 0 });
process.stdout.write(`${server.url}\n`);

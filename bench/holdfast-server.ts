/**
 * Holdfast as it is served: SQLite file, durability "process", the demo agents, fifty principals. Prints
 * its URL as the first line.
 */
import "./probe.ts";
import { registerDemoAgents } from "../src/agents/index.ts";
import { Runtime, type RuntimeOptions } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";

const [, , file, options = "{}"] = process.argv;
if (file === undefined) throw new Error("usage: holdfast-server.ts FILE [OPTIONS]");

const tokens = Object.fromEntries(Array.from({ length: 50 }, (_, index) => [`bench-${index}`, `principal-${index}`]));
const runtime = new Runtime({
  store: sqlite(file),
  auth: bearerTokens(tokens),
  ...(JSON.parse(options) as Partial<RuntimeOptions>),
});
registerDemoAgents(runtime, { directory: process.cwd() });
const server = await serve(runtime, { port: 0 });
console.log(server.url);
process.on("SIGTERM", () => {
  server.stop({ drainMs: 0 }).then(
    () => process.exit(0),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});

/** Holdfast as it is served: SQLite file, durability "process", the demo agents. Prints its URL as the first line. */
import { registerDemoAgents } from "../src/agents/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";

const [, , file] = process.argv;
if (file === undefined) throw new Error("usage: holdfast-server.ts FILE");

const runtime = new Runtime({ store: sqlite(file), auth: bearerTokens({ bench: "bench" }) });
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

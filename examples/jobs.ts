/**
 * Jobs: a repeated submit is one job, whoever cancels is heard at once, and each way to end has its code.
 *
 *     node examples/jobs.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ArcpError, bearerTokens, Runtime, serve } from "holdfast";
import { connect, type JobHandle } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
});

runtime.agent("sum", (input) => (input as number[]).reduce((sum, number) => sum + number, 0));
// Whatever an agent waits for is told by job.signal when the job is to stop; job.sleep knows it already.
runtime.agent("sleeper", async (_input, job) => await job.sleep(3_600_000));
runtime.agent("picky", (input) => {
  if (input === null) throw new ArcpError("INVALID_REQUEST", "input: null is nothing to work on.");
  throw new Error("a bug, with a password in its message");
});

await using server = await serve(runtime, { port: 0 });
await using session = await connect(server.url, { token: "dev-token" });

const first = await session.submit("sum", [1, 2, 3], { idempotencyKey: "week-19" });
const second = await session.submit("sum", [1, 2, 3], { idempotencyKey: "week-19" });
console.log("one job:", first.id === second.id, "with result", await second.result);
const other = session.submit("sum", [4], { idempotencyKey: "week-19" });
await other.catch(({ code }: ArcpError) => console.log("other input under that key:", code));

const tell = async (what: string, job: JobHandle): Promise<void> => {
  const { final_status, code, message } = await job.terminal;
  console.log(`${what}: ${final_status}, ${code}: ${message}`);
};

const slow = await session.submit("sleeper");
await slow.cancel("nobody needs it");
await tell("cancelled", slow);
await tell("too slow", await session.submit("sleeper", {}, { maxRuntimeSec: 0.1 }));
await tell("the agent's own error", await session.submit("picky", null));
await tell("a bug", await session.submit("picky", {}));

const { jobs } = await session.listJobs({ status: ["error", "cancelled", "timed_out"] });
for (const { agent, status } of jobs) console.log(`${agent} ${status}`);

/**
 * What is in the store is there after a restart: jobs, their events and results, sessions, keys of repeated submits.
 *
 *     node examples/stores.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bearerTokens, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

let runs = 0;
const start = () => {
  const runtime = new Runtime({
    // On disk before anybody is told; the default, "process", survives the end of the process but not of the power.
    store: sqlite(join(folder, "example.db"), { durability: "power" }),
    auth: bearerTokens({ "dev-token": "alice" }),
    // A week after their end, jobs and their logs are removed; the oldest events sooner, once the store is this big.
    jobRetentionMs: 7 * 86_400_000,
    caps: { maxStoredBytes: 10 * 1024 ** 3 },
  });
  runtime.agent("report", async (_input, job) => {
    runs += 1;
    await job.log("counting pages");
    return { pages: 12 };
  });
  return serve(runtime, { port: 0 });
};

for (const which of ["first", "second"]) {
  await using server = await start();
  await using session = await connect(server.url, { token: "dev-token" });
  const job = await session.submit("report", { week: 19 }, { idempotencyKey: "week-19" });
  console.log(`${which} start:`, await job.result, `after ${runs} run`);
}

await using server = await start();
await using session = await connect(server.url, { token: "dev-token" });
const [stored] = (await session.listJobs()).jobs;
const job = await session.subscribe(stored?.job_id ?? "", { history: true });
for await (const { kind, body } of job) console.log(kind, body);

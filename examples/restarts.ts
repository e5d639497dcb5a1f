/**
 * A job that outlives its process: its agent is restartable, keeps checkpoints, and is run again by another process on
 * the same store, here a second runtime.
 *
 *     node examples/restarts.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bearerTokens, type JobContext, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

async function importer(_input: unknown, job: JobContext): Promise<string> {
  let done = (job.lastCheckpoint as number | undefined) ?? 0;
  while (done < 4) {
    done += 1;
    await job.log(`row ${done}`);
    // Stored, with every event before it: the next attempt goes on behind this row.
    await job.checkpoint(done);
    if (job.attempt > 1 || done < 2) continue;
    await job.status({ phase: "waiting" });
    await job.sleep(3_600_000);
  }
  return `${done} rows in ${job.attempt} attempts`;
}

/** A process: this one starts two, so that one can stop. */
const node = () => {
  const runtime = new Runtime({
    store: sqlite(join(folder, "example.db")),
    auth: bearerTokens({ "dev-token": "alice" }),
  });
  runtime.agent("importer", importer, { restartable: true });
  return serve(runtime, { port: 0 });
};

await using first = await node();
await using second = await node();
await using session = await connect(second.url, { token: "dev-token" });

let id: string;
{
  await using elsewhere = await connect(first.url, { token: "dev-token" });
  const job = await elsewhere.submit("importer");
  id = job.id;
  for await (const { body } of job) if ((body as { phase?: string }).phase === "waiting") break;
}
await first.stop({ drainMs: 0 });

const job = await session.subscribe(id, { history: true });
for await (const { kind, body } of job) {
  const { message, phase, attempt = "" } = body as { message?: string; phase?: string; attempt?: number };
  console.log(kind, phase ?? message, attempt);
}
console.log(await job.result);

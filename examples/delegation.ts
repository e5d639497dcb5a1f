/**
 * Delegation: a job hands parts of its work to other agents. A child has a part of its parent's lease and of its
 * money, which is set aside for it; its result is a value for the parent, and its failure the parent's to handle.
 *
 *     node examples/delegation.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ArcpError, bearerTokens, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
});

runtime.agent("writer", async (input, job) => {
  const { chapter } = input as { chapter: string };
  if (chapter === "the unwritable") throw new ArcpError("INVALID_REQUEST", "nobody can write this");
  await job.metric({ name: "cost.model", value: 0.25, unit: "USD" });
  return `${chapter}: once upon a time`;
});

runtime.agent("editor", async (input, job) => {
  const { chapters } = input as { chapters: string[] };
  const lease = { "cost.budget": ["USD:0.50"] };
  const written = await Promise.allSettled(
    chapters.map(async (chapter) => await (await job.delegate("writer", { chapter }, { lease })).result),
  );
  const book = written.map((outcome) =>
    outcome.status === "fulfilled" ? String(outcome.value) : `(missing: ${(outcome.reason as ArcpError).message})`,
  );
  // Three times 0.50 were set aside and twice 0.25 spent, so 1.50 of the 2.00 are left.
  for (const amount of ["USD:1.51", "USD:1.50"]) {
    await job.delegate("writer", { chapter: "an epilogue" }, { lease: { "cost.budget": [amount] } }).then(
      () => job.log(`${amount} for an epilogue: granted`),
      (error: ArcpError) => job.log(`${amount} for an epilogue: ${error.code}`),
    );
  }
  return book;
});

await using server = await serve(runtime, { port: 0 });
await using session = await connect(server.url, { token: "dev-token" });

const job = await session.submit(
  "editor",
  { chapters: ["the beginning", "the unwritable", "the end"] },
  { leaseRequest: { "agent.delegate": ["writer"], "cost.budget": ["USD:2.00"] } },
);
for await (const { kind, body } of job) {
  const { agent, input, message } = body as { agent?: string; input?: unknown; message?: string };
  if (kind === "delegate") console.log(`delegates to ${agent}: ${JSON.stringify(input)}`);
  if (kind === "log") console.log(message);
}
console.log(await job.result);

const { jobs } = await session.listJobs();
const children = jobs.filter(({ parent_job_id }) => parent_job_id === job.id);
console.log(`${job.agent} has ${children.length} children:`);
for (const { agent, status } of children.reverse()) console.log(`  ${agent} ${status}`);

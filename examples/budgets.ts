/**
 * Budgets: a lease may limit what a job spends. The agent reports costs as metrics; they are counted in exact
 * decimals, everybody sees what is left, and once nothing is, the next act is refused.
 *
 *     node examples/budgets.ts
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
  // No job may ask for more than a dollar, and one that does not ask has that much.
  policy: () => ({ "tool.call": "any", "cost.budget": ["USD:1.00"] }),
});

runtime.tool("ask-model", () => "an answer");

runtime.agent("thinker", async (_input, job) => {
  for (let answers = 0; ; answers += 1) {
    try {
      await job.tools.call("ask-model");
    } catch (error) {
      if (!(error instanceof ArcpError) || error.code !== "BUDGET_EXHAUSTED") throw error;
      await job.log(`stopping: ${error.message}`);
      return { answers };
    }
    await job.metric({ name: "cost.model", value: 0.1, unit: "USD" });
  }
});

await using server = await serve(runtime, { port: 0 });
await using session = await connect(server.url, { token: "dev-token" });

const job = await session.submit("thinker", null, {
  leaseRequest: { "tool.call": ["ask-model"], "cost.budget": ["USD:0.30"] },
});
console.log("budget:", job.accepted.budget);
for await (const { kind, body } of job) {
  const { name, value, unit, message } = body as { name?: string; value?: number; unit?: string; message?: string };
  if (kind === "metric") console.log(`${name} ${value} ${unit}`);
  if (kind === "log") console.log(message);
}
console.log("result:", await job.result);

const greedy = session.submit("thinker", null, { leaseRequest: { "cost.budget": ["USD:1.01"] } });
console.log(
  await greedy.then(
    () => "accepted",
    (error: ArcpError) => `${error.code}: ${error.message}`,
  ),
);

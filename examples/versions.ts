/**
 * Agent versions and models: several versions of an agent stand side by side, a submit without a version gets the
 * default, and `model.use` says which models a job may ask.
 *
 *     node examples/versions.ts
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
  models: ["acme/small-*", "acme/large"],
});

runtime
  .agent("greeter", () => "hello", { version: "1.0.0" })
  .agent("greeter", () => "good day", { version: "2.0.0", default: true })
  .agent("greeter", () => "yo", { version: "3.0.0-beta" });

runtime.agent("thinker", (_input, job) =>
  ["acme/small-2", "acme/large"].map((model) => {
    try {
      // Before each call of a model, with the name that the call will use.
      return `${job.authorize("model.use", model)}: asked`;
    } catch (error) {
      if (!(error instanceof ArcpError)) throw error;
      return `${model}: ${error.code}`;
    }
  }),
);

await using server = await serve(runtime, { port: 0 });
await using session = await connect(server.url, { token: "dev-token" });

for (const { name, versions, default: standard } of session.agents) {
  console.log(`${name}: ${versions.join(", ")} (${standard} unless a submit says otherwise)`);
}
for (const wanted of ["greeter", "greeter@1.0.0", "greeter@3.0.0-beta", "greeter@9.9.9", "stranger"]) {
  try {
    const job = await session.submit(wanted);
    console.log(`${wanted} -> ${job.agent}: ${await job.result}`);
  } catch (error) {
    if (!(error instanceof ArcpError)) throw error;
    console.log(`${wanted} -> ${error.code}`);
  }
}

const thinker = await session.submit("thinker", null, { leaseRequest: { "model.use": ["acme/small-*"] } });
console.log(await thinker.result);
const greedy = session.submit("thinker", null, { leaseRequest: { "model.use": ["acme/*"] } });
console.log(
  await greedy.then(
    () => "accepted",
    (error: ArcpError) => `${error.code}: ${error.message}`,
  ),
);

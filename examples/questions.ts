/**
 * A human in the loop: an agent asks, and waits as long as it takes. The answer is checked against the question's
 * schema, the first good one counts, and it may come from another session than the one that submitted the job.
 *
 *     node examples/questions.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ArcpError, bearerTokens, Runtime, serve } from "holdfast";
import { connect, questionOf } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";
import { z } from "zod";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "alices-token": "alice", "bosss-token": "boss", "eves-token": "eve" }),
  // Everybody here sees everybody's jobs; besides the session that submitted one, the boss may answer.
  visibility: () => "observable",
  mayAnswer: (principal) => principal === "boss",
});

const Decision = z.strictObject({ approve: z.boolean(), budget: z.number().max(1_000).optional() });

runtime.agent("deployer", async (input, job) => {
  const { version } = input as { version: string };
  const answer = await job.ask({ message: `Deploy ${version}?`, schema: z.toJSONSchema(Decision), to: "the boss" });
  return Decision.parse(answer).approve ? `${version} is live` : `${version} stays here`;
});

await using server = await serve(runtime, { port: 0 });
await using alice = await connect(server.url, { token: "alices-token" });
await using boss = await connect(server.url, { token: "bosss-token" });
await using eve = await connect(server.url, { token: "eves-token" });

const attempt = async (who: string, answering: Promise<void>): Promise<void> => {
  const outcome = await answering.then(
    () => "accepted",
    ({ code, details, message }: ArcpError) => `${String(details?.["code"] ?? code)}: ${message}`,
  );
  console.log(`${who}: ${outcome}`);
};

const job = await alice.submit("deployer", { version: "2.0" });
for await (const event of job) {
  const { phase, answered_by: by } = event.body as { phase?: string; answered_by?: string };
  if (phase === "input_received") console.log(`answered by ${by}`);
  const question = questionOf(event);
  if (question === undefined) continue;
  console.log(`asks ${question.to}: ${question.message}`);
  await attempt("eve", eve.answer(job.id, question.questionId, { approve: true }));
  await attempt("the boss, in a hurry", boss.answer(job.id, question.questionId, { approve: "sure" }));
  await attempt("the boss", boss.answer(job.id, question.questionId, { approve: true, budget: 500 }));
  await attempt("alice, too late", job.answer(question.questionId, { approve: false }));
}
console.log("result:", await job.result);

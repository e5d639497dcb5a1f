/**
 * Listing and subscribing: jobs in pages whose cursor stays good while others come, and a policy that lets some
 * principals see jobs of others, as a name in a list or event by event.
 *
 *     node examples/listing.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ArcpError, bearerTokens, type Logger, Runtime, serve } from "holdfast";
import { connect, type Session } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Who subscribed to whose job is told to the log. */
const audit: string[] = [];
const info = (fields: object): void => {
  const { audit: what, principal, owner } = fields as { audit?: string; principal?: string; owner?: string };
  if (what !== undefined) audit.push(`${what}: ${principal} of ${owner}`);
};
const logger: Logger = { debug: () => undefined, info, warn: console.error, error: console.error };

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ a: "alice", b: "bob", o: "operator", c: "controller" }),
  visibility: (viewer) => (viewer === "operator" ? "observable" : viewer === "controller" ? "listed" : "none"),
  logger,
});
runtime.agent("counter", async (input, job) => {
  for (let number = 1; number <= Number(input); number += 1) await job.log(String(number));
  if (Number(input) === 4) throw new ArcpError("INVALID_REQUEST", "four is too many");
});

await using server = await serve(runtime, { port: 0 });
const open = (token: string): Promise<Session> => connect(server.url, { token });
await using alice = await open("a");
await using bob = await open("b");
await using operator = await open("o");
await using controller = await open("c");

/** Jobs by the number that they were given. */
const names = new Map<string, string>();
const submit = async (input: number): Promise<void> => {
  const job = await alice.submit("counter", input);
  names.set(job.id, `job ${input}`);
  await job.terminal;
};
for (const input of [1, 2, 3, 4, 5]) await submit(input);

const first = await alice.listJobs({ limit: 2 });
await submit(6);
const second = await alice.listJobs({ limit: 2, cursor: first.nextCursor ?? undefined });
for (const page of [first, second]) console.log(page.jobs.map(({ job_id }) => names.get(job_id)).join(", "));
const failed = await alice.listJobs({ status: ["error"], agent: "counter" });
console.log("failed:", failed.jobs.map(({ job_id }) => names.get(job_id)).join(", "));

const watched = first.jobs[1]?.job_id ?? "";
for (const [who, session] of Object.entries({ bob, controller, operator })) {
  const { jobs } = await session.listJobs();
  try {
    const job = await session.subscribe(watched, { history: true });
    const seen: unknown[] = [];
    for await (const { body } of job) seen.push((body as { message: string }).message);
    console.log(`${who} lists ${jobs.length} jobs and sees events: ${seen.join(" ")}`);
  } catch (error) {
    if (!(error instanceof ArcpError)) throw error;
    console.log(`${who} lists ${jobs.length} jobs and is told ${error.code}`);
  }
}
console.log(audit.join("\n"));

/**
 * Vendor extensions: a message of the host's own on the same wire, answered by its code, and an event kind whose
 * bodies are checked. Clients that know neither go on undisturbed.
 *
 *     node examples/extensions.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ArcpError, bearerTokens, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";
import { z } from "zod";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
});

runtime.extension("x-vendor.acme.rate", {
  schema: z.object({ job_id: z.string(), stars: z.int().min(1).max(5) }),
  reply: "x-vendor.acme.rated",
  async handle({ job_id, stars }, { principal, job }) {
    // Rejects for a job that is not there, or not for this principal to see.
    const { agent } = await job(job_id);
    return { told: `${principal} gives ${agent} ${"*".repeat(stars)}` };
  },
});

runtime.eventKind("x-vendor.acme.mood", { schema: z.object({ mood: z.enum(["happy", "sad"]) }) });
runtime.agent("feeler", async (_input, job) => {
  await job.emit("x-vendor.acme.mood", { mood: "happy" });
  await job.emit("x-vendor.acme.mood", { mood: "so-so" }).catch(async (error: unknown) => {
    if (error instanceof ArcpError) await job.log(error.message);
  });
});

await using server = await serve(runtime, { port: 0 });
await using session = await connect(server.url, { token: "dev-token" });
const job = await session.submit("feeler");
for await (const { kind, body } of job) console.log(kind, body);

// The client's own session has no word for other people's messages; any WebSocket does.
const socket = new WebSocket(server.url);
let sessionId: string | undefined;
async function ask(type: string, payload: object) {
  const envelope = { arcp: "1.1", id: crypto.randomUUID(), type, payload };
  const answered = new Promise<MessageEvent>((resolve) => {
    socket.addEventListener("message", resolve, { once: true });
  });
  socket.send(JSON.stringify(sessionId === undefined ? envelope : { ...envelope, session_id: sessionId }));
  const answer = JSON.parse(String((await answered).data)) as { type: string; session_id: string; payload: object };
  sessionId = answer.session_id;
  return answer;
}
await new Promise((resolve) => socket.addEventListener("open", resolve, { once: true }));
const client = { name: "example", version: "1" };
console.log((await ask("session.hello", { client, auth: { scheme: "bearer", token: "dev-token" } })).type);
for (const payload of [
  { job_id: job.id, stars: 5 },
  { job_id: job.id, stars: 6 },
  { job_id: "job_x", stars: 1 },
]) {
  const answer = await ask("x-vendor.acme.rate", payload);
  const { told, code, message } = answer.payload as { told?: string; code?: string; message?: string };
  console.log(`${answer.type}: ${told ?? `${code}: ${message}`}`);
}
socket.close();

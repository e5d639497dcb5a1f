/**
 * Provisioned credentials: each job gets a key of its own from a gateway, uses it, has it rotated, and loses it at its
 * end. The gateway here is a map; yours hands out keys for models, searches, databases over its own API.
 *
 *     node examples/credentials.ts
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bearerTokens, type CredentialProvisioner, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Keys by the id that the runtime chose. An id that was revoked stays so, whatever comes late. */
const keys = new Map<string, string | "revoked">();
const isGood = (key: string): boolean => key !== "revoked" && [...keys.values()].includes(key);

const gateway: CredentialProvisioner = {
  // Both are given a `signal`: the runtime waits for `provisionerTimeoutMs`, 5 s.
  async issue({ credentialId }) {
    if (keys.has(credentialId)) throw new Error("this id was used");
    const key = `sk-${randomBytes(24).toString("base64url")}`;
    keys.set(credentialId, key);
    return { scheme: "bearer", value: key, endpoint: "https://models.example/v1", profile: "demo-model" };
  },
  async revoke({ credentialId }) {
    keys.set(credentialId, "revoked");
  },
};

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
  provisioner: gateway,
});

runtime.agent("asker", async (_input, job) => {
  const [first] = job.credentials;
  if (first === undefined) throw new Error("This job has no credentials.");
  await job.log(`the job's key is ${isGood(first.value) ? "good" : "no good"}`);
  // A slip such as this one does no harm: what is stored and sent is masked.
  await job.log(`my key is ${first.value}`);
  const [second] = await job.credentials.rotate();
  if (second === undefined) throw new Error("The rotation gave nothing.");
  await job.log(`the one after the rotation is ${isGood(second.value) ? "good" : "no good"}`);
  return "done";
});

{
  await using server = await serve(runtime, { port: 0 });
  await using session = await connect(server.url, { token: "dev-token" });
  const job = await session.submit("asker");
  const [credential] = job.accepted.credentials ?? [];
  console.log(`accepted with a key for ${credential?.profile} at ${credential?.endpoint}`);
  for await (const { kind, body } of job) {
    const { message, phase, value } = body as { message?: string; phase?: string; value?: string };
    if (kind === "log") console.log(`log: ${message?.replaceAll(job.id, "JOB")}`);
    if (phase === "credential_rotated") console.log("rotated:", value === credential?.value ? "the same" : "a new key");
  }
  console.log("result:", await job.result);
}
console.log("keys that are still good:", [...keys.values()].filter(isGood).length);

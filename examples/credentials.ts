/**
 * Provisioned credentials: each job gets a key of its own from a gateway, uses it, has it rotated, and loses it
 * at its end. The gateway here is sixty lines on loopback; yours hands out keys for models, searches, databases.
 *
 *     node examples/credentials.ts
 *
 * In a program of your own the imports are "holdfast", "holdfast/client" and "holdfast/sqlite".
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { json } from "node:stream/consumers";
import { connect } from "../src/client/index.ts";
import { bearerTokens, type CredentialProvisioner, Runtime, serve } from "../src/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";

const say = (line: string): boolean => process.stdout.write(`${line}\n`);

// ---------------------------------------------------------------------------------------- the gateway

const ADMIN = randomBytes(24).toString("base64url");

/** Issues keys under ids that the caller chooses, checks them, revokes them. */
class Gateway {
  /** Keys by id; an id that was revoked stays revoked, whatever comes later. */
  readonly #keys = new Map<string, string | "revoked">();
  readonly #server = createServer((request, response) => {
    this.#answer(request).then(
      ({ status, body }) => respond(response, status, body),
      () => respond(response, 400, { error: "not understood" }),
    );
  });

  async listen(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Ids of the keys that are good. */
  get good(): string[] {
    return [...this.#keys].filter(([, key]) => key !== "revoked").map(([id]) => id);
  }

  async #answer(request: IncomingMessage): Promise<{ status: number; body: object }> {
    const bearer = request.headers.authorization?.replace(/^Bearer /, "") ?? "";
    const [, resource, id] = (request.url ?? "").split("/");
    if (resource === "ask") {
      const known = [...this.#keys.values()].some((key) => key === bearer && key !== "revoked");
      return known ? { status: 200, body: { answer: 42 } } : { status: 401, body: { error: "no such key" } };
    }
    if (resource !== "keys" || bearer !== ADMIN) return { status: 403, body: { error: "forbidden" } };
    if (request.method === "DELETE" && id !== undefined) {
      this.#keys.set(id, "revoked");
      return { status: 200, body: { revoked: id } };
    }
    const { id: wanted } = (await json(request)) as { id: string };
    if (this.#keys.has(wanted)) return { status: 409, body: { error: "this id was used" } };
    const key = `sk-${randomBytes(24).toString("base64url")}`;
    this.#keys.set(wanted, key);
    return { status: 201, body: { key } };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}

function respond(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

// ------------------------------------------------------------------------------------ the provisioner

/** Asks the gateway. `signal` aborts after the runtime's `provisionerTimeoutMs`, so no call hangs. */
function gatewayKeys(url: string): CredentialProvisioner {
  const headers = { authorization: `Bearer ${ADMIN}`, "content-type": "application/json" };
  return {
    async issue({ credentialId, jobId, signal }) {
      const body = JSON.stringify({ id: credentialId, job: jobId });
      const response = await fetch(`${url}/keys`, { method: "POST", headers, body, signal });
      if (!response.ok) throw new Error(`the gateway answered ${response.status}`);
      const { key } = (await response.json()) as { key: string };
      return { scheme: "bearer", value: key, endpoint: `${url}/ask`, profile: "demo-model" };
    },
    async revoke({ credentialId, signal }) {
      const response = await fetch(`${url}/keys/${credentialId}`, { method: "DELETE", headers, signal });
      if (!response.ok) throw new Error(`the gateway answered ${response.status}`);
    },
  };
}

// ---------------------------------------------------------------------------------------- the program

const folder = await mkdtemp(join(tmpdir(), "holdfast-example-"));
try {
  await using gateway = new Gateway();
  const provisioner = gatewayKeys(await gateway.listen());
  const store = sqlite(join(folder, "example.db"));
  const runtime = new Runtime({ store, auth: bearerTokens({ "dev-token": "alice" }), provisioner });

  runtime.agent("asker", async (_, job) => {
    const ask = async (key: string, endpoint: string): Promise<number> => {
      const response = await fetch(endpoint, { headers: { authorization: `Bearer ${key}` }, signal: job.signal });
      return response.status;
    };
    const [first] = job.credentials;
    if (first === undefined) throw new Error("This job has no credentials.");
    await job.log(`the gateway says ${await ask(first.value, first.endpoint)} to the job's key`);
    // A slip such as this one does no harm: what is stored and sent is masked.
    await job.log(`my key is ${first.value}`);
    const [second] = await job.credentials.rotate();
    if (second === undefined) throw new Error("The rotation gave nothing.");
    await job.log(`and ${await ask(second.value, second.endpoint)} to the one after the rotation`);
    return "done";
  });

  await using server = await serve(runtime, { port: 0 });
  await using session = await connect(server.url, { token: "dev-token" });
  const job = await session.submit("asker", null);
  const [credential] = job.accepted.credentials ?? [];
  say(
    `accepted with one credential for ${credential?.profile}: ${(credential?.value.length ?? 0) > 16 ? "it has a value" : "no value"}`,
  );
  for await (const event of job) {
    const { message, phase, value } = event.body as { message?: string; phase?: string; value?: string };
    if (event.kind === "log") say(`log: ${message?.replaceAll(job.id, "JOB")}`);
    if (phase === "credential_rotated")
      say(`rotated: ${value === credential?.value ? "the same value" : "a new value"}`);
  }
  say(`result: ${String(await job.result)}`);
  await session.close();
  await server.stop();
  say(`keys that are still good: ${gateway.good.length}`);
} finally {
  await rm(folder, { recursive: true });
}

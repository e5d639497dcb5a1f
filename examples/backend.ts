/**
 * A backend of your own behind conversations: six methods. Each conversation has one session of it, made once, found
 * again by later turns, and deleted with it.
 *
 *     node examples/backend.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Backend, BackendError, bearerTokens, Conversations, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { opencodeAgent } from "holdfast/opencode";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Remembers what it was told, session by session. Yours calls an API; each call ends by itself. */
const sessions = new Map<string, { nonce: string; said: string[] }>();
const parrot: Backend = {
  name: "parrot",
  createTimeoutMs: 5_000,
  async create({ nonce }) {
    const id = `parrot-${sessions.size + 1}`;
    // The nonce says whose it is, should we die before the id is stored.
    sessions.set(id, { nonce, said: [] });
    return id;
  },
  async *prompt({ sessionId, text }) {
    const session = sessions.get(sessionId);
    if (session === undefined) throw new BackendError("session_not_found", `There is no session ${sessionId}.`);
    session.said.push(text);
    yield { type: "text", text: `${session.said.join(", ")}!` };
    yield { type: "done" };
  },
  async abort() {
    // Nothing goes on here once a prompt is left.
  },
  async delete(sessionId) {
    sessions.delete(sessionId);
  },
  async *list() {
    for (const [id, { nonce }] of sessions) yield { id, nonce };
  },
  exists: async (sessionId) => sessions.has(sessionId),
};

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
});
const conversations = new Conversations(runtime, { upstream: { backends: [parrot] } });
// The agent is not OpenCode's alone: text becomes the result, permissions become questions, whatever the backend.
runtime.agent("parrot", opencodeAgent({ backend: parrot, conversations }));

await using server = await serve(runtime, { port: 0, conversations });
await using session = await connect(server.url, { token: "dev-token" });
for (const [place, text] of [
  ["cli:kitchen", "hello"],
  ["cli:garden", "good day"],
  ["cli:kitchen", "who is there"],
] as const) {
  const job = await session.turn(place, "parrot", { text });
  console.log(`${place}: ${await job.result}`);
}
console.log([...sessions.keys()]);

/**
 * A real agent behind a thread: each turn is a prompt in the conversation's own OpenCode session, so the second one
 * knows what was said in the first. What the agent may not do by itself, it asks. The OpenCode server is real; only
 * the paid model behind it is stood in for, by a few lines at the end.
 *
 *     node examples/opencode-turn.ts
 */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { json } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { bearerTokens, Conversations, Runtime, serve } from "holdfast";
import { connect, questionOf } from "holdfast/client";
import { OpencodeServer, opencode, opencodeAgent } from "holdfast/opencode";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

const model = await standIn();
await using spawned = await OpencodeServer.start({
  home: join(folder, "opencode"),
  directory: folder,
  // What would be your opencode.json: a provider, a model, what is asked for.
  config: {
    model: "local/stand-in",
    provider: {
      local: {
        npm: "@ai-sdk/openai-compatible",
        options: { baseURL: `http://127.0.0.1:${model.port}/v1`, apiKey: "none" },
        models: { "stand-in": { tool_call: true } },
      },
    },
    permission: { bash: "ask" },
  },
  // From the npm package opencode-ai.
  command: fileURLToPath(new URL("../node_modules/.bin/opencode", import.meta.url)),
});
const backend = opencode(spawned.connection);

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "alices-token": "alice" }),
});
const conversations = new Conversations(runtime, { upstream: { backends: [backend] } });
runtime.agent("opencode", opencodeAgent({ backend, conversations }));

await using server = await serve(runtime, { port: 0, conversations });
await using alice = await connect(server.url, { token: "alices-token" });

for (const text of ["My name is Alice.", "List what is here.", "Who am I?"]) {
  console.log(`alice: ${text}`);
  const job = await alice.turn("cli:thread", "opencode", { text });
  for await (const event of job) {
    const { tool, args, result } = event.body as { tool?: string; args?: unknown; result?: unknown };
    if (event.kind === "tool_call") console.log(`  calls ${tool} ${JSON.stringify(args)}`);
    if (event.kind === "tool_result") console.log(`  which says ${JSON.stringify(result)}`);
    const question = questionOf(event);
    if (question === undefined) continue;
    console.log(`  asks: ${question.message} once`);
    await job.answer(question.questionId, "once");
  }
  console.log(`opencode: ${await job.result}`);
}
model.close();

/** Knows three answers, the last one only from what it was told before. */
async function standIn(): Promise<{ port: number; close(): void }> {
  type Message = { role: string; content: string | { text: string }[] };
  const said = ({ content }: Message) =>
    typeof content === "string" ? content : content.map((part) => part.text).join("");
  const listing = { name: "bash", arguments: JSON.stringify({ command: "echo notes.md", description: "Lists" }) };
  const api = createServer(async (request, response) => {
    const { messages } = (await json(request)) as { messages: Message[] };
    const last = messages.at(-1) as Message;
    const name = messages.map((message) => /My name is (\w+)/.exec(said(message))?.[1]).find(Boolean);
    const answer =
      last.role === "tool" ? "One file: notes.md." : said(last).startsWith("Who") ? `You are ${name}.` : "Hello!";
    const delta = said(last).startsWith("List")
      ? { tool_calls: [{ index: 0, id: "call_1", type: "function", function: listing }] }
      : { role: "assistant", content: answer };
    const reason = "tool_calls" in delta ? "tool_calls" : "stop";
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const choice of [
      { index: 0, delta, finish_reason: null },
      { index: 0, delta: {}, finish_reason: reason },
    ]) {
      response.write(`data: ${JSON.stringify({ id: "1", object: "chat.completion.chunk", choices: [choice] })}\n\n`);
    }
    response.end("data: [DONE]\n\n");
  });
  await new Promise<void>((resolve) => api.listen(0, "127.0.0.1", resolve));
  return { port: (api.address() as AddressInfo).port, close: () => api.close() };
}

/**
 * Stands in for the paid model behind OpenCode: the OpenAI-compatible API on loopback, with answers that the prompt
 * asks for. It keeps what it was sent, which shows what the model was told of a conversation.
 *
 * - `say WORDS`: the words, one by one
 * - `think WORDS`: as reasoning, then `Thought.`
 * - `use TOOL {JSON}`: calls the tool, and then says what it answered
 * - `hang`: begins, and never ends
 * - `refuse`: an error of the provider
 * - `drip N WORDS`: the words as `say`, but none after the first N until {@link ModelServer.go}
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

interface ModelMessage {
  role: string;
  content: string | { text?: string }[] | null;
}

export class ModelServer implements AsyncDisposable {
  /** What the model was told, each time it was asked: role and text, without the system's. */
  readonly asked: string[][] = [];
  readonly url: string;
  readonly #server: ReturnType<typeof createServer>;
  #hanging = 0;
  #calls = 0;
  #going = Promise.withResolvers<void>();

  private constructor(server: ReturnType<typeof createServer>) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  }

  static async start(): Promise<ModelServer> {
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const model = new ModelServer(server);
    server.on("request", (request, response) => {
      model.#answer(request, response).catch((error: unknown) => response.destroy(error as Error));
    });
    return model;
  }

  /** Answers that somebody waits for and that will never end. */
  get hanging(): number {
    return this.#hanging;
  }

  /** Lets what drips flow. */
  go(): void {
    this.#going.resolve();
    this.#going = Promise.withResolvers();
  }

  /** What OpenCode needs to use this model and no other. */
  get config(): Record<string, unknown> {
    const model = { name: "stand-in", reasoning: true, tool_call: true, cost: { input: 1, output: 2 } };
    return {
      model: "local/stand-in",
      small_model: "local/stand-in",
      share: "disabled",
      provider: {
        local: {
          npm: "@ai-sdk/openai-compatible",
          options: { baseURL: this.url, apiKey: "none" },
          models: { "stand-in": { ...model, limit: { context: 100_000, output: 4_000 } } },
        },
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { messages } = JSON.parse(await text(request)) as { messages: ModelMessage[] };
    const told = messages
      .filter(({ role }) => role !== "system")
      .map((message) => `${message.role}: ${textOf(message)}`);
    this.asked.push(told);
    const last = messages.at(-1);
    assert(last !== undefined);
    if (last.role === "user" && textOf(last).startsWith("refuse")) {
      response.writeHead(400, { "content-type": "application/json" });
      response.end(JSON.stringify({ error: { message: "the model will not", type: "invalid_request_error" } }));
      return;
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (delta: object, finish: string | null = null) =>
      response.write(`data: ${JSON.stringify(chunk(delta, finish))}\n\n`);
    const [, verb, rest = ""] = /^(\w+) ?(.*)$/s.exec(textOf(last)) ?? [];
    if (last.role === "tool") {
      for (const word of words(`It says ${textOf(last).trim()}`)) send({ content: word });
      send({}, "stop");
    } else if (verb === "use") {
      const [, name, args] = /^(\w+) (.*)$/s.exec(rest) ?? [];
      this.#calls += 1;
      send({
        tool_calls: [{ index: 0, id: `call_${this.#calls}`, type: "function", function: { name, arguments: args } }],
      });
      send({}, "tool_calls");
    } else if (verb === "hang") {
      send({ content: "Well" });
      this.#hanging += 1;
      await once(response, "close");
      this.#hanging -= 1;
      return;
    } else if (verb === "think") {
      for (const word of words(rest)) send({ reasoning_content: word });
      send({ content: "Thought." });
      send({}, "stop");
    } else if (verb === "drip") {
      const [, count, more = ""] = /^(\d+) (.*)$/s.exec(rest) ?? [];
      const said = words(more);
      for (const word of said.slice(0, Number(count))) send({ content: word });
      await this.#going.promise;
      for (const word of said.slice(Number(count))) send({ content: word });
      send({}, "stop");
    } else {
      for (const word of words(rest)) send({ content: word });
      send({}, "stop");
    }
    response.end("data: [DONE]\n\n");
  }
}

const textOf = ({ content }: ModelMessage): string =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");

const words = (said: string): string[] => said.match(/\s*\S+/g) ?? [];

const chunk = (delta: object, finish: string | null): object => ({
  id: "chatcmpl-1",
  object: "chat.completion.chunk",
  created: 1,
  model: "stand-in",
  choices: [{ index: 0, delta: { role: "assistant", ...delta }, finish_reason: finish }],
  ...(finish === null ? {} : { usage: { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 } }),
});

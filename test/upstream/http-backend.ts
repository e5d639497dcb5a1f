import {
  type Backend,
  BackendError,
  type BackendErrorKind,
  type BackendEvent,
  type CallOptions,
  type CreateUpstream,
  type UpstreamInfo,
} from "../../src/conversation/upstream/index.ts";

/** The other end of backend-server.ts. */
export class HttpBackend implements Backend {
  readonly name = "fake";
  readonly createTimeoutMs: number;
  readonly #url: string;

  constructor(url: string, createTimeoutMs: number) {
    this.#url = url;
    this.createTimeoutMs = createTimeoutMs;
  }

  create(create: CreateUpstream, options?: CallOptions): Promise<string> {
    return this.#ask<string>("create", { create }, options);
  }

  // biome-ignore lint/correctness/useYield: these tests prompt nothing.
  async *prompt(): AsyncIterable<BackendEvent> {
    throw new BackendError("rejected", "it takes no prompts");
  }

  async abort(): Promise<void> {
    throw new BackendError("rejected", "it takes no prompts");
  }

  async delete(id: string): Promise<void> {
    await this.#ask("delete", { id });
  }

  async *list(): AsyncIterable<UpstreamInfo> {
    yield* await this.#ask<UpstreamInfo[]>("list", {});
  }

  exists(id: string): Promise<boolean> {
    return this.#ask<boolean>("exists", { id });
  }

  async #ask<T>(what: string, body: object, { signal }: CallOptions = {}): Promise<T> {
    let answer: { value: T } | { kind: BackendErrorKind };
    try {
      const response = await fetch(`${this.#url}/${what}`, {
        method: "POST",
        body: JSON.stringify(body),
        signal: signal ?? null,
      });
      answer = (await response.json()) as typeof answer;
    } catch (error) {
      throw new BackendError("unavailable", "it does not answer", { cause: error });
    }
    if ("kind" in answer) throw new BackendError(answer.kind, `${what} failed`);
    return answer.value;
  }
}

/** The fake backend over HTTP on the loopback, for several processes; what it holds and was asked, the test sees. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { BackendError, type CreateUpstream } from "../../src/conversation/upstream/index.ts";
import { FakeBackend } from "../../src/testing/fake-backend.ts";

export interface BackendServer extends AsyncDisposable {
  readonly url: string;
  readonly backend: FakeBackend;
}

export async function backendServer(createTimeoutMs: number): Promise<BackendServer> {
  const backend = new FakeBackend({ createTimeoutMs });
  const server = createServer((request, response) => {
    const answer = async (): Promise<unknown> => {
      const { id, create } = (await json(request)) as { id: string; create: CreateUpstream };
      switch (request.url) {
        case "/create":
          return await backend.create(create);
        case "/delete":
          return await backend.delete(id);
        case "/exists":
          return await backend.exists(id);
        case "/list":
          return [...backend.sessions].map(([listed, { nonce }]) => ({ id: listed, nonce }));
        default:
          throw new Error(`there is no ${request.url}`);
      }
    };
    answer().then(
      (value) => response.end(JSON.stringify({ value: value ?? null })),
      (error: unknown) =>
        response.end(JSON.stringify({ kind: error instanceof BackendError ? error.kind : "malformed" })),
    );
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    backend,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

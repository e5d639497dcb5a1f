import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { test } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import { MAX_FRAME_BYTES } from "../protocol/index.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { Recorder, transportContract } from "../testing/transport-contract.ts";
import { memoryPair } from "./memory.ts";
import type { Transport } from "./transport.ts";
import { openWebSocket, type WebSocketConstructor } from "./websocket.ts";
import { fromWs } from "./ws-server.ts";

const DEADLINE = { timeout: 10_000 };

interface Accepted {
  transport: Transport;
  ws: WebSocket;
  socket: Duplex;
}

/** A real server on loopback; `next` gives the next connection that it accepts. */
async function listen(options: { clock?: ManualClock } = {}) {
  const http = createServer();
  const wss = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MAX_FRAME_BYTES });
  const accepted: Accepted[] = [];
  const waiting: ((connection: Accepted) => void)[] = [];
  http.on("upgrade", (request, socket, head) => {
    wss.handleUpgrade(request, socket, head, (ws) => {
      const connection = { transport: fromWs(ws, socket, options), ws, socket };
      accepted.push(connection);
      waiting.shift()?.(connection);
    });
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return {
    url: `ws://127.0.0.1:${(http.address() as AddressInfo).port}/arcp?ticket=secret`,
    next: () => new Promise<Accepted>((resolve) => waiting.push(resolve)),
    async [Symbol.asyncDispose]() {
      for (const { ws, socket } of accepted) {
        ws.terminate();
        socket.destroy();
      }
      wss.close();
      http.close();
      await once(http, "close");
    },
  };
}

async function connected(Constructor: WebSocketConstructor | undefined) {
  const server = await listen();
  const accepting = server.next();
  const client = await openWebSocket(server.url, { WebSocket: Constructor });
  const { transport, socket } = await accepting;
  return {
    client,
    server: transport,
    socket,
    async [Symbol.asyncDispose]() {
      client.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

transportContract("memory", async () => {
  const pair = memoryPair({ auto: true });
  return {
    a: pair.a,
    b: pair.b,
    stallB: () => pair.stall("toB"),
    unstallB: () => pair.unstall("toB"),
    cut: () => pair.cut(),
    async [Symbol.asyncDispose]() {
      pair.cut();
    },
  };
});

/** The class of `ws`, keeping the last socket so that a test can stop it from reading. */
class StallableWebSocket extends WebSocket {
  static last: StallableWebSocket | undefined;
  constructor(url: string) {
    super(url, { perMessageDeflate: false });
    StallableWebSocket.last = this;
  }
}

transportContract("WebSocket, server to client of `ws`", async () => {
  const pair = await connected(StallableWebSocket);
  const peer = StallableWebSocket.last;
  return {
    a: pair.server,
    b: pair.client,
    stallB: () => peer?.pause(),
    unstallB: () => peer?.resume(),
    cut: () => (pair.socket as Socket).resetAndDestroy(),
    [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
  };
});

transportContract("WebSocket, client of `ws` to server", async () => {
  const pair = await connected(StallableWebSocket);
  return {
    a: pair.client,
    b: pair.server,
    stallB: () => pair.socket.pause(),
    unstallB: () => pair.socket.resume(),
    cut: () => (pair.socket as Socket).resetAndDestroy(),
    [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
  };
});

transportContract("WebSocket, the platform's client to server", async () => {
  const pair = await connected(undefined);
  return {
    a: pair.client,
    b: pair.server,
    stallB: () => pair.socket.pause(),
    unstallB: () => pair.socket.resume(),
    cut: () => (pair.socket as Socket).resetAndDestroy(),
    [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
  };
});

test("[SRV-6] binary frames are ignored on both sides", DEADLINE, async () => {
  await using server = await listen();
  const accepting = server.next();
  const client = await openWebSocket(server.url, { WebSocket: StallableWebSocket });
  const { transport, ws } = await accepting;
  const [atServer, atClient] = [new Recorder(transport), new Recorder(client)];
  StallableWebSocket.last?.send(Buffer.from('{"binary":true}'));
  ws.send(Buffer.from('{"binary":true}'));
  client.send(["text"]);
  transport.send(["text"]);
  await Promise.all([atServer.framesCame(1), atClient.framesCame(1)]);
  assert.deepEqual([atServer.frames, atClient.frames], [["text"], ["text"]]);
  client.close();
  await atServer.closed();
});

test("[SRV-6] an oversized frame closes its own connection and no other", DEADLINE, async () => {
  await using server = await listen();
  const [accepting1, accepting2] = [server.next(), server.next()];
  const big = await openWebSocket(server.url, { WebSocket: StallableWebSocket });
  const bystander = await openWebSocket(server.url, { WebSocket: StallableWebSocket });
  const [first, second] = [(await accepting1).transport, (await accepting2).transport];
  const [atFirst, atSecond, atBig] = [new Recorder(first), new Recorder(second), new Recorder(big)];
  big.send(["x".repeat(MAX_FRAME_BYTES + 1)]);
  await Promise.all([atFirst.closed(), atBig.closed()]);
  assert.deepEqual(atFirst.frames, []);
  assert.equal(atBig.closes[0]?.code, 1009);
  bystander.send(["still here"]);
  await atSecond.framesCame(1);
  assert.deepEqual(atSecond.closes, []);
});

test("[SES-12] a peer that does not answer a close is cut off by the server", DEADLINE, async () => {
  const clock = new ManualClock();
  await using server = await listen({ clock });
  const accepting = server.next();
  await openWebSocket(server.url, { WebSocket: StallableWebSocket });
  const { transport } = await accepting;
  const atServer = new Recorder(transport);
  StallableWebSocket.last?.pause();
  transport.close(4408, "HEARTBEAT_LOST");
  await clock.advance(1_999);
  assert.equal(atServer.closes.length, 0);
  await clock.advance(1);
  await atServer.closed();
  assert.equal(atServer.closes[0]?.code, 1006);
  assert.equal(clock.pendingTimers, 0);
});

test("[CLT-1] a server that does not answer a close is left behind by the client", DEADLINE, async () => {
  const clock = new ManualClock();
  await using server = await listen();
  const accepting = server.next();
  const client = await openWebSocket(server.url, { WebSocket: StallableWebSocket, clock });
  const { socket } = await accepting;
  const atClient = new Recorder(client);
  socket.pause();
  client.close();
  await clock.advance(2_000);
  assert.deepEqual(atClient.closes, [{ code: 1006, reason: "The peer did not answer the close." }]);
  assert.equal(clock.pendingTimers, 0);
});

test("[CLT-1] an address where nobody listens is told by name, without its query", DEADLINE, async () => {
  const gone = await listen();
  await gone[Symbol.asyncDispose]();
  for (const Constructor of [StallableWebSocket, undefined]) {
    await assert.rejects(openWebSocket(gone.url, { WebSocket: Constructor }), (error: Error) => {
      assert.match(error.message, /^Could not connect to ws:\/\/127\.0\.0\.1:\d+\/arcp: .+/);
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  }
});

/** Accepts connections and never answers the upgrade. */
async function silent() {
  const http = createServer();
  const sockets: Duplex[] = [];
  http.on("upgrade", (_request, socket) => sockets.push(socket));
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  return {
    url: `ws://127.0.0.1:${(http.address() as AddressInfo).port}/arcp`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      http.close();
      await once(http, "close");
    },
  };
}

test("[CLT-1] a server that does not answer in time is given up", DEADLINE, async () => {
  const clock = new ManualClock();
  await using server = await silent();
  const opening = openWebSocket(server.url, { WebSocket: StallableWebSocket, clock, timeoutMs: 500 });
  const rejected = assert.rejects(opening, /did not answer within 500 ms/);
  await clock.advance(500);
  await rejected;
});

test("[CLT-1] a signal stops the opening of a connection", DEADLINE, async () => {
  await using server = await silent();
  const abort = new AbortController();
  const opening = openWebSocket(server.url, { WebSocket: StallableWebSocket, signal: abort.signal });
  const rejected = assert.rejects(opening, /enough/);
  abort.abort(new Error("enough"));
  await rejected;
  await assert.rejects(openWebSocket(server.url, { signal: abort.signal }), /enough/);
});

test("[RES-9] in manual mode frames wait until they are flushed, one direction at a time", () => {
  const pair = memoryPair();
  const [atA, atB] = [new Recorder(pair.a), new Recorder(pair.b)];
  pair.a.send(["1", "2"]);
  pair.b.send(["3"]);
  assert.deepEqual([pair.pending("toA"), pair.pending("toB")], [1, 2]);
  assert.equal(pair.flushOne("toB"), true);
  assert.deepEqual([atA.frames, atB.frames], [[], ["1"]]);
  pair.flush();
  assert.equal(pair.flushOne("toA"), false);
  assert.deepEqual([atA.frames, atB.frames], [["3"], ["1", "2"]]);
});

test("[RES-9] a cut may let a prefix through and loses the rest", () => {
  const pair = memoryPair();
  const [atA, atB] = [new Recorder(pair.a), new Recorder(pair.b)];
  pair.a.send(["1", "2", "3"]);
  pair.b.send(["4"]);
  pair.cut({ deliver: { toB: 2 } });
  pair.flush();
  assert.deepEqual([atA.frames, atB.frames], [[], ["1", "2"]]);
  assert.deepEqual([atA.closes.length, atB.closes.length], [1, 1]);
});

test("[ENV-1] texts around the lengths at which WebSocket frames differ arrive whole", DEADLINE, async () => {
  await using pair = await connected(undefined);
  const client = new Recorder(pair.client);
  const texts = [0, 1, 125, 126, 4_096, 65_535, 65_536, 300_000].flatMap((length) => [
    "x".repeat(length),
    `${"x".repeat(Math.max(0, length - 2))}ž`,
  ]);
  pair.server.send(texts);
  for (const text of texts) pair.server.send([text]);
  await client.framesCame(2 * texts.length);
  assert.deepEqual(client.frames, [...texts, ...texts]);
});

test("[ENV-1] batches that wait for a reader are not overwritten by those behind them", DEADLINE, async () => {
  await using pair = await connected(undefined);
  const texts = Array.from({ length: 400 }, (_, index) => `${index}:`.padEnd(20_000, String(index % 10)));
  for (let at = 0; at < texts.length; at += 8) pair.server.send(texts.slice(at, at + 8));
  const client = new Recorder(pair.client);
  await client.framesCame(texts.length);
  assert.deepEqual(client.frames, texts);
});

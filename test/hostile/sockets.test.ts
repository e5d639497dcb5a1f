/**
 * Peers that mean harm, on real sockets: bytes that no WebSocket class would send, peers that stop in the
 * middle, and many of them at once (SPEC.md: SRV-6, SRV-8 to SRV-11, SES-17).
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { burst, echo } from "../../src/agents/index.ts";
import { MAX_FRAME_BYTES } from "../../src/protocol/index.ts";
import { Runtime, type RuntimeOptions } from "../../src/runtime/index.ts";
import { bearerTokens, type HoldfastServer, type ServeOptions, serve } from "../../src/server/index.ts";
import { sqlite } from "../../src/store/sqlite/index.ts";
import { settled, submit, terminalOf } from "../memory-runtime.ts";
import { eventually } from "../runtime-fixture.ts";
import { greet, openLine, type SocketLine } from "../socket-server.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { heapInUse } from "./collect-garbage.ts";
import { helloText, OPCODE, type RawSocket, rawSocket, wsFrame } from "./raw-socket.ts";

const MIB = 1024 * 1024;
const ping = (nonce: string) => JSON.stringify({ arcp: "1.1", id: nonce, type: "session.ping", payload: { nonce } });

interface Place extends AsyncDisposable {
  server: HoldfastServer;
  port: number;
  raw(): Promise<RawSocket>;
  /** Upgraded, and nothing said. */
  upgraded(): Promise<RawSocket>;
  /** Upgraded and welcomed. */
  welcomed(token?: string): Promise<RawSocket>;
}

/** A server, and at the end the proof that a neighbour who was there all the time was disturbed by nothing. */
async function place(options: { serve?: ServeOptions; runtime?: Partial<RuntimeOptions> } = {}): Promise<Place> {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder());
  const runtime = new Runtime({
    store: sqlite(join(folder.path, "test.db")),
    auth: bearerTokens({ alice: "alice", bob: "bob" }),
    ...options.runtime,
  });
  runtime.agent("echo", echo).agent("burst", burst);
  const server = await serve(runtime, { port: 0, ...options.serve });
  stack.defer(() => server.stop({ drainMs: 1 }));
  const neighbour = await greet(await openLine(server.url), { token: "bob" });
  stack.defer(() => neighbour.ws.terminate());
  const sockets: RawSocket[] = [];
  stack.defer(() => {
    for (const socket of sockets) socket[Symbol.dispose]();
  });
  const raw = async () => {
    const socket = await rawSocket(server.port);
    sockets.push(socket);
    return socket;
  };
  const upgraded = async () => {
    const socket = await raw();
    assert.equal(await socket.upgrade(server.port), 101);
    return socket;
  };
  stack.defer(async () => {
    assert.equal(neighbour.client.closed, undefined, "the neighbour was disturbed");
    await terminalOf(neighbour.client, await submit(neighbour.client, "echo", "still here"));
  });
  const kept = stack.move();
  return {
    server,
    port: server.port,
    raw,
    upgraded,
    async welcomed(token = "alice") {
      const socket = await upgraded();
      await socket.hello(token);
      return socket;
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

// ---------------------------------------------------------------------------------------- handshake

test("[SRV-9] compression is not negotiated, whatever is offered, and a compressed frame ends its connection", async () => {
  await using here = await place();
  const socket = await here.raw();
  const offers = ["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"];
  assert.equal(await socket.upgrade(here.port, offers), 101);
  assert.doesNotMatch(socket.text, /extensions/i);
  await socket.hello();
  socket.write(wsFrame(Buffer.from([0xaa, 0x56, 0x4a, 0x2c]), { reserved: 0x40 }));
  assert.equal(await socket.closeCode(), 1002);
});

test("[SRV-9] an upgrade with rubbish in its headers is refused, each with a status of its own", async () => {
  await using here = await place();
  const cases: [name: string, lines: string[], status: number][] = [
    ["no key", ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"], 400],
    [
      "a bad key",
      ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"],
      400,
    ],
    [
      "an old version",
      [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 7",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
      ],
      400,
    ],
    ["another protocol", ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"], 400],
    [
      "bad subprotocols",
      [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        'Sec-WebSocket-Protocol: ,,"\\',
      ],
      400,
    ],
    ["a control character", ["Upgrade: web\u0001socket", "Connection: Upgrade"], 400],
    ["a header that is none", ["no colon here", "Upgrade: websocket"], 400],
    ["very many headers", Array.from({ length: 5_000 }, (_, index) => `X-${index}: y`), 431],
    ["a very long header", [`X-Long: ${"y".repeat(100_000)}`], 431],
  ];
  for (const [name, lines, status] of cases) {
    const socket = await here.raw();
    socket.write(`GET /arcp HTTP/1.1\r\nHost: 127.0.0.1:${here.port}\r\n${lines.join("\r\n")}\r\n\r\n`);
    assert.equal(await socket.status(), status, name);
    assert.doesNotMatch(socket.text, /\n\s+at |node_modules|file:\/\//, name);
    await socket.whenEnded();
  }
  assert.equal(here.server.connections, 1);
});

test("[SRV-10] a request is refused whose host, origin or body two readers could see differently", async () => {
  await using here = await place();
  const ours = `Host: 127.0.0.1:${here.port}`;
  const cases: [name: string, target: string, headers: string[], status: number][] = [
    ["two hosts", "/arcp", [ours, "Host: evil.example.com"], 403],
    ["two hosts, ours last", "/arcp", ["Host: evil.example.com", ours], 403],
    ["the same host twice", "/arcp", [ours, ours], 403],
    ["a host with a user", "/arcp", [`Host: 127.0.0.1:${here.port}@evil.example.com`], 403],
    ["two hosts in one", "/arcp", [`Host: 127.0.0.1:${here.port}, evil.example.com`], 403],
    ["a host in the target", "http://evil.example.com/arcp", [ours], 404],
    ["our host in the target", `http://127.0.0.1:${here.port}/arcp`, ["Host: evil.example.com"], 404],
    ["a host before the path", "//evil.example.com/arcp", [ours], 404],
    ["what would be a user before the path", ":80@evil.example.com/arcp", [ours], 400],
    ["two origins", "/arcp", [ours, `Origin: http://127.0.0.1:${here.port}`, "Origin: https://evil.example.com"], 403],
    ["two origins in one", "/arcp", [ours, `Origin: http://127.0.0.1:${here.port}/, https://evil.example.com`], 403],
    ["an origin with a path", "/arcp", [ours, `Origin: http://127.0.0.1:${here.port}/page`], 403],
    ["an origin of another scheme", "/arcp", [ours, `Origin: ftp://127.0.0.1:${here.port}`], 403],
    ["an origin that is none", "/arcp", [ours, "Origin: null"], 403],
    ["a body", "/arcp", [ours, "Content-Length: 5"], 400],
    ["a chunked body", "/arcp", [ours, "Transfer-Encoding: chunked"], 400],
    ["two kinds of length", "/arcp", [ours, "Content-Length: 5", "Transfer-Encoding: chunked"], 400],
    ["two lengths", "/arcp", [ours, "Content-Length: 0", "Content-Length: 5"], 400],
    ["a folded header", "/arcp", [ours, "X-Folded: a\r\n b: c"], 400],
    ["a space before the colon", "/arcp", [`Host : 127.0.0.1:${here.port}`, ours], 400],
  ];
  for (const [name, target, headers, status] of cases) {
    const socket = await here.raw();
    assert.equal(await socket.upgrade(here.port, headers, target), status, name);
    await socket.whenEnded();
  }
  // The same goes for what is no upgrade.
  const plain = await here.raw();
  plain.write(`GET /healthz HTTP/1.1\r\n${ours}\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n`);
  assert.equal(await plain.status(), 403);
  const none = await here.raw();
  none.write("GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n");
  assert.equal(await none.status(), 400);
  const fine = await here.raw();
  assert.equal(await fine.upgrade(here.port, [ours, `Origin: http://127.0.0.1:${here.port}`]), 101);
});

test("[SRV-8] headers that trickle in, and a peer that says nothing, are given up", async () => {
  await using here = await place({ serve: { headersTimeoutMs: 300 } });
  const [silent, trickling] = [await here.raw(), await here.raw()];
  trickling.write("GET /arcp HTTP/1.1\r\nHost: 127.0.0.1");
  let sent = 0;
  const drip = () => {
    if (trickling.ended || trickling.socket.destroyed) return;
    trickling.write("x");
    sent += 1;
    if (sent < 10_000) setImmediate(drip);
  };
  drip();
  await Promise.all([silent.whenEnded(), trickling.whenEnded()]);
  assert.match(trickling.text, /^HTTP\/1\.1 (408|431)|^$/);
  await eventually(() => here.server.connections === 1, "only the neighbour to be left");
});

test("[SRV-8] a refused upgrade is not waited on: a peer that keeps its half open is dropped", async () => {
  await using here = await place();
  for (const [headers, target] of [
    [["Host: evil.example.com"], "/arcp"],
    [[], "/nothing"],
    [[], "/arcp?token=x"],
  ] as const) {
    const socket = await here.raw();
    socket.socket.allowHalfOpen = true;
    await socket.upgrade(here.port, headers, target);
    await socket.whenEnded();
    // It never says goodbye itself; whatever it writes then finds nobody.
    await eventually(() => {
      if (!socket.socket.destroyed) socket.write("still here\r\n");
      return socket.socket.destroyed;
    }, `the server to let go of the socket after ${target}`);
  }
});

test("[SRV-8] a peer that is gone before its refusal is written ends no process", async () => {
  await using here = await place();
  for (let round = 0; round < 20; round += 1) {
    for (const target of ["/nothing", "/arcp"]) {
      const socket = await here.raw();
      socket.write(
        `GET ${target} HTTP/1.1\r\nHost: evil.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
          `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n${"x".repeat(10_000)}`,
      );
      socket.socket.resetAndDestroy();
    }
  }
  const last = await here.raw();
  assert.equal(await last.upgrade(here.port), 101);
});

// ------------------------------------------------------------------------------------------- frames

test("[SRV-9] a frame that breaks the WebSocket protocol closes its own connection with the code for it", async () => {
  await using here = await place();
  const cases: [name: string, bytes: Buffer, code: number][] = [
    ["no mask", wsFrame(ping("n"), { masked: false }), 1002],
    ["a reserved bit", wsFrame(ping("n"), { reserved: 0x20 }), 1002],
    ["an unknown opcode", wsFrame("", { opcode: 0x0b }), 1002],
    ["a continuation of nothing", wsFrame("x", { opcode: OPCODE.continuation }), 1002],
    ["a new message within another", Buffer.concat([wsFrame("{", { fin: false }), wsFrame("}")]), 1002],
    ["a ping in pieces", wsFrame("x", { opcode: OPCODE.ping, fin: false }), 1002],
    ["a ping that is too long", wsFrame("x".repeat(126), { opcode: OPCODE.ping }), 1002],
    ["text that is not UTF-8", wsFrame(Buffer.from([0x22, 0xc3, 0x28, 0x22])), 1007],
    ["half a character", wsFrame(Buffer.from([0x22, 0xf0, 0x9f, 0x98])), 1007],
    ["a surrogate in UTF-8", wsFrame(Buffer.from([0xed, 0xa0, 0x80])), 1007],
    ["an overlong slash", wsFrame(Buffer.from([0xc0, 0xaf])), 1007],
    ["a close code that is never sent", wsFrame(Buffer.from([0x03, 0xed]), { opcode: OPCODE.close }), 1002],
    ["close code 0", wsFrame(Buffer.from([0, 0]), { opcode: OPCODE.close }), 1002],
    ["half a close code", wsFrame(Buffer.from([3]), { opcode: OPCODE.close }), 1002],
    ["a close reason that is not UTF-8", wsFrame(Buffer.from([0x03, 0xe8, 0xff]), { opcode: OPCODE.close }), 1007],
    ["a frame that says it is too large", wsFrame("", { claimedLength: MAX_FRAME_BYTES + 1 }), 1009],
    ["a frame of 2^62 bytes", wsFrame("", { claimedLength: 2 ** 62 }), 1009],
    [
      "pieces that are too large together",
      Buffer.concat([
        wsFrame("x".repeat(MIB), { fin: false }),
        wsFrame("x".repeat(MIB), { opcode: OPCODE.continuation }),
      ]),
      1009,
    ],
    [
      "too many pieces",
      Buffer.concat([
        wsFrame("", { fin: false }),
        ...Array.from({ length: 17_000 }, () => wsFrame("", { opcode: OPCODE.continuation, fin: false })),
      ]),
      1008,
    ],
  ];
  for (const [name, bytes, code] of cases) {
    const socket = await here.welcomed();
    socket.write(bytes);
    assert.equal(await socket.closeCode(), code, name);
  }
  await eventually(() => here.server.connections === 1, "only the neighbour to be left");
});

test("[SRV-9] a message in pieces of one byte, with pings between them, is a message like any other", async () => {
  await using here = await place();
  const socket = await here.welcomed();
  const text = ping("in pieces");
  for (let index = 0; index < text.length; index += 1) {
    const last = index === text.length - 1;
    socket.write(
      wsFrame(text[index] as string, { fin: last, opcode: index === 0 ? OPCODE.text : OPCODE.continuation }),
    );
    if (index % 10 === 0) socket.write(wsFrame("between", { opcode: OPCODE.ping }));
  }
  await socket.until(() => socket.text.includes('"ping_nonce":"in pieces"'), "the pong");
});

test("[SRV-6] a connection that dies in the middle of a frame is gone, and half a frame is none", async () => {
  await using here = await place();
  const frame = wsFrame(
    JSON.stringify({
      arcp: "1.1",
      id: "half",
      type: "job.submit",
      payload: { agent: "echo", input: "x".repeat(1_000) },
    }),
  );
  for (const cutAt of [1, 2, 3, 7, 8, 9, 100, frame.length - 1]) {
    const socket = await here.welcomed();
    socket.write(frame.subarray(0, cutAt));
    if (cutAt % 2 === 0) socket.socket.resetAndDestroy();
    else socket.socket.end();
    await socket.whenEnded();
  }
  await eventually(() => here.server.connections === 1, "only the neighbour to be left");
  const line = await greet(await openLine(here.server.url));
  const listed = await line.client.reply(line.client.send("session.list_jobs", {}));
  assert.deepEqual(listed.payload["jobs"], []);
  line.ws.terminate();
});

test("[SRV-11] a stranger whose one message never ends is cut, whether in pieces or in one", async () => {
  await using here = await place();
  const piece = wsFrame("x".repeat(10_000), { opcode: OPCODE.continuation, fin: false });
  const inPieces = await here.upgraded();
  inPieces.write(wsFrame("x", { fin: false }));
  for (let count = 0; count < 40; count += 1) inPieces.write(piece);
  await inPieces.whenEnded();
  const inOne = await here.upgraded();
  inOne.write(wsFrame("x".repeat(400_000), { claimedLength: MIB }));
  await inOne.whenEnded();
  // Whoever has been welcomed may send as much.
  const known = await here.welcomed();
  known.write(wsFrame("x", { fin: false }));
  for (let count = 0; count < 60; count += 1) known.write(piece);
  known.write(wsFrame("x", { opcode: OPCODE.continuation }));
  await known.until(() => known.text.includes("INVALID_REQUEST"), "its answer");
});

test("[SES-2] a hello that trickles in is given up at the hello timeout", async () => {
  await using here = await place({ runtime: { helloTimeoutMs: 300 } });
  const socket = await here.upgraded();
  const hello = wsFrame(helloText("alice"));
  let sent = 0;
  const drip = () => {
    if (socket.ended || socket.socket.destroyed || sent === hello.length - 1) return;
    socket.write(hello.subarray(sent, sent + 1));
    sent += 1;
    setImmediate(drip);
  };
  drip();
  assert.equal(await socket.closeCode(), 4400);
});

// ------------------------------------------------------------------------------------------- floods

test("[SES-17] on a real socket, too, a client that asks and never reads is cut off, and memory is given back", async () => {
  await using here = await place({ runtime: { maxUnreadBytes: MIB, maxMessagesPerSecond: 1e6 } });
  const before = heapInUse();
  const socket = await here.welcomed();
  socket.socket.pause();
  const asking = wsFrame(ping("y".repeat(200)));
  const hundred = Buffer.concat(Array.from({ length: 100 }, () => asking));
  // The system's own buffers take some megabytes first.
  await eventually(() => {
    if (!socket.socket.destroyed && socket.socket.writableLength < MIB) socket.write(hundred);
    return here.server.connections === 1;
  }, "it to be cut off");
  socket.socket.destroy();
  await eventually(() => heapInUse() - before < 16 * MIB, "memory to be given back");
});

test("[SES-17] a client that sends the protocol's own pings and never reads is cut off as well", async () => {
  await using here = await place();
  const socket = await here.welcomed();
  socket.socket.pause();
  const fifty = Buffer.concat(Array.from({ length: 50 }, () => wsFrame("p".repeat(125), { opcode: OPCODE.ping })));
  await eventually(() => {
    if (!socket.socket.destroyed && socket.socket.writableLength < MIB) socket.write(fifty);
    return here.server.connections === 1;
  }, "it to be cut off");
});

test("[SES-16] on a real socket requests that come faster than answers are refused or cut, and others are served", async () => {
  await using here = await place({ runtime: { maxMessagesPerSecond: 1_000 } });
  const line = await greet(await openLine(here.server.url));
  const other = await greet(await openLine(here.server.url), { token: "bob" });
  for (let input = 0; input < 5_000; input += 1) line.client.send("job.submit", { agent: "echo", input });
  await settled(other.client);
  assert.equal((await line.client.whenClosed()).code, 4500);
  const last = line.client.received.at(-1)?.envelope;
  assert.equal((last?.payload["details"] as { code?: string } | undefined)?.code, "LIMIT_EXCEEDED");
  await terminalOf(other.client, await submit(other.client, "echo", 1));
  for (const { ws } of [line, other]) ws.terminate();
});

const PINGERS = Number(process.env["HOSTILE_SESSIONS"] ?? 300);

test(`[ENV-14] ${PINGERS} sessions that only ping hold little memory and keep a working one from nothing`, async () => {
  await using here = await place({ runtime: { maxSessionsPerPrincipal: 100_000 } });
  const busy = await greet(await openLine(here.server.url), { token: "bob" });
  const before = heapInUse();
  const lines: SocketLine[] = [];
  for (let opened = 0; opened < PINGERS; opened += 100) {
    lines.push(
      ...(await Promise.all(
        Array.from({ length: Math.min(100, PINGERS - opened) }, async () => greet(await openLine(here.server.url))),
      )),
    );
  }
  const jobId = await submit(busy.client, "burst", { n: 2_000, bytes: 100 });
  for (let round = 0; round < 3; round += 1) await Promise.all(lines.map(({ client }) => settled(client)));
  await terminalOf(busy.client, jobId);
  // Both ends of each are in this process.
  const each = (heapInUse() - before) / PINGERS / 1024;
  assert(each < 96, `${each.toFixed(0)} KiB for a session that only pings`);
  for (const { ws } of [...lines, busy]) ws.terminate();
  await eventually(() => here.server.connections === 1, "all of them to be gone");
});

const DROPPED = Number(process.env["HOSTILE_CONNECTIONS"] ?? 400);

test(`[ENV-14] ${DROPPED} connections that are opened and dropped at once, at every stage, leave nothing behind`, async () => {
  await using here = await place({ serve: { maxUnauthenticated: 10_000 } });
  const stages: ((socket: RawSocket) => void)[] = [
    (socket) => socket.socket.resetAndDestroy(),
    (socket) => {
      socket.write("GET /arcp HTTP/1.1\r\n");
      socket.socket.resetAndDestroy();
    },
    (socket) => {
      void socket.upgrade(here.port).catch(() => undefined);
      socket.socket.end();
    },
    (socket) => {
      void socket.upgrade(here.port).catch(() => undefined);
      socket.write(wsFrame(helloText("alice")));
      socket.socket.end();
    },
    (socket) => {
      void socket.upgrade(here.port).catch(() => undefined);
      socket.write(wsFrame(helloText("alice")));
      socket.write(wsFrame(ping("n")).subarray(0, 5));
      socket.socket.destroySoon();
    },
  ];
  await Promise.all(
    Array.from({ length: DROPPED }, async (_, index) => {
      const socket = await here.raw();
      (stages[index % stages.length] as (socket: RawSocket) => void)(socket);
      await socket.whenEnded();
    }),
  );
  await eventually(() => here.server.connections === 1, "only the neighbour to be left");
  const line = await greet(await openLine(here.server.url));
  await settled(line.client);
  line.ws.terminate();
});

import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { PassThrough, Transform, Writable } from "node:stream";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { MAX_FRAME_BYTES } from "../protocol/index.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { Recorder, transportContract } from "../testing/transport-contract.ts";
import { spawnStdio, stdioTransport } from "./stdio.ts";
import type { Transport } from "./transport.ts";

const DEADLINE = { timeout: 10_000 };
const RELAY = fileURLToPath(new URL("../../test/stdio-relay.ts", import.meta.url));

/** As a pipe of the system does, it hands on what is written in a later turn of the event loop. */
const pipe = () =>
  new Transform({ transform: (chunk: Buffer, _encoding, done) => void setImmediate(() => done(null, chunk)) });

/** Two byte streams, one for each direction, of this process. */
function streamPair(options: { clock?: ManualClock } = {}) {
  const [toA, toB] = [pipe(), pipe()];
  return {
    a: stdioTransport({ input: toA, output: toB }, options),
    b: stdioTransport({ input: toB, output: toA }, options),
    toA,
    toB,
    cut() {
      toA.destroy();
      toB.destroy();
    },
  };
}

transportContract("stdio, two streams of one process", async () => {
  const pair = streamPair();
  return {
    ...pair,
    carriesCloseCode: false,
    stallB: () => pair.toB.pause(),
    unstallB: () => pair.toB.resume(),
    async [Symbol.asyncDispose]() {
      pair.cut();
    },
  };
});

/** A child process whose other end is a transport of this process. */
async function throughChild() {
  const server = createServer({ allowHalfOpen: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const connecting = once(server, "connection") as Promise<[Socket]>;
  const child = await spawnStdio(process.execPath, [RELAY, String((server.address() as AddressInfo).port)]);
  const [socket] = await connecting;
  return {
    child,
    parent: stdioTransport({ input: socket, output: socket }),
    socket,
    async [Symbol.asyncDispose]() {
      socket.destroy();
      server.close();
      // Never started, or over already: a transport tells its end once.
      child.close();
      await once(server, "close");
    },
  };
}

transportContract("stdio, a child process", async () => {
  const pair = await throughChild();
  return {
    a: pair.child,
    b: pair.parent,
    carriesCloseCode: false,
    stallB: () => pair.socket.pause(),
    unstallB: () => pair.socket.resume(),
    cut: () => pair.socket.resetAndDestroy(),
    [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
  };
});

test("[TRP-1] a line may come in any pieces, end in CRLF, and be empty, which is none", async () => {
  const input = new PassThrough();
  const atA = new Recorder(stdioTransport({ input, output: new PassThrough() }));
  const bytes = Buffer.from('{"a":"žluťoučký 🐎"}\r\n\n\r\n[1,\r2]\n{"b":2}\nhalf');
  for (const byte of bytes) input.write(Buffer.of(byte));
  await atA.framesCame(3);
  input.end();
  await atA.closed();
  assert.deepEqual(atA.frames, ['{"a":"žluťoučký 🐎"}', "[1,\r2]", '{"b":2}']);
  assert.deepEqual(atA.closes, [{ code: 1000, reason: "The peer ended its stream." }]);
});

test("[TRP-1] a frame with line breaks between its parts is sent as one line", async () => {
  const pair = streamPair();
  const atB = new Recorder(pair.b);
  pair.a.send(['{\r\n  "a": 1\n}', "2"]);
  await atB.framesCame(2);
  assert.deepEqual(atB.frames, ['{   "a": 1 }', "2"]);
  pair.cut();
});

test(
  "[TRP-2] a line of a whole frame is read, one byte more closes, and what follows is not read",
  DEADLINE,
  async () => {
    for (const [piece, end] of [
      [MAX_FRAME_BYTES, "\n"],
      [1_000, "\r\n"],
    ] as const) {
      const clock = new ManualClock();
      const input = new PassThrough();
      const atA = new Recorder(stdioTransport({ input, output: new PassThrough() }, { clock }));
      const write = (length: number) => {
        for (let left = length; left > 0; left -= piece) input.write("x".repeat(Math.min(piece, left)));
      };
      write(MAX_FRAME_BYTES);
      input.write(`${end}{}\n`);
      await atA.framesCame(2);
      write(MAX_FRAME_BYTES + 1);
      input.end(`${end}{}\n`);
      await atA.closed();
      assert.deepEqual(
        atA.frames.map((frame) => frame.length),
        [MAX_FRAME_BYTES, 2],
      );
      assert.equal(atA.closes[0]?.code, 1009);
    }
  },
);

test("[TRP-2] a line that never ends is not kept: the connection closes while it still comes", DEADLINE, async () => {
  const clock = new ManualClock();
  const input = new PassThrough();
  const transport = stdioTransport({ input, output: new PassThrough() }, { clock });
  const atA = new Recorder(transport);
  input.write("x".repeat(MAX_FRAME_BYTES + 2));
  while (transport.open) await new Promise(setImmediate);
  await clock.advance(2_000);
  assert.equal(atA.closes[0]?.code, 1006);
  assert.equal(input.destroyed, true);
  assert.equal(clock.pendingTimers, 0);
});

test("[TRP-2] bytes that are no UTF-8 close the connection", DEADLINE, async () => {
  const input = new PassThrough();
  const atA = new Recorder(stdioTransport({ input, output: new PassThrough() }));
  input.end(Buffer.concat([Buffer.from('{"a":1}\n{"b":"'), Buffer.of(0xc3, 0x28), Buffer.from('"}\n{"c":3}\n')]));
  await atA.closed();
  assert.deepEqual(atA.frames, ['{"a":1}']);
  assert.equal(atA.closes[0]?.code, 1007);
});

test("[TRP-3] a peer that reads no more is heard to its end, then the connection is over", DEADLINE, async () => {
  const input = new PassThrough();
  const output = new Writable({
    write: (_chunk, _encoding, done) => done(Object.assign(new Error("write EPIPE"), { code: "EPIPE" })),
  });
  const transport = stdioTransport({ input, output });
  const atA = new Recorder(transport);
  transport.send(["into the void"]);
  await new Promise((resolve) => output.once("close", resolve));
  assert.equal(transport.open, false);
  await transport.drained(0);
  input.end('{"last":"words"}\n');
  await atA.closed();
  assert.equal(atA.closes.length, 1);
  assert.equal(atA.closes[0]?.code, 1006);
});

test("[TRP-3] a peer that does not end its stream after a close is left", DEADLINE, async () => {
  const clock = new ManualClock();
  const pair = streamPair({ clock });
  const atA = new Recorder(pair.a);
  pair.a.close(4408, "HEARTBEAT_LOST");
  await clock.advance(1_999);
  assert.equal(atA.closes.length, 0);
  await clock.advance(1);
  assert.equal(atA.closes[0]?.code, 1006);
  assert.deepEqual([pair.toA.destroyed, pair.toB.destroyed], [true, true]);
});

test("[TRP-3] a connection that is closed before its start still hears the peer go", DEADLINE, async () => {
  const pair = streamPair();
  pair.b.send(["nobody reads this"]);
  pair.a.close(1013, "not now");
  pair.b.close();
  await new Promise((resolve) => pair.toA.once("end", resolve));
  const atA = new Recorder(pair.a);
  await atA.closed();
  assert.deepEqual([atA.frames, atA.closes], [[], [{ code: 1013, reason: "not now" }]]);
});

test("[TRP-4] a command that is not there is told by name", async () => {
  await assert.rejects(
    spawnStdio("holdfast-not-there", []),
    /^Error: holdfast-not-there could not be started: .*ENOENT/,
  );
});

/** A child that runs a script, started, with what it tells. */
async function child(script: string, options: Parameters<typeof spawnStdio>[2] = {}) {
  const transport: Transport = await spawnStdio(process.execPath, ["-e", script], options);
  return { transport, recorder: new Recorder(transport) };
}

test("[TRP-4] what a child wrote before it exits arrives, then its status is told", DEADLINE, async () => {
  const { recorder } = await child(`process.stdout.write("1\\n".repeat(50000), () => process.exit(3))`);
  await recorder.closed();
  assert.equal(recorder.frames.length, 50_000);
  assert.equal(recorder.closes[0]?.code, 1006);
  assert.match(recorder.closes[0]?.reason ?? "", /exited with status 3$/);
});

test("[TRP-4] the end of its input ends a child; a second close changes nothing", DEADLINE, async () => {
  const { transport, recorder } = await child(`process.stdin.resume().on("end", () => console.log("bye"))`);
  transport.close(1000, "enough");
  transport.close(1001, "again");
  await recorder.closed();
  assert.deepEqual(recorder.closes, [{ code: 1000, reason: "enough" }]);
});

test("[TRP-4] a child that does not go at the end of its input gets SIGTERM, then SIGKILL", DEADLINE, async () => {
  const clock = new ManualClock();
  const said: string[] = [];
  const note = (_: object, message: string) => said.push(message);
  const logger = { debug() {}, info: note, warn: note, error: note };
  const script = `
    process.on("SIGTERM", () => console.error("SIGTERM"));
    process.stdin.resume().on("end", () => console.error("input ended"));
    setInterval(() => {}, 1e6);
    console.log('"ready"');`;
  const { transport, recorder } = await child(script, { clock, logger, termAfterMs: 1_000, killAfterMs: 500 });
  await recorder.framesCame(1);
  transport.close(1000, "enough");
  while (said.length < 1) await new Promise(setImmediate);
  await clock.advance(999);
  assert.equal(recorder.closes.length, 0);
  await clock.advance(1);
  while (said.length < 2) await new Promise(setImmediate);
  assert.deepEqual(said, ["input ended", "SIGTERM"]);
  await clock.advance(500);
  await recorder.closed();
  assert.deepEqual(recorder.closes, [{ code: 1000, reason: "enough" }]);
  assert.equal(clock.pendingTimers, 0);
});

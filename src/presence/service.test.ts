/** The wire, as a client in any language sees it, good or bad: real sockets. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import { type Clock, systemClock } from "../clock.ts";
import { silentLogger } from "../logger.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { type ProcessTable, systemProcesses } from "./process-table.ts";
import { Registry } from "./registry.ts";
import { Service } from "./service.ts";

const TOKEN = "the-token";
const OWN = process.pid;

async function newService(options: { timeoutMs?: number; clock?: Clock } = {}) {
  const registry = new Registry({ clock: systemClock, processes: systemProcesses, trustMs: 4_000 });
  const service = await Service.start({
    registry,
    token: TOKEN,
    port: 0,
    timeoutMs: 1_000,
    clock: systemClock,
    logger: silentLogger,
    ...options,
  });
  return { service, registry, [Symbol.asyncDispose]: () => service.stop() };
}

/** All that comes until the connection ends, however it does. */
function received(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  socket.on("error", () => undefined);
  return new Promise((resolve) => {
    socket.once("close", () => resolve(Buffer.concat(chunks).toString()));
  });
}

async function sent(port: number, bytes: string | Buffer): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.write(bytes);
  return await received(socket);
}

const ask = async (port: number, request: unknown): Promise<unknown> =>
  JSON.parse(await sent(port, `${JSON.stringify(request)}\n`));

const good = (command: string, payload?: unknown) => ({ command, auth: TOKEN, payload });

test("[PRS-7] each command is one line in and one line out, then the service closes", async () => {
  await using place = await newService();
  const { port } = place.service;
  const raw = await sent(port, `${JSON.stringify(good("ping"))}\n`);
  assert.equal(raw, `{"ok":true,"payload":{"source":"ActiveSessionsAPI","owner_pid":${OWN}}}\n`);
  const taken = (await ask(port, good("upsert", { pid: OWN, session_name: "me" }))) as { ok: boolean };
  assert.equal(taken.ok, true);
  const listed = (await ask(port, good("snapshot"))) as { payload: { total: number; sessions: { pid: number }[] } };
  assert.equal(listed.payload.total, 1);
  assert.equal(listed.payload.sessions[0]?.pid, OWN);
  assert.deepEqual(await ask(port, good("remove", { pid: OWN })), { ok: true, payload: { pid: OWN, removed: true } });
  assert.deepEqual(await ask(port, good("remove", { pid: OWN })), { ok: true, payload: { pid: OWN, removed: false } });
});

test("[PRS-7] the words for what is wrong are the same for every client", async () => {
  await using place = await newService();
  const { port } = place.service;
  for (const [request, error] of [
    [{ command: "ping" }, "unauthorized"],
    [{ command: "ping", auth: "the-tokem" }, "unauthorized"],
    [{ command: "ping", auth: "the-token " }, "unauthorized"],
    [{ command: "ping", auth: ["the-token"] }, "unauthorized"],
    [{ command: "nothing", auth: "" }, "unauthorized"],
    [good("upsert"), "pid required"],
    [good("upsert", {}), "pid required"],
    [good("remove", { session_name: "x" }), "pid required"],
    [good("nothing"), "unknown command: nothing"],
    [good("no\u001b[31m\nthing"), "unknown command: no?[31m?thing"],
    [good("x".repeat(500)), `unknown command: ${"x".repeat(64)}`],
    [{ auth: TOKEN }, "unknown command: "],
    [{ auth: TOKEN, command: 5 }, "unknown command: 5"],
    [[1], "a request is a JSON object with command, auth and payload"],
    [null, "a request is a JSON object with command, auth and payload"],
  ] as const) {
    assert.deepEqual(await ask(port, request), { ok: false, error });
  }
  assert.equal(place.registry.size, 0);
});

test("[PRS-7] a line may come in pieces, end with its connection, and have more behind it", async () => {
  await using place = await newService();
  const { port } = place.service;
  const line = JSON.stringify(good("ping"));
  const pieces = connect(port, "127.0.0.1");
  const answer = received(pieces);
  for (const character of `${line}\r\n`) {
    pieces.write(character);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.match(await answer, /^\{"ok":true/);
  const ended = connect(port, "127.0.0.1");
  ended.end(line);
  assert.match(await received(ended), /^\{"ok":true/);
  const two = await sent(port, `${line}\n${JSON.stringify(good("upsert", { pid: OWN }))}\n`);
  assert.equal(two.trimEnd().split("\n").length, 1);
  assert.equal(place.registry.size, 0);
});

test("[PRS-9] half, binary, foreign and oversized requests are told why or cut off, and disturb nobody", async () => {
  await using place = await newService();
  const { port } = place.service;
  const noJson = /^\{"ok":false,"error":"a request is one line of JSON"\}\n$/;
  assert.match(await sent(port, "\n"), noJson);
  assert.match(await sent(port, Buffer.from([0, 255, 254, 128, 10])), noJson);
  assert.match(await sent(port, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), noJson);
  const half = connect(port, "127.0.0.1");
  half.end('{"command":"pi');
  assert.match(await received(half), noJson);
  const nothing = connect(port, "127.0.0.1");
  nothing.end();
  assert.equal(await received(nothing), "");
  const reset = connect(port, "127.0.0.1");
  reset.write("{");
  await once(reset, "connect");
  reset.resetAndDestroy();
  // The answer may be lost, since the rest is not read any more.
  const long = JSON.stringify(good("upsert", { pid: OWN, text: "x".repeat(80_000) }));
  assert.match(await sent(port, `${long}\n`), /^$|^\{"ok":false,"error":"a request is at most 65536 bytes"\}\n$/);
  assert.match(await sent(port, "x".repeat(10_000_000)), /^$|^\{"ok":false/);
  const fits = JSON.stringify(good("ping", "x".repeat(65_000)));
  assert.match(await sent(port, `${fits}\n`), /^\{"ok":true/);
  assert.equal(place.registry.size, 0);
});

test("[PRS-9] a client that does not finish its line in time is cut off, one that trickles too", async () => {
  await using place = await newService({ timeoutMs: 300 });
  const { port } = place.service;
  const silent = connect(port, "127.0.0.1");
  const trickling = connect(port, "127.0.0.1");
  trickling.write("{");
  const began = systemClock.monotonic();
  const more = (): void => {
    if (trickling.destroyed) return;
    trickling.write(" ");
    systemClock.after(20, more);
  };
  more();
  assert.deepEqual(await Promise.all([received(silent), received(trickling)]), ["", ""]);
  const tookMs = systemClock.monotonic() - began;
  assert.ok(tookMs >= 250 && tookMs < 10_000, `cut off after ${tookMs} ms`);
  assert.match(await sent(port, `${JSON.stringify(good("ping"))}\n`), /^\{"ok":true/);
});

test("[PRS-9] a client that does not read its answer is cut off", async () => {
  const asked = Promise.withResolvers<void>();
  const processes: ProcessTable = {
    look: () => ({ state: "alive", startTime: "1" }),
    inUse: () => {
      asked.resolve();
      return true;
    },
  };
  const registry = new Registry({ clock: systemClock, processes, trustMs: 4_000 });
  // More than the buffers of both sides hold.
  for (let pid = 1; pid <= 4_000; pid += 1) registry.upsert({ pid, padding: "x".repeat(4_000) });
  const clock = new ManualClock();
  const service = await Service.start({
    registry,
    token: TOKEN,
    port: 0,
    timeoutMs: 1_000,
    clock,
    logger: silentLogger,
  });
  try {
    const deaf = connect(service.port, "127.0.0.1");
    deaf.pause();
    deaf.write(`${JSON.stringify(good("snapshot"))}\n`);
    await asked.promise;
    await clock.advance(1_000);
    const rest = received(deaf);
    deaf.resume();
    const text = await rest;
    assert.ok(!text.endsWith("}\n"), `${text.length} bytes came`);
    assert.equal(clock.pendingTimers, 0);
    assert.match(await sent(service.port, `${JSON.stringify(good("ping"))}\n`), /^\{"ok":true/);
  } finally {
    await service.stop();
  }
});

test("[PRS-9] a flood of connections and of requests does not keep others from their answers", async () => {
  await using place = await newService();
  const { port } = place.service;
  const flood = Array.from({ length: 1_000 }, (_, index) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => undefined);
    socket.resume();
    if (index % 2 === 0) socket.write("x".repeat(index));
    return socket;
  });
  const asked = Array.from({ length: 50 }, () => ask(port, good("ping")) as Promise<{ ok: boolean }>);
  for (const answer of await Promise.all(asked)) assert.equal(answer.ok, true);
  for (const socket of flood) socket.destroy();
});

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { createServer as createTcpServer } from "node:net";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { ArcpError } from "../../src/protocol/index.ts";
import { isPublicAddress } from "../../src/runtime/acting/addresses.ts";
import type { ResolvedAddress } from "../../src/runtime/acting/fetch.ts";
import { eventually } from "../runtime-fixture.ts";
import { actingJob, arcpError, TRACEPARENT } from "./acting-job.ts";

interface Seen {
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  body: string;
}

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/** A server on loopback that notes what it is asked. */
async function server(answer: Answer): Promise<{ origin: string; port: number; seen: Seen[] } & AsyncDisposable> {
  const seen: Seen[] = [];
  const http = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    seen.push({ method: request.method ?? "", url: request.url ?? "", headers: request.headers, body });
    answer(request, response);
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  const { port } = http.address() as AddressInfo;
  return {
    origin: `http://127.0.0.1:${port}`,
    port,
    seen,
    async [Symbol.asyncDispose]() {
      http.closeAllConnections();
      http.close();
      await once(http, "close");
    },
  };
}

const redirect =
  (status: number, location: string): Answer =>
  (_, response) =>
    response.writeHead(status, { location }).end();

const text =
  (body: string): Answer =>
  (_, response) =>
    response.end(body);

const loopback = async (): Promise<ResolvedAddress[]> => [{ address: "127.0.0.1", family: 4 }];

test("[ACT-17] a granted URL is fetched, one outside the lease is not", async () => {
  await using at = await server(text("hello"));
  const job = actingJob({ "net.fetch": [`${at.origin}/open/**`] });
  const response = await job.fetch(`${at.origin}/open/a`);
  assert.equal(response.status, 200);
  assert.equal(response.url, `${at.origin}/open/a`);
  assert.equal(await response.text(), "hello");
  for (const url of [
    `${at.origin}/closed`,
    `${at.origin}/open/../closed`,
    `${at.origin}/open/%2e%2e/closed`,
    `${at.origin}/open/..%2fclosed`,
    `http://user:secret@127.0.0.1:${at.port}/open/a`,
    `http://127.0.0.1.:${at.port}/open/a`,
    "file:///etc/passwd",
    "data:text/plain,x",
    "/open/a",
  ]) {
    await assert.rejects(job.fetch(url), arcpError("PERMISSION_DENIED"), url);
    assert.equal(job.outcome?.error?.code, "PERMISSION_DENIED", url);
  }
  assert.equal(at.seen.length, 1);
  assert.doesNotMatch(JSON.stringify(job.told), /secret/);
});

test("[ACT-17] each redirect is checked again", async () => {
  await using closed = await server(text("closed"));
  await using at = await server((request, response) => {
    const to = { "/a": "/b", "/b": "/c", "/out": `${closed.origin}/`, "/file": "file:///etc/passwd", "/self": "/self" };
    const location = to[request.url as keyof typeof to];
    if (location === undefined) response.end("end");
    else response.writeHead(302, { location }).end();
  });
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  const response = await job.fetch(`${at.origin}/a`);
  assert.equal(await response.text(), "end");
  assert.equal(response.url, `${at.origin}/c`);
  assert.equal(response.redirected, true);
  assert.deepEqual(job.outcome?.result, { status: 200, url: `${at.origin}/c`, redirects: 2, bytes: 3 });
  await assert.rejects(job.fetch(`${at.origin}/out`), arcpError("PERMISSION_DENIED"));
  assert.equal(closed.seen.length, 0);
  await assert.rejects(job.fetch(`${at.origin}/file`), arcpError("PERMISSION_DENIED"));
  at.seen.length = 0;
  await assert.rejects(job.fetch(`${at.origin}/self`), arcpError("INVALID_REQUEST", "more than 5 times"));
  assert.equal(at.seen.length, 6);
  await assert.rejects(job.fetch(`${at.origin}/a`, { redirect: "error" }), arcpError("INVALID_REQUEST", "redirect"));
  const manual = await job.fetch(`${at.origin}/a`, { redirect: "manual" });
  assert.equal(manual.status, 302);
  assert.equal(manual.headers.get("location"), "/b");
});

test("[ACT-18] a redirect changes the method as browsers do", async () => {
  for (const [status, method, expected] of [
    [301, "POST", "GET"],
    [302, "POST", "GET"],
    [302, "PUT", "PUT"],
    [303, "PUT", "GET"],
    [307, "POST", "POST"],
    [308, "POST", "POST"],
  ] as const) {
    await using at = await server((request, response) =>
      request.url === "/" ? redirect(status, "/next")(request, response) : response.end(),
    );
    const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
    await job.fetch(at.origin, { method, body: "x", headers: { "content-type": "text/x" } });
    const last = at.seen[1];
    assert.equal(last?.method, expected, `${status} ${method}`);
    assert.equal(last.body, expected === "GET" ? "" : "x", `${status} ${method}`);
    assert.equal(last.headers["content-type"], expected === "GET" ? undefined : "text/x", `${status} ${method}`);
  }
});

test("[ACT-18] credentials stay with the origin that they were meant for", async () => {
  await using other = await server(text(""));
  await using at = await server((request, response) =>
    redirect(302, request.url === "/" ? "/next" : `${other.origin}/`)(request, response),
  );
  const job = actingJob({ "net.fetch": [`${at.origin}/**`, `${other.origin}/**`] });
  await job.fetch(at.origin, { headers: { authorization: "Bearer x", cookie: "a=b", "x-mine": "1" } });
  assert.equal(at.seen[1]?.headers.authorization, "Bearer x");
  assert.equal(at.seen[1]?.headers.cookie, "a=b");
  assert.equal(other.seen[0]?.headers.authorization, undefined);
  assert.equal(other.seen[0]?.headers.cookie, undefined);
  assert.equal(other.seen[0]?.headers["x-mine"], "1");
});

test("[ACT-19] what is not the public Internet is refused unless the lease names the host", async () => {
  await using at = await server(text("hello"));
  const refused = [
    ["**"],
    [`http://*:${at.port}/**`],
    [`http://127.0.0.*:${at.port}/**`],
    [`http://*/**`, `http://*:*/**`],
  ];
  for (const patterns of refused) {
    const job = actingJob({ "net.fetch": patterns });
    await assert.rejects(job.fetch(at.origin), arcpError("PERMISSION_DENIED"), String(patterns));
  }
  assert.equal(at.seen.length, 0);
  for (const patterns of [[`${at.origin}/**`], ["http://127.0.0.1:*/**"], ["**", `${at.origin}/other`]]) {
    assert.equal((await actingJob({ "net.fetch": patterns }).fetch(at.origin)).status, 200, String(patterns));
  }
  // Another port of a host that is named with its port is not named.
  const other = actingJob({ "net.fetch": ["**", "http://127.0.0.1:1/**"] });
  await assert.rejects(other.fetch(at.origin), arcpError("PERMISSION_DENIED", "does not name"));
});

test("[ACT-19] a name is as public as the least public of its addresses", async () => {
  await using at = await server(text("hello"));
  const resolve = async () => [
    { address: "93.184.215.14", family: 4 },
    { address: "127.0.0.1", family: 4 },
  ];
  const job = actingJob({ "net.fetch": [`http://*.example:${at.port}/**`] }, { network: { resolve } });
  await assert.rejects(job.fetch(`http://a.example:${at.port}/`), arcpError("PERMISSION_DENIED", "a.example"));
  assert.doesNotMatch(JSON.stringify(job.told), /127\.0\.0\.1/);
  const redirected = actingJob({ "net.fetch": ["**", `${at.origin}/**`] }, { network: { resolve } });
  await using bounce = await server(redirect(302, `http://a.example:${at.port}/`));
  await assert.rejects(redirected.fetch(bounce.origin), arcpError("PERMISSION_DENIED"));
  assert.equal(at.seen.length, 0);
});

test("[ACT-19] public addresses are those of the Internet and no others", () => {
  for (const address of ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]) {
    assert.equal(isPublicAddress(address), true, address);
  }
  for (const address of [
    ...["0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.9", "168.63.129.16"],
    ...["169.254.169.254", "172.16.0.1", "192.0.0.192", "192.168.1.1", "198.18.0.1", "224.0.0.1", "255.255.255.255"],
    ...["::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::1"],
    ...["2002:7f00:1::", "2001::1", "2001:db8::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", ""],
    ...["localhost", "1.1.1.1.", "fe80::1%eth0"],
  ]) {
    assert.equal(isPublicAddress(address), false, address);
  }
});

test("[ACT-20] the connection goes to the addresses that were looked at, however the name resolves next", async () => {
  await using at = await server(text("hello"));
  let lookups = 0;
  const resolve = async (host: string) => {
    assert.equal(host, "rebind.example");
    lookups += 1;
    return lookups === 1 ? [{ address: "127.0.0.1", family: 4 }] : [{ address: "10.0.0.1", family: 4 }];
  };
  const url = `http://rebind.example:${at.port}/`;
  const job = actingJob({ "net.fetch": [`${url}**`] }, { network: { resolve } });
  assert.equal(await (await job.fetch(url)).text(), "hello");
  assert.equal(lookups, 1);
  assert.equal(at.seen[0]?.headers.host, `rebind.example:${at.port}`);
});

test("[ACT-20] a name without an address, and a host that refuses, are told without the machine's words", async () => {
  const nowhere = actingJob({ "net.fetch": ["**"] }, { network: { resolve: async () => [] } });
  await assert.rejects(nowhere.fetch("http://none.example/a?key=1"), (error: unknown) => {
    assert.ok(error instanceof ArcpError && error.code === "INTERNAL_ERROR");
    assert.deepEqual(error.details, { url: "http://none.example/a", errno: "ENOTFOUND" });
    return true;
  });
  const at = await server(text(""));
  await at[Symbol.asyncDispose]();
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  await assert.rejects(job.fetch(at.origin), arcpError("INTERNAL_ERROR", "ECONNREFUSED"));
  assert.equal(job.outcome?.error?.retryable, true);
});

/** Takes connections and says nothing. */
async function silence(): Promise<{ origin: string; connected: Promise<unknown[]> } & AsyncDisposable> {
  const sockets: Socket[] = [];
  const tcp = createTcpServer((socket) => sockets.push(socket.on("error", () => undefined)));
  tcp.listen(0, "127.0.0.1");
  await once(tcp, "listening");
  return {
    origin: `http://127.0.0.1:${(tcp.address() as AddressInfo).port}`,
    connected: once(tcp, "connection"),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      tcp.close();
      await once(tcp, "close");
    },
  };
}

test("[ACT-21] an answer that takes too long, and a name that does, end the call", async () => {
  await using at = await silence();
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  let ended = false;
  const slow = job.fetch(at.origin, { timeoutMs: 500, connectTimeoutMs: 100 }).finally(() => {
    ended = true;
  });
  const late = assert.rejects(slow, (error: unknown) => {
    assert.ok(error instanceof ArcpError && error.code === "INTERNAL_ERROR");
    assert.equal(error.details?.["reason"], "timeout");
    assert.equal(error.details["timeout_ms"], 500);
    return true;
  });
  await at.connected;
  // Once it stands, the time for the connection no longer counts.
  await eventually(() => job.clock.pendingTimers === 1, "the connection");
  await job.clock.advance(499);
  assert.equal(ended, false);
  await job.clock.advance(1);
  await late;
  assert.equal(job.clock.pendingTimers, 0);

  const names = actingJob({ "net.fetch": ["**"] }, { network: { resolve: () => new Promise(() => undefined) } });
  const unresolved = assert.rejects(
    names.fetch("http://slow.example/"),
    arcpError("INTERNAL_ERROR", "a connection took longer than 10000 ms"),
  );
  await eventually(() => names.clock.pendingTimers === 2, "the look-up");
  await names.clock.advance(10_000);
  await unresolved;
});

test("[ACT-21] a call ends with its job, and with the agent's own signal", async () => {
  await using at = await silence();
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  const call = job.fetch(at.origin);
  await at.connected;
  job.stop(new ArcpError("CANCELLED", "The job was cancelled."));
  await assert.rejects(call, arcpError("CANCELLED"));
  assert.equal(job.clock.pendingTimers, 0);

  await using other = await silence();
  const gaveUp = new AbortController();
  const own = actingJob({ "net.fetch": [`${other.origin}/**`] }).fetch(other.origin, { signal: gaveUp.signal });
  await other.connected;
  const reason = new Error("enough");
  gaveUp.abort(reason);
  await assert.rejects(own, (error: unknown) => error === reason);
});

test("[ACT-22] an answer over its cap is an error, however small it was on the way", async () => {
  await using at = await server((request, response) => {
    if (request.url !== "/zip") return void response.end("x".repeat(101));
    response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(Buffer.alloc(20 * 1024 * 1024)));
  });
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  await assert.rejects(job.fetch(at.origin, { maxBytes: 100 }), arcpError("INVALID_REQUEST", "100 bytes"));
  assert.equal((await (await job.fetch(at.origin, { maxBytes: 101 })).text()).length, 101);
  await assert.rejects(job.fetch(`${at.origin}/zip`), arcpError("INVALID_REQUEST", "16777216"));
  assert.equal(job.clock.pendingTimers, 0);
});

test("[ACT-22] with `stream` the body comes as it is sent, under the same cap and time", async () => {
  let more: ((piece: string) => void) | undefined;
  await using at = await server((_, response) => {
    response.write("one");
    more = (piece) => response.write(piece);
  });
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  const response = await job.fetch(at.origin, { stream: true, maxBytes: 6, timeoutMs: 1_000 });
  assert.deepEqual(job.outcome?.result, { status: 200 });
  const reader = (response.body ?? assert.fail("no body")).getReader();
  const next = async () => Buffer.from((await reader.read()).value ?? []).toString();
  assert.equal(await next(), "one");
  more?.("two");
  assert.equal(await next(), "two");
  more?.("three");
  await assert.rejects(reader.read(), arcpError("INVALID_REQUEST", "6 bytes"));
  assert.equal(job.clock.pendingTimers, 0);

  const late = await job.fetch(at.origin, { stream: true, timeoutMs: 1_000 });
  const reading = assert.rejects(late.text(), arcpError("INTERNAL_ERROR", "took longer"));
  await job.clock.advance(1_000);
  await reading;

  const dropped = await job.fetch(at.origin, { stream: true });
  await dropped.body?.cancel();
  assert.equal(job.clock.pendingTimers, 0);
});

test("[ACT-8] a fetch with `stream` counts as an act until its body is over, whichever way", async () => {
  let end: (() => void) | undefined;
  await using at = await server((_, response) => {
    response.write("one");
    end = () => response.end();
  });
  const job = actingJob({ "net.fetch": [`${at.origin}/**`], "tool.call": ["*"] });
  job.registry.register("wait", () => new Promise(() => undefined));
  job.registry.register("quick", () => "done");
  for (let others = 0; others < 255; others += 1) void job.tools.call("wait");
  const isFull = () => assert.rejects(job.tools.call("quick"), arcpError("INTERNAL_ERROR", "256 acts"));

  const dropped = await job.fetch(at.origin, { stream: true });
  await isFull();
  await dropped.body?.cancel();
  assert.equal(await job.tools.call("quick"), "done");

  const read = await job.fetch(at.origin, { stream: true });
  await isFull();
  end?.();
  assert.equal(await read.text(), "one");
  assert.equal(await job.tools.call("quick"), "done");

  await job.fetch(at.origin, { stream: true, timeoutMs: 1_000 });
  await isFull();
  await job.clock.advance(1_000);
  assert.equal(await job.tools.call("quick"), "done", "a body that nobody reads ends with its time");
});

test("[ACT-23] the stream tells method, URL, status and length, and no query, header or body", async () => {
  await using at = await server((_, response) => response.writeHead(404).end("a secret answer"));
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  const headers = [["authorization", "secret"]] as const;
  const response = await job.fetch(new URL(`${at.origin}/a?key=secret#part`), {
    method: "post",
    body: "secret",
    headers,
  });
  assert.equal(response.status, 404);
  assert.deepEqual(job.told, [
    { kind: "tool_call", tool: "net.fetch", args: { method: "POST", url: `${at.origin}/a` } },
    { kind: "tool_result", result: { status: 404, bytes: 15 } },
  ]);
  assert.equal(at.seen[0]?.url, "/a?key=secret");
  assert.equal(at.seen[0]?.body, "secret");
});

test("[ACT-23] a request carries the job's trace, unless the agent set one", async () => {
  await using at = await server(text(""));
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  await job.fetch(at.origin);
  await job.fetch(at.origin, { headers: new Headers({ traceparent: "mine" }) });
  assert.equal(at.seen[0]?.headers["traceparent"], TRACEPARENT);
  assert.equal(at.seen[1]?.headers["traceparent"], "mine");
});

test("[ACT-24] what would make it another request than the one that was checked is refused", async () => {
  await using at = await server(text(""));
  const job = actingJob({ "net.fetch": [`${at.origin}/**`] });
  for (const name of ["Host", "Connection", "Transfer-Encoding", "Content-Length", "Upgrade", "Proxy-Authorization"]) {
    await assert.rejects(
      job.fetch(at.origin, { headers: { [name]: "x" } }),
      arcpError("INVALID_REQUEST", "headers"),
      name,
    );
  }
  await assert.rejects(
    job.fetch(at.origin, { headers: { a: "b\r\nhost: c" } }),
    arcpError("INVALID_REQUEST", "headers"),
  );
  for (const method of ["CONNECT", "trace", "GET /x", ""]) {
    await assert.rejects(job.fetch(at.origin, { method }), arcpError("INVALID_REQUEST", "method"), method);
  }
  await assert.rejects(job.fetch(at.origin, { body: "x" }), arcpError("INVALID_REQUEST", "body"));
  await assert.rejects(job.fetch(at.origin, { timeoutMs: Number.NaN }), arcpError("INVALID_REQUEST", "timeoutMs"));
  assert.equal(at.seen.length, 0);
  assert.deepEqual(job.told, []);
});

test("[ACT-24] Node's own fetch keeps its own dispatcher", async () => {
  await using at = await server(text("hello"));
  await actingJob({ "net.fetch": [`${at.origin}/**`] }).fetch(at.origin);
  assert.equal(await (await fetch(at.origin)).text(), "hello");
  const { Agent } = await import("undici");
  const dispatcher: unknown = Reflect.get(globalThis, Symbol.for("undici.globalDispatcher.1"));
  assert.ok(dispatcher !== undefined && !(dispatcher instanceof Agent));
});

test("[ACT-20] a name that the lease names may be one of this machine", async () => {
  await using at = await server(text("hello"));
  const url = `http://named.example:${at.port}/`;
  const job = actingJob({ "net.fetch": [`${url}**`] }, { network: { resolve: loopback } });
  assert.equal((await job.fetch(url)).status, 200);
  const wild = actingJob({ "net.fetch": [`http://*.example:${at.port}/**`] }, { network: { resolve: loopback } });
  // A star in the URL is a name like any other, and named by nobody.
  for (const host of ["named", "*"]) {
    await assert.rejects(wild.fetch(`http://${host}.example:${at.port}/`), arcpError("PERMISSION_DENIED"), host);
  }
});

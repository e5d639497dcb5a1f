/** Active sessions over `/v1`. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ActiveSessions, DISCOVERY_FILENAME, type Snapshot } from "../../presence/index.ts";
import { Runtime } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";

const DEADLINE = { timeout: 30_000 };

async function newServer(stack: AsyncDisposableStack, isOffered = true) {
  const directory = await mkdtemp(path.join(tmpdir(), "holdfast-active-"));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const here = stack.use(new ActiveSessions({ directory, port: 0, enabled: true, environment: {}, timeoutMs: 10_000 }));
  const auth = bearerTokens({
    alices: "alice",
    ottos: { principal: "otto", observer: true },
    olgas: { principal: "olga", operator: true },
  });
  const runtime = new Runtime({ store: sqlite(path.join(directory, "test.db")), auth });
  const server = await serve(runtime, {
    port: 0,
    ...(isOffered ? { activeSessions: () => here.querySnapshot() } : {}),
  });
  stack.defer(() => server.stop({ drainMs: 0 }));
  const ask = async (token = "olgas") => {
    const response = await fetch(`http://127.0.0.1:${server.port}/v1/active-sessions`, {
      headers: { authorization: `Bearer ${token}` },
    });
    return { status: response.status, json: (await response.json()) as Snapshot };
  };
  return { ask, here, discovery: path.join(directory, DISCOVERY_FILENAME) };
}

test("[SRV-37] an operator sees the processes of the machine as the service lists them", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, here } = await newServer(stack);
  const told = { pid: process.pid, session_name: "notebook", listener_port: 7_000, connected: true, tests: 3 };
  assert.equal(await here.registerSession(told), true);
  const { status, json } = await ask();
  assert.equal(status, 200);
  const { sessions, ...counted } = json;
  assert.deepEqual(counted, { source: "ActiveSessionsAPI", total: 1, connected: 1, detachable: 1 });
  const [{ pid, session_name: name, listener, tests } = assert.fail("nobody is listed")] = sessions;
  assert.deepEqual(
    { pid, name, listener, tests },
    { pid: process.pid, name: "notebook", listener: { host: "127.0.0.1", port: 7_000 }, tests: 3 },
  );
});

test("[SRV-37] asking starts no service, and says that there is none", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, discovery } = await newServer(stack);
  const { status, json } = await ask();
  assert.deepEqual([status, json.sessions, json.error], [200, [], "active sessions service unavailable"]);
  assert.equal(existsSync(discovery), false);
});

test("[SRV-37] users and observers are refused, and where it is not offered nothing is there", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newServer(stack);
  for (const [token, status] of [
    ["alices", 403],
    ["ottos", 403],
    ["nobodys", 401],
  ] as const) {
    assert.equal((await ask(token)).status, status, token);
  }
  assert.equal((await (await newServer(stack, false)).ask()).status, 404);
});

/** Routes on the command line: real processes, one server. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "./temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE = { timeout: 120_000 };

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let server: ChildProcess;

function start(args: readonly string[]) {
  const env = { PATH: process.env["PATH"], HOLDFAST_HOME: folder.path };
  return spawn(process.execPath, [MAIN, ...args], { env, stdio: ["ignore", "pipe", "pipe"], timeout: 120_000 });
}

async function holdfast(...args: string[]): Promise<{ status: number; out: string; err: string }> {
  const child = start(args);
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  return { status: status as number, out, err };
}

before(async () => {
  folder = await temporaryFolder();
  const tokens = ["--token", "alices=alice", "--token", "bobs=bob", "--operator", "alice"];
  const serving = start(["serve", "--port", "0", "--json", "--drain", "0", ...tokens]);
  server = serving;
  await once(createInterface(serving.stdout), "line");
});

after(async () => {
  const gone = once(server, "exit");
  server.kill();
  await gone;
  await folder[Symbol.asyncDispose]();
});

test("[CLI-25] a route is set, looked up and listed with the table's counters", DEADLINE, async () => {
  const key = "slack/T1/C1%2Fx/1.1";
  const set = await holdfast("routes", "set", key, '{"externalRoomId":"C1\\u001b[31m","note":1}', "--ttl", "90");
  assert.deepEqual([set.status, set.err], [0, ""]);
  assert.match(set.out, /^Answers for slack\/T1\/C1%2Fx\/1\.1 go to C1\[31m until \d{4}-.* UTC\.\n$/);
  const plain = await holdfast("routes", "set", "web/alice/notes", "room-7", "--json");
  assert.deepEqual((JSON.parse(plain.out) as Record<string, unknown>)["route"], { externalRoomId: "room-7" });

  const [shown, listed, json] = await Promise.all([
    holdfast("routes", key),
    holdfast("routes"),
    holdfast("routes", "--json"),
  ]);
  assert.match(shown.out, /^key +slack\/T1\/C1%2Fx\/1\.1\ngoes to +C1\[31m\nroute +\{"externalRoomId"/);
  assert.match(listed.out, /web\/alice\/notes.*room-7/);
  assert.match(listed.out, /partition +.*size.*set.*hits/);
  const table = JSON.parse(json.out) as { name: string; routes: { key: string }[]; partitions: { set: number }[] };
  assert.equal(table.name, "routes");
  assert.deepEqual(table.routes.map((route) => route.key).sort(), [key, "web/alice/notes"]);
  assert.equal(
    table.partitions.reduce((sum, partition) => sum + partition.set, 0),
    2,
  );
});

test("[CLI-25] a key, a route or a user that cannot be is told in one line", DEADLINE, async () => {
  for (const [args, complaint, status] of [
    [["routes", "slack/T1"], /routeKey: "slack\/T1" has not 3 or 4 parts/, 2],
    [["routes", "set", "a/b/c", "{nope"], /The route is not JSON/, 2],
    [["routes", "set", "a/b/c", "{}"], /body\.route\.externalRoomId: undefined names no place/, 1],
    [["routes", "set", "a/b/c", "x", "--ttl", "0"], /more than 0 seconds/, 2],
    [["routes", "nobody/set/this"], /The route of nobody\/set\/this is not there; .* sets one/, 1],
    [["routes", "--token", "bobs"], /PERMISSION_DENIED: Only an operator/, 1],
  ] as const) {
    const outcome = await holdfast(...args);
    assert.match(outcome.err, complaint);
    assert.deepEqual([outcome.err.trimEnd().split("\n").length, outcome.out, outcome.status], [1, "", status]);
  }
});

/** The command on a PostgreSQL database: two servers that have one store. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { sharedPostgres } from "./shared-postgres.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const main = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE_MS = 60_000;

const server = await sharedPostgres();
const skip = "reason" in server ? server.reason : false;

function start(home: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn(process.execPath, [main, ...args], {
    env: { PATH: process.env["PATH"], HOLDFAST_HOME: home, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: DEADLINE_MS,
    killSignal: "SIGKILL",
  });
}

async function holdfast(home: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const child = start(home, args, env);
  assert.ok(child.stdout !== null && child.stderr !== null);
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  return { out, err, status: status as number | null };
}

/** What `serve --json` says first. */
async function told(child: ChildProcess): Promise<{ url: string; store: string }> {
  assert.ok(child.stdout !== null);
  child.stderr?.resume();
  for await (const line of createInterface({ input: child.stdout })) return JSON.parse(line);
  throw new Error("the server ended without a word");
}

async function newUrl(): Promise<string> {
  assert.ok("url" in server);
  return (await server.createDatabase()).url;
}

describe("the command on PostgreSQL", { skip }, () => {
  test("[CLI-22] what is submitted at one server is followed at another one on the same database", async () => {
    await using folder = await temporaryFolder();
    const url = await newUrl();
    const homes = [path.join(folder.path, "one"), path.join(folder.path, "two")] as const;
    const serve = ["serve", "--demo", "--port", "0", "--json", "--drain", "0", "--token", "t=alice", "--store"];
    const one = start(homes[0], [...serve, url]);
    const [first] = [await told(one)];
    const two = start(homes[1], serve.slice(0, -1), { HOLDFAST_STORE: url });
    const second = await told(two);
    try {
      assert.notEqual(first.url, second.url);
      for (const { store } of [first, second]) {
        assert.match(store, /^postgres:\/\/holdfast@127\.0\.0\.1:\d+\/test_\d+$/, "the password is shown");
      }
      const submitted = await holdfast(homes[0], ["submit", "echo", '{"a":1}', "--json"]);
      assert.equal(submitted.status, 0, submitted.err);
      const [accepted] = submitted.out.split("\n");
      const { job_id: jobId } = JSON.parse(accepted ?? "null") as { job_id: string };
      const result = await holdfast(homes[1], ["result", jobId]);
      assert.equal(result.status, 0, result.err);
      assert.match(result.out, /"a": ?1/);
    } finally {
      for (const child of [one, two]) {
        const ended = once(child, "exit");
        child.kill("SIGTERM");
        assert.deepEqual(await ended, [0, null]);
      }
    }
  });

  test("[CLI-27] [CLI-28] [CLI-29] two servers know of each other, share routes, and a doctor finds them well", async () => {
    await using folder = await temporaryFolder();
    const url = await newUrl();
    const homes = [path.join(folder.path, "one"), path.join(folder.path, "two")] as const;
    const serve = [
      "serve",
      "--demo",
      "--port",
      "0",
      "--json",
      "--drain",
      "0",
      "--token",
      "t=alice",
      "--operator",
      "alice",
    ];
    const servers = homes.map((home) => start(home, [...serve, "--store", url]));
    try {
      for (const child of servers) await told(child);
      const watching = start(homes[0], ["submit", "ticker", '{"n":10000,"every_ms":1000}', "--follow", "--json"]);
      await once(createInterface(watching.stdout as NonNullable<typeof watching.stdout>), "line");
      const [listed, everywhere, set, table] = await Promise.all([
        holdfast(homes[1], ["nodes", "--json"]),
        holdfast(homes[1], ["ps", "--all"]),
        holdfast(homes[0], ["routes", "set", "slack/T1/C1", "C1"]),
        holdfast(homes[1], ["nodes"]),
      ]);
      watching.kill("SIGKILL");
      const { nodes } = JSON.parse(listed.out) as { nodes: Record<string, unknown>[] };
      assert.deepEqual(
        nodes.map(({ state, pid }) => [state, pid]).sort(),
        servers.map(({ pid }) => ["alive", pid]).sort(),
      );
      assert.deepEqual(nodes.map(({ jobs, sessions }) => [jobs, sessions]).sort(), [
        [0, 0],
        [1, 1],
      ]);
      assert.equal(nodes.filter(({ self }) => self === true).length, 1);
      assert.match(table.out, /node .*host .*pid .*state .*since .*last heartbeat .*jobs .*sessions .*version/);
      assert.match(everywhere.out, /alice .*holdfast.* attached/);
      assert.equal(set.status, 0, set.err);
      const shown = await holdfast(homes[1], ["routes", "slack/T1/C1"]);
      assert.match(shown.out, /goes to +C1/, shown.err);

      const looked = await holdfast(homes[1], ["doctor", "--store", url]);
      assert.equal(looked.status, 0, looked.out);
      assert.match(looked.out, /ok {4}store +postgres:.* answers in [\d.]+ ms, its schema is at \d+ \(/);
      assert.match(looked.out, /ok {4}nodes +2 alive, 0 dead/);
      assert.match(looked.out, /ok {4}work +0 jobs and 0 conversations wait for a node, 0 locks/);
      assert.match(looked.out, /ok {4}clock +this machine's clock is \d+ ms/);
      assert.match(looked.out, /ok {4}hints +one process hears another after [\d.]+ ms/);
    } finally {
      for (const child of servers) {
        const ended = once(child, "exit");
        child.kill("SIGTERM");
        await ended;
      }
    }
  });

  test("[CLI-22] doctor looks at the database and makes nothing in it, backup names PostgreSQL's own tools", async () => {
    await using folder = await temporaryFolder();
    const url = await newUrl();
    const looked = await holdfast(folder.path, ["doctor", "--store", url]);
    assert.match(looked.out, /BAD {3}store/);
    assert.ok(!looked.out.includes("holdfast:holdfast"), "the password is shown");
    const again = await holdfast(folder.path, ["doctor", "--store", url]);
    assert.equal(again.out, looked.out);
    const backup = await holdfast(folder.path, ["backup", path.join(folder.path, "copy"), "--store", url]);
    assert.equal(backup.status, 1);
    assert.match(backup.err, /pg_dump/);
  });

  test("[CLI-22] a URL that is none of PostgreSQL is no file's name", async () => {
    await using folder = await temporaryFolder();
    const answer = await holdfast(folder.path, ["serve", "--port", "0", "--store", "mysql://user:secret@host/db"]);
    assert.equal(answer.status, 2);
    assert.match(answer.err, /--store: the URL of a store is postgres:/);
    assert.ok(!answer.err.includes("secret"));
  });
});

import assert from "node:assert/strict";
import { chmod, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { discover, removeDiscovery, runningServer, writeDiscovery } from "./discovery.ts";

async function newHome(): Promise<{ home: string; file: string } & AsyncDisposable> {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-home-"));
  const home = path.join(root, "deep", ".holdfast");
  return {
    home,
    file: path.join(home, "server.json"),
    [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }),
  };
}

const entry = (pid = process.pid) => ({
  url: "ws://127.0.0.1:1/arcp",
  token: "t",
  pid,
  started_at: "2026-01-02T03:04:05Z",
});
/** No process has it: the kernel's largest is far below. */
const NO_PID = 2_147_483_647;

test("[CLI-1] the file is its user's alone, in a directory of the same kind, and nothing else stays there", async () => {
  await using place = await newHome();
  await writeDiscovery(place.home, entry());
  await writeDiscovery(place.home, entry());
  assert.equal((await stat(place.file)).mode & 0o777, 0o600);
  assert.equal((await stat(place.home)).mode & 0o777, 0o700);
  assert.deepEqual(await readdir(place.home), ["server.json"]);
  assert.deepEqual(await discover(place.home), entry());
});

test("[CLI-1] only the server that wrote the file removes it", async () => {
  await using place = await newHome();
  await writeDiscovery(place.home, entry());
  await removeDiscovery(place.home, process.pid + 1);
  assert.equal((await runningServer(place.home))?.pid, process.pid);
  await removeDiscovery(place.home, process.pid);
  assert.equal(await runningServer(place.home), undefined);
  await removeDiscovery(place.home, process.pid);
});

test("[CLI-6] no file, a file of a dead process, a damaged one and one that others can read are told apart", async () => {
  await using place = await newHome();
  await assert.rejects(discover(place.home), /No server is running here/);
  await writeDiscovery(place.home, entry(NO_PID));
  await assert.rejects(discover(place.home), /is gone/);
  await writeFile(place.file, "{");
  await assert.rejects(discover(place.home), /damaged/);
  await writeDiscovery(place.home, entry());
  await chmod(place.file, 0o644);
  await assert.rejects(discover(place.home), /can be read by others/);
});

/** The demo's survey on the command line: what it may read, and how its report looks. Real processes, a server for each. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, realpath, writeFile } from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "./temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const OPTIONS = { timeout: 60_000, skip: process.platform === "win32" ? "paths of a lease are POSIX's" : false };

/** A directory of two files, and `serve --demo` started in it. */
async function demo(...flags: string[]) {
  const folder = await temporaryFolder();
  const here = path.join(await realpath(folder.path), "here");
  await mkdir(here);
  await writeFile(path.join(here, "a.txt"), "one\ntwo\n");
  await writeFile(path.join(here, "b.txt"), "one\ntwo\n");
  const start = (...args: string[]) =>
    spawn(process.execPath, [MAIN, ...args], {
      cwd: here,
      env: { PATH: process.env["PATH"], HOLDFAST_ACTIVE_SESSIONS: "0", HOLDFAST_HOME: path.join(folder.path, "home") },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: OPTIONS.timeout,
      killSignal: "SIGKILL",
    });
  const server = start("serve", "--demo", "--port", "0", "--json", "--drain", "0", ...flags);
  server.stderr.resume();
  await once(createInterface({ input: server.stdout }), "line");
  return {
    here,
    holdfast: (...args: string[]) => outcomeOf(start(...args)),
    async [Symbol.asyncDispose]() {
      server.kill("SIGKILL");
      await once(server, "exit");
      await folder[Symbol.asyncDispose]();
    },
  };
}

async function outcomeOf(child: ChildProcess): Promise<{ status: number; out: string; err: string }> {
  assert.ok(child.stdout && child.stderr);
  const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
  return { status: status as number, out, err };
}

/** The report on the two files, to the letter. */
const REPORT = `{
  "files": 2,
  "bytes": 16,
  "lines": 4,
  "languages": [
    { "language": "Text", "files": 2, "lines": 4, "bytes": 16 }
  ],
  "largest": [
    { "path": "a.txt", "bytes": 8 },
    { "path": "b.txt", "bytes": 8 }
  ],
  "equal": [
    { "bytes": 8, "sha256": "SHA256", "paths": [ "a.txt", "b.txt" ] }
  ],
  "wasted_bytes": 8,
  "skipped": [],
  "symbolic_links": 0,
  "unreadable": 0,
  "truncated": false
}
`;

const shown = (out: string): string => out.replace(/[0-9a-f]{64}/, "SHA256");

test("[CLI-10] a result that came in pieces of JSON is shown as it is laid out", OPTIONS, async () => {
  await using at = await demo();
  const followed = await at.holdfast("submit", "survey", "--follow");
  assert.deepEqual([followed.status, followed.err], [0, ""]);
  const [, jobId = "", report = ""] =
    /^survey@1\.0\.0 succeeded: 2 files, 4 lines, 8 bytes in copies \((job_\w+)\)\n([\s\S]*)/m.exec(followed.out) ?? [];
  assert.equal(shown(report), REPORT);
  assert.doesNotMatch(followed.out, /result_chunk/);

  assert.equal((await at.holdfast("result", jobId)).out, report);
  const told = JSON.parse((await at.holdfast("result", jobId, "--json")).out) as Record<string, unknown>;
  assert.deepEqual([told["content_type"], `${String(told["result"])}\n`], ["application/json", report]);
});

test("[CLI-15] survey may read the directory of serve --demo without asking, and nothing else", OPTIONS, async () => {
  await using at = await demo();
  assert.equal((await at.holdfast("submit", "survey", "--lease", `fs.read=${at.here}/**`, "--follow")).status, 0);
  for (const [agent, capability, pattern] of [
    ["survey", "fs.read", "/etc/**"],
    ["survey", "fs.write", `${at.here}/**`],
    ["echo", "fs.read", `${at.here}/**`],
  ] as const) {
    const { status, out, err } = await at.holdfast("submit", agent, "--lease", `${capability}=${pattern}`);
    assert.deepEqual([status, out, err.trimEnd().split("\n").length], [1, "", 1]);
    assert.match(err, new RegExp(`PERMISSION_DENIED: payload\\.lease_request.*${capability}`));
  }
  const narrow = await at.holdfast("submit", "survey", "--lease", `fs.read=${at.here}/src/**`, "--follow");
  assert.equal(narrow.status, 1);
  assert.match(narrow.err, /PERMISSION_DENIED: A survey needs fs\.read for all of its directory/);
});

test("[CLI-15] serve --grant lets every agent have more", OPTIONS, async () => {
  await using at = await demo("--grant", "fs.read=/srv/**");
  for (const agent of ["echo", "survey"]) {
    const { status, err } = await at.holdfast("submit", agent, "--lease", "fs.read=/srv/docs/*");
    assert.deepEqual([status, err], [0, ""]);
  }
  assert.equal((await at.holdfast("submit", "survey", "--follow")).status, 0);
});

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { renameSync, rmSync, symlinkSync } from "node:fs";
import { chmod, link, mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { ArcpError } from "../../src/protocol/index.ts";
import { actingJob, arcpError } from "./acting-job.ts";

const WINDOWS = process.platform === "win32" ? "paths of a lease are POSIX's" : false;

/** `inside` is what the tests grant; `outside` holds a secret. */
async function place(): Promise<{ inside: string; outside: string } & AsyncDisposable> {
  const root = await realpath(await mkdtemp(path.join(tmpdir(), "holdfast-acting-")));
  const [inside, outside] = [path.join(root, "inside"), path.join(root, "outside")];
  await mkdir(inside);
  await mkdir(outside);
  await writeFile(path.join(outside, "secret.txt"), "the secret");
  await writeFile(path.join(inside, "a.txt"), "hello");
  return { inside, outside, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) };
}

const reads = (directory: string) => ({ "fs.read": [`${directory}/**`] });
const changes = (directory: string) => ({ "fs.write": [`${directory}/**`] });

test("[ACT-9] files are read, and the stream tells path and bytes and no content", { skip: WINDOWS }, async () => {
  await using at = await place();
  const job = actingJob(reads(at.inside));
  const file = `${at.inside}/a.txt`;
  assert.equal(await job.fs.readText(file), "hello");
  assert.deepEqual(job.told, [
    { kind: "tool_call", tool: "fs.read", args: { path: file } },
    { kind: "tool_result", result: { bytes: 5 } },
  ]);
  assert.deepEqual(await job.fs.readFile(`${at.inside}/./x/../a.txt`), Buffer.from("hello"));
  const { modifiedAt, ...stat } = await job.fs.stat(file);
  assert.deepEqual(stat, { kind: "file", bytes: 5 });
  assert.ok(modifiedAt instanceof Date);
  assert.equal(await job.fs.exists(file), true);
  assert.equal(await job.fs.exists(`${at.inside}/b/c.txt`), false);
  assert.equal(await job.fs.exists(`${file}/b`), false);
  assert.doesNotMatch(JSON.stringify(job.told), /hello/);
});

test("[ACT-9] files are written, appended to, made and removed under fs.write", { skip: WINDOWS }, async () => {
  await using at = await place();
  const job = actingJob(changes(at.inside));
  const file = `${at.inside}/deep/er/b.txt`;
  await assert.rejects(job.fs.mkdir(path.dirname(file)), arcpError("INVALID_REQUEST", "is not there"));
  await job.fs.mkdir(path.dirname(file), { recursive: true });
  await job.fs.mkdir(path.dirname(file), { recursive: true });
  await assert.rejects(job.fs.mkdir(path.dirname(file)), arcpError("INVALID_REQUEST", "is there already"));
  await job.fs.writeFile(file, "a longer text");
  assert.deepEqual(job.outcome?.result, { bytes: 13 });
  await job.fs.writeFile(file, "short");
  await job.fs.appendFile(file, new Uint8Array([33]));
  assert.equal(await readFile(file, "utf8"), "short!");
  await assert.rejects(job.fs.remove(path.dirname(file)), arcpError("INVALID_REQUEST", "not empty"));
  await job.fs.remove(file);
  await job.fs.remove(path.dirname(file));
  assert.deepEqual(await readdir(`${at.inside}/deep`), []);
  await assert.rejects(job.fs.readText(`${at.inside}/a.txt`), arcpError("PERMISSION_DENIED", "fs.read"));
});

test("[ACT-9] what the lease does not cover is refused, and the stream says so", { skip: WINDOWS }, async () => {
  await using at = await place();
  const job = actingJob({ ...reads(at.inside), ...changes(at.inside) });
  const secret = `${at.outside}/secret.txt`;
  const attempts = [
    () => job.fs.readFile(secret),
    () => job.fs.readText(`${at.inside}/../outside/secret.txt`),
    () => job.fs.readText(`${at.inside}/%2e%2e/outside/secret.txt`),
    () => job.fs.readText("a.txt"),
    () => job.fs.stat(secret),
    () => job.fs.exists(secret),
    () => job.fs.list(at.outside),
    () => job.fs.writeFile(secret, "x"),
    () => job.fs.appendFile(secret, "x"),
    () => job.fs.mkdir(`${at.outside}/new`),
    () => job.fs.remove(secret),
  ];
  for (const attempt of attempts) {
    await assert.rejects(attempt(), arcpError("PERMISSION_DENIED"), String(attempt));
    assert.equal(job.outcome?.error?.code, "PERMISSION_DENIED", String(attempt));
  }
  assert.equal(job.told.length, attempts.length * 2);
  assert.deepEqual(await readdir(at.outside), ["secret.txt"]);
});

test("[ACT-10] a link that leads out of the grant is not followed, and errors do not tell where it leads", {
  skip: WINDOWS,
}, async () => {
  await using at = await place();
  await symlink(`${at.outside}/secret.txt`, `${at.inside}/file-link`);
  await symlink(at.outside, `${at.inside}/directory-link`);
  await symlink("/proc/self/root", `${at.inside}/root`);
  const job = actingJob(reads(at.inside));
  const attempts = [
    () => job.fs.readText(`${at.inside}/file-link`),
    () => job.fs.readText(`${at.inside}/directory-link/secret.txt`),
    // Whether something is there is not told either.
    () => job.fs.exists(`${at.inside}/directory-link/nothing`),
    () => job.fs.stat(`${at.inside}/file-link`),
    () => job.fs.list(`${at.inside}/directory-link`),
    () => job.fs.readChunks(`${at.inside}/file-link`).next(),
  ];
  for (const attempt of attempts) {
    await assert.rejects(attempt(), arcpError("PERMISSION_DENIED", "leads out"), String(attempt));
  }
  assert.doesNotMatch(JSON.stringify(job.told), /outside|the secret/);
  await assert.rejects(
    job.fs.readText(`${at.inside}/root${at.outside}/secret.txt`),
    arcpError("PERMISSION_DENIED", "leads out"),
  );
});

test("[ACT-10] a link to a place that is granted as well is followed", { skip: WINDOWS }, async () => {
  await using at = await place();
  await mkdir(`${at.inside}/real`);
  await symlink("real", `${at.inside}/link`);
  const job = actingJob({ ...reads(at.inside), ...changes(at.inside) });
  await job.fs.writeFile(`${at.inside}/link/b.txt`, "b");
  assert.equal(await job.fs.readText(`${at.inside}/link/b.txt`), "b");
  assert.deepEqual((await job.fs.list(`${at.inside}/link`)).entries, [{ name: "b.txt", kind: "file" }]);
  await job.fs.remove(`${at.inside}/link`);
  assert.deepEqual(await readdir(`${at.inside}/real`), ["b.txt"]);
});

test("[ACT-10] a lease that ends between the path and where it leads says that it ended", {
  skip: WINDOWS,
}, async () => {
  await using at = await place();
  await symlink("a.txt", `${at.inside}/link`);
  const job = actingJob(reads(at.inside), {
    expiresAtMs: Date.UTC(2026, 0, 1) + 1,
    onAuthorized: () => job.clock.stepWall(1),
  });
  await assert.rejects(job.fs.readText(`${at.inside}/link`), arcpError("LEASE_EXPIRED"));
});

/** Puts a link to `target` where a directory was. */
function exchange(directory: string, target: string): void {
  renameSync(directory, `${directory}.was`);
  symlinkSync(target, directory);
}

test("[ACT-11] a directory that is exchanged for a link after the check is not followed", {
  skip: WINDOWS,
}, async () => {
  await using at = await place();
  await mkdir(`${at.inside}/d`);
  await writeFile(`${at.inside}/d/secret.txt`, "harmless");
  let exchanged = false;
  const job = actingJob(reads(at.inside), {
    onAuthorized() {
      if (!exchanged) exchange(`${at.inside}/d`, at.outside);
      exchanged = true;
    },
  });
  await assert.rejects(job.fs.readText(`${at.inside}/d/secret.txt`), arcpError("PERMISSION_DENIED", "leads out"));
});

test("[ACT-11] nor one that is exchanged after its real path was found and granted", { skip: WINDOWS }, async () => {
  for (const act of ["readText", "writeFile", "remove", "stat"] as const) {
    await using at = await place();
    await mkdir(`${at.inside}/d`);
    await writeFile(`${at.inside}/d/secret.txt`, "harmless");
    await symlink("d", `${at.inside}/link`);
    const real = `${at.inside}/d/secret.txt`;
    let exchanged = false;
    const job = actingJob(
      { ...reads(at.inside), ...changes(at.inside) },
      {
        onAuthorized(_, target) {
          // The check of the real path, the last one before the opening.
          if (target !== real || exchanged) return;
          exchanged = true;
          exchange(`${at.inside}/d`, at.outside);
        },
      },
    );
    await assert.rejects(job.fs[act](`${at.inside}/link/secret.txt`, "overwritten"), ArcpError, act);
    assert.ok(exchanged, act);
    assert.equal(await readFile(`${at.outside}/secret.txt`, "utf8"), "the secret", act);
  }
});

test("[ACT-11] nor a directory further up the way", { skip: WINDOWS }, async () => {
  for (const act of ["readText", "writeFile", "appendFile", "mkdir", "remove", "stat", "list"] as const) {
    await using at = await place();
    await mkdir(`${at.inside}/d/e/f`, { recursive: true });
    await mkdir(`${at.outside}/e/f`, { recursive: true });
    for (const directory of [`${at.inside}/d`, at.outside]) await writeFile(`${directory}/e/b.txt`, "kept");
    await symlink("d", `${at.inside}/link`);
    const name = act === "list" ? "e/f" : act === "mkdir" ? "e/new" : "e/b.txt";
    let exchanged = false;
    const job = actingJob(
      { ...reads(at.inside), ...changes(at.inside) },
      {
        onAuthorized(_, target) {
          if (target !== `${at.inside}/d/${name}` || exchanged) return;
          exchanged = true;
          exchange(`${at.inside}/d`, at.outside);
        },
      },
    );
    const attempt = async () => {
      if (act === "mkdir" || act === "list") await job.fs[act](`${at.inside}/link/${name}`);
      else await job.fs[act](`${at.inside}/link/${name}`, "overwritten");
    };
    await assert.rejects(attempt(), arcpError("PERMISSION_DENIED", "leads out"), act);
    assert.ok(exchanged, act);
    assert.deepEqual((await readdir(`${at.outside}/e`)).sort(), ["b.txt", "f"], act);
    assert.equal(await readFile(`${at.outside}/e/b.txt`, "utf8"), "kept", act);
  }
});

test("[ACT-11] nor a file that is exchanged for a link", { skip: WINDOWS }, async () => {
  await using at = await place();
  await symlink("a.txt", `${at.inside}/link`);
  const file = `${at.inside}/a.txt`;
  const job = actingJob(
    { ...reads(at.inside), ...changes(at.inside) },
    {
      onAuthorized(_, target) {
        if (target !== file) return;
        rmSync(file);
        symlinkSync(`${at.outside}/secret.txt`, file);
      },
    },
  );
  await assert.rejects(job.fs.readText(`${at.inside}/link`), ArcpError);
  await rm(file);
  await writeFile(file, "again");
  await assert.rejects(job.fs.writeFile(`${at.inside}/link`, "overwritten"), ArcpError);
  assert.equal(await readFile(`${at.outside}/secret.txt`, "utf8"), "the secret");
});

test("[ACT-12] nothing is made, changed or removed outside through a link", { skip: WINDOWS }, async () => {
  await using at = await place();
  await symlink(at.outside, `${at.inside}/directory-link`);
  await symlink(`${at.outside}/secret.txt`, `${at.inside}/file-link`);
  await symlink(`${at.outside}/new.txt`, `${at.inside}/dangling`);
  const job = actingJob(changes(at.inside));
  await assert.rejects(job.fs.writeFile(`${at.inside}/directory-link/new.txt`, "x"), arcpError("PERMISSION_DENIED"));
  await assert.rejects(job.fs.writeFile(`${at.inside}/file-link`, "x"), arcpError("PERMISSION_DENIED"));
  await assert.rejects(job.fs.appendFile(`${at.inside}/file-link`, "x"), arcpError("PERMISSION_DENIED"));
  await assert.rejects(job.fs.mkdir(`${at.inside}/directory-link/new`), arcpError("PERMISSION_DENIED"));
  await assert.rejects(
    job.fs.mkdir(`${at.inside}/directory-link/new/er`, { recursive: true }),
    arcpError("PERMISSION_DENIED"),
  );
  await assert.rejects(job.fs.remove(`${at.inside}/directory-link/secret.txt`), arcpError("PERMISSION_DENIED"));
  await assert.rejects(job.fs.writeFile(`${at.inside}/dangling`, "x"), arcpError("INVALID_REQUEST", "leads nowhere"));
  assert.deepEqual(await readdir(at.outside), ["secret.txt"]);
  assert.equal(await readFile(`${at.outside}/secret.txt`, "utf8"), "the secret");
});

test("[ACT-12] removing a link removes the link", { skip: WINDOWS }, async () => {
  await using at = await place();
  await symlink(`${at.outside}/secret.txt`, `${at.inside}/file-link`);
  const job = actingJob(changes(at.inside));
  await job.fs.remove(`${at.inside}/file-link`);
  assert.deepEqual(await readdir(at.inside), ["a.txt"]);
  assert.deepEqual(await readdir(at.outside), ["secret.txt"]);
});

test("[ACT-13] pipes, devices and directories are not opened", { skip: WINDOWS, timeout: 10_000 }, async () => {
  await using at = await place();
  await promisify(execFile)("mkfifo", [`${at.inside}/pipe`]);
  const job = actingJob({ "fs.read": [`${at.inside}/**`, "/dev/zero"], "fs.write": [`${at.inside}/**`, "/dev/null"] });
  await assert.rejects(job.fs.readFile(`${at.inside}/pipe`), arcpError("INVALID_REQUEST", "no regular file"));
  await assert.rejects(job.fs.writeFile(`${at.inside}/pipe`, "x"), arcpError("INVALID_REQUEST", "no regular file"));
  await assert.rejects(job.fs.readFile("/dev/zero"), arcpError("INVALID_REQUEST", "no regular file"));
  await assert.rejects(job.fs.writeFile("/dev/null", "x"), arcpError("INVALID_REQUEST", "no regular file"));
  await assert.rejects(job.fs.readFile(at.inside), arcpError("INVALID_REQUEST", "is a directory"));
  await assert.rejects(job.fs.list(`${at.inside}/a.txt`), arcpError("INVALID_REQUEST", "no directory"));
  assert.equal((await job.fs.stat(`${at.inside}/pipe`)).kind, "other");
});

test("[ACT-14] a read has a cap, which a file without a size does not get round", { skip: WINDOWS }, async () => {
  await using at = await place();
  await writeFile(`${at.inside}/long`, Buffer.alloc(16 * 1024 * 1024 + 1));
  const job = actingJob({ "fs.read": [`${at.inside}/**`, "/proc/cpuinfo"] });
  await assert.rejects(job.fs.readFile(`${at.inside}/long`), arcpError("INVALID_REQUEST", "16777216"));
  assert.equal((await job.fs.readFile(`${at.inside}/long`, { maxBytes: 17_000_000 })).length, 16 * 1024 * 1024 + 1);
  assert.equal((await job.fs.readFile(`${at.inside}/a.txt`, { maxBytes: 5 })).length, 5);
  await assert.rejects(job.fs.readFile(`${at.inside}/a.txt`, { maxBytes: 4 }), arcpError("INVALID_REQUEST"));
  await assert.rejects(
    job.fs.readFile(`${at.inside}/a.txt`, { maxBytes: 0 }),
    arcpError("INVALID_REQUEST", "maxBytes"),
  );
  if (process.platform === "linux") {
    assert.ok((await job.fs.readText("/proc/cpuinfo")).length > 0);
    await assert.rejects(job.fs.readFile("/proc/cpuinfo", { maxBytes: 10 }), arcpError("INVALID_REQUEST"));
  }
});

test("[ACT-14] a file of any size comes in pieces, and one write takes 64 MiB", { skip: WINDOWS }, async () => {
  await using at = await place();
  const content = Buffer.alloc(200_000, "0123456789");
  await writeFile(`${at.inside}/long`, content);
  const job = actingJob({ ...reads(at.inside), ...changes(at.inside) });
  const pieces: Uint8Array[] = [];
  for await (const piece of job.fs.readChunks(`${at.inside}/long`)) pieces.push(piece);
  assert.ok(Buffer.concat(pieces).equals(content));
  assert.ok(pieces.every((piece) => piece.length <= 65_536));
  assert.deepEqual(job.outcome?.result, { bytes: 200_000 });
  await assert.rejects(
    job.fs.writeFile(`${at.inside}/b`, Buffer.alloc(64 * 1024 * 1024 + 1)),
    arcpError("INVALID_REQUEST", "67108864"),
  );
});

test("[ACT-8] a file that is read in pieces counts as an act until it is closed", { skip: WINDOWS }, async () => {
  await using at = await place();
  const job = actingJob(reads(at.inside));
  const open = Array.from({ length: 256 }, () => job.fs.readChunks(`${at.inside}/a.txt`));
  await Promise.all(open.map((chunks) => chunks.next()));
  await assert.rejects(job.fs.readText(`${at.inside}/a.txt`), arcpError("INTERNAL_ERROR", "256 acts"));
  await open[0]?.return();
  assert.equal(await job.fs.readText(`${at.inside}/a.txt`), "hello");
  // Read to the end is closed as well.
  for (const chunks of open) assert.equal((await chunks.next()).done, true);
  const again = Array.from({ length: 256 }, () => job.fs.readText(`${at.inside}/a.txt`));
  assert.equal((await Promise.all(again)).length, 256);
});

test("[ACT-14] a listing is sorted, has kinds, and says when it was cut", { skip: WINDOWS }, async () => {
  await using at = await place();
  await mkdir(`${at.inside}/d`);
  await symlink("/", `${at.inside}/c`);
  const job = actingJob(reads(at.inside));
  assert.deepEqual(await job.fs.list(at.inside), {
    entries: [
      { name: "a.txt", kind: "file" },
      { name: "c", kind: "link" },
      { name: "d", kind: "directory" },
    ],
    truncated: false,
  });
  assert.deepEqual(job.outcome?.result, { entries: 3, truncated: false });
  const cut = await job.fs.list(at.inside, { maxEntries: 2 });
  assert.equal(cut.entries.length, 2);
  assert.equal(cut.truncated, true);
  assert.equal((await job.fs.list(at.inside, { maxEntries: 3 })).truncated, false);
});

test("[ACT-15] a quiet read stays out of the stream, unless it is refused", { skip: WINDOWS }, async () => {
  await using at = await place();
  await symlink(`${at.outside}/secret.txt`, `${at.inside}/link`);
  const job = actingJob(reads(at.inside));
  const quiet = { quiet: true };
  await job.fs.readFile(`${at.inside}/a.txt`, quiet);
  await job.fs.list(at.inside, quiet);
  await job.fs.stat(`${at.inside}/a.txt`, quiet);
  await assert.rejects(job.fs.readFile(`${at.inside}/none`, quiet), arcpError("INVALID_REQUEST"));
  assert.deepEqual(job.told, []);
  await assert.rejects(job.fs.readFile(`${at.inside}/link`, quiet), arcpError("PERMISSION_DENIED"));
  assert.deepEqual(
    job.told.map(({ kind }) => kind),
    ["tool_call", "tool_result"],
  );
  assert.equal(job.outcome?.error?.code, "PERMISSION_DENIED");
});

test("[ACT-16] the system's errors name the path that was asked for, and nothing else of the machine", {
  skip: WINDOWS,
}, async () => {
  await using at = await place();
  await mkdir(`${at.inside}/real`);
  await symlink("real", `${at.inside}/link`);
  await symlink("loop", `${at.inside}/loop`);
  const job = actingJob({ ...reads(at.inside), ...changes(at.inside) });
  await assert.rejects(job.fs.readFile(`${at.inside}/link/none`), (error: unknown) => {
    assert.ok(error instanceof ArcpError && error.code === "INVALID_REQUEST");
    assert.deepEqual(error.details, { path: `${at.inside}/link/none`, errno: "ENOENT" });
    assert.doesNotMatch(error.message, /real|\/proc/);
    return true;
  });
  await assert.rejects(job.fs.readFile(`${at.inside}/loop`), arcpError("INVALID_REQUEST", "leads nowhere"));
  await assert.rejects(job.fs.writeFile(`${at.inside}/none/b`, "x"), arcpError("INVALID_REQUEST", "is not there"));
  if (process.getuid?.() !== 0) {
    await chmod(`${at.inside}/a.txt`, 0);
    await assert.rejects(job.fs.readFile(`${at.inside}/a.txt`), arcpError("PERMISSION_DENIED", "by the system"));
  }
  assert.doesNotMatch(JSON.stringify(job.told), /\/proc|node:|at async/);
});

test("[ACT-11] a second name of a file is the file", { skip: WINDOWS }, async () => {
  await using at = await place();
  await link(`${at.inside}/a.txt`, `${at.inside}/b.txt`);
  const job = actingJob(reads(at.inside));
  assert.equal(await job.fs.readText(`${at.inside}/b.txt`), "hello");
});

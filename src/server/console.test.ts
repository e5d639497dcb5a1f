/** The console's files, over real HTTP. */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { ask, newHttpServer } from "../../test/http-server.ts";

const DEADLINE = { timeout: 30_000 };
const INDEX =
  '<!doctype html><title>x</title><script type="module" src="/console/assets/index-B1x_9aZ0.js"></script>\n';
const SCRIPT = `export const text = "${"console ".repeat(200)}";\n`;

async function newConsole(stack: AsyncDisposableStack, build: (directory: string) => Promise<void>) {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-console-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  await writeFile(path.join(root, "secret.txt"), "a secret of ours");
  const directory = path.join(root, "console");
  await build(directory);
  const { server } = await newHttpServer(stack, { server: { console: { directory } } });
  const get = (target: string, headers: Record<string, string> = {}, method = "GET") =>
    ask(server.port, target, { token: "", method, headers });
  return { get, directory };
}

async function built(directory: string): Promise<void> {
  await mkdir(path.join(directory, "assets"), { recursive: true });
  await writeFile(path.join(directory, "index.html"), INDEX);
  await writeFile(path.join(directory, "assets/index-B1x_9aZ0.js"), SCRIPT);
  await writeFile(path.join(directory, "favicon.svg"), "<svg xmlns='http://www.w3.org/2000/svg'/>");
}

test("[SRV-26] the console is a page whose only scripts are its own files", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { get } = await newConsole(stack, built);
  const root = await get("/");
  assert.deepEqual([root.status, root.headers["location"]], [302, "/console/"]);
  const bare = await get("/console");
  assert.deepEqual([bare.status, bare.headers["location"]], [308, "/console/"]);
  for (const target of ["/console/", "/console/index.html", "/console/jobs/job_01", "/console/?x=1"]) {
    const page = await get(target);
    assert.deepEqual([page.status, page.text, page.headers["content-type"]], [200, INDEX, "text/html; charset=utf-8"]);
    assert.equal(page.headers["cache-control"], "no-cache");
    assert.equal(page.headers["x-content-type-options"], "nosniff");
    const policy = String(page.headers["content-security-policy"]);
    assert.match(policy, /default-src 'none'; script-src 'self';/);
    assert.match(policy, /frame-ancestors 'none'/);
    assert.doesNotMatch(policy, /unsafe|\*/);
  }
});

test(
  "[SRV-26] what has a hash in its name is kept for good; a copy that is still good is not sent",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { get } = await newConsole(stack, built);
    const script = await get("/console/assets/index-B1x_9aZ0.js");
    assert.deepEqual([script.status, script.text], [200, SCRIPT]);
    assert.equal(script.headers["content-type"], "text/javascript; charset=utf-8");
    assert.equal(script.headers["cache-control"], "public, max-age=31536000, immutable");
    const etag = String(script.headers["etag"]);
    for (const known of [etag, `W/${etag}`, `"other", ${etag}`, "*"]) {
      const same = await get("/console/assets/index-B1x_9aZ0.js", { "if-none-match": known });
      assert.deepEqual([same.status, same.text], [304, ""], known);
    }
    assert.equal((await get("/console/", { "if-none-match": etag })).status, 200);
    const head = await get("/console/", {}, "HEAD");
    assert.deepEqual([head.status, head.text, head.headers["content-length"]], [200, "", String(INDEX.length)]);
    assert.equal((await get("/console/", {}, "POST")).status, 405);
  },
);

test("[SRV-26] who takes gzip gets it", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { get } = await newConsole(stack, built);
  const target = "/console/assets/index-B1x_9aZ0.js";
  for (const none of ["identity", "gzip;q=0", "br"]) {
    assert.equal((await get(target, { "accept-encoding": none })).headers["content-encoding"], undefined, none);
  }
  const zipped = await get(target, { "accept-encoding": "br, gzip;q=0.8" });
  assert.equal(zipped.headers["content-encoding"], "gzip");
  assert.equal(zipped.headers["vary"], "Accept-Encoding");
  assert.ok(Number(zipped.headers["content-length"]) < SCRIPT.length / 4);
  assert.equal(gunzipSync(zipped.content).toString(), SCRIPT);
});

test("[SRV-26] no path leads out of the console", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { get } = await newConsole(stack, built);
  for (const target of [
    "/console/../secret.txt",
    "/console/..%2fsecret.txt",
    "/console/%2e%2e/secret.txt",
    "/console/assets/../../secret.txt",
    "/console/..\\secret.txt",
    "/console//etc/passwd.txt",
    "/console/__proto__.js",
    "/console/missing.js",
  ]) {
    const answer = await get(target);
    assert.equal(answer.status, 404, target);
    assert.doesNotMatch(answer.text, /secret of ours|root:/);
  }
});

test("[SRV-26] a console that is not built says so, and is served once it is", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { get, directory } = await newConsole(stack, async () => undefined);
  const missing = await get("/console/");
  assert.equal(missing.status, 404);
  assert.match(missing.text, /not built/);
  assert.equal(missing.headers["content-type"], "text/html; charset=utf-8");
  await built(directory);
  assert.equal((await get("/console/")).text, INDEX);
});

test("[SRV-26] without the console nothing of it is served", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { server } = await newHttpServer(stack, { server: { console: false } });
  assert.equal((await ask(server.port, "/console/")).status, 404);
  assert.equal((await ask(server.port, "/")).status, 404);
});

/** What README says of curl, run as it stands there, but for the port. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { ticker } from "../src/agents/ticker.ts";
import { newHttpServer } from "./http-server.ts";

const missing = ["curl", "sh", "sed"].find((program) => spawnSync(program, ["--version"]).error !== undefined);

test("[SRV-23] curl follows a job with nothing else, as README shows", {
  timeout: 60_000,
  skip: missing === undefined ? false : `${missing} is not installed`,
}, async () => {
  await using stack = new AsyncDisposableStack();
  const { server } = await newHttpServer(stack, {
    prepare: (runtime) => void runtime.agent("ticker", ticker),
  });
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const block = /```sh\n(API=[\s\S]*?)```/.exec(readme)?.[1] ?? "";
  assert.ok(block.includes(":7777/"), "README has no block that begins with API=");
  const script = block.replaceAll(":7777/", `:${server.port}/`);
  const shell = spawn("sh", ["-eu", "-c", script], { env: { ...process.env, TOKEN: "alices" }, timeout: 50_000 });
  const [out, err, [status]] = await Promise.all([text(shell.stdout), text(shell.stderr), once(shell, "exit")]);
  assert.equal(status, 0, err);
  const ids = [...out.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));
  assert.deepEqual(ids, [1, 2, 3, 4, 5, 6, 4, 5, 6], out);
  assert.deepEqual([...out.matchAll(/^event: (\S+)$/gm)].at(-1)?.[1], "job.result");
  assert.match(out, /tick 4/);
  assert.match(out, /\{"job_id":"job_\w+","status":"success",.*"result":\{"n":5\}/);
});

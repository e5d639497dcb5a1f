/** What the first look at the console costs. */
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { temporaryFolder } from "../temporary-folder.ts";
import { buildConsole } from "./stage.ts";

const MOST_BYTES = 200 * 1024;

test("[CON-9] the first load is under 200 KiB compressed, with all that there is", async () => {
  await using folder = await temporaryFolder();
  await buildConsole(folder.path);
  const files = await readdir(folder.path, { recursive: true, withFileTypes: true });
  let bytes = 0;
  for (const entry of files.filter((file) => file.isFile())) {
    bytes += gzipSync(await readFile(path.join(entry.parentPath, entry.name))).length;
  }
  assert.ok(bytes > 10_000, `${bytes} bytes: nothing was built`);
  assert.ok(bytes < MOST_BYTES, `${bytes} bytes`);
});

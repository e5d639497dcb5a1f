import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

test("[CLT-8] the client bundles for a browser, with no node: import, no ws and no zod", async () => {
  const { metafile, outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL("./index.ts", import.meta.url))],
    bundle: true,
    write: false,
    format: "esm",
    platform: "browser",
    metafile: true,
    logLevel: "silent",
  });
  const imported = Object.values(metafile.inputs).flatMap((input) => input.imports.map((entry) => entry.path));
  assert.deepEqual(
    imported.filter((path) => path.startsWith("node:")),
    [],
  );
  const files = Object.values(metafile.outputs).flatMap((output) =>
    Object.entries(output.inputs)
      .filter(([, { bytesInOutput }]) => bytesInOutput > 0)
      .map(([path]) => path),
  );
  assert.deepEqual(
    files.filter((path) => /node_modules\/(ws|zod)\/|transport\/ws-server/.test(path)),
    [],
  );
  assert.ok(files.some((path) => path.endsWith("src/client/live-session.ts")));
  const [bundle] = outputFiles;
  assert.doesNotMatch(bundle?.text ?? "", /\bfrom\s*["']|\brequire\(|\bprocess\.|\bBuffer\./);
});

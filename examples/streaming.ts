/**
 * Results in pieces: an agent writes its result while it makes it, text or bytes, and a client reads it as it comes
 * or takes it whole. Whoever comes late gets all of it.
 *
 *     node examples/streaming.ts
 */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bearerTokens, Runtime, serve } from "holdfast";
import { connect } from "holdfast/client";
import { sqlite } from "holdfast/sqlite";

const folder = mkdtempSync(join(tmpdir(), "holdfast-example-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

const runtime = new Runtime({
  store: sqlite(join(folder, "example.db")),
  auth: bearerTokens({ "dev-token": "alice" }),
});

/** Lets the agent go on; pressed once the reader has the line before. */
let goOn = Promise.withResolvers<void>();

runtime.agent("poet", async (_input, job) => {
  const out = job.stream({ contentType: "text/plain" });
  for (const line of ["The log is the truth;", "the wire only tails it.", "What was cut, resumes."]) {
    await out.write(`${line}\n`);
    await goOn.promise;
    goOn = Promise.withResolvers();
  }
  await out.end("three lines");
});

runtime.agent("painter", async (_input, job) => {
  const out = job.stream({ contentType: "image/x-raw" });
  // A million bytes; each write waits until there is room for the next.
  for (let row = 0; row < 100; row += 1) await out.write(new Uint8Array(10_000).fill(row));
});

await using server = await serve(runtime, { port: 0 });
await using session = await connect(server.url, { token: "dev-token" });

const poem = await session.submit("poet");
const reader = poem.stream();
for await (const piece of reader) {
  console.log(`${reader.contentType}: ${JSON.stringify(piece)}`);
  goOn.resolve();
}
const end = await poem.terminal;
console.log(`${end.final_status}, ${end.summary}, ${end.result_size} bytes`);

const picture = (await (await session.submit("painter")).result) as Uint8Array;
console.log(`a picture of ${picture.length} bytes, sha256 ${createHash("sha256").update(picture).digest("hex")}`);

await using late = await connect(server.url, { token: "dev-token" });
const again = await late.subscribe(poem.id, { history: true });
console.log(JSON.stringify(await again.result));

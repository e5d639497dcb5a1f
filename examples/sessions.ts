/**
 * A session outlives its connections: the socket is cut while a job runs, and every event arrives once and in order.
 * Whoever comes later, after a reload or from another machine, reads the job from its first event.
 *
 *     node examples/sessions.ts
 */
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

const cut = Promise.withResolvers<void>();
runtime.agent("counter", async (_input, job) => {
  for (let number = 1; number <= 5; number += 1) {
    if (number === 3) await cut.promise;
    await job.log(String(number));
  }
  return "counted";
});

await using server = await serve(runtime, { port: 0 });

/** The sockets of the session, so that this program can cut them. Yours needs none of this. */
const sockets: WebSocket[] = [];
class Cuttable extends WebSocket {
  constructor(url: string) {
    super(url);
    sockets.push(this);
  }
}

await using session = await connect(server.url, { token: "dev-token", WebSocket: Cuttable });
const job = await session.submit("counter");
for await (const { seq, body } of job) {
  const { message } = body as { message: string };
  console.log(`event ${seq}: ${message}`);
  if (message !== "2") continue;
  sockets.at(-1)?.close();
  for await (const { state } of session.statuses()) {
    if (state === "connected") continue;
    console.log("the socket is gone; the job goes on");
    break;
  }
  cut.resolve();
}
console.log(`${await job.result}, over ${sockets.length} sockets`);

await using later = await connect(server.url, { token: "dev-token" });
const again = await later.subscribe(job.id, { history: true });
const read: unknown[] = [];
for await (const { body } of again) read.push((body as { message: string }).message);
console.log("read again:", read.join(" "));

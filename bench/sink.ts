/** Reads a burst in a process of its own, so that who measures something else meanwhile is not kept busy by it. */
import { RawSession } from "./raw-session.ts";

const [, , url, n, bytes] = process.argv;
if (url === undefined) throw new Error("usage: sink.ts URL EVENTS BYTES");

const session = await RawSession.open(url, { token: "bench-1" });
const ended = session.next("job.result");
session.send("job.submit", { agent: "burst", input: { n: Number(n), bytes: Number(bytes) } });
await ended;
session.cut();

/**
 * Keeps idle sessions open in a process of its own, so that they weigh on the server and not on the client that is
 * measured. Says `open` when they are, and ends with its parent.
 */
import { openIdle } from "./raw-session.ts";

const [, , url, count] = process.argv;
if (url === undefined) throw new Error("usage: crowd.ts URL SESSIONS");

await openIdle(url, Number(count));
process.on("disconnect", () => process.exit(0));
process.send?.("open");

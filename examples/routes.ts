/**
 * Where the answer goes: a table of routes by channel, room and thread, with a time to live and a cap. It needs nothing
 * else of Holdfast.
 *
 *     node examples/routes.ts
 */
import { Routes } from "holdfast/routing";

await using routes = new Routes({ ttlMs: 1_800_000, maxEntriesPerPartition: 10_000 }).start();
routes.on("fallback", ({ source }) => console.log("told to listeners:", source));

const room = { channel: "slack", bridge: "T024", room: "C042" };
const thread = { ...room, thread: "1700000000.0001" };

const show = (result: ReturnType<typeof routes.resolve>): void => {
  if ("route" in result) console.log(result.source, result.fallbackReason ?? "", result.route.externalRoomId);
  else console.log(result.reason);
};

show(routes.resolve(thread));
routes.set(room, { externalRoomId: "C042" });
show(routes.resolve(thread)); // the room's, now the thread's own too
show(routes.resolve(thread));
// What the message itself tells is good enough where the table knows nothing, as after a restart.
show(routes.resolve({ ...room, room: "C043" }, { externalRoomId: "C043", note: "from the message" }));

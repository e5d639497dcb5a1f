/** Started by upstream.test.ts: one process that binds the record it is told to, and may die at a given step of it. */
import { UpstreamSession } from "../../src/conversation/upstream/index.ts";
import { sqlite } from "../../src/store/sqlite/index.ts";
import { HttpBackend } from "./http-backend.ts";
import { type OpenPlace, openPlace, type Place, stepped } from "./records.ts";

export interface Order {
  place: Place;
  storeFile: string;
  backendUrl: string;
  createTimeoutMs: number;
  recordId: string;
}

/** `load` is answered when the record is read, `ensure` and `recreate` when they are through. */
export type Message =
  | { op: "load"; order: Order }
  | { op: "ensure" | "recreate" /** The step at which this process kills itself, from 1. */; dieAt?: number };
export type Answer = { id: string; made: boolean; steps: number } | { error: string } | "loaded";

let steps = 0;
let dieAt = Number.POSITIVE_INFINITY;
const step = (): void => {
  steps += 1;
  if (steps === dieAt) process.kill(process.pid, "SIGKILL");
};

let open: { place: OpenPlace; session: UpstreamSession } | undefined;

async function load(order: Order): Promise<Answer> {
  const store = sqlite(order.storeFile);
  await store.start();
  const backend = new HttpBackend(order.backendUrl, order.createTimeoutMs);
  const place = openPlace(order.place, store, backend, step);
  const session = new UpstreamSession(await place.load(order.recordId), {
    backend: stepped(backend, "backend", step, ["create", "delete"]),
    permissionsFor: () => "some",
  });
  open = { place, session };
  return "loaded";
}

async function answer(message: Message): Promise<Answer> {
  if (message.op === "load") return await load(message.order);
  if (open === undefined) throw new Error("load first");
  steps = 0;
  dieAt = message.dieAt ?? Number.POSITIVE_INFINITY;
  const id = await open.session[message.op]();
  return { id, made: open.session.justCreated, steps };
}

process.on("message", (message: Message) => {
  answer(message).then(
    (value) => process.send?.(value),
    (error: unknown) =>
      process.send?.({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
process.on("disconnect", () => process.exit());
process.send?.("ready");

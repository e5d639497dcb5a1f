/** `holdfast deliveries [ID]`: answers on their way out to people, and what is done about those that failed (CLI-26). */
import Table from "cli-table3";
import { Command, Option } from "commander";
import { z } from "zod";
import { DELIVERY_STATES, type DeliveryState } from "../store/store.ts";
import { type ConnectionFlags, findTarget, withConnectionFlags } from "./connection.ts";
import { limitOf } from "./limit.ts";
import { Problem } from "./problem.ts";
import { readableTime, shortened, type Terminal } from "./terminal.ts";
import { askAboutDeliveries } from "./v1.ts";

interface DeliveriesFlags extends ConnectionFlags {
  limit: number;
  failed: boolean;
  state?: DeliveryState;
  channel?: string;
}

const Delivery = z.looseObject({
  delivery_id: z.string(),
  state: z.string(),
  channel: z.string(),
  route_key: z.string(),
  route: z.unknown(),
  conversation_id: z.string(),
  job_id: z.string(),
  principal: z.string(),
  attempts: z.number(),
  failures: z.number(),
  last_error: z.string().nullable(),
  parts: z.number(),
  next_try_at: z.string().nullable(),
  created_at: z.string(),
  changed_at: z.string(),
});
const Listed = z.looseObject({ deliveries: z.array(Delivery), next_cursor: z.string().nullable() });

type Delivery = z.infer<typeof Delivery>;

const MAX_CHARS = 200;

export function deliveriesCommand(terminal: Terminal): Command {
  const operate = (what: "retry" | "discard", description: string, done: (id: string) => string) =>
    withConnectionFlags(new Command(what))
      .description(description)
      .argument("<id>", "the delivery's id, as `deliveries` prints it")
      .action(async (id: string, flags: ConnectionFlags) => {
        const target = await findTarget(flags, process.env);
        const record = await askAboutDeliveries(target, { method: "POST", id, of: `/${what}` }, Delivery);
        if (flags.json) terminal.json(record);
        else terminal.line(done(record.delivery_id));
      });
  return withConnectionFlags(new Command("deliveries"))
    .description("List the answers on their way out to people, newest first, or show one.")
    .enablePositionalOptions()
    .argument("[id]", "one delivery")
    .option("--limit <n>", "how many to list", limitOf, 20)
    .option("--failed", "only those that were given up", false)
    .addOption(new Option("--state <state>", "only those in this state").choices(DELIVERY_STATES))
    .option("--channel <name>", "only those of this channel")
    .action((id: string | undefined, flags: DeliveriesFlags) =>
      id === undefined ? list(flags, terminal) : show(id, flags, terminal),
    )
    .addCommand(operate("retry", "Have an answer that was given up tried again.", (id) => `${id} is tried again.`))
    .addCommand(
      operate("discard", "Give an answer up for good: nobody sends it any more.", (id) => `${id} is discarded.`),
    );
}

async function list(flags: DeliveriesFlags, terminal: Terminal): Promise<void> {
  if (flags.failed && flags.state !== undefined && flags.state !== "failed") {
    throw new Problem(`--failed: is not --state ${flags.state}; give one of them.`, 2);
  }
  const target = await findTarget(flags, process.env);
  const query = new URLSearchParams({ limit: String(flags.limit) });
  const state = flags.failed ? "failed" : flags.state;
  if (state !== undefined) query.set("state", state);
  if (flags.channel !== undefined) query.set("channel", flags.channel);
  const { deliveries, next_cursor: cursor } = await askAboutDeliveries(
    target,
    { method: "GET", query: query.toString() },
    Listed,
  );
  if (flags.json) {
    for (const delivery of deliveries) terminal.json(delivery);
    return;
  }
  if (deliveries.length === 0) {
    terminal.remark(state === undefined ? "No deliveries." : `No deliveries that are ${state}.`);
    return;
  }
  const table = new Table({
    head: ["delivery", "state", "where", "tries", "last error", "changed"],
    style: { head: [], border: [] },
  });
  for (const delivery of deliveries) {
    table.push([
      shortened(delivery.delivery_id, 40),
      shortened(delivery.state, 12),
      shortened(delivery.route_key, 48),
      String(delivery.attempts),
      shortened(delivery.last_error ?? "", 40),
      readableTime(delivery.changed_at),
    ]);
  }
  terminal.block(table.toString());
  if (cursor !== null) terminal.remark("There are more; --limit shows up to 1000.");
}

async function show(id: string, flags: DeliveriesFlags, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const delivery = await askAboutDeliveries(target, { method: "GET", id, of: "" }, Delivery);
  if (flags.json) {
    terminal.json(delivery);
    return;
  }
  for (const [name, value] of rows(delivery)) terminal.line(`${name.padEnd(14)}${shortened(value, MAX_CHARS)}`);
}

function* rows(delivery: Delivery): Iterable<[name: string, value: string]> {
  yield ["delivery", delivery.delivery_id];
  yield ["state", delivery.state];
  yield ["where", delivery.route_key];
  yield ["route", JSON.stringify(delivery.route)];
  yield ["whose", delivery.principal];
  yield ["conversation", delivery.conversation_id];
  yield ["job", delivery.job_id];
  yield ["tries", `${delivery.attempts}, of which ${delivery.failures} came to nothing`];
  if (delivery.last_error !== null) yield ["last error", delivery.last_error];
  if (delivery.next_try_at !== null) yield ["next try", readableTime(delivery.next_try_at)];
  yield ["arrived", `${delivery.parts} ${delivery.parts === 1 ? "message" : "messages"}`];
  yield ["created", readableTime(delivery.created_at)];
  yield ["changed", readableTime(delivery.changed_at)];
}

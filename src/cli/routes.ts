/** `holdfast routes`: where a server's answers go, and an operator's way to change that (CLI-25). */
import Table from "cli-table3";
import { Command } from "commander";
import { z } from "zod";
import { readRouteKey } from "../routing/index.ts";
import { type ConnectionFlags, findTarget, withConnectionFlags } from "./connection.ts";
import { limitOf } from "./limit.ts";
import { oneLine, Problem } from "./problem.ts";
import { positiveSeconds } from "./seconds.ts";
import { readableTime, shortened, type Terminal } from "./terminal.ts";
import { askAboutRoutes } from "./v1.ts";

const Place = z.looseObject({ externalRoomId: z.unknown() });
const RouteRow = z.looseObject({
  key: z.string(),
  partition: z.number(),
  route: Place,
  updated_at: z.string(),
  expires_at: z.string(),
});
const Listed = z.looseObject({
  name: z.string(),
  routes: z.array(RouteRow),
  partitions: z.array(
    z.looseObject({
      partition: z.number(),
      running: z.boolean(),
      size: z.number(),
      set: z.number(),
      hits: z.number(),
      misses: z.number(),
      fallbacks: z.number(),
      stale: z.number(),
      evicted: z.number(),
      pruned: z.number(),
      failures: z.number(),
    }),
  ),
});
const Looked = z.union([
  RouteRow,
  z.looseObject({ key: z.string(), partition: z.number(), route: z.null(), reason: z.string() }),
]);

const COUNTERS = ["size", "set", "hits", "misses", "fallbacks", "stale", "evicted", "pruned", "failures"] as const;
const PLAIN = { head: [], border: [] };
const MAX_KEY_CHARS = 120;
const MAX_ROUTE_CHARS = 80;

export function routesCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("routes"))
    .description("Show where answers go: the newest routes and what each partition counts, or the route of one key.")
    .enablePositionalOptions()
    .argument("[key]", "channel/bridge/room[/thread]; write a slash in a part as %2F, a percent sign as %25")
    .option("--limit <n>", "how many to list", limitOf, 20)
    .action((key: string | undefined, flags: ConnectionFlags & { limit: number }) =>
      key === undefined ? list(flags, terminal) : show(key, flags, terminal),
    )
    .addCommand(
      withConnectionFlags(new Command("set"))
        .description("Say where answers for a key go. For operators.")
        .argument("<key>", "channel/bridge/room[/thread]")
        .argument("<route>", "the room as the channel names it, or a route as a JSON object")
        .option("--ttl <seconds>", "how long it is good (default: as the server's table)", positiveSeconds)
        .action((key: string, route: string, flags: ConnectionFlags & { ttl?: number }) =>
          set({ key, route }, flags, terminal),
        ),
    );
}

async function list(flags: ConnectionFlags & { limit: number }, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const listed = await askAboutRoutes(target, { method: "GET", query: `limit=${flags.limit}` }, Listed);
  if (flags.json) {
    terminal.json(listed);
    return;
  }
  if (listed.routes.length === 0) terminal.remark(`The table ${shortened(listed.name, 64)} has no routes.`);
  else {
    const table = new Table({ head: ["key", "goes to", "partition", "set", "until"], style: PLAIN });
    for (const { key, route, partition, updated_at: set, expires_at: until } of listed.routes) {
      table.push([
        shortened(key, MAX_KEY_CHARS),
        shortened(placeOf(route), MAX_ROUTE_CHARS),
        String(partition),
        readableTime(set),
        readableTime(until),
      ]);
    }
    terminal.block(table.toString());
  }
  const partitions = new Table({ head: ["partition", "", ...COUNTERS], style: PLAIN });
  for (const partition of listed.partitions) {
    partitions.push([
      String(partition.partition),
      partition.running ? "runs" : "down",
      ...COUNTERS.map((name) => String(partition[name])),
    ]);
  }
  terminal.block(partitions.toString());
}

async function show(text: string, flags: ConnectionFlags, terminal: Terminal): Promise<void> {
  const key = keyText(text);
  const target = await findTarget(flags, process.env);
  const query = new URLSearchParams({ key }).toString();
  const looked = await askAboutRoutes(target, { method: "GET", query }, Looked);
  if (looked.route === null) {
    if (flags.json) terminal.json(looked);
    const why = looked["reason"] === "expired" ? "has expired" : looked["reason"] === "not_found" ? "is not there" : "";
    throw new Problem(
      why === ""
        ? `Partition ${looked.partition} is down; it starts anew by itself.`
        : `The route of ${shortened(text, MAX_KEY_CHARS)} ${why}; \`holdfast routes set KEY ROUTE\` sets one.`,
    );
  }
  if (flags.json) {
    terminal.json(looked);
    return;
  }
  const { route, partition, updated_at: set, expires_at: until } = RouteRow.parse(looked);
  terminal.line(`key        ${shortened(text, MAX_KEY_CHARS)}`);
  terminal.line(`goes to    ${shortened(placeOf(route), MAX_ROUTE_CHARS)}`);
  terminal.line(`route      ${shortened(JSON.stringify(route), 1_000)}`);
  terminal.line(`partition  ${partition}`);
  terminal.line(`set        ${readableTime(set)}`);
  terminal.line(`until      ${readableTime(until)}`);
}

async function set(
  given: { key: string; route: string },
  flags: ConnectionFlags & { ttl?: number },
  terminal: Terminal,
): Promise<void> {
  const key = keyText(given.key);
  const route = routeOf(given.route);
  const target = await findTarget(flags, process.env);
  const ttl = flags.ttl === undefined ? {} : { ttl_ms: Math.ceil(flags.ttl * 1_000) };
  const stored = await askAboutRoutes(target, { method: "PUT", body: { key, route, ...ttl } }, RouteRow);
  if (flags.json) terminal.json(stored);
  else {
    const to = shortened(placeOf(stored.route), MAX_ROUTE_CHARS);
    terminal.line(`Answers for ${shortened(key, MAX_KEY_CHARS)} go to ${to} until ${readableTime(stored.expires_at)}.`);
  }
}

/** @throws Problem */
function keyText(text: string): string {
  try {
    readRouteKey(text);
    return text;
  } catch (error) {
    throw new Problem(oneLine(error), 2, error);
  }
}

/** What begins as an object does is one; all else names a room. */
function routeOf(text: string): unknown {
  if (!text.trimStart().startsWith("{")) return { externalRoomId: text };
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Problem(
      `The route is not JSON (${oneLine(error)}); quote it, as in '{"externalRoomId":"C042"}'.`,
      2,
      error,
    );
  }
}

const placeOf = ({ externalRoomId }: z.infer<typeof Place>): string =>
  typeof externalRoomId === "string" ? externalRoomId : (JSON.stringify(externalRoomId) ?? "");

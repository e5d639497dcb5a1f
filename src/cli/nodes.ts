/** `holdfast nodes`: the servers that share a store, and what each of them has in hand (CLI-27). */
import Table from "cli-table3";
import { Command } from "commander";
import { z } from "zod";
import { systemClock } from "../clock.ts";
import { type ConnectionFlags, findTarget, withConnectionFlags } from "./connection.ts";
import { readableTime, shortened, type Terminal } from "./terminal.ts";
import { upFor } from "./up-for.ts";
import { askAboutNodes } from "./v1.ts";

export const Nodes = z.looseObject({
  nodes: z.array(
    z.looseObject({
      node_id: z.string(),
      state: z.string(),
      self: z.boolean(),
      started_at: z.string(),
      beaten_at: z.string(),
      pid: z.number().nullable(),
      host: z.string().nullable(),
      version: z.string(),
      jobs: z.number(),
      sessions: z.number(),
    }),
  ),
});

const PLAIN = { head: [], border: [] };

export function nodesCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("nodes"))
    .description("List the servers that share the store of a server, and what each of them has in hand.")
    .action((flags: ConnectionFlags) => run(flags, terminal));
}

async function run(flags: ConnectionFlags, terminal: Terminal): Promise<void> {
  const listed = await askAboutNodes(await findTarget(flags, process.env), Nodes);
  if (flags.json) terminal.json(listed);
  else terminal.block(tableOf(listed.nodes));
}

/** The one that answered is marked. */
export function tableOf(nodes: z.infer<typeof Nodes>["nodes"]): string {
  const table = new Table({
    head: ["node", "host", "pid", "state", "since", "last heartbeat", "jobs", "sessions", "version"],
    style: PLAIN,
  });
  for (const node of nodes) {
    table.push([
      `${shortened(node.node_id, 48)}${node.self ? " *" : ""}`,
      shortened(node.host ?? "", 40),
      node.pid === null ? "" : String(node.pid),
      shortened(node.state, 12),
      readableTime(node.started_at),
      agoOf(node.beaten_at),
      String(node.jobs),
      String(node.sessions),
      shortened(node.version, 24),
    ]);
  }
  return table.toString();
}

/** By this machine's clock, so it may be a little ahead. */
const agoOf = (iso: string): string =>
  `${upFor(Math.max(0, Math.round((systemClock.wall() - Date.parse(iso)) / 1_000)))} ago`;

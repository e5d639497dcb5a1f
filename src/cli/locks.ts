/** `holdfast locks`: who is at work in which conversation, and an operator's way to end that (CLI-18). */
import Table from "cli-table3";
import { Command } from "commander";
import { z } from "zod";
import { type ConnectionFlags, findTarget, withConnectionFlags } from "./connection.ts";
import { limitOf } from "./limit.ts";
import { LockShape, whereHeld } from "./lock-rows.ts";
import { readableTime, shortened, type Terminal } from "./terminal.ts";
import { askAboutConversations } from "./v1.ts";

const Listed = z.looseObject({
  locks: z.array(LockShape.extend({ conversation_id: z.string() })),
  next_cursor: z.string().nullable(),
});
const Broken = z.looseObject({ outcome: z.literal("broken"), lock: LockShape });

export function locksCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("locks"))
    .description("List the conversations in which somebody is at work, and who holds their locks.")
    .enablePositionalOptions()
    .option("--limit <n>", "how many to list", limitOf, 20)
    .action((flags: ConnectionFlags & { limit: number }) => list(flags, terminal))
    .addCommand(
      withConnectionFlags(new Command("break"))
        .description("Free a lock and end the turn that holds it. For operators; the server's log keeps who and why.")
        .argument("<conversation>", "the conversation's id, as `locks` prints it")
        .requiredOption("--reason <text>", "told to whoever follows the turn")
        .action((id: string, flags: ConnectionFlags & { reason: string }) => breakLock(id, flags, terminal)),
    );
}

async function list(flags: ConnectionFlags & { limit: number }, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const { locks, next_cursor: cursor } = await askAboutConversations(
    target,
    { method: "GET", path: "/locks", query: `limit=${flags.limit}` },
    Listed,
  );
  if (flags.json) {
    for (const lock of locks) terminal.json(lock);
    return;
  }
  if (locks.length === 0) {
    terminal.remark("No locks are held.");
    return;
  }
  const table = new Table({
    head: ["conversation", "holder", "epoch", "where", "since", "until"],
    style: { head: [], border: [] },
  });
  for (const lock of locks) {
    table.push([
      shortened(lock.conversation_id, 64),
      shortened(lock.holder, 40),
      String(lock.epoch),
      whereHeld(lock),
      readableTime(lock.since),
      readableTime(lock.until),
    ]);
  }
  terminal.block(table.toString());
  if (cursor !== null) terminal.remark("There are more; --limit shows up to 1000.");
}

async function breakLock(id: string, flags: ConnectionFlags & { reason: string }, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const broken = await askAboutConversations(
    target,
    { method: "POST", path: "/conversations", id, of: "/lock/break", body: { reason: flags.reason } },
    Broken,
  );
  if (flags.json) terminal.json(broken);
  else terminal.line(`The lock of ${id} is free; ${shortened(broken.lock.holder, 64)} has lost it.`);
}

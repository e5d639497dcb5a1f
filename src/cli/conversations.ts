/** `holdfast conversations [ID]`: where people talk to agents, what runs there and what waits (CLI-17). */
import Table from "cli-table3";
import { Command } from "commander";
import { z } from "zod";
import { parseKey, writeKey } from "../conversation/index.ts";
import { type ConnectionFlags, findTarget, withConnectionFlags } from "./connection.ts";
import { limitOf } from "./limit.ts";
import { type Lock, LockShape, lockRows } from "./lock-rows.ts";
import { readableTime, shortened, type Terminal } from "./terminal.ts";
import { askAboutConversations } from "./v1.ts";

interface ConversationsFlags extends ConnectionFlags {
  limit: number;
  locked: boolean;
}

const Conversation = z.looseObject({
  conversation_id: z.string(),
  source: z.string(),
  key: z.unknown(),
  principal: z.string().nullable(),
  user_id: z.string(),
  created_at: z.string(),
  active_at: z.string(),
  queued: z.number(),
  lock: LockShape.nullable(),
});
const Listed = z.looseObject({ conversations: z.array(Conversation), next_cursor: z.string().nullable() });
const One = Conversation.extend({
  turns: z.array(
    z.looseObject({
      job_id: z.string(),
      agent: z.string(),
      user_id: z.string(),
      state: z.string(),
      place: z.number().optional(),
      status: z.string(),
      submitted_at: z.string(),
    }),
  ),
});
const Deleted = z.looseObject({ outcome: z.literal("deleted") });

type Conversation = z.infer<typeof Conversation>;

const PLAIN = { head: [], border: [] };
const MAX_ID_CHARS = 64;
const MAX_KEY_CHARS = 200;

export function conversationsCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("conversations"))
    .description("List your conversations, newest activity first, or show one with its lock and its turns.")
    .enablePositionalOptions()
    .argument("[id]", "one conversation")
    .option("--limit <n>", "how many to list", limitOf, 20)
    .option("--locked", "only those where somebody is at work", false)
    .action((id: string | undefined, flags: ConversationsFlags) =>
      id === undefined ? list(flags, terminal) : show(id, flags, terminal),
    )
    .addCommand(
      withConnectionFlags(new Command("delete"))
        .description("Remove a conversation that nobody works on. Its jobs are kept as long as others.")
        .argument("<id>", "the conversation's id, as `conversations` prints it")
        .action((id: string, flags: ConnectionFlags) => remove(id, flags, terminal)),
    );
}

async function list(flags: ConversationsFlags, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const query = `limit=${flags.limit}${flags.locked ? "&locked=true" : ""}`;
  const { conversations, next_cursor: cursor } = await askAboutConversations(
    target,
    { method: "GET", path: "/conversations", query },
    Listed,
  );
  if (flags.json) {
    for (const conversation of conversations) terminal.json(conversation);
    return;
  }
  if (conversations.length === 0) {
    terminal.remark("No conversations.");
    return;
  }
  const table = new Table({ head: ["conversation", "key", "whose", "turn", "waiting", "active"], style: PLAIN });
  for (const conversation of conversations) {
    table.push([
      shortened(conversation.conversation_id, MAX_ID_CHARS),
      shortened(keyOf(conversation), 40),
      shortened(conversation.principal ?? "channel", 24),
      shortened(workOf(conversation.lock), 40),
      String(conversation.queued),
      readableTime(conversation.active_at),
    ]);
  }
  terminal.block(table.toString());
  if (cursor !== null) terminal.remark("There are more; --limit shows up to 1000.");
}

async function show(id: string, flags: ConversationsFlags, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const one = await askAboutConversations(target, { method: "GET", path: "/conversations", id, of: "" }, One);
  if (flags.json) {
    terminal.json(one);
    return;
  }
  terminal.line(`conversation  ${one.conversation_id}`);
  terminal.line(`key           ${shortened(keyOf(one), MAX_KEY_CHARS)}`);
  terminal.line(`whose         ${shortened(one.principal ?? "channel", MAX_KEY_CHARS)}`);
  terminal.line(`first spoke   ${shortened(one.user_id, MAX_KEY_CHARS)}, ${readableTime(one.created_at)}`);
  terminal.line(`active        ${readableTime(one.active_at)}`);
  if (one.lock === null) terminal.line("lock          free");
  else for (const [name, value] of lockRows(one.lock)) terminal.line(`${name.padEnd(14)}${value}`);
  terminal.line(`waiting       ${one.queued}`);
  if (one.turns.length === 0) return;
  const table = new Table({ head: ["turn", "agent", "user", "state", "submitted"], style: PLAIN });
  for (const turn of one.turns) {
    const state = turn.state === "ended" ? turn.status : turn.state;
    table.push([
      shortened(turn.job_id, MAX_ID_CHARS),
      shortened(turn.agent, 40),
      shortened(turn.user_id, 24),
      shortened(turn.place === undefined ? state : `${state}, place ${turn.place}`, 24),
      readableTime(turn.submitted_at),
    ]);
  }
  terminal.block(table.toString());
}

async function remove(id: string, flags: ConnectionFlags, terminal: Terminal): Promise<void> {
  const target = await findTarget(flags, process.env);
  const gone = await askAboutConversations(target, { method: "DELETE", path: "/conversations", id, of: "" }, Deleted);
  if (flags.json) terminal.json(gone);
  else terminal.line(`Conversation ${id} is deleted; its jobs are kept as long as others.`);
}

const workOf = (lock: Lock | null): string => (lock === null ? "" : (lock.job_id ?? lock.holder));

/** As `turn --key` takes it; as JSON where this command knows no such key. */
function keyOf({ key }: Conversation): string {
  if (key === null || key === undefined) return "none";
  try {
    return writeKey(parseKey(key));
  } catch {
    return JSON.stringify(key);
  }
}

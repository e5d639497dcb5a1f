/** `holdfast turn --key KEY --agent AGENT [JSON]`: speaks in a conversation, one turn at a time (CLI-16). */
import { Command, InvalidArgumentError, Option } from "commander";
import type { JobHandle, TurnOptions } from "../client/index.ts";
import { readKey } from "../conversation/index.ts";
import { ArcpError } from "../protocol/index.ts";
import { type ConnectionFlags, findTarget, openSession, withConnectionFlags } from "./connection.ts";
import { follow } from "./follow.ts";
import { type JobFlags, jobOptionsOf, withJobFlags } from "./job-options.ts";
import { jsonArgument } from "./json-argument.ts";
import { whileListed } from "./presence.ts";
import { oneLine, Problem } from "./problem.ts";
import type { Terminal } from "./terminal.ts";

interface TurnFlags extends ConnectionFlags, JobFlags {
  key: string;
  agent: string;
  onBusy: NonNullable<TurnOptions["onBusy"]>;
  messageId?: string;
  user?: string;
  follow: boolean;
}

/** The text as it was given, once it is seen to name a place: the server reads it again. */
function checkedKey(text: string): string {
  try {
    readKey(text);
    return text;
  } catch (error) {
    throw new InvalidArgumentError(`${oneLine(error)} Write it as slack:C1/1700.1, web:CHAT, cli:NAME or x-NAME:PART.`);
  }
}

export function turnCommand(terminal: Terminal): Command {
  return withConnectionFlags(withJobFlags(new Command("turn")))
    .description("Speak in a conversation: run an agent there, one turn at a time.")
    .argument("[json]", "the agent's input", "{}")
    .requiredOption(
      "--key <key>",
      "where: slack:CHANNEL/THREAD[/TICKET], web:CHAT, cli:NAME, x-NAME:PART/…",
      checkedKey,
    )
    .requiredOption("--agent <agent>", "NAME or NAME@VERSION")
    .addOption(
      new Option("--on-busy <what>", "while another turn runs: give up, wait in the queue, or stop it")
        .choices(["reject", "enqueue", "interrupt"])
        .default("enqueue"),
    )
    .option("--message-id <id>", "the channel's id of the message: the same one is one turn")
    .option("--user <id>", "who speaks, where that is not you; for operators")
    .option("--follow", "wait for the turn and show its events to the end; Ctrl-C cancels it", false)
    .addHelpText("after", "\nKeys of a channel (slack) need an operator's token.")
    .action(async (json: string, flags: TurnFlags) => {
      process.exitCode = await run(json, flags, terminal);
    });
}

async function run(json: string, flags: TurnFlags, terminal: Terminal): Promise<number> {
  const input = await jsonArgument(json, "input");
  await using session = await openSession(await findTarget(flags, process.env));
  let job: JobHandle;
  try {
    job = await session.turn(flags.key, flags.agent, input, {
      ...jobOptionsOf(flags),
      onBusy: flags.onBusy,
      messageId: flags.messageId,
      userId: flags.user,
    });
  } catch (error) {
    if (!(error instanceof ArcpError)) throw error;
    // CONVERSATION_BUSY says more than the wire code that it travels under.
    const { code = error.code } = error.details ?? {};
    throw new Problem(`${String(code)}: ${error.message}`, 1, error);
  }
  // A Ctrl-C is heard from before the line that asks for it.
  const shown = { json: flags.json, onInterrupt: "cancel" } as const;
  const following = flags.follow
    ? whileListed({ name: `turn ${flags.key}`, jobId: job.id }, session, () => follow(job, terminal, shown))
    : 0;
  if (flags.json) terminal.json({ type: "accepted", ...job.accepted, turn: turnForJson(job.turn) });
  else terminal.line(`${standing(job)}${flags.follow ? "" : `; see it with: holdfast watch ${job.id}`}`);
  return await following;
}

/** As the wire says it. */
const turnForJson = (turn: JobHandle["turn"]): object =>
  turn === undefined
    ? {}
    : {
        conversation_id: turn.conversationId,
        created: turn.created,
        state: turn.state,
        ...(turn.place === undefined ? {} : { place: turn.place }),
      };

function standing({ id, agent, turn }: JobHandle): string {
  const where = turn === undefined ? "" : ` in ${turn.conversationId}`;
  switch (turn?.state) {
    case "queued":
      return `${agent} waits as ${id}, place ${turn.place}${where}`;
    case "repeated":
      return `That message had its turn: ${agent} as ${id}${where}`;
    default:
      return `${agent} runs as ${id}${where}${turn?.created === true ? ", which is new" : ""}`;
  }
}

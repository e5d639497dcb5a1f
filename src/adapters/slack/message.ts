/** What somebody said to the bot: one of Slack's events, read for a turn. */
import type { types } from "@slack/bolt";
import { z } from "zod";
import { fromMrkdwn } from "./mrkdwn.ts";

export interface SlackFile {
  readonly id: string;
  readonly name: string;
  readonly mimetype: string;
  /** In bytes. */
  readonly size: number;
  /** Behind the bot's token, with the scope files:read. */
  readonly url: string;
}

/** What the agent of a turn is given. */
export interface SlackInput {
  /** As it was read in Slack, the bot's own mention left out. */
  readonly text: string;
  readonly user: string;
  readonly team?: string;
  readonly channel: string;
  readonly thread: string;
  /** The message's own id in its channel. */
  readonly ts: string;
  /** What came with it; the files stay in Slack. */
  readonly files?: readonly SlackFile[];
}

export interface SlackMessage {
  readonly channel: string;
  readonly ts: string;
  /** The thread that it opens, or is in. */
  readonly thread: string;
  readonly isReply: boolean;
  readonly isDirect: boolean;
  readonly mentionsBot: boolean;
  readonly user: string;
  readonly text: string;
  readonly files: readonly SlackFile[];
}

const MAX_FILES = 100;

/** Slack has signed it, so this is about what kind of event it is, not about whether to trust it. */
const schema = z.object({
  channel: z.string().min(1),
  ts: z.string().min(1),
  user: z.string().min(1),
  text: z.string().default(""),
  thread_ts: z.string().optional(),
  channel_type: z.string().optional(),
  /** A message with a file, or a reply that is shown in the channel as well; all others are no messages. */
  subtype: z.enum(["file_share", "thread_broadcast"]).optional(),
  bot_id: z.undefined().optional(),
  edited: z.undefined().optional(),
  files: z
    .array(
      z.object({
        id: z.string(),
        name: z.string().nullish(),
        mimetype: z.string().nullish(),
        size: z.number().nullish(),
        url_private: z.string().nullish(),
      }),
    )
    .max(MAX_FILES)
    .default([]),
});

/** @returns nothing for what no person has just written: other bots' messages, edits, joins and so on */
export function readMessage(
  event: types.AppMentionEvent | types.MessageEvent,
  botUserId: string | undefined,
): SlackMessage | undefined {
  const read = schema.safeParse(event);
  if (!read.success) return undefined;
  const { channel, ts, user, text, thread_ts, channel_type, files } = read.data;
  return {
    channel,
    ts,
    thread: thread_ts ?? ts,
    isReply: thread_ts !== undefined && thread_ts !== ts,
    isDirect: channel_type === "im",
    mentionsBot: botUserId !== undefined && [">", "|"].some((end) => text.includes(`<@${botUserId}${end}`)),
    user,
    text: fromMrkdwn(text, botUserId),
    files: files.map(({ id, name, mimetype, size, url_private }) => ({
      id,
      name: name ?? id,
      mimetype: mimetype ?? "application/octet-stream",
      size: size ?? 0,
      url: url_private ?? "",
    })),
  };
}

export function inputOf(message: SlackMessage, team: string | undefined): SlackInput {
  const { text, user, channel, thread, ts, files } = message;
  return {
    text,
    user,
    ...(team === undefined ? {} : { team }),
    channel,
    thread,
    ts,
    ...(files.length === 0 ? {} : { files }),
  };
}

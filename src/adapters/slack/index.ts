/** Slack behind conversations, over Bolt: a channel for answers, and listeners that start turns (SPEC.md, SLK). */
export {
  type SlackAgentOptions,
  type SlackStop,
  type SlackWords,
  type SlackWorkspace,
  slackAgent,
} from "./agent.ts";
export type { SlackToken } from "./api.ts";
export { type SlackChannelOptions, slackChannel } from "./channel.ts";
export type { SlackFile, SlackInput, SlackMessage } from "./message.ts";
export { refuseReplays } from "./replays.ts";

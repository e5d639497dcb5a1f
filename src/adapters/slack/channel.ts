/**
 * Slack as a channel of deliveries: messages in threads, updated in place while the turn runs, with a Stop button
 * until it has ended; files; and each message's delivery in its metadata, so that after an unclear send it is found
 * again. Holds nothing per message. Costs a request to Slack per call, and three per file.
 */
import {
  type CallOptions,
  type Channel,
  ChannelError,
  type ChannelLimits,
  type OutgoingMessage,
  type Receipt,
} from "../../routing/deliveries/channel.ts";
import type { Route } from "../../routing/route.ts";
import { SlackApi, type SlackToken } from "./api.ts";
import { blocksOf, pieces } from "./blocks.ts";
import { share, upload } from "./files.ts";
import { toMrkdwn } from "./mrkdwn.ts";
import { type Place, type Posted, placeOf, postedOf } from "./place.ts";
import { EVENT_TYPE, type Found, lookFor } from "./thread.ts";

export interface SlackChannelOptions {
  /** The bot's token, `xoxb-…`; for several workspaces, what answers each one's. */
  token: SlackToken;
  /** As routes name it. @default "slack" */
  name?: string | undefined;
  /** @default Slack's own, https://slack.com/api/ */
  slackApiUrl?: string | undefined;
  /** Of an answer's text per message, as the agent wrote it. @default 2_600, which is sure to fit once escaped */
  maxTextChars?: number | undefined;
  /** Slack takes some 50 updates a minute in a workspace. @default 1_200 */
  minUpdateIntervalMs?: number | undefined;
  /** Of one call, files and all. @default 20_000 */
  timeoutMs?: number | undefined;
  /** The word on the button that stops a turn; `false` for none. Its click is for slackAgent. @default "Stop" */
  stopButton?: string | false | undefined;
  /** What is shown after the app's name while nothing else is; `false` for nothing. @default "is thinking…" */
  typingText?: string | false | undefined;
  /** Lets agents call people, groups and whole channels by Slack's `<@U…>`, `<!here>` and so on. @default false */
  dangerouslyAllowMentions?: boolean | undefined;
}

/** What nobody can have of an answer that is empty. */
const NO_TEXT = "(no text)";
const WORKING = "…";
/** Of the text that notifications and screen readers have; the blocks have all of it. */
const MAX_FALLBACK_CHARS = 3_000;

/**
 * A channel over a bot's token. It does not listen; {@link slackAgent} does.
 *
 * @throws RangeError for limits that cannot be
 */
export function slackChannel(options: SlackChannelOptions): Channel {
  return new SlackChannel(options);
}

class SlackChannel implements Channel {
  readonly name: string;
  readonly limits: ChannelLimits;
  readonly typing: Channel["typing"];
  readonly #api: SlackApi;
  readonly #stopLabel: string | undefined;
  readonly #mentions: boolean;

  constructor(options: SlackChannelOptions) {
    const { token, slackApiUrl, typingText = "is thinking…", stopButton = "Stop" } = options;
    this.name = options.name ?? "slack";
    this.limits = {
      maxTextChars: whole(options.maxTextChars ?? 2_600, "maxTextChars", 1, 12_000),
      minUpdateIntervalMs: whole(options.minUpdateIntervalMs ?? 1_200, "minUpdateIntervalMs", 0, 60_000),
      timeoutMs: whole(options.timeoutMs ?? 20_000, "timeoutMs", 1, 600_000),
    };
    this.#api = new SlackApi({ token, slackApiUrl });
    this.#stopLabel = stopButton === false ? undefined : stopButton;
    this.#mentions = options.dangerouslyAllowMentions === true;
    this.typing =
      typingText === false ? undefined : (route, { signal }) => this.#setStatus(placeOf(route), typingText, signal);
  }

  async send(message: OutgoingMessage, { signal }: CallOptions): Promise<Receipt> {
    const place = placeOf(message.route);
    const files = await upload(this.#api, place, message.files, signal);
    const posted = await this.#post(place, message, files, signal);
    await this.#shareAfter(place, files, signal);
    return { ...posted };
  }

  async update(receipt: Receipt, message: OutgoingMessage, { signal }: CallOptions): Promise<void> {
    const place = placeOf(message.route);
    const posted = postedOf(receipt);
    if (message.files.length === 0) {
      await this.#rewrite(place, posted, message, [], signal);
      return;
    }
    // An earlier try may have come as far as the files.
    const found = await lookFor(this.#api, place, message.deliveryId, signal);
    const noted = found.parts.find(({ ts }) => ts === posted.ts)?.files ?? [];
    const files = noted.length > 0 ? noted : await upload(this.#api, place, message.files, signal);
    await this.#rewrite(place, posted, message, files, signal);
    await this.#shareMissing(place, files, found, signal);
  }

  async find(
    { route, deliveryId }: { route: Route; deliveryId: string },
    { signal }: CallOptions,
  ): Promise<readonly { part: number; receipt: Receipt }[]> {
    const place = placeOf(route);
    const found = await lookFor(this.#api, place, deliveryId, signal);
    // A part has arrived when its files have.
    for (const { files } of found.parts) await this.#shareMissing(place, files, found, signal);
    return found.parts.map(({ part, ts }) => ({ part, receipt: { channel: place.channel, ts } }));
  }

  async #post(
    { team, channel, thread }: Place,
    message: OutgoingMessage,
    files: readonly string[],
    signal: AbortSignal,
  ): Promise<Posted> {
    const method = "chat.postMessage";
    const answer = await this.#api.call({ method, team, repeatable: false, signal }, (client) =>
      client.chat.postMessage({
        channel,
        ...(thread === undefined ? {} : { thread_ts: thread }),
        ...this.#content(message, files),
        // Slack would fetch what an agent links to, and so tell others what it read.
        unfurl_links: false,
        unfurl_media: false,
      }),
    );
    if (answer.ts === undefined) throw new ChannelError("unclear", `Slack, ${method}: an answer without a ts.`);
    return { channel: answer.channel ?? channel, ts: answer.ts };
  }

  async #rewrite(
    { team }: Place,
    { channel, ts }: Posted,
    message: OutgoingMessage,
    files: readonly string[],
    signal: AbortSignal,
  ): Promise<void> {
    await this.#api.call({ method: "chat.update", team, repeatable: true, signal }, (client) =>
      client.chat.update({ channel, ts, ...this.#content(message, files) }),
    );
  }

  /** The message is there, so what happens now leaves it unclear whether all of it is. */
  async #shareAfter(place: Place, files: readonly string[], signal: AbortSignal): Promise<void> {
    try {
      await share(this.#api, place, files, signal);
    } catch (error) {
      if (!(error instanceof ChannelError) || error.kind === "unclear") throw error;
      throw new ChannelError("unclear", `${error.message} The message is there, its files are not.`, { cause: error });
    }
  }

  async #shareMissing(place: Place, files: readonly string[], { shared }: Found, signal: AbortSignal): Promise<void> {
    const missing = files.filter((id) => !shared.has(id));
    await share(this.#api, place, missing, signal);
  }

  #content(message: OutgoingMessage, files: readonly string[]) {
    const { text, status, deliveryId, part, jobId, conversationId } = message;
    const working = status === "working";
    const shown = text.trim() === "" ? (working ? WORKING : NO_TEXT) : text;
    const mrkdwn = toMrkdwn(shown.toWellFormed(), this.#mentions);
    const label = this.#stopLabel;
    return {
      text: pieces(mrkdwn, MAX_FALLBACK_CHARS)[0] ?? mrkdwn,
      blocks: blocksOf(mrkdwn, working && label !== undefined ? { conversationId, jobId, label } : undefined),
      metadata: {
        event_type: EVENT_TYPE,
        event_payload: {
          delivery_id: deliveryId,
          part,
          ...(files.length === 0 ? {} : { files: files.join(",") }),
        },
      },
      // No names or channels are looked for in the text.
      parse: "none" as const,
      link_names: false,
    };
  }

  async #setStatus({ team, channel, thread }: Place, status: string, signal: AbortSignal): Promise<void> {
    // Slack shows it under a thread only. It goes with the next message there, or after two minutes.
    if (thread === undefined) return;
    const call = { method: "assistant.threads.setStatus", team, repeatable: true, signal };
    await this.#api.call(call, (client) =>
      client.assistant.threads.setStatus({ channel_id: channel, thread_ts: thread, status }),
    );
  }
}

function whole(value: number, name: string, least: number, most: number): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw new RangeError(`${name}: ${value} is not a whole number from ${least} to ${most}.`);
}

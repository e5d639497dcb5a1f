/**
 * Slack in front of an agent: listeners on a Bolt app. A mention, a direct message, or a reply in a thread that the
 * bot takes part in is a turn of that thread's conversation, and its answer goes back there (SLK). Holds nothing in
 * memory; a message costs one commit of the store, a reply that is nobody's business one read.
 */
import type { App, BlockButtonAction, Context, webApi } from "@slack/bolt";
import type { Conversations } from "../../conversation/index.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import type { Runtime } from "../../runtime/index.ts";
import { SlackApi } from "./api.ts";
import { STOP_ACTION } from "./blocks.ts";
import { inputOf, readMessage, type SlackMessage } from "./message.ts";
import { escapeMrkdwn } from "./mrkdwn.ts";

/** The workspace that an event came from, as the app is installed there. */
export interface SlackWorkspace {
  readonly teamId: string | undefined;
  readonly enterpriseId: string | undefined;
}

/** Somebody's wish to stop a turn. */
export interface SlackStop extends SlackWorkspace {
  readonly userId: string;
  /** Who asked what is being answered. */
  readonly askedBy: string;
  readonly conversationId: string;
  readonly jobId: string;
}

/** What the bot says for itself; Slack's mrkdwn, which texts from elsewhere are escaped for. */
export interface SlackWords {
  /** `place` from 1. */
  queued(place: number): string;
  busy(): string;
  /** `reason`: what Holdfast has against it. */
  refused(reason: string): string;
  /** Nobody knows whether it was taken. */
  failed(): string;
  mayNotStop(): string;
  stoppedAlready(): string;
}

export interface SlackAgentOptions {
  /** Whose jobs the turns are. */
  runtime: Pick<Runtime, "jobs">;
  conversations: Pick<Conversations, "startTurn" | "lookup" | "get">;
  /** Which agent answers: `name` or `name@version`. */
  agent: string | ((message: SlackMessage) => string);
  /** Whose jobs a workspace's turns are; its limits count. */
  principal: string | ((workspace: SlackWorkspace) => string);
  /** While the thread's last turn runs. @default "enqueue" */
  onBusy?: "reject" | "enqueue" | "interrupt" | undefined;
  /** As {@link slackChannel} has it. @default "slack" */
  channel?: string | undefined;
  /** Whether a reply in a thread that the bot takes part in needs no mention. @default true */
  threadReplies?: boolean | undefined;
  /** @default anybody who can click */
  mayStop?: ((stop: SlackStop) => boolean | Promise<boolean>) | undefined;
  words?: Partial<SlackWords> | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
}

const WORDS: SlackWords = {
  queued: (place) =>
    place === 1
      ? "I am still working in this thread; yours is next."
      : `I am still working in this thread; yours is number ${place} in line.`,
  busy: () => "I am still working in this thread. Please ask again when I am done.",
  refused: (reason) => `I cannot take this: ${reason}`,
  failed: () => "Something went wrong on my side. If no answer comes within some minutes, please send it again.",
  mayNotStop: () => "You may not stop this.",
  stoppedAlready: () => "That is over already.",
};

/** Puts the listeners on the app; turns start as soon as the app does. */
export function slackAgent(app: App, options: SlackAgentOptions): void {
  const agent = new SlackAgent(options);
  app.event("app_mention", async (heard) => {
    const message = readMessage(heard.event, heard.context.botUserId);
    if (message !== undefined) await agent.said(message, heard);
  });
  app.message(async (heard) => {
    const message = readMessage(heard.message, heard.context.botUserId);
    if (message !== undefined && (await agent.isMeant(message, heard.context))) await agent.said(message, heard);
  });
  app.action<BlockButtonAction>({ type: "block_actions", action_id: STOP_ACTION }, async (click) => {
    await click.ack();
    await agent.stop(click.body, click);
  });
}

/** What Bolt knows of an event. */
interface Heard {
  readonly context: Context;
  readonly client: Pick<webApi.WebClient, "slackApiUrl">;
}

class SlackAgent {
  readonly #options: SlackAgentOptions;
  readonly #words: SlackWords;
  readonly #logger: Logger;

  constructor(options: SlackAgentOptions) {
    this.#options = options;
    this.#words = { ...WORDS, ...options.words };
    this.#logger = options.logger ?? silentLogger;
  }

  /** Whether a message is to the bot, of which it is told by no other event. */
  async isMeant(message: SlackMessage, context: Context): Promise<boolean> {
    if (message.isDirect) return true;
    // A mention in a channel comes as an event of its own.
    if (!message.isReply || message.mentionsBot || this.#options.threadReplies === false) return false;
    const { channel, thread } = message;
    const principal = this.#principal(context);
    const key = { source: "slack" as const, channel, thread };
    return (await this.#options.conversations.lookup(key, { principal })) !== undefined;
  }

  async said(message: SlackMessage, heard: Heard): Promise<void> {
    const { context } = heard;
    const { conversations, agent, onBusy, channel: name = "slack" } = this.#options;
    const { channel, thread, ts, user } = message;
    const { teamId: team, enterpriseId } = context;
    try {
      const started = await conversations.startTurn({
        key: { source: "slack", team, channel, thread },
        principal: this.#principal(context),
        userId: user,
        agent: typeof agent === "string" ? agent : agent(message),
        input: inputOf(message, team),
        onBusy,
        // A mention comes as two events, and each of them as often as Slack likes; this they have in common.
        messageId: `${channel}:${ts}`,
        // To the thread itself, unless the table of routes says otherwise.
        replyTo: {
          routeKey: { channel: name, bridge: team ?? enterpriseId ?? "slack", room: channel, thread },
          fallbacks: {
            externalRoomId: channel,
            channel: name,
            ...(team === undefined ? {} : { bridgeId: team }),
            threadId: thread,
          },
        },
      });
      if (started.state === "queued") this.#tell(heard, message, this.#words.queued(started.place ?? 1));
    } catch (error) {
      this.#tell(heard, message, this.#apology(error));
      // Not this message's fault: Bolt logs it, and where it has not acknowledged the event yet, Slack comes again.
      if (!isRefusal(error)) throw error;
      this.#logger.info({ code: error.code, channel, thread }, "a message from Slack was not taken");
    }
  }

  async stop(body: BlockButtonAction, heard: Heard): Promise<void> {
    const { context } = heard;
    const { runtime, conversations, mayStop } = this.#options;
    const [conversationId = "", jobId = ""] = body.actions[0]?.value?.split(" ") ?? [];
    const userId = body.user.id;
    const tell = (text: string): void =>
      this.#tell(heard, { channel: body.channel?.id, user: userId, thread: threadOf(body) }, text);
    const principal = this.#principal(context);
    try {
      const { turns } = await conversations.get(conversationId, { principal, operator: true });
      const turn = turns.find((one) => one.jobId === jobId && one.state !== "ended");
      if (turn === undefined) {
        tell(this.#words.stoppedAlready());
        return;
      }
      const wish: SlackStop = { ...workspaceOf(context), userId, askedBy: turn.userId, conversationId, jobId };
      if (mayStop !== undefined && !(await mayStop(wish))) {
        tell(this.#words.mayNotStop());
        return;
      }
      await runtime.jobs.cancel(jobId, principal, `stopped by ${userId} in Slack`);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      // Its conversation, or its job, is gone.
      tell(this.#words.stoppedAlready());
    }
  }

  #principal(context: Context): string {
    const { principal } = this.#options;
    return typeof principal === "string" ? principal : principal(workspaceOf(context));
  }

  #apology(error: unknown): string {
    if (!isRefusal(error)) return this.#words.failed();
    return error.details?.["code"] === "CONVERSATION_BUSY"
      ? this.#words.busy()
      : this.#words.refused(escapeMrkdwn(error.message));
  }

  /**
   * To that person alone, and for now: what must arrive goes through deliveries. Not by Bolt's own client, which would
   * go on trying for half an hour, and keep the process alive for it.
   */
  #tell(
    { context, client }: Heard,
    where: { channel: string | undefined; user: string; thread: string | undefined; isReply?: boolean },
    text: string,
  ): void {
    const { channel, user, thread, isReply = true } = where;
    const { botToken: token, teamId: team } = context;
    if (channel === undefined || token === undefined) return;
    const call = { method: "chat.postEphemeral", team, repeatable: true, signal: new AbortController().signal };
    new SlackApi({ token, slackApiUrl: client.slackApiUrl })
      .call(call, ({ chat }) =>
        // A thread without a reply is not looked at yet.
        chat.postEphemeral({ channel, user, text, ...(isReply && thread !== undefined ? { thread_ts: thread } : {}) }),
      )
      .catch((error: unknown) => this.#logger.warn({ err: error, channel }, "Slack took no word from the bot"));
  }
}

/** Holdfast has understood, and says no. */
const isRefusal = (error: unknown): error is ArcpError => error instanceof ArcpError && error.code !== "INTERNAL_ERROR";

const workspaceOf = ({ teamId, enterpriseId }: Context): SlackWorkspace => ({ teamId, enterpriseId });

function threadOf({ message }: BlockButtonAction): string | undefined {
  const thread: unknown = message?.["thread_ts"];
  return typeof thread === "string" ? thread : undefined;
}

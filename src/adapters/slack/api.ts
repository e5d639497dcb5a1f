/**
 * Calls of Slack's Web API for deliveries: none is retried here, for the outbox decides, and each ends with its
 * signal. A call costs a client of its own (0.3 ms), since a `WebClient` retries as it was made to, and knows no
 * signal per call.
 */
import { webApi } from "@slack/bolt";
import { ChannelError } from "../../routing/deliveries/channel.ts";
import { slackError } from "./errors.ts";

type WebClient = webApi.WebClient;

/** The bot's token, or how to get that of a workspace's installation. */
export type SlackToken = string | ((teamId: string | undefined) => string | Promise<string>);

export interface SlackApiOptions {
  token: SlackToken;
  slackApiUrl: string | undefined;
}

export interface SlackCall {
  /** Its name, as limits and messages have it. */
  method: string;
  team: string | undefined;
  /** Doing it twice does no harm. */
  repeatable: boolean;
  signal: AbortSignal;
}

export class SlackApi {
  readonly #options: SlackApiOptions;
  /** The bot of each team's token, for messages that say whose they are. */
  readonly #bots = new Map<string | undefined, string>();

  constructor(options: SlackApiOptions) {
    this.#options = options;
  }

  /** @throws ChannelError */
  async call<T>(call: SlackCall, work: (client: WebClient) => Promise<T>): Promise<T> {
    const { method, repeatable, signal } = call;
    if (signal.aborted) throw new ChannelError("retry", `Slack, ${method}: given up before it began.`);
    const client = await this.#client(call);
    try {
      return await work(client);
    } catch (error) {
      throw slackError(error, method, repeatable);
    }
  }

  /** Which bot the token of that team is. */
  async bot(team: string | undefined, signal: AbortSignal): Promise<string> {
    const known = this.#bots.get(team);
    if (known !== undefined) return known;
    const { bot_id } = await this.call({ method: "auth.test", team, repeatable: true, signal }, (client) =>
      client.auth.test(),
    );
    if (bot_id === undefined) throw new ChannelError("retry", "Slack, auth.test: the token is no bot's; give a bot's.");
    this.#bots.set(team, bot_id);
    return bot_id;
  }

  async #client({ team, signal, method }: SlackCall): Promise<WebClient> {
    const { token, slackApiUrl } = this.#options;
    let given: string;
    try {
      given = typeof token === "string" ? token : await token(team);
    } catch (error) {
      throw new ChannelError("retry", `Slack, ${method}: there is no token for the workspace ${team ?? "(none)"}.`, {
        cause: error,
      });
    }
    return new webApi.WebClient(given, {
      ...(slackApiUrl === undefined ? {} : { slackApiUrl }),
      retryConfig: { retries: 0 },
      rejectRateLimitedCalls: true,
      allowAbsoluteUrls: false,
      logger: QUIET,
      fetch: async (url, init) => limitWithTime(await fetch(url, { ...init, signal })),
    });
  }
}

/** The client gives up on a limit without a time; then it is a second. */
const limitWithTime = (response: Response): Response =>
  response.status === 429 && !/^\d+$/.test(response.headers.get("retry-after") ?? "")
    ? new Response(null, { status: 429, headers: { "retry-after": "1" } })
    : response;

/** Everything that goes wrong is thrown, and said by whoever catches it. */
const QUIET: NonNullable<webApi.WebClientOptions["logger"]> = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  setLevel: () => undefined,
  getLevel: () => webApi.LogLevel.ERROR,
  setName: () => undefined,
};

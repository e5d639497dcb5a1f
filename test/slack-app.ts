/**
 * Slack's side of an app's events: requests signed as Slack signs them, in the shapes that Slack sends, over real
 * HTTP; and a Bolt app on loopback that takes them. Its Web API is Slack's double.
 */
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { App, HTTPReceiver, LogLevel } from "@slack/bolt";
import { refuseReplays } from "../src/adapters/slack/index.ts";
import { systemClock } from "../src/clock.ts";
import { BOT_TOKEN, BOT_USER, type SlackDouble, type SlackMessageSeen, stopButtonOf, TEAM } from "./slack-double.ts";

export const SIGNING_SECRET = "the-signing-secret-of-the-tests";

export interface SlackRequestOptions {
  /** Seconds since the epoch. @default now */
  timestamp?: number;
  /** `null`: none. @default the right one */
  signature?: string | null;
  headers?: Record<string, string>;
}

/** What a person writes. */
export interface Written {
  text: string;
  user?: string;
  channel?: string;
  thread?: string;
  ts?: string;
  /** Whatever else the event is to have. */
  rest?: object;
}

export class SlackEvents {
  readonly #url: string;
  readonly #double: SlackDouble;
  #events = 0;

  /** @param port of the app, on loopback */
  constructor(port: number, double: SlackDouble) {
    this.#url = `http://127.0.0.1:${port}/slack/events`;
    this.#double = double;
  }

  /** Sends a body as Slack does, and answers the status. */
  async post(body: string, type: string, options: SlackRequestOptions = {}): Promise<number> {
    const { timestamp = Math.floor(systemClock.wall() / 1_000), headers = {} } = options;
    const { signature = sign(body, timestamp) } = options;
    const response = await fetch(this.#url, {
      method: "POST",
      headers: {
        "content-type": type,
        "x-slack-request-timestamp": String(timestamp),
        ...(signature === null ? {} : { "x-slack-signature": signature }),
        ...headers,
      },
      body,
    });
    await response.body?.cancel();
    return response.status;
  }

  /** One of the Events API. */
  envelope(event: object): string {
    this.#events += 1;
    return JSON.stringify({
      token: "legacy",
      team_id: TEAM,
      api_app_id: "A1",
      event,
      type: "event_callback",
      event_id: `Ev${this.#events}`,
      event_time: Math.floor(systemClock.wall() / 1_000),
      authorizations: [
        { enterprise_id: null, team_id: TEAM, user_id: BOT_USER, is_bot: true, is_enterprise_install: false },
      ],
      is_ext_shared_channel: false,
    });
  }

  async send(event: object, options?: SlackRequestOptions): Promise<void> {
    assert.equal(await this.post(this.envelope(event), "application/json", options), 200);
  }

  /** A message that mentions the bot, as both events that an app gets for it. */
  async mention(written: Written): Promise<Required<Pick<Written, "channel" | "ts" | "thread">>> {
    const event = this.message({ ...written, text: `<@${BOT_USER}> ${written.text}` });
    await Promise.all([this.send({ ...event, type: "app_mention", channel_type: undefined }), this.send(event)]);
    return { channel: event.channel, ts: event.ts, thread: event.thread_ts ?? event.ts };
  }

  /** The event of a message in a channel, or in a direct one. */
  message({ text, user = "U1", channel = "C1", thread, ts, rest = {} }: Written) {
    const at = ts ?? this.#double.write(channel, { text, ...(thread === undefined ? {} : { thread }) });
    return {
      type: "message",
      client_msg_id: crypto.randomUUID(),
      user,
      text,
      ts: at,
      event_ts: at,
      team: TEAM,
      channel,
      channel_type: channel.startsWith("D") ? "im" : "channel",
      ...(thread === undefined ? {} : { thread_ts: thread }),
      ...rest,
    };
  }

  /** Somebody clicks the Stop button of a message. */
  async clickStop(message: SlackMessageSeen, user = "U1"): Promise<void> {
    const button = stopButtonOf(message);
    assert(button !== undefined, "the message has no button");
    await this.click(message, button.value ?? "", user);
  }

  async click(message: SlackMessageSeen, value: string, user = "U1"): Promise<void> {
    const payload = {
      type: "block_actions",
      user: { id: user, username: "somebody", team_id: TEAM },
      api_app_id: "A1",
      token: "legacy",
      container: { type: "message", message_ts: message.ts, channel_id: message.channel, is_ephemeral: false },
      trigger_id: "1.2.abc",
      team: { id: TEAM, domain: "double" },
      channel: { id: message.channel, name: "general" },
      message: { type: "message", ts: message.ts, text: message.text, thread_ts: message.thread },
      response_url: "http://127.0.0.1:9/never",
      actions: [
        {
          type: "button",
          action_id: "holdfast_stop",
          block_id: "b1",
          text: { type: "plain_text", text: "Stop" },
          value,
          action_ts: "1.000000",
        },
      ],
    };
    const body = new URLSearchParams({ payload: JSON.stringify(payload) }).toString();
    assert.equal(await this.post(body, "application/x-www-form-urlencoded"), 200);
  }
}

/** A Bolt app of this process, and its events. */
export class SlackApp extends SlackEvents {
  readonly #app: App;
  readonly #server: Server;

  private constructor(app: App, server: Server, double: SlackDouble) {
    super((server.address() as AddressInfo).port, double);
    this.#app = app;
    this.#server = server;
  }

  /** @param listen puts its listeners on the app */
  static async start(double: SlackDouble, listen: (app: App) => void): Promise<SlackApp> {
    const receiver = refuseReplays(
      new HTTPReceiver({
        signingSecret: SIGNING_SECRET,
        // Acknowledged once the turn is stored: what is lost before, Slack sends again.
        processBeforeResponse: true,
        logLevel: LogLevel.ERROR,
        logger: QUIET,
      }),
    );
    const app = new App({
      token: BOT_TOKEN,
      receiver,
      clientOptions: { slackApiUrl: double.apiUrl, retryConfig: { retries: 0 } },
      logger: QUIET,
    });
    listen(app);
    return new SlackApp(app, await receiver.start({ port: 0, host: "127.0.0.1" }), double);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await this.#app.stop();
  }
}

export const sign = (body: string, timestamp: number, secret = SIGNING_SECRET): string =>
  `v0=${createHmac("sha256", secret).update(`v0:${timestamp}:${body}`).digest("hex")}`;

/** Refused requests are told to the log, and these tests refuse many. */
const QUIET = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  setLevel: () => undefined,
  getLevel: () => LogLevel.ERROR,
  setName: () => undefined,
};

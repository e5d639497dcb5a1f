/**
 * Slack's Web API on loopback: the methods that the adapter and Bolt use, each with the arguments that Slack
 * documents, checked strictly. A call that Slack would not understand is answered as Slack would, and noted, and the
 * test fails at the end. It can limit, fail, hang, and break a connection before or after it took a message.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import { z } from "zod";
import { systemClock } from "../src/clock.ts";

export const BOT_TOKEN = "xoxb-of-the-double";
export const BOT_USER = "UBOT";
export const BOT_ID = "BBOT";
export const TEAM = "T1";

export interface SlackMessageSeen {
  readonly channel: string;
  readonly ts: string;
  readonly thread: string | undefined;
  text: string;
  blocks: readonly Block[];
  metadata: unknown;
  readonly botId: string | undefined;
  readonly files: readonly SlackFile[];
  /** What stood here before, the oldest first. */
  readonly earlier: string[];
}

export interface SlackFile {
  readonly id: string;
  readonly name: string;
  readonly data: Uint8Array;
}

export interface SlackCallSeen {
  readonly method: string;
  readonly args: Readonly<Record<string, unknown>>;
}

/** What the next call of a method meets instead of its answer. */
export type SlackFault =
  /** `{"ok": false, "error": …}` */
  | { error: string }
  | { status: number; body?: string; headers?: Record<string, string> }
  /** The connection breaks, before or after the call took effect. */
  | { broken: "before" | "after" }
  /** Nobody answers, before or after the call took effect, until the caller is gone. */
  | { hangs: "before" | "after" };

type Block = z.infer<typeof block>;

const ts = z.string().regex(/^\d+\.\d{6}$/);
const channelId = z.string().regex(/^[CDG][A-Z0-9]+$/);
const flag = z.enum(["true", "false"]).transform((text) => text === "true");
const json = <T extends z.ZodType>(schema: T) =>
  z.string().transform((text, context): z.infer<T> => {
    try {
      return schema.parse(JSON.parse(text));
    } catch (error) {
      context.issues.push({ code: "custom", message: String(error), input: text });
      return z.NEVER;
    }
  });

const section = z.strictObject({
  type: z.literal("section"),
  text: z.strictObject({
    type: z.literal("mrkdwn"),
    text: z.string().min(1).max(3_000),
    verbatim: z.boolean().optional(),
  }),
  expand: z.boolean().optional(),
});
const button = z.strictObject({
  type: z.literal("button"),
  action_id: z.string().min(1).max(255),
  text: z.strictObject({ type: z.literal("plain_text"), text: z.string().min(1).max(75) }),
  style: z.enum(["primary", "danger"]).optional(),
  value: z.string().max(2_000).optional(),
});
const actions = z.strictObject({ type: z.literal("actions"), elements: z.array(button).min(1).max(25) });
const block = z.discriminatedUnion("type", [section, actions]);
const metadata = z.strictObject({
  event_type: z.string().regex(/^[a-zA-Z0-9_]+$/),
  event_payload: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
});
const content = {
  channel: channelId,
  text: z.string(),
  blocks: json(z.array(block).min(1).max(50)).optional(),
  metadata: json(metadata).optional(),
  parse: z.enum(["none", "full"]).optional(),
  link_names: flag.optional(),
};
/** Bolt's clients add it to each call. */
const team = { team_id: z.string().optional() };
const window = {
  ...team,
  channel: channelId,
  include_all_metadata: flag.optional(),
  limit: z.coerce.number().int().min(1).max(999).optional(),
  oldest: ts.optional(),
  cursor: z.string().optional(),
};

const METHODS = {
  "auth.test": z.strictObject({ ...team, token: z.string().optional() }),
  "chat.postMessage": z.strictObject({
    ...team,
    ...content,
    thread_ts: ts.optional(),
    unfurl_links: flag.optional(),
    unfurl_media: flag.optional(),
  }),
  "chat.update": z.strictObject({ ...team, ...content, ts }),
  "chat.postEphemeral": z.strictObject({
    ...team,
    channel: channelId,
    user: z.string().regex(/^[UW]/),
    text: z.string().min(1),
    thread_ts: ts.optional(),
  }),
  "conversations.replies": z.strictObject({ ...window, ts }),
  "conversations.history": z.strictObject(window),
  "assistant.threads.setStatus": z.strictObject({
    ...team,
    channel_id: channelId,
    thread_ts: ts,
    status: z.string(),
  }),
  "files.getUploadURLExternal": z.strictObject({
    ...team,
    filename: z.string().min(1),
    length: z.coerce.number().int().min(1),
  }),
  "files.completeUploadExternal": z.strictObject({
    ...team,
    files: json(z.array(z.strictObject({ id: z.string() })).min(1)),
    channel_id: channelId.optional(),
    thread_ts: ts.optional(),
  }),
} as const;

type Method = keyof typeof METHODS;
type Args<M extends Method> = z.infer<(typeof METHODS)[M]>;
type Answer = Record<string, unknown>;

const isMethod = (name: string): name is Method => Object.hasOwn(METHODS, name);

/** A refusal, as Slack tells it. */
class Refused extends Error {}

const MAX_TEXT_CHARS = 4_000;
const MAX_BLOCKS_CHARS = 13_200;

export class SlackDouble {
  /** In the order in which they came. */
  readonly messages: SlackMessageSeen[] = [];
  readonly ephemerals: Args<"chat.postEphemeral">[] = [];
  readonly statuses: Args<"assistant.threads.setStatus">[] = [];
  readonly calls: SlackCallSeen[] = [];
  /** What Slack would not have understood. */
  readonly violations: string[] = [];
  readonly archived = new Set<string>();
  /** Channels that are there; the app is in those that are true. */
  readonly channels = new Map<string, boolean>([
    ["C1", true],
    ["C2", true],
    ["D1", true],
    ["C3", false],
  ]);
  /** Calls that were left to hang. */
  hanging = 0;
  /** Messages per page of a thread, at most. */
  page = 1_000;
  readonly #server: Server = createServer((request, response) => void this.#serve(request, response));
  readonly #faults = new Map<string, SlackFault[]>();
  readonly #uploads = new Map<string, { name: string; length: number; data: Uint8Array | undefined; used: boolean }>();
  #last = 0;

  static async start(): Promise<SlackDouble> {
    const double = new SlackDouble();
    double.#server.listen(0, "127.0.0.1");
    await once(double.#server, "listening");
    return double;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get apiUrl(): string {
    return `${this.origin}/api/`;
  }

  /** The next call of that method (`upload` for the bytes of a file) meets this; several wait in order. */
  fail(method: Method | "upload", fault: SlackFault): void {
    this.#faults.set(method, [...(this.#faults.get(method) ?? []), fault]);
  }

  count(method: Method): number {
    return this.calls.filter((call) => call.method === method).length;
  }

  /** The messages of a thread, without the one that it is under. */
  thread(channel: string, under: string | undefined): SlackMessageSeen[] {
    return this.messages.filter((message) => message.channel === channel && message.thread === under);
  }

  /** Somebody else writes there. */
  write(channel: string, given: Partial<Pick<SlackMessageSeen, "thread" | "text" | "metadata" | "botId">>): string {
    const message: SlackMessageSeen = {
      channel,
      ts: this.nextTs(),
      thread: given.thread,
      text: given.text ?? "",
      blocks: [],
      metadata: given.metadata,
      botId: given.botId,
      files: [],
      earlier: [],
    };
    this.messages.push(message);
    return message.ts;
  }

  /** Unique, and later than all before. */
  nextTs(): string {
    this.#last = Math.max(this.#last + 1, Math.floor(systemClock.wall() * 1_000));
    return `${Math.floor(this.#last / 1e6)}.${String(this.#last % 1e6).padStart(6, "0")}`;
  }

  /** Takes no connections any more. */
  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    assert.deepEqual(this.violations, [], "Slack would not have understood these calls");
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? "/", "http://double").pathname;
    const body = await buffer(request).catch(() => undefined);
    // The caller went away while it asked.
    if (body === undefined) return;
    const [, folder, name = ""] = path.split("/");
    const fault = this.#faults.get(folder === "upload" ? "upload" : name)?.shift();
    if (fault !== undefined && "hangs" in fault) {
      if (fault.hangs === "after") this.#answer(name, request, body);
      this.hanging += 1;
      return;
    }
    if (fault !== undefined && "broken" in fault && fault.broken === "before") {
      request.socket.destroy();
      return;
    }
    if (fault !== undefined && "status" in fault) {
      response.writeHead(fault.status, fault.headers).end(fault.body ?? "");
      return;
    }
    if (folder === "upload") {
      this.#upload(name, request, response, body);
      return;
    }
    const answer =
      fault !== undefined && "error" in fault ? { ok: false, error: fault.error } : this.#answer(name, request, body);
    if (fault !== undefined && "broken" in fault) request.socket.destroy();
    else response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer));
  }

  #answer(name: string, request: IncomingMessage, body: Buffer): Answer {
    const understood = this.#understood(name, request, body);
    if (understood === undefined) return { ok: false, error: isMethod(name) ? "invalid_arguments" : "unknown_method" };
    const { method, form } = understood;
    this.calls.push({ method, args: form });
    if (request.headers.authorization !== `Bearer ${BOT_TOKEN}`) return { ok: false, error: "invalid_auth" };
    try {
      return { ok: true, ...this.#carryOut(method, form) };
    } catch (error) {
      if (error instanceof Refused) return { ok: false, error: error.message };
      throw error;
    }
  }

  #understood(name: string, request: IncomingMessage, body: Buffer) {
    const violation = (what: string): undefined => {
      this.violations.push(`${name}: ${what}`);
    };
    if (request.method !== "POST") return violation(`${request.method} instead of POST`);
    if (!isMethod(name)) return violation("is no method that is known here");
    if (request.headers["content-type"] !== "application/x-www-form-urlencoded") {
      return violation(`content-type ${request.headers["content-type"]}`);
    }
    if (!/^Bearer \S+$/.test(request.headers.authorization ?? "")) return violation("no token");
    const form = Object.fromEntries(new URLSearchParams(body.toString("utf8")));
    const read = METHODS[name].safeParse(form);
    if (!read.success) return violation(z.prettifyError(read.error));
    return { method: name, form: read.data as Record<string, unknown> };
  }

  #carryOut(method: Method, form: Record<string, unknown>): Answer {
    switch (method) {
      case "auth.test":
        return {
          url: "https://double.slack.com/",
          team: "Double",
          user: "bot",
          team_id: TEAM,
          user_id: BOT_USER,
          bot_id: BOT_ID,
        };
      case "chat.postMessage":
        return this.#post(form as Args<"chat.postMessage">);
      case "chat.update":
        return this.#update(form as Args<"chat.update">);
      case "chat.postEphemeral":
        this.#open((form as Args<"chat.postEphemeral">).channel);
        this.ephemerals.push(form as Args<"chat.postEphemeral">);
        return { message_ts: this.nextTs() };
      case "conversations.replies":
        return this.#replies(form as Args<"conversations.replies">);
      case "conversations.history":
        return this.#page(form as Args<"conversations.history">, ({ thread }) => thread === undefined);
      case "assistant.threads.setStatus":
        this.statuses.push(form as Args<"assistant.threads.setStatus">);
        return {};
      case "files.getUploadURLExternal": {
        const { filename, length } = form as Args<"files.getUploadURLExternal">;
        const id = `F${this.#uploads.size + 1}`;
        this.#uploads.set(id, { name: filename, length, data: undefined, used: false });
        return { upload_url: `${this.origin}/upload/${id}`, file_id: id };
      }
      case "files.completeUploadExternal":
        return this.#complete(form as Args<"files.completeUploadExternal">);
    }
  }

  #open(channel: string): void {
    const member = this.channels.get(channel);
    if (member === undefined) throw new Refused("channel_not_found");
    if (this.archived.has(channel)) throw new Refused("is_archived");
    if (!member) throw new Refused("not_in_channel");
  }

  #check(text: string, blocks: readonly Block[]): void {
    if (text === "" && blocks.length === 0) throw new Refused("no_text");
    if (text.length > MAX_TEXT_CHARS) throw new Refused("msg_too_long");
    const chars = blocks.reduce((sum, one) => sum + (one.type === "section" ? one.text.text.length : 0), 0);
    if (chars > MAX_BLOCKS_CHARS) throw new Refused("msg_blocks_too_long");
  }

  #post({ channel, text, blocks = [], metadata: given, thread_ts }: Args<"chat.postMessage">): Answer {
    this.#open(channel);
    this.#check(text, blocks);
    const message: SlackMessageSeen = {
      channel,
      ts: this.nextTs(),
      thread: thread_ts,
      text,
      blocks,
      metadata: given,
      botId: BOT_ID,
      files: [],
      earlier: [],
    };
    this.messages.push(message);
    return { channel, ts: message.ts, message: this.#told(message, true) };
  }

  #update({ channel, ts: at, text, blocks = [], metadata: given }: Args<"chat.update">): Answer {
    this.#open(channel);
    const message = this.messages.find((one) => one.channel === channel && one.ts === at);
    if (message === undefined) throw new Refused("message_not_found");
    if (message.botId !== BOT_ID) throw new Refused("cant_update_message");
    this.#check(text, blocks);
    message.earlier.push(shownText(message));
    message.text = text;
    message.blocks = blocks;
    if (given !== undefined) message.metadata = given;
    return { channel, ts: at, text };
  }

  #replies(form: Args<"conversations.replies">): Answer {
    const under = form.ts;
    if (!this.messages.some((one) => one.channel === form.channel && (one.ts === under || one.thread === under))) {
      this.#open(form.channel);
      throw new Refused("thread_not_found");
    }
    return this.#page(form, (one) => one.thread === under || one.ts === under, under);
  }

  #page(
    { channel, oldest = "0", limit = 100, cursor, include_all_metadata }: Args<"conversations.history">,
    fits: (message: SlackMessageSeen) => boolean,
    always?: string,
  ): Answer {
    this.#open(channel);
    const all = this.messages.filter(
      (one) => one.channel === channel && fits(one) && (one.ts === always || Number(one.ts) > Number(oldest)),
    );
    const from = cursor === undefined ? 0 : Number(Buffer.from(cursor, "base64").toString());
    if (!Number.isSafeInteger(from)) throw new Refused("invalid_cursor");
    const to = from + Math.min(limit, this.page);
    const more = to < all.length;
    return {
      messages: all.slice(from, to).map((one) => this.#told(one, include_all_metadata === true)),
      has_more: more,
      ...(more ? { response_metadata: { next_cursor: Buffer.from(String(to)).toString("base64") } } : {}),
    };
  }

  #told(message: SlackMessageSeen, withMetadata: boolean): Answer {
    const { ts: at, thread, text, blocks, metadata: given, botId, files } = message;
    return {
      type: "message",
      ts: at,
      text,
      blocks,
      ...(thread === undefined ? {} : { thread_ts: thread }),
      ...(botId === undefined ? { user: "U1" } : { bot_id: botId, user: BOT_USER }),
      ...(withMetadata && given !== undefined ? { metadata: given } : {}),
      ...(files.length === 0 ? {} : { files: files.map(({ id, name }) => ({ id, name })) }),
    };
  }

  #upload(id: string, request: IncomingMessage, response: ServerResponse, body: Buffer): void {
    const upload = this.#uploads.get(id);
    if (request.headers.authorization !== undefined) this.violations.push("upload: the token went along");
    if (request.method !== "POST") this.violations.push(`upload: ${request.method} instead of POST`);
    if (upload === undefined || body.length !== upload.length) {
      this.violations.push(`upload: ${body.length} bytes for ${id}, which was to have ${upload?.length}`);
      response.writeHead(400).end();
      return;
    }
    upload.data = new Uint8Array(body);
    response.writeHead(200).end(`OK - ${body.length}`);
  }

  #complete({ files, channel_id, thread_ts }: Args<"files.completeUploadExternal">): Answer {
    if (channel_id !== undefined) this.#open(channel_id);
    const shared = files.map(({ id }): SlackFile => {
      const upload = this.#uploads.get(id);
      if (upload?.data === undefined || upload.used) throw new Refused("file_not_found");
      return { id, name: upload.name, data: upload.data };
    });
    for (const { id } of files) {
      const upload = this.#uploads.get(id);
      if (upload !== undefined) upload.used = true;
    }
    if (channel_id !== undefined) {
      this.messages.push({
        channel: channel_id,
        ts: this.nextTs(),
        thread: thread_ts,
        text: "",
        blocks: [],
        metadata: undefined,
        botId: BOT_ID,
        files: shared,
        earlier: [],
      });
    }
    return { files: shared.map(({ id }) => ({ id })) };
  }
}

/** A message's text as people see it: the blocks, else the text, with the markup of Slack taken off. */
export function shownText({ text, blocks }: Pick<SlackMessageSeen, "text" | "blocks">): string {
  const sections = blocks.flatMap((one) => (one.type === "section" ? [one.text.text] : []));
  return (sections.length === 0 ? text : sections.join(""))
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&amp;", "&");
}

/** The button of a message that stops its turn. */
export function stopButtonOf({ blocks }: Pick<SlackMessageSeen, "blocks">): z.infer<typeof button> | undefined {
  return blocks.flatMap((one) => (one.type === "actions" ? one.elements : []))[0];
}

/**
 * A web chat as a channel of deliveries. What is sent is appended to the log of the room's job, so it reaches every
 * page in the room, now or later, by the way of all events (law 1). A room whose job runs in no process here is not
 * reached: its deliveries wait until somebody opens it. Costs an append per call.
 */

import { ArcpError } from "../../protocol/index.ts";
import {
  type CallOptions,
  type Channel,
  ChannelError,
  type ChannelLimits,
  type OutgoingMessage,
  type Receipt,
} from "../../routing/deliveries/channel.ts";
import type { Route } from "../../routing/route.ts";
import type { AnswerEvent, ChatFile } from "./events.ts";
import type { RoomLog } from "./room-log.ts";

export interface WebChannelOptions {
  /** As routes name it. @default "web" */
  name?: string | undefined;
  /** Between two updates of one message. @default 200 */
  minUpdateIntervalMs?: number | undefined;
}

const MAX_TEXT_CHARS = 16_000;
/** Of all files of a message, as base64; an event of a log has a megabyte for everything. */
const MAX_FILE_CHARS = 512 * 1024;
const TIMEOUT_MS = 10_000;

export class WebChannel implements Channel {
  readonly name: string;
  readonly limits: ChannelLimits;
  /** By `externalRoomId`: rooms whose jobs run here. */
  readonly #rooms = new Map<string, RoomLog>();

  constructor({ name = "web", minUpdateIntervalMs = 200 }: WebChannelOptions = {}) {
    this.name = name;
    this.limits = { maxTextChars: MAX_TEXT_CHARS, minUpdateIntervalMs, timeoutMs: TIMEOUT_MS };
  }

  /** For {@link webChat}: the room's job runs here from now on. */
  enter(externalRoomId: string, log: RoomLog): void {
    this.#rooms.set(externalRoomId, log);
  }

  /** For {@link webChat}: it runs here no longer. */
  leave(externalRoomId: string, log: RoomLog): void {
    if (this.#rooms.get(externalRoomId) === log) this.#rooms.delete(externalRoomId);
  }

  reaches({ externalRoomId }: Route): boolean {
    return typeof externalRoomId === "string" && this.#rooms.has(externalRoomId);
  }

  async send(message: OutgoingMessage, { signal }: CallOptions): Promise<Receipt> {
    await this.#put(message, signal);
    return { id: message.deliveryId, part: message.part };
  }

  async update({ id, part }: Receipt, message: OutgoingMessage, { signal }: CallOptions): Promise<void> {
    const isThere = this.#room(message.route).partsOf(String(id)).includes(Number(part));
    if (!isThere) throw new ChannelError("refused", "The message is not among the room's newest any more.");
    await this.#put(message, signal);
  }

  async find({
    route,
    deliveryId,
  }: {
    route: Route;
    deliveryId: string;
  }): Promise<{ part: number; receipt: Receipt }[]> {
    const parts = this.#room(route).partsOf(deliveryId);
    return parts.map((part) => ({ part, receipt: { id: deliveryId, part } }));
  }

  async #put(
    { route, deliveryId, part, text, status, jobId, files }: OutgoingMessage,
    signal: AbortSignal,
  ): Promise<void> {
    if (signal.aborted) throw new ChannelError("retry", "It was given up before it was tried.");
    const room = this.#room(route);
    const event: AnswerEvent = {
      ...{ type: "answer", id: deliveryId, part, text, status, job_id: jobId },
      files: filesOf(files),
    };
    const { promise: given, reject } = Promise.withResolvers<never>();
    const giveUp = () => reject(new ChannelError("unclear", "The room's log did not answer in time."));
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      await Promise.race([room.put(event), given]);
    } catch (error) {
      throw asChannelError(error);
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }

  #room(route: Route): RoomLog {
    const room = typeof route.externalRoomId === "string" ? this.#rooms.get(route.externalRoomId) : undefined;
    if (room === undefined) throw new ChannelError("retry", "Nobody has the room open here.");
    return room;
  }
}

/** The first ones whole, for as long as there is room; of the others their names. */
function filesOf(files: OutgoingMessage["files"]): ChatFile[] {
  let left = MAX_FILE_CHARS;
  return files.map(({ name, contentType, data }) => {
    const chars = Math.ceil(data.length / 3) * 4;
    const file = { name, content_type: contentType, bytes: data.length };
    if (chars > left) return file;
    left -= chars;
    return { ...file, base64: Buffer.from(data).toString("base64") };
  });
}

function asChannelError(error: unknown): ChannelError {
  if (error instanceof ChannelError) return error;
  if (error instanceof ArcpError && error.code === "INVALID_REQUEST") {
    return new ChannelError("refused", error.message, { cause: error });
  }
  return new ChannelError("unclear", "The room's job ended before the message was surely in its log.", {
    cause: error,
  });
}

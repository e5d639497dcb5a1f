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
import type { AnswerEvent } from "./events.ts";
import type { RoomLog } from "./room-log.ts";

export interface WebChannelOptions {
  /** As routes name it. @default "web" */
  name?: string | undefined;
  /** Between two updates of one message. @default 200 */
  minUpdateIntervalMs?: number | undefined;
}

const MAX_TEXT_CHARS = 16_000;
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

  async update(_receipt: Receipt, message: OutgoingMessage, { signal }: CallOptions): Promise<void> {
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
    signal.throwIfAborted();
    const room = this.#room(route);
    const event: AnswerEvent = {
      ...{ type: "answer", id: deliveryId, part, text, status, job_id: jobId },
      files: files.map(({ name, contentType, data }) => ({
        ...{ name, content_type: contentType },
        base64: Buffer.from(data).toString("base64"),
      })),
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

function asChannelError(error: unknown): ChannelError {
  if (error instanceof ChannelError) return error;
  if (error instanceof ArcpError && error.code === "INVALID_REQUEST") {
    return new ChannelError("refused", error.message, { cause: error });
  }
  return new ChannelError("unclear", "The room's job ended before the message was surely in its log.", {
    cause: error,
  });
}

/**
 * Looks through a thread, or a channel, for the messages of one delivery: each says in its metadata which part of
 * which delivery it is. Anybody may write metadata, so only the app's own messages count. Costs a page of at most 200
 * messages per 200 that were written there since the delivery began.
 */
import { decodeTime } from "ulid";
import { ChannelError } from "../../routing/deliveries/channel.ts";
import type { SlackApi } from "./api.ts";
import type { Place } from "./place.ts";

export const EVENT_TYPE = "holdfast_delivery";

export interface FoundPart {
  readonly part: number;
  readonly ts: string;
  /** Ids of the files that belong to it, shared or not. */
  readonly files: readonly string[];
}

export interface Found {
  readonly parts: readonly FoundPart[];
  /** Ids of all files that were shared there. */
  readonly shared: ReadonlySet<string>;
}

const PAGE = 200;
const MAX_PAGES = 50;
/** Slack's clock and that of whoever named the delivery may differ. */
const CLOCKS_DIFFER_MS = 600_000;

/** @throws ChannelError */
export async function lookFor(api: SlackApi, place: Place, deliveryId: string, signal: AbortSignal): Promise<Found> {
  const { team, channel, thread } = place;
  const bot = await api.bot(team, signal);
  const parts = new Map<number, FoundPart>();
  const shared = new Set<string>();
  const oldest = since(deliveryId);
  let cursor: string | undefined;
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const window = {
      channel,
      include_all_metadata: true,
      limit: PAGE,
      ...(oldest === undefined ? {} : { oldest }),
      ...(cursor === undefined ? {} : { cursor }),
    };
    const method = thread === undefined ? "conversations.history" : "conversations.replies";
    const { messages, response_metadata } = await api.call({ method, team, repeatable: true, signal }, (client) =>
      thread === undefined
        ? client.conversations.history(window)
        : client.conversations.replies({ ...window, ts: thread }),
    );
    for (const message of messages ?? []) {
      if (message.bot_id !== bot) continue;
      for (const { id } of message.files ?? []) if (id !== undefined) shared.add(id);
      const found = partOf(message, deliveryId);
      if (found !== undefined) parts.set(found.part, found);
    }
    cursor = response_metadata?.next_cursor;
    if (cursor === undefined || cursor === "") return { parts: [...parts.values()], shared };
  }
  throw new ChannelError("retry", `Slack: too much was written since then to look through all of it.`);
}

function partOf(message: { ts?: string; metadata?: unknown }, deliveryId: string): FoundPart | undefined {
  const { ts, metadata } = message;
  if (ts === undefined || typeof metadata !== "object" || metadata === null) return undefined;
  const { event_type, event_payload } = metadata as { event_type?: unknown; event_payload?: unknown };
  if (event_type !== EVENT_TYPE || typeof event_payload !== "object" || event_payload === null) return undefined;
  const { delivery_id, part, files } = event_payload as { delivery_id?: unknown; part?: unknown; files?: unknown };
  if (delivery_id !== deliveryId || typeof part !== "number") return undefined;
  return { part, ts, files: typeof files === "string" && files !== "" ? files.split(",") : [] };
}

/** A delivery's id says when it was made; nothing of it is older. */
function since(deliveryId: string): string | undefined {
  try {
    const ms = decodeTime(deliveryId.slice(deliveryId.indexOf("_") + 1)) - CLOCKS_DIFFER_MS;
    return `${Math.max(0, Math.floor(ms / 1_000))}.000000`;
  } catch {
    return undefined;
  }
}

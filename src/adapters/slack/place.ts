/** A place in Slack, as routes and receipts name it. */
import { ChannelError, type Receipt } from "../../routing/deliveries/channel.ts";
import type { Route } from "../../routing/route.ts";

export interface Place {
  readonly team: string | undefined;
  readonly channel: string;
  /** The `ts` of the message that the thread is under. */
  readonly thread: string | undefined;
}

/** @throws ChannelError, refused, for a route that is none of Slack's */
export function placeOf(route: Route): Place {
  const { externalRoomId, bridgeId, threadId } = route;
  if (typeof externalRoomId !== "string" || externalRoomId === "") {
    throw new ChannelError("refused", "The route's externalRoomId is no Slack channel's id.");
  }
  return { team: bridgeId === "" ? undefined : bridgeId, channel: externalRoomId, thread: threadId };
}

/** A message that Slack has taken. */
export interface Posted {
  readonly channel: string;
  readonly ts: string;
}

const TS = /^\d{1,12}\.\d{6}$/;

/** @throws ChannelError, refused, for a receipt that this channel did not give */
export function postedOf({ channel, ts }: Receipt): Posted {
  if (typeof channel === "string" && typeof ts === "string" && TS.test(ts)) return { channel, ts };
  throw new ChannelError("refused", "The receipt names no message of Slack's.");
}

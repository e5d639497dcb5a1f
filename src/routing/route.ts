/** A route: where something for a route key is to be delivered (RTE-4). */
import { RoutingError, shown } from "./routing-error.ts";

export interface Route {
  /** The place, as the channel itself names it. Any value but null and undefined. */
  readonly externalRoomId: unknown;
  readonly channel?: string | undefined;
  readonly bridgeId?: string | undefined;
  readonly roomId?: string | undefined;
  readonly threadId?: string | undefined;
  /** Whatever else the host wants to find again. */
  readonly [key: string]: unknown;
}

const NAMES = ["channel", "bridgeId", "roomId", "threadId"] as const;

/**
 * A copy of a route that nobody changes any more, the values of its keys excepted: those are the host's. Null under
 * one of our names counts as left out.
 *
 * @throws RoutingError `invalid_route`
 */
export function parseRoute(value: unknown): Route {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalid(`route: ${shown(value)} is no route; give an object with at least externalRoomId`);
  }
  const route: { -readonly [K in keyof Route]: Route[K] } = { ...(value as Route) };
  const { externalRoomId, channel, bridgeId, roomId, threadId } = route;
  if (externalRoomId === undefined || externalRoomId === null) {
    throw invalid(
      `route.externalRoomId: ${shown(externalRoomId)} names no place; give the room's id as its channel has it`,
    );
  }
  if (!(isText(channel) && isText(bridgeId) && isText(roomId) && isText(threadId))) {
    for (const name of NAMES) {
      const part: unknown = route[name];
      if (part === null) delete route[name];
      else if (!isText(part)) throw invalid(`route.${name}: ${shown(part)} is not a text; give one, or leave it out`);
    }
  }
  return Object.freeze(route);
}

const isText = (part: unknown): boolean => part === undefined || typeof part === "string";

const invalid = (message: string): RoutingError => new RoutingError("invalid_route", `${message}.`);

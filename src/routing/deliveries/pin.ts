/**
 * Where a turn's answer goes, decided when the turn is taken and never again (DLV-1): what happens to the table of
 * routes later cannot redirect it. An answer in a thread is not shown to the whole room unless the channel opts in
 * (DLV-2).
 */
import { ArcpError, newDeliveryId } from "../../protocol/index.ts";
import type { NewDelivery } from "../../store/store.ts";
import type { ResolveResult } from "../resolution.ts";
import { parseRoute, type Route } from "../route.ts";
import { formatRouteKey, parseRouteKey, type RouteKey } from "../route-key.ts";
import { RoutingError } from "../routing-error.ts";

/** Where an answer is to go. */
export interface ReplyTo {
  /** What the answer's route is looked up by. */
  routeKey: RouteKey;
  /** Routes to go by where the table has none; the first that can be. */
  fallbacks?: Route | readonly Route[] | undefined;
}

/** The table of routes, as far as pinning needs it. */
export interface RouteTable {
  resolve(key: RouteKey, fallbacks?: Route | readonly Route[]): ResolveResult | Promise<ResolveResult>;
}

/** A stored route is small: a place, and what the host wants to find again. */
const MAX_ROUTE_BYTES = 16 * 1024;

/** @throws ArcpError INVALID_REQUEST naming the field, with `details.reason: "no_route"` where there is none */
export async function pin(
  replyTo: ReplyTo,
  { routes, channels }: { routes: RouteTable | undefined; channels: ReadonlyMap<string, { roomFallback: boolean }> },
): Promise<NewDelivery> {
  const { key, fallbacks } = read(replyTo);
  // Checked before the table may take one over.
  for (const route of fallbacks) {
    channelOf(key, route, channels);
    textOf(route);
  }
  // For a thread of a channel that has not opted in, a route counts only if it names that thread: the table copies a
  // room's route to its threads, and a copy looks like the thread's own.
  const fits = (route: Route) =>
    key.thread === undefined ||
    route.threadId === key.thread ||
    channels.get(route.channel ?? key.channel)?.roomFallback === true;
  const fitting = fallbacks.filter(fits);
  const resolved = await routes?.resolve(key, fitting);
  const route = resolved?.ok === true && fits(resolved.route) ? resolved.route : fitting[0];
  if (route === undefined) throw noRoute(key, resolved);
  const channel = channelOf(key, route, channels);
  return { deliveryId: newDeliveryId(), channel, routeKey: formatRouteKey(key), route: textOf(route) };
}

function read(replyTo: ReplyTo): { key: RouteKey; fallbacks: Route[] } {
  const { routeKey, fallbacks = [] } = replyTo;
  try {
    const given = Array.isArray(fallbacks) ? fallbacks : [fallbacks];
    return { key: parseRouteKey(routeKey), fallbacks: given.map(parseRoute) };
  } catch (error) {
    if (!(error instanceof RoutingError)) throw error;
    throw new ArcpError("INVALID_REQUEST", `replyTo: ${error.message}`, { cause: error });
  }
}

/** A route may lead to another channel than its key's. */
function channelOf(key: RouteKey, route: Route, channels: ReadonlyMap<string, unknown>): string {
  const channel = route.channel ?? key.channel;
  if (channels.has(channel)) return channel;
  const known = [...channels.keys()].map((name) => JSON.stringify(name)).join(", ");
  throw new ArcpError(
    "INVALID_REQUEST",
    `replyTo: no channel ${JSON.stringify(channel.slice(0, 64))} is here; there is ${known || "none"}.`,
  );
}

function noRoute(key: RouteKey, resolved: ResolveResult | undefined): ArcpError {
  const named = JSON.stringify(formatRouteKey(key).slice(0, 256));
  if (resolved?.ok === false && resolved.reason === "partition_unavailable") {
    return new ArcpError("INTERNAL_ERROR", `replyTo: the route of ${named} cannot be looked up now; try again.`);
  }
  const remedy =
    resolved?.ok === true
      ? "the table has the whole room's only. Set one whose threadId is the key's thread, or let the channel answer to rooms with roomFallback"
      : "set one, or give fallbacks";
  return new ArcpError("INVALID_REQUEST", `replyTo.routeKey: there is no route for ${named}; ${remedy}.`, {
    details: { reason: "no_route" },
  });
}

function textOf(route: Route): string {
  let text: string;
  try {
    text = JSON.stringify(route);
  } catch (error) {
    throw new ArcpError("INVALID_REQUEST", "replyTo: the route is not JSON; it has to be kept.", { cause: error });
  }
  if (Buffer.byteLength(text) > MAX_ROUTE_BYTES) {
    throw new ArcpError("INVALID_REQUEST", `replyTo: the route takes more than ${MAX_ROUTE_BYTES} bytes as JSON.`);
  }
  return text;
}

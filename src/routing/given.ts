/** What a caller of a table gives, read without a throw, and what it is answered where nothing is found. */

import type { Logger } from "../logger.ts";
import { badTtl } from "./config.ts";
import type { Refused } from "./resolution.ts";
import { parseRoute, type Route } from "./route.ts";
import { parseRouteKey, type RouteKey } from "./route-key.ts";
import { RoutingError, shown } from "./routing-error.ts";

export const NOT_FOUND = refused("not_found", "No route is there for this key; set one.");
export const EXPIRED = refused("expired", "The route for this key has expired; set it again.");
export const NO_ROUTE = refused("no_route", "Neither the table nor the given fallbacks have a route for this key.");

export function refused<R extends string>(reason: R, message: string): Refused<R> {
  return Object.freeze({ ok: false, reason, message });
}

export const refusal = <R extends string>(reason: R, { message }: RoutingError): Refused<R> => ({
  ok: false,
  reason,
  message,
});

export function keyOf(key: RouteKey): RouteKey | RoutingError {
  try {
    return parseRouteKey(key);
  } catch (error) {
    return error instanceof RoutingError ? error : unreadable("invalid_key", "routeKey", error);
  }
}

export function routeOf(route: Route): Route | RoutingError {
  try {
    return parseRoute(route);
  } catch (error) {
    return error instanceof RoutingError ? error : unreadable("invalid_route", "route", error);
  }
}

/** A getter or a proxy of the host may throw anything. */
export const unreadable = (code: RoutingError["code"], field: string, error: unknown): RoutingError =>
  new RoutingError(code, `${field}: it cannot be read (${shown(String(error))}); give a plain object.`);

/** The first that is a route, and that `read` takes. */
export function firstRoute(
  fallbacks: Route | readonly Route[],
  read: (route: Route) => Route | RoutingError = routeOf,
): Route | undefined {
  const given: readonly Route[] = isList(fallbacks) ? fallbacks : [fallbacks];
  for (const fallback of given) {
    const route = read(fallback);
    if (!(route instanceof RoutingError)) return route;
  }
  return undefined;
}

const isList = (fallbacks: Route | readonly Route[]): fallbacks is readonly Route[] => Array.isArray(fallbacks);

/** A time to live that cannot be is the table's own, with a warning. */
export function ttlOf(ttlMs: number | undefined, own: number, logger: Logger): number {
  if (ttlMs === undefined) return own;
  const reason = badTtl(ttlMs);
  if (reason === undefined) return ttlMs;
  logger.warn({ ttlMs: shown(ttlMs) }, `ttlMs: ${shown(ttlMs)} ${reason}; the table's own is used`);
  return own;
}

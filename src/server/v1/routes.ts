/**
 * The table of routes under `/v1` (SRV-20), for operators: it says where everybody's answers go. A key is given as
 * its text (RTE-1), in the query, since a slash in a path means something else.
 */
import type { Hono, MiddlewareHandler } from "hono";
import { z } from "zod";
import { ArcpError } from "../../protocol/index.ts";
import {
  formatRouteKey,
  type Route,
  type RouteKey,
  type RouteRecord,
  type Routes,
  RoutingError,
  readRouteKey,
} from "../../routing/index.ts";
import { bodyOf, type Env, invalid, NoQuery, PAGE, parse, queryOf } from "./request.ts";

export interface RouteTable {
  routes: Routes;
  authenticated: MiddlewareHandler<Env>;
  /** Answers what other methods ask of a path. */
  others(path: string, allowed: string): void;
}

const DEFAULT_LIMIT = 50;
/** Four parts of 1,024 characters, each of them escaped. */
const MAX_KEY_CHARS = 12_291;

const Key = z.string("give the key as channel/bridge/room[/thread]").max(MAX_KEY_CHARS);
const ListQuery = z.strictObject({ limit: PAGE.limit, key: Key.optional() });
const SetBody = z.strictObject({
  key: Key,
  route: z.looseObject({}),
  ttl_ms: z.number().optional(),
});

export function routeTable(app: Hono<Env>, { routes, authenticated, others }: RouteTable): void {
  const operator: MiddlewareHandler<Env> = async (context, next) => {
    if (!context.get("operator")) {
      throw new ArcpError("PERMISSION_DENIED", "Only an operator sees or sets routes; ask with an operator's token.");
    }
    await next();
  };

  app.get("/routes", authenticated, operator, (context) => {
    const { limit = DEFAULT_LIMIT, key: text } = parse(ListQuery, queryOf(context.req.url), "query");
    if (text !== undefined) {
      const key = keyOf(text);
      const found = routes.get(key);
      return context.json({
        key: text,
        partition: routes.partitionOf(key),
        ...(found.ok ? recordForWire(found) : { route: null, reason: found.reason }),
      });
    }
    const { name, ttlMs, maxEntriesPerPartition } = routes.config();
    return context.json({
      name,
      ttl_ms: ttlMs,
      max_entries_per_partition: maxEntriesPerPartition,
      routes: routes.newest(limit).map(({ routeKey, partition, ...record }) => ({
        key: formatRouteKey(routeKey),
        partition,
        ...recordForWire(record),
      })),
      partitions: routes.counters(),
    });
  });
  app.put("/routes", authenticated, operator, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const { key: text, route, ttl_ms: ttlMs } = parse(SetBody, await bodyOf(context.req), "body");
    const key = keyOf(text);
    const { ttlMs: own } = routes.config();
    if (ttlMs !== undefined && (!Number.isSafeInteger(ttlMs) || ttlMs < 1)) {
      throw invalid(`body.ttl_ms: ${ttlMs} is no whole number from 1; leave it out for the table's own, ${own}.`);
    }
    const set = routes.set(key, route as Route, ttlMs === undefined ? {} : { ttlMs });
    if (!set.ok && set.reason === "partition_unavailable") {
      throw ArcpError.detail("STORE_UNAVAILABLE", set.message, { reason: set.reason });
    }
    if (!set.ok) throw invalid(`body.${set.message}`);
    const stored = routes.get(key);
    return context.json({
      key: text,
      partition: routes.partitionOf(key),
      outcome: "set",
      ...(stored.ok ? recordForWire(stored) : {}),
    });
  });
  others("/routes", "GET, HEAD, PUT");
}

/** @throws ArcpError INVALID_REQUEST */
function keyOf(text: string): RouteKey {
  try {
    return readRouteKey(text);
  } catch (error) {
    if (error instanceof RoutingError) throw invalid(error.message);
    throw error;
  }
}

/** A host may keep in a route what JSON has no word for. */
function routeForWire(route: Route): unknown {
  try {
    return JSON.parse(
      JSON.stringify(route, (_, value: unknown) => (typeof value === "bigint" ? String(value) : value)),
    );
  } catch {
    return { externalRoomId: String(route.externalRoomId) };
  }
}

const recordForWire = ({ route, updatedAtMs, expiresAtMs }: RouteRecord) => ({
  route: routeForWire(route),
  updated_at: new Date(updatedAtMs).toISOString(),
  expires_at: new Date(expiresAtMs).toISOString(),
});

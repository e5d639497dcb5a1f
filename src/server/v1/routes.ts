/**
 * The table of routes under `/v1` (SRV-34), for operators: it says where everybody's answers go. A key is given as
 * its text (RTE-1), in the query, since a slash in a path means something else.
 */
import { z } from "zod";
import { ArcpError } from "../../protocol/index.ts";
import {
  formatRouteKey,
  type Route,
  type RouteKeeper,
  type RouteKey,
  type RouteRecord,
  RoutingError,
  readRouteKey,
} from "../../routing/index.ts";
import type { Api } from "./api.ts";
import { invalid, PAGE } from "./request.ts";

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

const Counters = z.looseObject({});
const RouteEntry = z.object({
  key: z.string(),
  partition: z.int(),
  route: z.unknown(),
  updated_at: z.iso.datetime(),
  expires_at: z.iso.datetime(),
});
const Table = z.object({
  name: z.string(),
  ttl_ms: z.int(),
  max_entries_per_partition: z.int(),
  routes: z.array(RouteEntry),
  partitions: z.array(Counters),
});
const Found = RouteEntry.partial({ updated_at: true, expires_at: true }).extend({ reason: z.string().optional() });
const Stored = RouteEntry.extend({ outcome: z.literal("set") }).partial({
  route: true,
  updated_at: true,
  expires_at: true,
});

export function routeTable(api: Api, { routes }: { routes: RouteKeeper }): void {
  const tag = "routes";
  api.route(
    {
      method: "get",
      path: "/routes",
      access: "operator",
      tag,
      summary: "The table of routes with its counters; with `key`, the route of that key.",
      query: ListQuery,
      answers: { 200: { description: "The newest routes, or the one.", schema: z.union([Table, Found]) } },
    },
    async ({ query, context }) => {
      const { limit = DEFAULT_LIMIT, key: text } = query;
      if (text !== undefined) {
        const key = keyOf(text);
        const found = await routes.get(key);
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
        routes: (await routes.newest(limit)).map(({ routeKey, partition, ...record }) => ({
          key: formatRouteKey(routeKey),
          partition,
          ...recordForWire(record),
        })),
        partitions: await routes.counters(),
      });
    },
  );

  api.route(
    {
      method: "put",
      path: "/routes",
      access: "operator",
      tag,
      summary: "Set the route of a key.",
      body: SetBody,
      answers: { 200: { description: "As it is stored.", schema: Stored } },
    },
    async ({ body, context }) => {
      const { key: text, route, ttl_ms: ttlMs } = body;
      const key = keyOf(text);
      const { ttlMs: own } = routes.config();
      if (ttlMs !== undefined && (!Number.isSafeInteger(ttlMs) || ttlMs < 1)) {
        throw invalid(`body.ttl_ms: ${ttlMs} is no whole number from 1; leave it out for the table's own, ${own}.`);
      }
      const set = await routes.set(key, route as Route, ttlMs === undefined ? {} : { ttlMs });
      if (!set.ok && set.reason === "partition_unavailable") {
        throw ArcpError.detail("STORE_UNAVAILABLE", set.message, { reason: set.reason });
      }
      if (!set.ok) throw invalid(`body.${set.message}`);
      const stored = await routes.get(key);
      return context.json({
        key: text,
        partition: routes.partitionOf(key),
        outcome: "set",
        ...(stored.ok ? recordForWire(stored) : {}),
      });
    },
  );
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

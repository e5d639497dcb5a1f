/**
 * A table of routes, wherever it keeps them: {@link Routes} in the memory of one process, StoredRoutes in the store
 * that several nodes share. Whoever asks one awaits the answer.
 */
import type { RoutesConfig } from "./config.ts";
import type { PartitionCounters } from "./partition.ts";
import type { GetResult, ResolveResult, RouteRecord, SetResult } from "./resolution.ts";
import type { Route } from "./route.ts";
import type { RouteKey } from "./route-key.ts";

export interface SetOptions {
  /** @default the table's own, which also stands in for a time that cannot be */
  ttlMs?: number;
}

/** What a listing of the table has of each route. */
export interface ListedRoute extends RouteRecord {
  readonly routeKey: RouteKey;
  readonly partition: number;
}

/** What happened in a partition since the table was made, and how it is now. */
export interface PartitionReport extends PartitionCounters {
  readonly partition: number;
  readonly running: boolean;
  readonly size: number;
}

export interface RouteKeeper {
  /** What the table goes by. */
  config(): RoutesConfig;
  /** The same for a room and its threads. @throws RoutingError `invalid_key` */
  partitionOf(key: RouteKey): number;
  /** Writes the route of a key. */
  set(key: RouteKey, route: Route, options?: SetOptions): SetResult | Promise<SetResult>;
  /** The record of exactly this key. One that has expired is said to have, once, and then not found. */
  get(key: RouteKey): GetResult | Promise<GetResult>;
  /** Where to deliver for a key (RTE-5). */
  resolve(key: RouteKey, fallbacks?: Route | readonly Route[]): ResolveResult | Promise<ResolveResult>;
  /** The newest written routes. */
  newest(limit: number): readonly ListedRoute[] | Promise<readonly ListedRoute[]>;
  counters(): readonly PartitionReport[] | Promise<readonly PartitionReport[]>;
}

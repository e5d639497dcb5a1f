/** Routes: where the answer goes (SPEC.md, RTE). Usable without anything else of Holdfast. */
export type { RoutesConfig } from "./config.ts";
export { type Entry, type EntryTimes, MemoryEntries, type PartitionEntries } from "./entries.ts";
export type { RoutesEvents } from "./events.ts";
export type { PartitionCounters, PartitionWorker } from "./partition.ts";
export type {
  FallbackReason,
  GetResult,
  Refused,
  Resolution,
  ResolutionSource,
  ResolveResult,
  RouteRecord,
  SetResult,
} from "./resolution.ts";
export { parseRoute, type Route } from "./route.ts";
export type { ListedRoute, PartitionReport, RouteKeeper, SetOptions } from "./route-keeper.ts";
export {
  formatRouteKey,
  type MessagePlace,
  parseRouteKey,
  type RouteKey,
  readRouteKey,
  roomKey,
  routeKeyOf,
  sameRoom,
} from "./route-key.ts";
export { configureRoutes, Routes, type RoutesOptions } from "./routes.ts";
export { RoutingError } from "./routing-error.ts";

/** What asking a table is answered with. */
import type { Route } from "./route.ts";
import type { RouteKey } from "./route-key.ts";

/** Where a resolved route came from: the key's own entry, its room's, or what the caller gave. */
export type ResolutionSource = "state_hit" | "partition_fallback" | "provided_fallback";

/** Why it was not the key's own. */
export type FallbackReason = "stale" | "miss" | "thread_scope_miss" | "session_unavailable";

export interface Resolution {
  readonly externalRoomId: unknown;
  readonly route: Route;
  readonly partition: number;
  readonly routeKey: RouteKey;
  readonly source: ResolutionSource;
  readonly fallback: boolean;
  /** Whether an entry was there that had expired. */
  readonly stale: boolean;
  /** Set where `fallback` is true. */
  readonly fallbackReason?: FallbackReason;
}

export interface RouteRecord {
  readonly route: Route;
  /** Wall time. */
  readonly updatedAtMs: number;
  /** Wall time; the route is good until just before it. */
  readonly expiresAtMs: number;
}

/** A key or a route that cannot be; `message` names the field, the value and the remedy. */
export interface Refused<R extends string> {
  readonly ok: false;
  readonly reason: R;
  readonly message: string;
}

export type SetResult = { readonly ok: true } | Refused<"invalid_key" | "invalid_route" | "partition_unavailable">;

export type GetResult =
  | ({ readonly ok: true } & RouteRecord)
  | Refused<"not_found" | "expired" | "partition_unavailable" | "invalid_key">;

export type ResolveResult =
  | ({ readonly ok: true } & Resolution)
  | Refused<"no_route" | "partition_unavailable" | "invalid_key">;

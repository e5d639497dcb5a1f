/**
 * Routes that all nodes share: for each route key, where to deliver now (SPEC.md, RTE). The store keeps them as texts
 * that it does not read, judges by its own clock how long they are good, and takes each decision in one commit, so
 * that a copy that one node makes never covers what another has just set.
 */

export interface NewRoute {
  /** Short, and the same for the same key in every process. */
  routeId: string;
  /** The key, kept and returned as it is. */
  key: string;
  /** JSON text. */
  route: string;
  ttlMs: number;
  now: number;
}

export interface StoredRoute {
  key: string;
  route: string;
  /** Wall time of the store's clock, as the next. */
  updatedAt: number;
  expiresAt: number;
  /** How long it is still good, as of the answer. */
  remainingMs: number;
}

/** What there is of a key: its route; one that had expired, which is gone now; or nothing. */
export type RouteFound = { state: "fresh"; route: StoredRoute } | { state: "expired" } | { state: "none" };

export interface RouteQuestion {
  routeId: string;
  key: string;
  /** Of the whole room, for a thread's key. */
  roomId?: string | undefined;
  /** JSON text of the route to go by where there is no other. */
  fallback?: string | undefined;
  /** Of what is stored under the key when it comes from elsewhere. */
  ttlMs: number;
  now: number;
}

/** Where a route came from; `stale` where one that had expired was in the way. */
export type RouteAnswer =
  | { from: "own" | "room" | "fallback"; stale: boolean; route: StoredRoute }
  | { from: "nowhere"; stale: boolean };

/** Routes that are kept; above, the janitor removes what was written longest ago. */
export const MAX_STORED_ROUTES = 100_000;

export interface RouteFacet {
  /** Writes a key's route, whatever is there. */
  set(route: NewRoute): Promise<StoredRoute>;
  /** One that has expired is said to have, once, and removed. */
  get(query: { routeId: string; now: number }): Promise<RouteFound>;
  /**
   * The key's own route, else its room's, else the fallback (RTE-5). What comes from elsewhere is stored under the key
   * in the same commit, unless somebody has set the key's own meanwhile.
   */
  resolve(question: RouteQuestion): Promise<RouteAnswer>;
  /** The newest written first; what has expired and was not asked for may be among them. */
  newest(query: { limit: number; now: number }): Promise<StoredRoute[]>;
}

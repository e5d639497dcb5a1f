/** What a table tells of itself, and the telling: a listener that fails harms nobody (RTE-12). */
import type { Logger } from "../logger.ts";
import type { FallbackReason, ResolutionSource } from "./resolution.ts";
import type { Route } from "./route.ts";
import type { RouteKey } from "./route-key.ts";

/** What each event carries. All are told in the call that causes them. */
export interface RoutesEvents {
  /** A route was written by `set`. */
  set: { routeKey: RouteKey; route: Route; partition: number; ttlMs: number };
  /** `resolve` found a route, wherever. */
  resolved: { routeKey: RouteKey; partition: number; source: ResolutionSource };
  /** It was not the key's own. */
  fallback: { routeKey: RouteKey; partition: number; source: ResolutionSource; reason: FallbackReason };
  /** Somebody asked for a route that had expired. */
  stale: { routeKey: RouteKey; partition: number };
  /** A route went because its partition is full. */
  evicted: { routeKey: RouteKey; partition: number };
  /** `prune` has removed so many. */
  pruned: { pruned: number; partitions: number };
  partition_down: { partition: number; error: unknown };
  partition_up: { partition: number };
}

type Listener<K extends keyof RoutesEvents> = (event: RoutesEvents[K]) => void;

export class Listeners {
  readonly #listeners: { [K in keyof RoutesEvents]?: readonly Listener<K>[] } = {};
  readonly #logger: Logger;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** @returns what takes the listener off again */
  add<K extends keyof RoutesEvents>(name: K, listener: Listener<K>): () => void {
    const listeners: { [P in K]?: readonly Listener<P>[] } = this.#listeners;
    listeners[name] = [...(listeners[name] ?? []), listener];
    return () => {
      listeners[name] = listeners[name]?.filter((other) => other !== listener) ?? [];
    };
  }

  /** Where what happens is frequent, its event is made only for somebody. */
  has(name: keyof RoutesEvents): boolean {
    return (this.#listeners[name]?.length ?? 0) > 0;
  }

  tell<K extends keyof RoutesEvents>(name: K, event: RoutesEvents[K]): void {
    const listeners: { [P in K]?: readonly Listener<P>[] } = this.#listeners;
    for (const listener of listeners[name] ?? []) {
      try {
        listener(event);
      } catch (error) {
        this.#logger.warn({ err: error, event: name }, "a listener of the routes failed");
      }
    }
  }
}

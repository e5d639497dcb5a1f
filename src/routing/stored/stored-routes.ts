/**
 * The table of routes that all nodes of a store share: what one sets, the others find. As far as a caller sees it is
 * one partition, and when the store is down, that is (RTE-9): `set` and `get` say `partition_unavailable`, and
 * `resolve` goes by the given fallbacks.
 *
 * A write is in the store when its promise resolves. What was found is believed for `cacheMs`, so a key that is asked
 * for all the time costs one query a second, and what another node sets is seen within it. The store removes what has
 * expired, and above its cap what was written longest ago.
 */
import { createHash } from "node:crypto";
import { type Clock, systemClock } from "../../clock.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import { MAX_STORED_ROUTES, type RouteAnswer, type RouteFacet, type StoredRoute } from "../../store/store.ts";
import { configOf, MAX_TTL_MS, type RoutesConfig } from "../config.ts";
import { Listeners, type RoutesEvents } from "../events.ts";
import {
  EXPIRED,
  firstRoute,
  keyOf,
  NO_ROUTE,
  NOT_FOUND,
  refusal,
  refused,
  routeOf,
  ttlOf,
  unreadable,
} from "../given.ts";
import type { PartitionCounters } from "../partition.ts";
import type { FallbackReason, GetResult, ResolutionSource, ResolveResult, SetResult } from "../resolution.ts";
import type { Route } from "../route.ts";
import type { ListedRoute, PartitionReport, RouteKeeper, SetOptions } from "../route-keeper.ts";
import { formatRouteKey, parseRouteKey, type RouteKey, roomKey } from "../route-key.ts";
import { Routes } from "../routes.ts";
import { RoutingError } from "../routing-error.ts";

export interface StoredRoutesOptions extends Partial<Pick<RoutesConfig, "name" | "ttlMs">> {
  /** Of the store that the nodes share. It must have been started when the table is asked. */
  store: RouteFacet;
  /** How long what was found is believed without asking again, in milliseconds; 0: never. @default 1_000 */
  cacheMs?: number;
  /** Routes that are believed at one time. @default 10_000 */
  maxCached?: number;
  /** @default the system's */
  clock?: Clock;
  /** @default a logger that says nothing */
  logger?: Logger;
}

/** Of a route, as JSON. */
const MAX_ROUTE_BYTES = 16 * 1024;
/** The only one. */
const PARTITION = 0;

const SET: SetResult = Object.freeze({ ok: true });
const UNAVAILABLE = refused("partition_unavailable", "The store of the routes cannot be asked now; try again.");

const SOURCES = { own: "state_hit", room: "partition_fallback", fallback: "provided_fallback" } as const;

export class StoredRoutes implements RouteKeeper {
  readonly #store: RouteFacet;
  readonly #config: RoutesConfig;
  readonly #cacheMs: number;
  readonly #cache: Routes;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #listeners: Listeners;
  /** Grows with every write of ours: what was asked for before it is not believed after it. */
  #writes = 0;
  #running = true;
  readonly #counters: PartitionCounters = {
    set: 0,
    hits: 0,
    misses: 0,
    fallbacks: 0,
    stale: 0,
    evicted: 0,
    pruned: 0,
    failures: 0,
  };

  /** @throws RangeError for a `cacheMs` that cannot be */
  constructor(options: StoredRoutesOptions) {
    const { store, clock = systemClock, logger = silentLogger, cacheMs = 1_000, maxCached = 10_000 } = options;
    if (!(cacheMs >= 0 && cacheMs <= MAX_TTL_MS)) {
      throw new RangeError(`cacheMs: ${cacheMs} is no time from 0 to ${MAX_TTL_MS} ms.`);
    }
    this.#store = store;
    this.#clock = clock;
    this.#logger = logger;
    this.#cacheMs = cacheMs;
    this.#listeners = new Listeners(logger);
    this.#cache = new Routes({ partitions: 1, maxEntriesPerPartition: maxCached, clock, logger });
    const { name, ttlMs } = options;
    const own = { ...(name === undefined ? {} : { name }), ...(ttlMs === undefined ? {} : { ttlMs }) };
    this.#config = configOf([own, { partitions: 1, maxEntriesPerPartition: MAX_STORED_ROUTES }], logger);
  }

  config(): RoutesConfig {
    return this.#config;
  }

  partitionOf(key: RouteKey): number {
    parseRouteKey(key);
    return PARTITION;
  }

  /** Calls `listener` for each event of that name. @returns what takes it off again */
  on<K extends "set" | "resolved" | "fallback" | "stale">(
    name: K,
    listener: (event: RoutesEvents[K]) => void,
  ): () => void {
    return this.#listeners.add(name, listener);
  }

  /** Writes the route of a key, for all nodes. */
  async set(key: RouteKey, route: Route, options?: SetOptions): Promise<SetResult> {
    const given = storable(route);
    if (given instanceof RoutingError) return refusal("invalid_route", given);
    const known = keyOf(key);
    if (known instanceof RoutingError) return refusal("invalid_key", known);
    const ttlMs = ttlOf(options?.ttlMs, this.#config.ttlMs, this.#logger);
    const { id, text } = named(known);
    const written = JSON.stringify(given);
    const stored = await this.#asked((now) => this.#store.set({ routeId: id, key: text, route: written, ttlMs, now }));
    this.#writes += 1;
    if (stored === undefined) return UNAVAILABLE;
    this.#believe(known, given, stored);
    this.#counters.set += 1;
    this.#listeners.tell("set", { routeKey: known, route: given, partition: PARTITION, ttlMs });
    return SET;
  }

  /** As the store has it now: the cache is not asked. */
  async get(key: RouteKey): Promise<GetResult> {
    const known = keyOf(key);
    if (known instanceof RoutingError) return refusal("invalid_key", known);
    const { id } = named(known);
    const found = await this.#asked((now) => this.#store.get({ routeId: id, now }));
    if (found === undefined) return UNAVAILABLE;
    switch (found.state) {
      case "none":
        this.#counters.misses += 1;
        return NOT_FOUND;
      case "expired":
        this.#wasStale(known);
        return EXPIRED;
      case "fresh": {
        this.#counters.hits += 1;
        const { updatedAt, expiresAt } = found.route;
        return { ok: true, route: routeIn(found.route), updatedAtMs: updatedAt, expiresAtMs: expiresAt };
      }
    }
  }

  /** Where to deliver for a key (RTE-5). */
  async resolve(key: RouteKey, fallbacks: Route | readonly Route[] = []): Promise<ResolveResult> {
    const known = keyOf(key);
    if (known instanceof RoutingError) return refusal("invalid_key", known);
    const believed = this.#cache.get(known);
    if (believed.ok) {
      this.#counters.hits += 1;
      return this.#resolved(known, believed.route, "state_hit");
    }
    const writes = this.#writes;
    const given = firstRoute(fallbacks, storable);
    const { id, text } = named(known);
    const answer = await this.#asked((now) =>
      this.#store.resolve({
        ...{ routeId: id, key: text, ttlMs: this.#config.ttlMs, now },
        ...(known.thread === undefined ? {} : { roomId: named(roomKey(known)).id }),
        ...(given === undefined ? {} : { fallback: JSON.stringify(given) }),
      }),
    );
    if (answer === undefined) {
      if (given === undefined) return UNAVAILABLE;
      return this.#resolved(known, given, "provided_fallback", "session_unavailable");
    }
    if (answer.stale) this.#wasStale(known);
    if (answer.from === "nowhere") {
      if (!answer.stale) this.#counters.misses += 1;
      return NO_ROUTE;
    }
    const route = routeIn(answer.route);
    if (writes === this.#writes) this.#believe(known, route, answer.route);
    if (answer.from === "own") this.#counters.hits += 1;
    else if (!answer.stale) this.#counters.misses += 1;
    return this.#resolved(known, route, SOURCES[answer.from], reasonOf(answer));
  }

  /** The newest written routes of all nodes. @throws StoreUnavailable */
  async newest(limit: number): Promise<ListedRoute[]> {
    const routes = await this.#store.newest({ limit, now: this.#clock.wall() });
    return routes.map((stored) => ({
      ...{ routeKey: keyIn(stored), partition: PARTITION, route: routeIn(stored) },
      ...{ updatedAtMs: stored.updatedAt, expiresAtMs: stored.expiresAt },
    }));
  }

  /** What this process did; `size` is how much of the table it believes just now. */
  counters(): PartitionReport[] {
    const size = this.#cache.counters()[0]?.size ?? 0;
    return [{ partition: PARTITION, running: this.#running, size, ...this.#counters }];
  }

  /** Asks the store; `undefined` when that fails. */
  async #asked<T>(ask: (now: number) => Promise<T>): Promise<T | undefined> {
    try {
      const answer = await ask(this.#clock.wall());
      if (!this.#running) this.#logger.info({}, "the routes can be asked for again");
      this.#running = true;
      return answer;
    } catch (error) {
      if (this.#running) this.#logger.warn({ err: error }, "the store of the routes cannot be asked");
      this.#running = false;
      this.#counters.failures += 1;
      return undefined;
    }
  }

  #believe(key: RouteKey, route: Route, { remainingMs }: StoredRoute): void {
    if (this.#cacheMs === 0) return;
    const ttlMs = Math.max(1, Math.floor(Math.min(this.#cacheMs, remainingMs)));
    this.#cache.set(key, route, { ttlMs });
  }

  #wasStale(routeKey: RouteKey): void {
    this.#counters.stale += 1;
    this.#listeners.tell("stale", { routeKey, partition: PARTITION });
  }

  #resolved(routeKey: RouteKey, route: Route, source: ResolutionSource, reason?: FallbackReason): ResolveResult {
    this.#listeners.tell("resolved", { routeKey, partition: PARTITION, source });
    const { externalRoomId } = route;
    const found = { ok: true, externalRoomId, route, partition: PARTITION, routeKey, source } as const;
    if (reason === undefined) return { ...found, fallback: false, stale: false };
    this.#counters.fallbacks += 1;
    this.#listeners.tell("fallback", { routeKey, partition: PARTITION, source, reason });
    return { ...found, fallback: true, stale: reason === "stale", fallbackReason: reason };
  }
}

function reasonOf({ from, stale }: RouteAnswer): FallbackReason | undefined {
  if (from === "own") return undefined;
  if (stale) return "stale";
  return from === "room" ? "thread_scope_miss" : "miss";
}

/** A key's name in the store, of one length whatever the key's is; and the key as it is kept. */
const named = (key: RouteKey): { id: string; text: string } => ({
  id: createHash("sha256").update(formatRouteKey(key)).digest("hex"),
  text: JSON.stringify(key),
});

const keyIn = ({ key }: StoredRoute): RouteKey => parseRouteKey(JSON.parse(key));

const routeIn = ({ route }: StoredRoute): Route => Object.freeze(JSON.parse(route) as Route);

/** A route as it comes back from the store: what JSON has no word for is refused rather than changed. */
function storable(route: Route): Route | RoutingError {
  const given = routeOf(route);
  if (given instanceof RoutingError) return given;
  try {
    const text = JSON.stringify(given);
    if (Buffer.byteLength(text) > MAX_ROUTE_BYTES) {
      return new RoutingError("invalid_route", `route: it takes more than ${MAX_ROUTE_BYTES} bytes as JSON.`);
    }
    return routeOf(JSON.parse(text) as Route);
  } catch (error) {
    return unreadable("invalid_route", "route", error);
  }
}

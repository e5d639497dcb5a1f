/**
 * The table of routes: for each route key, where to deliver now. Held in memory, in partitions that know nothing of
 * each other; a room and its threads are always in the same one. A route is good for its time to live and then gone;
 * a partition that is full lets go of what was written longest ago.
 *
 * `set`, `get` and `resolve` are O(1) amortised and never wait. Usable alone: nothing else of Holdfast is needed.
 */
import { setImmediate as turn } from "node:timers/promises";
import { type Clock, systemClock, type Timer } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { configOf, type RoutesConfig } from "./config.ts";
import { type EntryTimes, MemoryEntries, type PartitionEntries } from "./entries.ts";
import { Listeners, type RoutesEvents } from "./events.ts";
import { EXPIRED, firstRoute, keyOf, NO_ROUTE, NOT_FOUND, refusal, refused, routeOf, ttlOf } from "./given.ts";
import { Partition, type PartitionWorker } from "./partition.ts";
import type { FallbackReason, GetResult, ResolutionSource, ResolveResult, SetResult } from "./resolution.ts";
import { RoomHash } from "./room-hash.ts";
import type { Route } from "./route.ts";
import type { ListedRoute, PartitionReport, RouteKeeper, SetOptions } from "./route-keeper.ts";
import { MAX_PART_CHARS, parseRouteKey, type RouteKey, roomKey } from "./route-key.ts";
import { RoutingError } from "./routing-error.ts";

export interface RoutesOptions extends Partial<RoutesConfig> {
  /** @default the system's */
  clock?: Clock;
  /** @default a logger that says nothing */
  logger?: Logger;
  /** What a partition keeps its entries in. @default in memory, {@link MemoryEntries} */
  entries?: (partition: number, maxEntries: number) => PartitionEntries;
}

/** Looked at before `prune` lets others work: well below a millisecond's work. */
const SLICE = 1_024;

/** As `find` says it of a key without an entry. */
const NOWHERE = -1;
const WALL_GOOD_MS = 1_000;

const SET: SetResult = Object.freeze({ ok: true });
const UNAVAILABLE = refused("partition_unavailable", "This key's partition is down; it starts anew by itself.");

let processWide: Partial<RoutesConfig> = {};

/** Sets what tables that are made from now on have instead of the defaults, unless they are given their own. */
export function configureRoutes(config: Partial<RoutesConfig>): void {
  processWide = { ...config };
}

export class Routes implements RouteKeeper, AsyncDisposable {
  readonly #config: RoutesConfig;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #listeners: Listeners;
  readonly #partitions: readonly Partition[];
  #timer: Timer | undefined;
  #running = false;
  /** Of the room that is worked on. */
  readonly #roomHash = new RoomHash();
  /** What is between wall and monotonic time. */
  #wallOffset = 0;
  #wallGoodUntil = Number.NEGATIVE_INFINITY;
  #pruning: Promise<{ pruned: number; partitions: number }> | undefined;

  constructor(options: RoutesOptions = {}) {
    const { clock = systemClock, logger = silentLogger } = options;
    this.#clock = clock;
    this.#logger = logger;
    this.#listeners = new Listeners(logger);
    this.#config = configOf([processWide, options], logger);
    const { partitions, maxEntriesPerPartition } = this.#config;
    const entries = options.entries ?? ((_, maxEntries) => new MemoryEntries(maxEntries));
    this.#partitions = Array.from(
      { length: partitions },
      (_, index) =>
        new Partition({
          index,
          clock,
          logger,
          open: () => entries(index, maxEntriesPerPartition),
          onDown: (partition, error) => this.#listeners.tell("partition_down", { partition, error }),
          onUp: (partition) => this.#listeners.tell("partition_up", { partition }),
        }),
    );
  }

  /** Prunes every `pruneIntervalMs` from now on. The timer keeps no process alive. Idempotent. */
  start(): this {
    if (!this.#running) {
      this.#running = true;
      this.#pruneLater();
    }
    return this;
  }

  /** Ends that, and waits for a pruning that is under way. The routes stay. Idempotent. */
  async stop(): Promise<void> {
    this.#running = false;
    this.#timer?.cancel();
    this.#timer = undefined;
    await this.#pruning;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #pruneLater(): void {
    this.#timer = this.#clock.after(this.#config.pruneIntervalMs, () => {
      void this.prune().finally(() => {
        if (this.#running) this.#pruneLater();
      });
    });
  }

  /** What the table goes by: the defaults, {@link configureRoutes} over them, its own options over these. */
  config(): RoutesConfig {
    return this.#config;
  }

  get partitionCount(): number {
    return this.#partitions.length;
  }

  /** The same for a room and its threads, in every process and version. @throws RoutingError `invalid_key` */
  partitionOf(key: RouteKey): number {
    return this.#roomHash.read(parseRouteKey(key)).partition(this.#partitions.length);
  }

  /** The worker of a partition, or of a key's, if it runs. @throws RoutingError `invalid_key` */
  partition(which: number | RouteKey): PartitionWorker | undefined {
    const partition = this.#partitions[typeof which === "number" ? which : this.partitionOf(which)];
    return partition?.entries === undefined ? undefined : partition;
  }

  /** Calls `listener` for each event of that name. @returns what takes it off again */
  on<K extends keyof RoutesEvents>(name: K, listener: (event: RoutesEvents[K]) => void): () => void {
    return this.#listeners.add(name, listener);
  }

  /** Writes the route of a key, as the newest of its partition. */
  set(key: RouteKey, route: Route, options?: SetOptions): SetResult {
    const given = routeOf(route);
    if (given instanceof RoutingError) return refusal("invalid_route", given);
    const invalid = isMeasurable(key) ? undefined : keyOf(key);
    if (invalid instanceof RoutingError) return refusal("invalid_key", invalid);
    const partition = this.#partitionFor(key);
    const { entries } = partition;
    const { seeded } = this.#roomHash;
    if (entries === undefined) return UNAVAILABLE;
    const ttlMs = ttlOf(options?.ttlMs, this.#config.ttlMs, this.#logger);
    try {
      const place = entries.find(key, seeded);
      if (place >= 0) {
        entries.renew(place, given, this.#timesFor(ttlMs));
        partition.counters.set += 1;
        if (this.#listeners.has("set")) {
          this.#listeners.tell("set", {
            routeKey: entries.read(place).key,
            route: given,
            partition: partition.index,
            ttlMs,
          });
        }
        return SET;
      }
      const known = keyOf(key);
      if (known instanceof RoutingError) return refusal("invalid_key", known);
      this.#add(partition, entries, known, seeded, given, ttlMs);
      partition.counters.set += 1;
      this.#listeners.tell("set", { routeKey: known, route: given, partition: partition.index, ttlMs });
      return SET;
    } catch (error) {
      partition.fail(error);
      return UNAVAILABLE;
    }
  }

  /** The record of exactly this key. One that has expired is said to have, once, and then not found. */
  get(key: RouteKey): GetResult {
    const invalid = isMeasurable(key) ? undefined : keyOf(key);
    if (invalid instanceof RoutingError) return refusal("invalid_key", invalid);
    const partition = this.#partitionFor(key);
    const { entries } = partition;
    const { seeded } = this.#roomHash;
    if (entries === undefined) return UNAVAILABLE;
    try {
      const place = entries.find(key, seeded);
      if (place < 0) {
        const known = keyOf(key);
        if (known instanceof RoutingError) return refusal("invalid_key", known);
        partition.counters.misses += 1;
        return NOT_FOUND;
      }
      if (entries.dueAt(place) <= this.#clock.monotonic()) {
        this.#dropStale(partition, entries, place);
        return EXPIRED;
      }
      partition.counters.hits += 1;
      const { route, updatedAtMs, expiresAtMs } = entries.read(place);
      return { ok: true, route, updatedAtMs, expiresAtMs };
    } catch (error) {
      partition.fail(error);
      return UNAVAILABLE;
    }
  }

  /**
   * Where to deliver for a key: its own route, else its room's, else the first of the given fallbacks that is a
   * route. What was found elsewhere is stored under the key, with the table's full time to live (RTE-5).
   */
  resolve(key: RouteKey, fallbacks: Route | readonly Route[] = []): ResolveResult {
    const invalid = isMeasurable(key) ? undefined : keyOf(key);
    if (invalid instanceof RoutingError) return refusal("invalid_key", invalid);
    const partition = this.#partitionFor(key);
    const { entries } = partition;
    const { seeded } = this.#roomHash;
    if (entries === undefined) return this.#resolveWithout(partition, key, fallbacks);
    try {
      return this.#resolveWith(partition, entries, key, seeded, fallbacks);
    } catch (error) {
      partition.fail(error);
      return this.#resolveWithout(partition, key, fallbacks);
    }
  }

  #resolveWith(
    partition: Partition,
    entries: PartitionEntries,
    key: RouteKey,
    seeded: number,
    fallbacks: Route | readonly Route[],
  ): ResolveResult {
    const now = this.#clock.monotonic();
    const place = entries.find(key, seeded);
    if (place >= 0 && entries.dueAt(place) > now) {
      partition.counters.hits += 1;
      const { key: known, route } = entries.read(place);
      return this.#resolved(partition, known, route, "state_hit");
    }
    const known = keyOf(key);
    if (known instanceof RoutingError) return refusal("invalid_key", known);
    const hadExpired = place >= 0;
    if (hadExpired) this.#dropStale(partition, entries, place);
    else partition.counters.misses += 1;
    const { ttlMs } = this.#config;

    const room = known.thread === undefined ? NOWHERE : entries.find(roomKey(known), seeded);
    if (room >= 0 && entries.dueAt(room) > now) {
      const { route } = entries.read(room);
      this.#add(partition, entries, known, seeded, route, ttlMs);
      const reason = hadExpired ? "stale" : "thread_scope_miss";
      return this.#resolved(partition, known, route, "partition_fallback", reason);
    }
    const roomHadExpired = room >= 0;
    if (roomHadExpired) this.#dropStale(partition, entries, room);

    const given = firstRoute(fallbacks);
    if (given === undefined) return NO_ROUTE;
    this.#add(partition, entries, known, seeded, given, ttlMs);
    const reason = hadExpired || roomHadExpired ? "stale" : "miss";
    return this.#resolved(partition, known, given, "provided_fallback", reason);
  }

  /** The partition is down: nothing is looked up, and nothing kept. */
  #resolveWithout(partition: Partition, key: RouteKey, fallbacks: Route | readonly Route[]): ResolveResult {
    const known = keyOf(key);
    if (known instanceof RoutingError) return refusal("invalid_key", known);
    const given = firstRoute(fallbacks);
    if (given === undefined) return UNAVAILABLE;
    return this.#resolved(partition, known, given, "provided_fallback", "session_unavailable");
  }

  #resolved(
    { index, counters }: Partition,
    routeKey: RouteKey,
    route: Route,
    source: ResolutionSource,
    reason?: FallbackReason,
  ): ResolveResult {
    if (this.#listeners.has("resolved")) this.#listeners.tell("resolved", { routeKey, partition: index, source });
    const found = {
      ok: true,
      externalRoomId: route.externalRoomId,
      route,
      partition: index,
      routeKey,
      source,
    } as const;
    if (reason === undefined) return { ...found, fallback: false, stale: false };
    counters.fallbacks += 1;
    this.#listeners.tell("fallback", { routeKey, partition: index, source, reason });
    return { ...found, fallback: true, stale: reason === "stale", fallbackReason: reason };
  }

  #add(
    partition: Partition,
    entries: PartitionEntries,
    key: RouteKey,
    seeded: number,
    route: Route,
    ttlMs: number,
  ): void {
    const evicted = entries.add(key, seeded, route, this.#timesFor(ttlMs));
    if (evicted === undefined) return;
    partition.counters.evicted += 1;
    this.#listeners.tell("evicted", { routeKey: evicted, partition: partition.index });
  }

  #timesFor(ttlMs: number): EntryTimes {
    const now = this.#clock.monotonic();
    const updatedAtMs = this.#wallAt(now);
    return { updatedAtMs, expiresAtMs: updatedAtMs + ttlMs, dueAt: now + ttlMs };
  }

  /** Wall time, read once a second: a clock costs as much as all else that a write does. */
  #wallAt(monotonic: number): number {
    if (monotonic >= this.#wallGoodUntil) {
      this.#wallOffset = this.#clock.wall() - monotonic;
      this.#wallGoodUntil = monotonic + WALL_GOOD_MS;
    }
    return Math.round(this.#wallOffset + monotonic);
  }

  #dropStale(partition: Partition, entries: PartitionEntries, place: number): void {
    const { key } = entries.read(place);
    entries.remove(place);
    partition.counters.stale += 1;
    this.#listeners.tell("stale", { routeKey: key, partition: partition.index });
  }

  /**
   * Removes what has expired, in all partitions, and lets others work in between. What expired within the last second
   * may stay for the next time. Called while it is under way it joins that.
   */
  prune(): Promise<{ pruned: number; partitions: number }> {
    this.#pruning ??= this.#prune().finally(() => {
      this.#pruning = undefined;
    });
    return this.#pruning;
  }

  async #prune(): Promise<{ pruned: number; partitions: number }> {
    let pruned = 0;
    let looked = 0;
    for (const partition of this.#partitions) {
      for (let more = true; more; ) {
        const { entries } = partition;
        if (entries === undefined) break;
        try {
          const slice = entries.removeDue(this.#clock.monotonic(), SLICE);
          pruned += slice.removed;
          partition.counters.pruned += slice.removed;
          more = slice.more;
          looked += more ? SLICE : slice.removed + EMPTY;
        } catch (error) {
          partition.fail(error);
          break;
        }
        if (looked >= SLICE) {
          looked = 0;
          await turn();
        }
      }
    }
    const outcome = { pruned, partitions: this.#partitions.length };
    this.#listeners.tell("pruned", outcome);
    return outcome;
  }

  /** The newest written routes of all partitions, those that have expired and were not asked for included. */
  newest(limit: number): ListedRoute[] {
    return this.#partitions
      .flatMap((partition) =>
        partition.newest(limit).map(({ key, route, updatedAtMs, expiresAtMs }) => ({
          ...{ routeKey: key, partition: partition.index },
          ...{ route, updatedAtMs, expiresAtMs },
        })),
      )
      .sort((a, b) => b.updatedAtMs - a.updatedAtMs)
      .slice(0, limit);
  }

  /** What happened in each partition since the table was made. */
  counters(): PartitionReport[] {
    return this.#partitions.map((partition) => ({
      ...{ partition: partition.index, running: partition.entries !== undefined, size: partition.size },
      ...partition.counters,
    }));
  }

  #partitionFor(key: RouteKey): Partition {
    return this.#partitions[this.#roomHash.read(key).partition(this.#partitions.length)] as Partition;
  }
}

/** What looking at a partition costs that has nothing to remove. */
const EMPTY = 16;

/** Whether the parts are texts that can be looked up. What is found is valid; only what is not has to be checked. */
function isMeasurable(key: RouteKey): boolean {
  if (typeof key !== "object" || key === null) return false;
  const { channel, bridge, room, thread } = key;
  return isShort(channel) && isShort(bridge) && isShort(room) && (thread === undefined || isShort(thread));
}

const isShort = (part: unknown): boolean => typeof part === "string" && part.length <= MAX_PART_CHARS;

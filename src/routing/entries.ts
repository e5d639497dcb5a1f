/**
 * The routes of one partition, in memory. Four things are kept of each entry, all in step: its place in the index,
 * its key and route, its place in the order of writing, and its place among what expires when.
 *
 * Every operation is O(1) amortised. Expiry is kept in buckets of a second: an entry whose time is put off stays in
 * its bucket and is filed anew when that one is due, which the write that put it off has paid for. Nothing is kept of
 * what was removed, so the memory is that of the most entries that were there at one time. The index is several maps:
 * one that holds a million entries stands still for tens of milliseconds whenever it grows.
 *
 * Numbers and links stand in typed arrays, a line of the processor's cache for each entry, and the collector has
 * nothing to do with them: as objects that point at each other, a write costs twice as much.
 */
import { seededHash } from "./room-hash.ts";
import type { Route } from "./route.ts";
import type { RouteKey } from "./route-key.ts";

/** When an entry was written and when it expires: wall time for people, monotonic time to go by. */
export interface EntryTimes {
  readonly updatedAtMs: number;
  readonly expiresAtMs: number;
  readonly dueAt: number;
}

export interface Entry extends EntryTimes {
  readonly key: RouteKey;
  readonly route: Route;
}

/**
 * What a partition keeps its entries in. An entry that is there has a **place**, a number from 0, which stays its own
 * until it is removed. All synchronous; what throws takes the partition down (RTE-9), and it gets a new one.
 */
export interface PartitionEntries {
  readonly size: number;
  /**
   * The place of a key's entry, or -1.
   *
   * @param roomHash 32 bits, the same for all keys of a room, others in another process
   */
  find(key: RouteKey, roomHash: number): number;
  dueAt(place: number): number;
  read(place: number): Entry;
  /** A key that is not there, as the newest written. Beyond the capacity the oldest goes, and its key is given back. */
  add(key: RouteKey, roomHash: number, route: Route, times: EntryTimes): RouteKey | undefined;
  /** Writes an entry anew, as the newest. */
  renew(place: number, route: Route, times: EntryTimes): void;
  remove(place: number): void;
  /**
   * Removes what is due at `now`, looking at no more than about `atMost` entries.
   *
   * @returns how many were removed, and whether there may be more
   */
  removeDue(now: number, atMost: number): { removed: number; more: boolean };
  /** The newest written first. */
  newest(): Iterable<Entry>;
}

const BUCKET_MS = 1_000;
/** Of one map of the index. */
const MAX_PER_LANE = 4_096;
/** Seconds without entries are passed so much faster than entries. */
const SECONDS_PER_ENTRY = 16;
const FIRST_CAPACITY = 64;

/** The entries that are looked at when a second is over. */
interface Bucket {
  first: number;
  count: number;
}

/** No place. */
const NONE = -1;

/** Of `#times`. */
const DUE = 0;
const UPDATED = 1;
const EXPIRES = 2;
const TIMES = 4;

/** Of `#links`: neighbours in the order of writing, in the bucket, and with the same hash; then hash and bucket. */
const OLDER = 0;
const NEWER = 1;
const BEFORE = 2;
const AFTER = 3;
const TWIN = 4;
const HASH = 5;
const SECOND = 6;
const LINKS = 8;

export class MemoryEntries implements PartitionEntries {
  readonly #maxEntries: number;
  readonly #lanes: readonly Map<number, number>[];
  readonly #laneMask: number;
  readonly #buckets = new Map<number, Bucket>();
  readonly #keys: (RouteKey | undefined)[] = [];
  readonly #routes: (Route | undefined)[] = [];
  #times = new Float64Array(FIRST_CAPACITY * TIMES);
  #links = new Int32Array(FIRST_CAPACITY * LINKS);
  /** Places that were left, linked by `OLDER`. */
  #free = NONE;
  /** Seconds before it have no bucket. */
  #firstSecond: number | undefined;
  #newest = NONE;
  #oldest = NONE;
  #size = 0;

  constructor(maxEntries: number) {
    this.#maxEntries = maxEntries;
    const lanes = 2 ** Math.ceil(Math.log2(Math.max(1, maxEntries / MAX_PER_LANE)));
    this.#lanes = Array.from({ length: lanes }, () => new Map());
    this.#laneMask = lanes - 1;
  }

  get size(): number {
    return this.#size;
  }

  find(key: RouteKey, roomHash: number): number {
    const hash = seededHash(roomHash, key.thread);
    let place = this.#laneOf(hash).get(hash) ?? NONE;
    while (place !== NONE && !isSame(this.#keys[place] as RouteKey, key)) place = this.#link(place, TWIN);
    return place;
  }

  dueAt(place: number): number {
    return this.#times[place * TIMES + DUE] as number;
  }

  read(place: number): Entry {
    const times = place * TIMES;
    return {
      key: this.#keys[place] as RouteKey,
      route: this.#routes[place] as Route,
      updatedAtMs: this.#times[times + UPDATED] as number,
      expiresAtMs: this.#times[times + EXPIRES] as number,
      dueAt: this.#times[times + DUE] as number,
    };
  }

  add(key: RouteKey, roomHash: number, route: Route, times: EntryTimes): RouteKey | undefined {
    const hash = seededHash(roomHash, key.thread);
    const place = this.#newPlace();
    const lane = this.#laneOf(hash);
    const links = place * LINKS;
    this.#links[links + TWIN] = lane.get(hash) ?? NONE;
    this.#links[links + HASH] = hash;
    lane.set(hash, place);
    this.#keys[place] = key;
    this.#write(place, route, times);
    this.#joinOrder(place);
    this.#joinBucket(place, secondOf(times.dueAt));
    this.#size += 1;
    if (this.#size <= this.#maxEntries) return undefined;
    const evicted = this.#keys[this.#oldest];
    this.remove(this.#oldest);
    return evicted;
  }

  renew(place: number, route: Route, times: EntryTimes): void {
    this.#write(place, route, times);
    if (place !== this.#newest) {
      this.#leaveOrder(place);
      this.#joinOrder(place);
    }
    const second = secondOf(times.dueAt);
    // Later than it is filed for: it is filed anew when that second is over.
    if (second < this.#link(place, SECOND)) {
      this.#leaveBucket(place);
      this.#joinBucket(place, second);
    }
  }

  #write(place: number, route: Route, { dueAt, updatedAtMs, expiresAtMs }: EntryTimes): void {
    const times = place * TIMES;
    this.#routes[place] = route;
    this.#times[times + DUE] = dueAt;
    this.#times[times + UPDATED] = updatedAtMs;
    this.#times[times + EXPIRES] = expiresAtMs;
  }

  remove(place: number): void {
    this.#leaveIndex(place);
    this.#leaveOrder(place);
    this.#leaveBucket(place);
    this.#keys[place] = undefined;
    this.#routes[place] = undefined;
    this.#links[place * LINKS + OLDER] = this.#free;
    this.#free = place;
    this.#size -= 1;
  }

  removeDue(now: number, atMost: number): { removed: number; more: boolean } {
    const last = secondOf(now);
    let removed = 0;
    let budget = atMost * SECONDS_PER_ENTRY;
    for (let second = this.#size === 0 ? last : (this.#firstSecond ?? last); second <= last; second += 1) {
      this.#firstSecond = second;
      const bucket = this.#buckets.get(second);
      // Of the second that is not over some may stay: it is looked through as a whole, or when it is over.
      if (second === last && bucket !== undefined && bucket.count > atMost) break;
      let place = bucket?.first ?? NONE;
      while (place !== NONE) {
        if (budget <= 0 && second < last) return { removed, more: true };
        budget -= SECONDS_PER_ENTRY;
        const after = this.#link(place, AFTER);
        const dueAt = this.dueAt(place);
        if (dueAt <= now) {
          this.remove(place);
          removed += 1;
        } else if (secondOf(dueAt) > second) {
          this.#leaveBucket(place);
          this.#joinBucket(place, secondOf(dueAt));
        }
        place = after;
      }
      budget -= 1;
      if (budget <= 0 && second < last) return { removed, more: true };
    }
    return { removed, more: false };
  }

  *newest(): Iterable<Entry> {
    for (let place = this.#newest; place !== NONE; place = this.#link(place, OLDER)) yield this.read(place);
  }

  #newPlace(): number {
    if (this.#free !== NONE) {
      const place = this.#free;
      this.#free = this.#link(place, OLDER);
      return place;
    }
    const place = this.#keys.length;
    const capacity = this.#links.length / LINKS;
    if (place === capacity) {
      const times = new Float64Array(capacity * 2 * TIMES);
      times.set(this.#times);
      this.#times = times;
      const links = new Int32Array(capacity * 2 * LINKS);
      links.set(this.#links);
      this.#links = links;
    }
    return place;
  }

  #link(place: number, name: number): number {
    return this.#links[place * LINKS + name] as number;
  }

  #laneOf(hash: number): Map<number, number> {
    return this.#lanes[hash & this.#laneMask] as Map<number, number>;
  }

  #leaveIndex(place: number): void {
    const hash = this.#link(place, HASH);
    const next = this.#link(place, TWIN);
    const lane = this.#laneOf(hash);
    let twin = lane.get(hash) as number;
    if (twin !== place) {
      while (this.#link(twin, TWIN) !== place) twin = this.#link(twin, TWIN);
      this.#links[twin * LINKS + TWIN] = next;
    } else if (next === NONE) lane.delete(hash);
    else lane.set(hash, next);
  }

  #joinOrder(place: number): void {
    this.#links[place * LINKS + OLDER] = this.#newest;
    this.#links[place * LINKS + NEWER] = NONE;
    if (this.#newest === NONE) this.#oldest = place;
    else this.#links[this.#newest * LINKS + NEWER] = place;
    this.#newest = place;
  }

  #leaveOrder(place: number): void {
    const older = this.#link(place, OLDER);
    const newer = this.#link(place, NEWER);
    if (newer === NONE) this.#newest = older;
    else this.#links[newer * LINKS + OLDER] = older;
    if (older === NONE) this.#oldest = newer;
    else this.#links[older * LINKS + NEWER] = newer;
  }

  #joinBucket(place: number, second: number): void {
    let bucket = this.#buckets.get(second);
    if (bucket === undefined) {
      bucket = { first: NONE, count: 0 };
      this.#buckets.set(second, bucket);
      if (this.#firstSecond === undefined || second < this.#firstSecond) this.#firstSecond = second;
    }
    const links = place * LINKS;
    this.#links[links + SECOND] = second;
    this.#links[links + BEFORE] = NONE;
    this.#links[links + AFTER] = bucket.first;
    if (bucket.first !== NONE) this.#links[bucket.first * LINKS + BEFORE] = place;
    bucket.first = place;
    bucket.count += 1;
  }

  #leaveBucket(place: number): void {
    const second = this.#link(place, SECOND);
    const bucket = this.#buckets.get(second) as Bucket;
    const before = this.#link(place, BEFORE);
    const after = this.#link(place, AFTER);
    if (before === NONE) bucket.first = after;
    else this.#links[before * LINKS + AFTER] = after;
    if (after !== NONE) this.#links[after * LINKS + BEFORE] = before;
    bucket.count -= 1;
    if (bucket.count === 0) this.#buckets.delete(second);
  }
}

const isSame = (one: RouteKey, other: RouteKey): boolean =>
  one.room === other.room &&
  one.thread === other.thread &&
  one.bridge === other.bridge &&
  one.channel === other.channel;

const secondOf = (monotonic: number): number => Math.floor(monotonic / BUCKET_MS);

/**
 * Two hashes of a room, over the UTF-16 units of channel, bridge and room, each after its length, in one pass: to read
 * the texts costs more than all else that a lookup does.
 *
 * The **stable** one says which partition a room belongs to (RTE-7). It is part of what is promised: every process and
 * every version of Holdfast puts a room in the same one, so that nodes can share partitions out among them. FNV-1a (32
 * bits), then the last steps of MurmurHash3, since the low bits of FNV alone are not even.
 *
 * The **seeded** one, for an index, is another one in each process: whoever names rooms cannot look for names that
 * collide.
 */
import { randomInt } from "node:crypto";
import type { RouteKey } from "./route-key.ts";

const OFFSET = 0x811c9dc5;
const PRIME = 0x01000193;
const SEED = randomInt(0x1_0000_0000);

export class RoomHash {
  stable = 0;
  seeded = 0;

  /** Reads a key's room; `stable` and `seeded` are its hashes from then on. */
  read({ channel, bridge, room }: RouteKey): this {
    this.stable = OFFSET;
    this.seeded = SEED;
    this.#over(channel);
    this.#over(bridge);
    this.#over(room);
    return this;
  }

  partition(partitions: number): number {
    let hash = this.stable;
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return ((hash ^ (hash >>> 16)) >>> 0) % partitions;
  }

  #over(part: string): void {
    let stable = Math.imul(this.stable ^ part.length, PRIME);
    let seeded = Math.imul(this.seeded ^ part.length, PRIME);
    for (let index = 0; index < part.length; index += 1) {
      const unit = part.charCodeAt(index);
      stable = Math.imul(stable ^ unit, PRIME);
      seeded = Math.imul(seeded ^ unit, PRIME);
    }
    this.stable = stable;
    this.seeded = seeded ^ (seeded >>> 13);
  }
}

/** The seeded hash of a key, from that of its room. */
export function seededHash(room: number, thread: string | undefined): number {
  let hash = room;
  if (thread !== undefined) {
    hash = Math.imul(hash ^ thread.length, PRIME);
    for (let index = 0; index < thread.length; index += 1) hash = Math.imul(hash ^ thread.charCodeAt(index), PRIME);
  }
  return hash ^ (hash >>> 15);
}

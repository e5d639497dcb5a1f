/**
 * How often somebody may ask (SRV-24): so many at once, and so many a second after that. One number for each who
 * asked lately (the time at which all that he used is his again), in a cache of the newest; whoever falls out of it
 * starts anew. The libraries for this keep a timer or a row for each, and none takes a clock.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../../clock.ts";

const MAX_KNOWN = 10_000;

export interface Rate {
  perSecond: number;
  /** How many may come at once after a pause. */
  burst: number;
}

export class RateLimit {
  readonly #clock: Clock;
  readonly #stepMs: number;
  readonly #roomMs: number;
  /** When each has its whole burst again, on the monotonic clock. */
  readonly #fullAt = new LRUCache<string, number>({ max: MAX_KNOWN });

  /** @throws RangeError for a rate that is none */
  constructor(clock: Clock, { perSecond, burst }: Rate) {
    if (!(perSecond > 0 && burst >= 1 && Number.isFinite(perSecond + burst))) {
      throw new RangeError(`rateLimit: ${perSecond} a second, ${burst} at once is no rate; both are positive numbers.`);
    }
    this.#clock = clock;
    this.#stepMs = 1_000 / perSecond;
    this.#roomMs = this.#stepMs * burst;
  }

  /** How long `who` has to wait before the next one, in milliseconds; 0 when it may come now. */
  waitMs(who: string): number {
    const now = this.#clock.monotonic();
    const fullAt = Math.max(this.#fullAt.get(who) ?? now, now);
    return Math.max(0, fullAt + this.#stepMs - now - this.#roomMs);
  }

  /** Takes one back that was counted: it was not what is limited. */
  forgive(who: string): void {
    const fullAt = this.#fullAt.get(who);
    if (fullAt !== undefined) this.#fullAt.set(who, fullAt - this.#stepMs);
  }

  /** Counts one, whether it may come or not. */
  count(who: string): void {
    const now = this.#clock.monotonic();
    const fullAt = Math.max(this.#fullAt.get(who) ?? now, now);
    // What is asked in vain does not make the wait longer and longer.
    this.#fullAt.set(who, Math.min(fullAt + this.#stepMs, now + this.#roomMs));
  }
}

/** Who an address belongs to, as far as one can tell: of IPv6 a subscriber has at least a /64. */
export function neighbourhoodOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!address.includes(":")) return address;
  const [head = "", tail = ""] = address.split("%", 1)[0]?.split("::") ?? [];
  const before = head === "" ? [] : head.split(":");
  const after = tail === "" ? [] : tail.split(":");
  const zeros = address.includes("::") ? Array<string>(Math.max(0, 8 - before.length - after.length)).fill("0") : [];
  return `${[...before, ...zeros, ...after].slice(0, 4).join(":")}::/64`;
}

/**
 * Counting what arrived, without trusting whoever delivered it: from numbers alone, or from two readings
 * of the same log.
 */

export interface Counts {
  events: number;
  lost: number;
  duplicated: number;
  reordered: number;
}

export const sumOf = (counts: readonly Counts[]): Counts =>
  counts.reduce(
    (total, one) => ({
      events: total.events + one.events,
      lost: total.lost + one.lost,
      duplicated: total.duplicated + one.duplicated,
      reordered: total.reordered + one.reordered,
    }),
    { events: 0, lost: 0, duplicated: 0, reordered: 0 },
  );

/** The last line of the report, to the letter (CLI-5). */
export const countsLine = ({ events, lost, duplicated, reordered }: Counts): string =>
  `events ${events}  lost ${lost}  duplicated ${duplicated}  reordered ${reordered}`;

/** Numbers that must come as `first`, `first + 1`, … Each is kept: some bytes a number. */
export class Sequence {
  readonly #first: number;
  readonly #seen = new Set<number>();
  #highest: number;
  #events = 0;
  #duplicated = 0;
  #reordered = 0;

  constructor(first: number) {
    this.#first = first;
    this.#highest = first - 1;
  }

  get highest(): number {
    return this.#highest;
  }

  take(number: number): void {
    this.#events += 1;
    if (this.#seen.has(number)) {
      this.#duplicated += 1;
      return;
    }
    this.#seen.add(number);
    if (number < this.#highest) this.#reordered += 1;
    else this.#highest = number;
  }

  /** What never came, up to the highest that did, or up to `last` where that is known. */
  counts(last = this.#highest): Counts {
    const wanted = last - this.#first + 1;
    return {
      events: this.#events,
      lost: Math.max(0, wanted - this.#seen.size),
      duplicated: this.#duplicated,
      reordered: this.#reordered,
    };
  }
}

/** Holds a second reading of a log against the first. `events` counts the second. */
export function compareReadings(first: readonly string[], second: readonly string[]): Counts {
  const places = Map.groupBy(first.keys(), (place) => first[place]);
  const counts = { events: second.length, lost: 0, duplicated: 0, reordered: 0 };
  let furthest = -1;
  for (const entry of second) {
    const place = places.get(entry)?.shift();
    if (place === undefined) counts.duplicated += 1;
    else if (place < furthest) counts.reordered += 1;
    else furthest = place;
  }
  for (const left of places.values()) counts.lost += left.length;
  return counts;
}

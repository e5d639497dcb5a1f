/** How fast a counter grows, looked at every so often: the points of a sparkline. */

const KEPT = 60;

export interface Reading {
  total: number;
  /** Monotonic milliseconds of whoever counts. */
  atMs: number;
}

export class Rates {
  /** Per second, oldest first; the newest 60. */
  readonly points: readonly number[];
  readonly #last: Reading | undefined;

  constructor(points: readonly number[] = [], last?: Reading) {
    this.points = points;
    this.#last = last;
  }

  /** With one reading more; a counter that begins anew, as after a restart, adds no point. */
  with(reading: Reading): Rates {
    const last = this.#last;
    if (last === undefined || reading.atMs < last.atMs || reading.total < last.total) {
      return new Rates(this.points, reading);
    }
    if (reading.atMs === last.atMs) return this;
    const rate = ((reading.total - last.total) * 1_000) / (reading.atMs - last.atMs);
    return new Rates([...this.points, rate].slice(-KEPT), reading);
  }

  get newest(): number {
    return this.points.at(-1) ?? 0;
  }
}

/** The points of an SVG polyline in a box of that size, the newest at its right edge. */
export function sparkline(points: readonly number[], width: number, height: number): string {
  const top = Math.max(1, ...points);
  const step = width / (KEPT - 1);
  const round = (value: number) => Math.round(value * 10) / 10;
  return points
    .map((point, index) => {
      const x = width - (points.length - 1 - index) * step;
      return `${round(x)},${round(height - 1 - (point / top) * (height - 2))}`;
    })
    .join(" ");
}

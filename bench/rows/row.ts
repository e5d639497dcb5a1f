/**
 * What the benchmark measures, one row per target. A row measures one server at a time, started afresh for
 * it; its figures are the medians over the rounds, its lines what the table says of them.
 */
import type { ServerKind, ServerProcess } from "../server-process.ts";

/** Named figures of one measurement, or their medians. */
export type Figures = Readonly<Record<string, number>>;

export interface Line {
  what: string;
  baseline?: string;
  holdfast: string;
  /** What is held against the target: a ratio, or a figure. */
  result: string;
  target: string;
  /** `undefined` where nothing is promised. */
  met?: boolean;
}

interface AnyRow {
  /** For `--only`. */
  readonly name: string;
  /** Who is measured; both when not said. */
  readonly servers?: readonly ServerKind[];
  /** At most so many rounds. */
  readonly rounds?: number;
  /** Why it cannot be measured here; `undefined` when it can. */
  unavailable?(): Promise<string | undefined>;
  lines(holdfast: Figures, baseline: Figures): Line[];
}

export interface ServerRow extends AnyRow {
  /** Of the runtime. */
  readonly options?: object;
  /** @param scale 1, or less for a short run */
  measure(server: ServerProcess, scale: number): Promise<Figures>;
}

/** What needs no server: the store or the routes alone, in the process of the benchmark. */
export interface LocalRow extends AnyRow {
  /** @param scale 1, or less for a short run */
  measureHere(kind: ServerKind, scale: number): Promise<Figures>;
}

export type Row = ServerRow | LocalRow;

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

/** `12,345` */
export const whole = (value: number | undefined): string =>
  (value ?? Number.NaN).toLocaleString("en", { maximumFractionDigits: 0 });
export const decimal = (value: number | undefined, digits = 2): string => (value ?? Number.NaN).toFixed(digits);
export const MIB = 1024 * 1024;

/** A line whose target is a ratio of Holdfast's figure to the baseline's. */
export function ratioLine(
  what: string,
  unit: string,
  [holdfast, baseline]: readonly [number | undefined, number | undefined],
  target: { atLeast: number } | { atMost: number },
): Line {
  const ratio = (holdfast ?? Number.NaN) / (baseline ?? Number.NaN);
  const show = (value: number | undefined): string =>
    `${(value ?? Number.NaN) < 100 ? decimal(value) : whole(value)} ${unit}`;
  return {
    what,
    baseline: show(baseline),
    holdfast: show(holdfast),
    result: `${decimal(ratio)} × B`,
    target: "atLeast" in target ? `≥ ${target.atLeast} × B` : `≤ ${target.atMost} × B`,
    met: "atLeast" in target ? ratio >= target.atLeast : ratio <= target.atMost,
  };
}

/**
 * How a table is set up: defaults, then what holds for all tables of the process, then what one table was given
 * (RTE-10). A value that cannot be is left out with a warning: a table with its defaults is better than none.
 */
import { availableParallelism } from "node:os";
import type { Logger } from "../logger.ts";
import { shown } from "./routing-error.ts";

export interface RoutesConfig {
  /** What listings call the table. @default "routes" */
  readonly name: string;
  /** @default 2 for each core, at least 2 */
  readonly partitions: number;
  /** How long a route is good after it was set. @default 1_800_000 */
  readonly ttlMs: number;
  /** Beyond it the route goes that was written longest ago. @default 10_000 */
  readonly maxEntriesPerPartition: number;
  /** How often expired routes are removed that nobody asks for, once the table is started. @default 30_000 */
  readonly pruneIntervalMs: number;
}

/** A year. A route that is to stay longer belongs in the host's own table. */
export const MAX_TTL_MS = 365 * 86_400_000;
const MAX_PARTITIONS = 65_536;
const MAX_ENTRIES = 16_000_000;
const MAX_PRUNE_INTERVAL_MS = 86_400_000;
const MAX_NAME_CHARS = 64;

/** Why a value cannot be, or `undefined`. */
type Check = (value: unknown) => string | undefined;

const whole =
  (most: number): Check =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= most
      ? undefined
      : `is no whole number from 1 to ${most}`;

/** Why that is no time to live, or `undefined`. */
export const badTtl: Check = whole(MAX_TTL_MS);

const CHECKS: { readonly [K in keyof RoutesConfig]: Check } = {
  name: (value) =>
    typeof value === "string" && value !== "" && value.length <= MAX_NAME_CHARS
      ? undefined
      : `is no text of 1 to ${MAX_NAME_CHARS} characters`,
  partitions: whole(MAX_PARTITIONS),
  ttlMs: badTtl,
  maxEntriesPerPartition: whole(MAX_ENTRIES),
  pruneIntervalMs: whole(MAX_PRUNE_INTERVAL_MS),
};

export const defaults = (): RoutesConfig => ({
  name: "routes",
  partitions: Math.max(2, 2 * availableParallelism()),
  ttlMs: 1_800_000,
  maxEntriesPerPartition: 10_000,
  pruneIntervalMs: 30_000,
});

/** @param layers the later ones win; each is looked at for the names of a configuration only */
export function configOf(layers: readonly Partial<RoutesConfig>[], logger: Logger): RoutesConfig {
  const fallback = defaults();
  let config = fallback;
  const names = Object.keys(CHECKS) as (keyof RoutesConfig)[];
  for (const layer of layers) {
    for (const name of names) {
      const value = layer[name];
      if (value === undefined) continue;
      const reason = CHECKS[name](value);
      if (reason !== undefined) {
        logger.warn({ option: name, value: shown(value) }, `${name}: ${shown(value)} ${reason}; the default is used`);
      }
      config = { ...config, [name]: reason === undefined ? value : fallback[name] };
    }
  }
  return Object.freeze(config);
}

/**
 * The table of routes, in the process of the benchmark. B is `lru-cache` with a time to live, under the text of the
 * same keys, which whoever uses it has to put together for each call. The same is measured with a million routes, where
 * each call is slower for either, since nothing of what it touches is in the processor's caches. Then the pruning of a
 * million. Many short blocks and their median: what else the machine does falls on a few of them. (The processor's own
 * time would be the better measure, but is counted in steps of 4 ms.)
 */
import { setImmediate as turn } from "node:timers/promises";
import { LRUCache } from "lru-cache";
import { systemClock } from "../../src/clock.ts";
import { type Route, type RouteKey, Routes } from "../../src/routing/index.ts";
import { ManualClock } from "../../src/testing/manual-clock.ts";
import { decimal, type LocalRow, median, ratioLine } from "./row.ts";

const MILLION = 1_000_000;
const KEYS = 10_000;
/** Either works on a block, then the other: what else the machine does falls on both. */
const BLOCKS = 60;
const TTL_MS = 1_800_000;
/** For a million, with as many in each as a partition takes by default. */
const PARTITIONS = 128;
const MAX_ENTRIES = 10_000;
const AT_LEAST = 0.8;
const SLICE_AT_MOST_MS = 5;

const ROUTE: Route = { externalRoomId: "C042", channel: "slack", bridgeId: "T024" };

const keysOf = (count: number): RouteKey[] =>
  Array.from({ length: count }, (_, index) => ({
    channel: "slack",
    bridge: `T0${index % 7}`,
    room: `C0${100_000_000 + Math.floor(index / 8)}`,
    thread: `17000${index % 1000}.0${index}`,
  }));

const textOf = ({ channel, bridge, room, thread }: RouteKey): string => `${channel}/${bridge}/${room}/${thread}`;

type Work = "set" | "get" | "resolve";
type Table = Readonly<Record<Work, (key: RouteKey) => void>>;

function ours(count: number): Table {
  const routes = new Routes({ ttlMs: TTL_MS, ...(count > MAX_ENTRIES ? { partitions: PARTITIONS } : {}) });
  return {
    set: (key) => void routes.set(key, ROUTE),
    get(key) {
      if (!routes.get(key).ok) throw new Error("The route was not there.");
    },
    resolve(key) {
      if (!routes.resolve(key).ok) throw new Error("The route was not there.");
    },
  };
}

function theirs(): Table {
  const cache = new LRUCache<string, Route>({ max: PARTITIONS * MAX_ENTRIES, ttl: TTL_MS });
  const get = (key: RouteKey) => {
    if (cache.get(textOf(key)) === undefined) throw new Error("The route was not there.");
  };
  return { set: (key) => void cache.set(textOf(key), ROUTE), get, resolve: get };
}

/** What one call takes in ns, for either, block by block in turns. */
function measured(
  keys: readonly RouteKey[],
  perBlock: number,
  blocks: number,
): Record<`${"ours" | "bare"}.${Work}`, number> {
  const tables = { ours: ours(keys.length), bare: theirs() };
  const samples = new Map<string, number[]>();
  // The first blocks fill the tables and warm up.
  for (const table of Object.values(tables)) for (const key of keys) table.set(key);
  for (let block = -2; block < blocks; block += 1) {
    const first = (Math.max(0, block) * perBlock) % Math.max(1, keys.length - perBlock + 1);
    for (const work of ["set", "get", "resolve"] as const) {
      for (const [name, table] of Object.entries(tables)) {
        const started = systemClock.monotonic();
        for (let done = 0; done < perBlock; done += 1) table[work](keys[(first + done) % keys.length] as RouteKey);
        const ns = ((systemClock.monotonic() - started) * 1e6) / perBlock;
        if (block >= 0) samples.set(`${name}.${work}`, [...(samples.get(`${name}.${work}`) ?? []), ns]);
      }
    }
  }
  const figure = (name: string) => median(samples.get(name) ?? []);
  return {
    ...{ "ours.set": figure("ours.set"), "ours.get": figure("ours.get"), "ours.resolve": figure("ours.resolve") },
    ...{ "bare.set": figure("bare.set"), "bare.get": figure("bare.get"), "bare.resolve": figure("bare.resolve") },
  };
}

/** The most work that was done in one turn while a table was pruned, in ms. */
async function longestSlice(keys: readonly RouteKey[]): Promise<number> {
  const clock = new ManualClock();
  const routes = new Routes({ partitions: PARTITIONS, clock });
  for (const key of keys) routes.set(key, ROUTE, { ttlMs: 1 });
  await clock.advance(1_000);
  const slices: number[] = [];
  let pruning = true;
  const watched = (async () => {
    for (let last = systemClock.monotonic(); pruning; ) {
      await turn();
      const now = systemClock.monotonic();
      slices.push(now - last);
      last = now;
    }
  })();
  const { pruned } = await routes.prune();
  pruning = false;
  await watched;
  if (pruned !== keys.length) throw new Error(`${pruned} of ${keys.length} routes were pruned.`);
  return Math.max(...slices);
}

export const routesRow: LocalRow = {
  name: "routes",
  servers: ["holdfast"],
  async measureHere(_kind, scale) {
    const million = keysOf(MILLION * scale);
    const middle = measured(keysOf(KEYS), KEYS, BLOCKS * scale);
    const large = measured(million, KEYS, BLOCKS * scale);
    const figures: Record<string, number> = {};
    for (const [name, ns] of Object.entries(middle)) figures[name] = 1e9 / ns;
    for (const [name, ns] of Object.entries(large)) figures[`million.${name}`] = 1e9 / ns;
    figures["slice"] = await longestSlice(million);
    return figures;
  },
  lines: (figures) => [
    ...(["", "million."] as const).flatMap((size) =>
      (["set", "get", "resolve"] as const).map((work) =>
        ratioLine(
          `routes, ${work}${size === "" ? "" : ", a million of them"}`,
          "/s",
          [figures[`${size}ours.${work}`], figures[`${size}bare.${work}`]],
          { atLeast: AT_LEAST },
        ),
      ),
    ),
    {
      what: "routes, the longest slice of pruning a million",
      holdfast: `${decimal(figures["slice"])} ms`,
      result: `${decimal(figures["slice"])} ms`,
      target: `≤ ${SLICE_AT_MOST_MS} ms`,
      met: (figures["slice"] ?? Number.NaN) <= SLICE_AT_MOST_MS,
    },
  ],
};

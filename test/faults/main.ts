/**
 * `npm run test:faults`: seeded fault scenarios over real processes, real sockets and a real file, and a
 * count of what clients lost; with `--turns`, of what conversations lost; with `--deliveries`, of answers; with
 * `--cluster`, of what clients of several nodes lost. A seed plans a scenario; the same seed plans the same one. Ends
 * by itself, leaves no process and no file, and exits 1 when a scenario found something.
 */
import { parseArgs } from "node:util";
import { systemClock } from "../../src/clock.ts";
import { killAll } from "./child.ts";
import { clusterPlanFor } from "./cluster/plan.ts";
import { ClusterScenario, killDatabases } from "./cluster/scenario.ts";
import { DeliveryScenario } from "./deliveries/scenario.ts";
import { Place, removeAll } from "./place.ts";
import { planFor, SCENARIO_NAMES, type ScenarioName } from "./plan.ts";
import { Scenario } from "./scenario.ts";
import { turnPlanFor } from "./turns/plan.ts";
import { TurnScenario } from "./turns/scenario.ts";

const USAGE = `usage: node test/faults/main.ts [options]
  --seeds N      so many scenarios (as many as there is time for; with --turns or --deliveries 1, with --cluster 4)
  --first SEED   the first of them (1)
  --seconds S    begin none after so long (100, or no limit with --seeds)
  --only NAME    ${SCENARIO_NAMES.join(", ")}
  --turns        conversations rather than sessions: workers on one file that are killed and stopped
  --deliveries   answers on their way to people: whoever sends them is killed, before they arrive and after
  --cluster      three nodes on one PostgreSQL: nodes die and are cut off, and the database goes away and comes back
  --length S     how long a scenario goes on, with --turns (55), --deliveries (25) or --cluster (20)
  --parallel N   so many at a time (2; with --turns, --deliveries or --cluster 1)
  --keep         leave the files of a scenario that found something
`;

const DEFAULT_SECONDS = 100;
/** The long ones: how long one goes on, and how many there are. */
const LONG = {
  turns: { lengthS: 55, seeds: 1 },
  deliveries: { lengthS: 25, seeds: 1 },
  cluster: { lengthS: 20, seeds: 4 },
} as const;
type Long = keyof typeof LONG;
const LONG_NAMES = Object.keys(LONG) as Long[];
/** More of them tell nothing new. */
const MAX_FAILED = 5;

const say = (text: string) => process.stdout.write(`${text}\n`);

function wrongUse(what: string): never {
  process.stderr.write(`${what}\n${USAGE}`);
  process.exit(2);
}

function numberOf(text: string | undefined, name: string): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) wrongUse(`--${name}: ${text} is not a whole number above 0.`);
  return value;
}

interface Options {
  seeds: number;
  first: number;
  seconds: number;
  only: ScenarioName | undefined;
  long: Long | undefined;
  lengthMs: number;
  parallel: number;
  keep: boolean;
}

function readOptions(): Options {
  const text = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  const { values } = parseArgs({
    options: {
      seeds: text,
      first: text,
      seconds: text,
      only: text,
      turns: flag,
      deliveries: flag,
      cluster: flag,
      length: text,
      parallel: text,
      keep: flag,
    },
  });
  const only = SCENARIO_NAMES.find((name) => name === values.only);
  if (values.only !== undefined && only === undefined) wrongUse(`--only: there is no scenario ${values.only}.`);
  const [long, another] = LONG_NAMES.filter((name) => values[name] === true);
  if (another !== undefined) wrongUse(`--${another}: is not --${long}; give one of them.`);
  if (long !== undefined && only !== undefined) wrongUse(`--only: is not for --${long}.`);
  if (long === undefined && values.length !== undefined) {
    wrongUse(`--length: only scenarios of ${LONG_NAMES.map((name) => `--${name}`).join(", ")} have one.`);
  }
  const seconds = numberOf(values.seconds, "seconds");
  const fewer = long !== undefined && seconds === undefined ? LONG[long].seeds : undefined;
  const seeds = numberOf(values.seeds, "seeds") ?? fewer;
  const lengthS = numberOf(values.length, "length") ?? (long === undefined ? 0 : LONG[long].lengthS);
  return {
    seeds: seeds ?? Number.POSITIVE_INFINITY,
    first: numberOf(values.first, "first") ?? 1,
    seconds: seconds ?? (seeds === undefined ? DEFAULT_SECONDS : Number.POSITIVE_INFINITY),
    only,
    long,
    lengthMs: lengthS * 1_000,
    parallel: numberOf(values.parallel, "parallel") ?? (long === undefined ? 2 : 1),
    keep: values.keep ?? false,
  };
}

/** What a scenario came to: what was looked at and what was wrong, each with its count. */
interface Outcome {
  counts: Readonly<Record<string, number>>;
  findings: readonly string[];
  /** Which faults there were, each with its count. */
  did?: Readonly<Record<string, number>>;
  /** Worth a look, and not wrong. */
  aside?: string;
}

/** A scenario that a seed has planned. */
interface Planned {
  seed: number;
  name: string;
  wantsDisk: boolean;
  circumstances: object;
  steps: readonly { afterMs: number; op: { do: string } }[];
  run(place: Place): Promise<Outcome>;
}

function planned(seed: number, options: Options): Planned {
  if (options.long === "turns") {
    const plan = turnPlanFor(seed, options.lengthMs);
    const run = async (place: Place): Promise<Outcome> => {
      const { findings, ends, ...counts } = await new TurnScenario(plan, place).run();
      return { counts, findings, aside: `ends ${JSON.stringify(ends)}` };
    };
    return { seed, name: "turns", wantsDisk: false, circumstances: {}, steps: plan.steps, run };
  }
  if (options.long === "deliveries") {
    const run = async (place: Place): Promise<Outcome> => {
      const { findings, fates, ...counts } = await new DeliveryScenario(seed, options.lengthMs, place).run();
      return { counts, findings, aside: `calls ${JSON.stringify(fates)}` };
    };
    return { seed, name: "deliveries", wantsDisk: false, circumstances: {}, steps: [], run };
  }
  if (options.long === "cluster") {
    const plan = clusterPlanFor(seed, options.lengthMs);
    const { steps, name, ...circumstances } = plan;
    const run = async (place: Place): Promise<Outcome> => {
      const { findings, did, ...counts } = await new ClusterScenario(plan, place).run();
      return { counts, did, findings };
    };
    return { seed, name, wantsDisk: false, circumstances, steps, run };
  }
  const plan = planFor(seed, options.only);
  const { steps, ...circumstances } = plan;
  const run = async (place: Place): Promise<Outcome> => {
    const { findings, ...counts } = await new Scenario(plan, place).run();
    return { counts, findings };
  };
  return { seed, name: plan.name, wantsDisk: plan.ownDisk, circumstances, steps, run };
}

const describe = ({ op, afterMs }: Planned["steps"][number]): string => {
  const { do: what, ...rest } = op;
  return `  +${afterMs} ms  ${what}  ${JSON.stringify(rest)}`;
};

function report(plan: Planned, { findings }: Outcome, kept: string | undefined): void {
  say(`\nseed ${plan.seed} (${plan.name}) found:`);
  for (const finding of findings.slice(0, 12)) say(`  ! ${finding.slice(0, 600)}`);
  if (findings.length > 12) say(`  ! and ${findings.length - 12} more`);
  say(`operations, with ${JSON.stringify(plan.circumstances)}:`);
  for (const step of plan.steps) say(describe(step));
  if (kept !== undefined) say(`its files are in ${kept}`);
  say("");
}

async function outcomeOf(plan: Planned, place: Place): Promise<Outcome> {
  try {
    return await plan.run(place);
  } catch (error) {
    const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { counts: {}, findings: [`the run itself failed: ${why}`] };
  }
}

const counted = (counts: Outcome["counts"]): string =>
  Object.entries(counts)
    .map(([name, count]) => `${name} ${count}`)
    .join("  ");

const TOTALS: Record<Long | "sessions", readonly string[]> = {
  sessions: ["events", "lost", "duplicated", "reordered"],
  turns: ["turns", "overlapped", "lost", "doubled", "reordered", "stuck"],
  deliveries: ["delivered", "lost", "doubled", "misrouted"],
  cluster: ["events", "lost", "duplicated", "reordered", "overlapped", "stuck"],
};

const add = (total: Record<string, number>, counts: Readonly<Record<string, number>>) => {
  for (const [name, count] of Object.entries(counts)) total[name] = (total[name] ?? 0) + count;
};

async function main(options: Options): Promise<boolean> {
  const names = TOTALS[options.long ?? "sessions"];
  const total: Record<string, number> = Object.fromEntries(names.map((name) => [name, 0]));
  const did: Record<string, number> = {};
  const failed: number[] = [];
  const began = systemClock.monotonic();
  let next = options.first;
  let ran = 0;
  const work = async () => {
    const inTime = () => systemClock.monotonic() - began < options.seconds * 1_000;
    while (next < options.first + options.seeds && inTime() && failed.length < MAX_FAILED) {
      const plan = planned(next, options);
      next += 1;
      const place = new Place(plan.wantsDisk);
      const since = systemClock.monotonic();
      const outcome = await outcomeOf(plan, place);
      const took = ((systemClock.monotonic() - since) / 1_000).toFixed(1);
      ran += 1;
      add(total, outcome.counts);
      add(did, outcome.did ?? {});
      const bad = outcome.findings.length > 0;
      const [first = ["nothing", 0]] = Object.entries(outcome.counts);
      const aside = outcome.aside ?? (outcome.did === undefined ? "" : counted(outcome.did));
      say(
        `${bad ? "FAIL" : "ok  "} seed ${plan.seed}  ${plan.name}  ${first[1]} ${first[0]}  ${took} s  ${aside}`.trimEnd(),
      );
      if (bad) {
        failed.push(plan.seed);
        report(plan, outcome, options.keep ? place.path : undefined);
      }
      if (!bad || !options.keep) place.remove();
    }
  };
  await Promise.all(Array.from({ length: options.parallel }, work));
  const seconds = ((systemClock.monotonic() - began) / 1_000).toFixed(0);
  say(
    `${ran} seeds in ${seconds} s${failed.length === 0 ? "" : `, of which ${failed.length} failed: ${failed.join(" ")}`}`,
  );
  if (Object.keys(did).length > 0) say(`faults: ${counted(did)}`);
  say(counted(total));
  return failed.length === 0;
}

const options = readOptions();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
process.on("exit", () => {
  killAll();
  killDatabases();
  if (!options.keep) removeAll();
});
// Said here and now: what starts PostgreSQL ends a program that has nothing left to do with 0.
process.exit((await main(options)) ? 0 : 1);

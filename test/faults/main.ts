/**
 * `npm run test:faults`: seeded fault scenarios over real processes, real sockets and a real file, and a
 * count of what clients lost. A seed plans a scenario; the same seed plans the same one. Ends by itself,
 * leaves no process and no file, and exits 1 when a scenario found something.
 */
import { parseArgs } from "node:util";
import { systemClock } from "../../src/clock.ts";
import type { Verdict } from "./checker.ts";
import { killAll } from "./child.ts";
import { Place, removeAll } from "./place.ts";
import { type Plan, planFor, SCENARIO_NAMES, type ScenarioName } from "./plan.ts";
import { Scenario } from "./scenario.ts";

const USAGE = `usage: node test/faults/main.ts [options]
  --seeds N      so many scenarios (as many as there is time for)
  --first SEED   the first of them (1)
  --seconds S    begin none after so long (100, or no limit with --seeds)
  --only NAME    ${SCENARIO_NAMES.join(", ")}
  --parallel N   so many at a time (2)
  --keep         leave the files of a scenario that found something
`;

const DEFAULT_SECONDS = 100;
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
  parallel: number;
  keep: boolean;
}

function readOptions(): Options {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    options: { seeds: text, first: text, seconds: text, only: text, parallel: text, keep: { type: "boolean" } },
  });
  const only = SCENARIO_NAMES.find((name) => name === values.only);
  if (values.only !== undefined && only === undefined) wrongUse(`--only: there is no scenario ${values.only}.`);
  const seeds = numberOf(values.seeds, "seeds");
  return {
    seeds: seeds ?? Number.POSITIVE_INFINITY,
    first: numberOf(values.first, "first") ?? 1,
    seconds: numberOf(values.seconds, "seconds") ?? (seeds === undefined ? DEFAULT_SECONDS : Number.POSITIVE_INFINITY),
    only,
    parallel: numberOf(values.parallel, "parallel") ?? 2,
    keep: values.keep ?? false,
  };
}

const describe = ({ op, afterMs }: Plan["steps"][number]): string => {
  const { do: what, ...rest } = op;
  return `  +${afterMs} ms  ${what}  ${JSON.stringify(rest)}`;
};

function report(plan: Plan, verdict: Verdict, kept: string | undefined): void {
  const { steps, ...circumstances } = plan;
  say(`\nseed ${plan.seed} (${plan.name}) found:`);
  for (const finding of verdict.findings.slice(0, 12)) say(`  ! ${finding.slice(0, 600)}`);
  if (verdict.findings.length > 12) say(`  ! and ${verdict.findings.length - 12} more`);
  say(`operations, with ${JSON.stringify(circumstances)}:`);
  for (const step of steps) say(describe(step));
  if (kept !== undefined) say(`its files are in ${kept}`);
  say("");
}

async function verdictOf(plan: Plan, place: Place): Promise<Verdict> {
  try {
    return await new Scenario(plan, place).run();
  } catch (error) {
    const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { events: 0, lost: 0, duplicated: 0, reordered: 0, findings: [`the run itself failed: ${why}`] };
  }
}

async function main(options: Options): Promise<boolean> {
  const total = { events: 0, lost: 0, duplicated: 0, reordered: 0 };
  const failed: number[] = [];
  const began = systemClock.monotonic();
  let next = options.first;
  let ran = 0;
  const work = async () => {
    const inTime = () => systemClock.monotonic() - began < options.seconds * 1_000;
    while (next < options.first + options.seeds && inTime() && failed.length < MAX_FAILED) {
      const plan = planFor(next, options.only);
      next += 1;
      const place = new Place(plan.ownDisk);
      const since = systemClock.monotonic();
      const verdict = await verdictOf(plan, place);
      const took = ((systemClock.monotonic() - since) / 1_000).toFixed(1);
      ran += 1;
      total.events += verdict.events;
      total.lost += verdict.lost;
      total.duplicated += verdict.duplicated;
      total.reordered += verdict.reordered;
      const bad = verdict.findings.length > 0;
      say(`${bad ? "FAIL" : "ok  "} seed ${plan.seed}  ${plan.name}  ${verdict.events} events  ${took} s`);
      if (bad) {
        failed.push(plan.seed);
        report(plan, verdict, options.keep ? place.path : undefined);
      }
      if (!bad || !options.keep) place.remove();
    }
  };
  await Promise.all(Array.from({ length: options.parallel }, work));
  const seconds = ((systemClock.monotonic() - began) / 1_000).toFixed(0);
  say(
    `${ran} seeds in ${seconds} s${failed.length === 0 ? "" : `, of which ${failed.length} failed: ${failed.join(" ")}`}`,
  );
  const { events, lost, duplicated, reordered } = total;
  say(`events ${events}  lost ${lost}  duplicated ${duplicated}  reordered ${reordered}`);
  return failed.length === 0;
}

const options = readOptions();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));
process.on("exit", () => {
  killAll();
  if (!options.keep) removeAll();
});
process.exitCode = (await main(options)) ? 0 : 1;

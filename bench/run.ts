/**
 * `npm run bench`: Holdfast against baseline B in the same run, by the same client, alternating, so that
 * what else the machine does falls on both. Prints a table of medians and ratios.
 */
import Table from "cli-table3";
import { burst } from "./burst.ts";
import { ServerProcess } from "./server-process.ts";

const ROUNDS = 3;
const BURST = { n: 200_000, bytes: 200 };

const median = (values: number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

async function measure(script: string): Promise<number> {
  await using server = await ServerProcess.start(script);
  await burst(server.url, { ...BURST, n: 20_000 });
  return await burst(server.url, BURST);
}

const baseline: number[] = [];
const holdfast: number[] = [];
for (let round = 1; round <= ROUNDS; round += 1) {
  baseline.push(await measure("baseline-server.ts"));
  holdfast.push(await measure("holdfast-server.ts"));
  console.error(
    `round ${round} of ${ROUNDS}: B ${baseline.at(-1)?.toFixed(0)}, Holdfast ${holdfast.at(-1)?.toFixed(0)} events/s`,
  );
}

const table = new Table({ head: ["", "B, events/s", "Holdfast, events/s", "ratio", "target"] });
const [b, ours] = [median(baseline), median(holdfast)];
table.push([
  `burst of ${BURST.n} events of ${BURST.bytes} bytes`,
  b.toFixed(0),
  ours.toFixed(0),
  (ours / b).toFixed(2),
  "≥ 0.5",
]);
console.log(table.toString());

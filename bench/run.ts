/**
 * `npm run bench`: Holdfast against baseline B in the same run, by the same clients, alternating, so that
 * what else the machine does falls on both. Prints a table of medians; progress goes to stderr. Exits with
 * 1 when a target is missed.
 *
 *   npm run bench -- --only burst,echo     some rows
 *   npm run bench -- --quick               a tenth of the work, once: shows that it runs, not how fast
 *   npm run bench -- --cpu-prof DIRECTORY  writes a CPU profile per row and server, and says what is on top
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import Table from "cli-table3";
import { systemClock } from "../src/clock.ts";
import { summarise } from "./profile.ts";
import { burstRow } from "./rows/burst.ts";
import { crowdRow } from "./rows/crowd.ts";
import { echoRow } from "./rows/echo.ts";
import { idleRow } from "./rows/idle.ts";
import { locksRow } from "./rows/locks.ts";
import { millionRow } from "./rows/million.ts";
import { pingRow } from "./rows/ping.ts";
import { postgresRow, stopPostgres } from "./rows/postgres.ts";
import { presenceRow } from "./rows/presence.ts";
import { replayRow } from "./rows/replay.ts";
import { routesRow } from "./rows/routes.ts";
import { type Figures, median, type Row } from "./rows/row.ts";
import { subscribersRow } from "./rows/subscribers.ts";
import { turnsRow } from "./rows/turns.ts";
import { type ServerKind, ServerProcess } from "./server-process.ts";

const ROWS: readonly Row[] = [
  burstRow,
  echoRow,
  subscribersRow,
  replayRow,
  idleRow,
  pingRow,
  millionRow,
  crowdRow,
  locksRow,
  turnsRow,
  postgresRow,
  presenceRow,
  routesRow,
];
const ROUNDS = 3;
const BOTH: readonly ServerKind[] = ["baseline", "holdfast"];

const { values: flags } = parseArgs({
  options: { only: { type: "string" }, quick: { type: "boolean" }, "cpu-prof": { type: "string" } },
});
const only = flags.only?.split(",");
const unknown = only?.filter((name) => !ROWS.some((row) => row.name === name)) ?? [];
if (unknown.length > 0) {
  throw new Error(`--only ${unknown.join(",")}: the rows are ${ROWS.map((row) => row.name).join(", ")}.`);
}
const profiles = flags["cpu-prof"];
if (profiles !== undefined) mkdirSync(profiles, { recursive: true });
const once = flags.quick === true || profiles !== undefined;
const began = systemClock.monotonic();

const table = new Table({
  head: ["", "B", "Holdfast", "result", "target", ""],
  style: { head: [], border: [], compact: true },
});
let missed = 0;
for (const row of ROWS) {
  if (only !== undefined && !only.includes(row.name)) continue;
  const reason = await row.unavailable?.();
  if (reason !== undefined) {
    console.error(`${row.name}: skipped, for ${reason}`);
    continue;
  }
  const { holdfast, baseline } = await measured(row);
  for (const line of row.lines(holdfast, baseline)) {
    if (line.met === false) missed += 1;
    const verdict = line.met === undefined ? "" : line.met ? "met" : "MISSED";
    table.push([line.what, line.baseline ?? "–", line.holdfast, line.result, line.target, verdict]);
  }
}
await stopPostgres();
console.log(table.toString());
console.error(`${((systemClock.monotonic() - began) / 1000).toFixed(0)} s, ${missed} targets missed`);
// Said here and now: what starts PostgreSQL ends a program that has nothing left to do with 0.
if (missed > 0) process.exit(1);

/** The medians over the rounds, for each server. */
async function measured(row: Row): Promise<Record<ServerKind, Figures>> {
  const samples: Record<ServerKind, Figures[]> = { baseline: [], holdfast: [] };
  const rounds = once ? 1 : Math.min(ROUNDS, row.rounds ?? ROUNDS);
  for (let round = 1; round <= rounds; round += 1) {
    for (const kind of row.servers ?? BOTH) {
      const figures = await measure(row, kind);
      samples[kind].push(figures);
      const said = Object.entries(figures).map(([key, value]) => `${key} ${value.toPrecision(4)}`);
      console.error(`${row.name} ${round}/${rounds} ${kind}: ${said.join(", ")}`);
    }
  }
  return { baseline: medians(samples.baseline), holdfast: medians(samples.holdfast) };
}

async function measure(row: Row, kind: ServerKind): Promise<Figures> {
  const scale = flags.quick === true ? 0.1 : 1;
  if ("measureHere" in row) return await row.measureHere(kind, scale);
  await using server = await ServerProcess.start(kind, kind === "holdfast" ? row.options : undefined);
  if (profiles === undefined) return await row.measure(server, scale);
  await server.startProfile();
  const figures = await row.measure(server, scale);
  const file = join(profiles, `${row.name}-${kind}.cpuprofile`);
  await server.stopProfile(file);
  console.error(summarise(file));
  return figures;
}

function medians(samples: readonly Figures[]): Figures {
  const keys = Object.keys(samples[0] ?? {});
  return Object.fromEntries(keys.map((key) => [key, median(samples.map((figures) => figures[key] ?? Number.NaN))]));
}

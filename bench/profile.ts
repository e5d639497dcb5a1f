/** Where a server's time went: a CPU profile's functions by the time spent in themselves. */
import { readFileSync } from "node:fs";
import { basename } from "node:path";

interface Profile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number } }[];
  samples: number[];
  timeDeltas: number[];
}

/** Not the server's work: waiting, and the probe's own. */
const NOT_COUNTED = /^\((idle|root)\)$|^post node:inspector|probe\.ts/;

/** The top lines, with the share of the time in which the server was not idle. */
export function summarise(file: string, lines = 14): string {
  const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(file, "utf8")) as Profile;
  const names = new Map(
    nodes.map(({ id, callFrame: { functionName, url, lineNumber } }) => [
      id,
      url === "" ? functionName : `${functionName || "(anonymous)"} ${basename(url)}:${lineNumber + 1}`,
    ]),
  );
  const own = new Map<string, number>();
  let busy = 0;
  let all = 0;
  for (const [index, id] of samples.entries()) {
    const name = names.get(id) ?? "?";
    const micros = timeDeltas[index] ?? 0;
    all += micros;
    if (NOT_COUNTED.test(name)) continue;
    busy += micros;
    own.set(name, (own.get(name) ?? 0) + micros);
  }
  const top = [...own].sort((a, b) => b[1] - a[1]).slice(0, lines);
  return [
    `${basename(file)}: busy ${((100 * busy) / all).toFixed(0)} % of ${(all / 1e6).toFixed(1)} s`,
    ...top.map(([name, micros]) => `  ${((100 * micros) / busy).toFixed(1).padStart(5)} %  ${name}`),
  ].join("\n");
}

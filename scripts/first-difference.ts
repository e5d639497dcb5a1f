/** Where two texts part, for a message that saves its reader a diff. */

/** @returns `LINE: …` with what was and what is there, or `undefined` for equal texts */
export function firstDifference(was: string, is: string): string | undefined {
  if (was === is) return undefined;
  const [before, after] = [was.split("\n"), is.split("\n")];
  const line = before.findIndex((text, index) => text !== after[index]);
  const at = line === -1 ? before.length : line;
  return `${at + 1}:\n  - ${before[at] ?? "(end)"}\n  + ${after[at] ?? "(end)"}`;
}

import assert from "node:assert/strict";
import { test } from "node:test";
import { compareReadings, countsLine, Sequence } from "./counts.ts";

function countsOf(first: number, numbers: readonly number[], last?: number) {
  const sequence = new Sequence(first);
  for (const number of numbers) sequence.take(number);
  return countsLine(sequence.counts(last));
}

test("[CLI-5] the line of counts, and what each count counts", () => {
  assert.equal(countsOf(1, [1, 2, 3]), "events 3  lost 0  duplicated 0  reordered 0");
  assert.equal(countsOf(1, [1, 3]), "events 2  lost 1  duplicated 0  reordered 0");
  assert.equal(countsOf(1, [2, 3]), "events 2  lost 1  duplicated 0  reordered 0");
  assert.equal(countsOf(1, [1, 2, 2, 3]), "events 4  lost 0  duplicated 1  reordered 0");
  assert.equal(countsOf(1, [1, 3, 2, 4]), "events 4  lost 0  duplicated 0  reordered 1");
  assert.equal(countsOf(0, [0, 1], 4), "events 2  lost 3  duplicated 0  reordered 0");
  assert.equal(countsOf(1, []), "events 0  lost 0  duplicated 0  reordered 0");
});

test("[CLI-5] two readings of one log are the same, or it is said in what they differ", () => {
  const compare = (first: string, second: string) => countsLine(compareReadings([...first], [...second]));
  assert.equal(compare("abca", "abca"), "events 4  lost 0  duplicated 0  reordered 0");
  assert.equal(compare("abc", "ac"), "events 2  lost 1  duplicated 0  reordered 0");
  assert.equal(compare("abc", "abbc"), "events 4  lost 0  duplicated 1  reordered 0");
  assert.equal(compare("abc", "acb"), "events 3  lost 0  duplicated 0  reordered 1");
  assert.equal(compare("abc", ""), "events 0  lost 3  duplicated 0  reordered 0");
});

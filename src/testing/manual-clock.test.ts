import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep } from "../clock.ts";
import { ManualClock } from "./manual-clock.ts";

test("[JOB-8] due timers fire in order, each at its own time, and later ones stay", async () => {
  const clock = new ManualClock(1_000);
  const fired: [string, number, number][] = [];
  const note = (name: string) => () => fired.push([name, clock.monotonic(), clock.wall()]);
  clock.after(20, note("b"));
  clock.after(10, note("a"));
  clock.after(20, note("c"));
  clock.after(21, note("d"));
  await clock.advance(20);
  assert.deepEqual(fired, [
    ["a", 10, 1_010],
    ["b", 20, 1_020],
    ["c", 20, 1_020],
  ]);
  assert.equal(clock.pendingTimers, 1);
});

test("[JOB-8] a timer that is set by a timer's continuation fires within the same advance", async () => {
  const clock = new ManualClock();
  let naps = 0;
  const napping = (async () => {
    while (naps < 5) {
      await sleep(clock, 10);
      naps++;
    }
  })();
  await clock.advance(50);
  await napping;
  assert.equal(naps, 5);
  assert.equal(clock.pendingTimers, 0);
});

test("[JOB-8] a cancelled timer never fires, and a thrown error reaches who advanced", async () => {
  const clock = new ManualClock();
  clock.after(1, () => assert.fail("was cancelled")).cancel();
  clock.after(2, () => {
    throw new Error("boom");
  });
  await assert.rejects(clock.advance(5), /boom/);
  await clock.advance(5);
  assert.equal(clock.pendingTimers, 0);
});

test("[SES-7] stepping the wall clock moves no timer", async () => {
  const clock = new ManualClock(5_000);
  clock.after(10, () => assert.fail("not due"));
  clock.stepWall(-3_000);
  assert.equal(clock.wall(), 2_000);
  assert.equal(clock.monotonic(), 0);
  await clock.advance(9);
  assert.equal(clock.wall(), 2_009);
});

test("[JOB-8] advances that overlap follow one another", async () => {
  const clock = new ManualClock();
  await Promise.all([clock.advance(5), clock.advance(7)]);
  assert.equal(clock.monotonic(), 12);
});

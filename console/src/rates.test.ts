import assert from "node:assert/strict";
import { test } from "node:test";
import { Rates, sparkline } from "./rates.ts";

test("[CON-2] a rate is what a counter grew by, for each second; a restart is no fall", () => {
  let rates = new Rates();
  const readings = [
    { total: 100, atMs: 1_000 },
    { total: 150, atMs: 1_500 },
    { total: 150, atMs: 1_500 },
    { total: 150, atMs: 2_500 },
    { total: 10, atMs: 200 },
    { total: 20, atMs: 1_200 },
  ];
  for (const reading of readings) rates = rates.with(reading);
  assert.deepEqual(rates.points, [100, 0, 10]);
  assert.equal(rates.newest, 10);
});

test("[CON-2] a sparkline keeps its last minute, the newest at its right edge", () => {
  let rates = new Rates();
  for (let second = 0; second <= 100; second += 1) rates = rates.with({ total: second * second, atMs: second * 1_000 });
  assert.equal(rates.points.length, 60);
  const points = sparkline(rates.points, 59, 12).split(" ");
  assert.equal(points.length, 60);
  assert.equal(points.at(-1), "59,1");
  assert.equal(sparkline([], 59, 12), "");
});

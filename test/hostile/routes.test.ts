/** A table of routes that is written to without end (SPEC.md: RTE-8). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Routes } from "../../src/routing/index.ts";
import { heapInUse } from "./collect-garbage.ts";

const SETS = Number(process.env["HOSTILE_SETS"] ?? 300_000);
const MIB = 1024 * 1024;

test("[RTE-8] a bounded table takes any number of keys in the same memory", async () => {
  await using routes = new Routes({ partitions: 4, maxEntriesPerPartition: 2_000, pruneIntervalMs: 1_000 }).start();
  let evicted = 0;
  routes.on("evicted", () => {
    evicted += 1;
  });
  const set = (index: number) => {
    const key = {
      channel: "slack",
      bridge: "T1",
      room: `C${index}`,
      ...(index % 2 === 0 ? {} : { thread: `${index}` }),
    };
    // Times of all lengths, and each third key is written again with another one.
    assert.ok(routes.set(key, { externalRoomId: index }, { ttlMs: 1 + ((index * 7_919) % 86_400_000) }).ok);
    if (index % 3 === 0) routes.set(key, { externalRoomId: index }, { ttlMs: 60_000 });
  };
  const first = SETS / 10;
  for (let index = 0; index < first; index += 1) set(index);
  const before = heapInUse();
  for (let index = first; index < SETS; index += 1) set(index);
  const grown = heapInUse() - before;
  assert.ok(grown < 2 * MIB, `${(grown / MIB).toFixed(1)} MiB more`);
  const held = routes.counters().reduce((sum, { size }) => sum + size, 0);
  assert.equal(held, 8_000);
  assert.equal(evicted, SETS - held);
});

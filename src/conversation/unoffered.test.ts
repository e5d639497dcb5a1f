import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../logger.ts";
import { StoreUnavailable, type UnservedTurn } from "../store/store.ts";
import { ManualClock } from "../testing/manual-clock.ts";
import { UnofferedTurns } from "./unoffered.ts";

const WAIT_MS = 600_000;
const TURN: UnservedTurn = { jobId: "job_1", agent: "work@1", runEpoch: 0 };

/** A process that looks once a second at a store in which these turns wait. */
function scene({ maxWaitMs = WAIT_MS, waiting = [TURN] }: { maxWaitMs?: number; waiting?: UnservedTurn[] } = {}) {
  const clock = new ManualClock();
  const asked: string[] = [];
  const told: string[] = [];
  const parts = { waiting, agents: [] as string[] | undefined, down: false, reads: 0, onEnd: () => {} };
  const unoffered = new UnofferedTurns({
    conversations: {
      unserved: async ({ agents }) => {
        parts.reads += 1;
        if (parts.down) throw new StoreUnavailable("down");
        return parts.waiting.filter(({ agent }) => !agents.includes(agent));
      },
      endUnserved: async ({ jobId, runEpoch }) => {
        asked.push(`${jobId} ${runEpoch}`);
        parts.onEnd();
        const before = parts.waiting.length;
        parts.waiting = parts.waiting.filter((turn) => turn.jobId !== jobId || turn.runEpoch !== runEpoch);
        return parts.waiting.length < before;
      },
    },
    clock,
    logger: silentLogger,
    maxWaitMs,
    intervalMs: 1_000,
    claim: () => parts.agents && { agents: parts.agents },
    ended: (jobIds) => told.push(...jobIds),
  });
  const pass = async (seconds: number) => {
    for (let second = 0; second < seconds; second += 1) {
      await unoffered.look().catch(() => undefined);
      await clock.advance(1_000);
    }
  };
  return { parts, asked, told, clock, unoffered, pass };
}

test("[TRN-13] a turn is ended once it was seen waiting for so long, and not before", async () => {
  const { parts, asked, told, unoffered, pass } = scene();
  await pass(600);
  assert.deepEqual(asked, []);
  assert.equal(await unoffered.look(), true);
  assert.deepEqual([asked, told], [["job_1 0"], ["job_1"]]);
  assert(parts.reads <= 21, `${parts.reads} reads`);
  await pass(1_200);
  assert.equal(asked.length, 1);
});

test("[TRN-13] a wait that is as short as it may be comes to its end as well", async () => {
  const { told, pass } = scene({ maxWaitMs: 10_000 });
  await pass(10);
  assert.deepEqual(told, []);
  await pass(1);
  assert.deepEqual(told, ["job_1"]);
});

test("[TRN-13] time in which the store was down, or nobody looked, does not count", async () => {
  const { parts, told, clock, pass } = scene();
  await pass(300);
  parts.down = true;
  await pass(300);
  parts.down = false;
  await pass(600);
  assert.deepEqual(told, [], "counted while nobody could take it");
  await clock.advance(120_000);
  await pass(600);
  assert.deepEqual(told, [], "counted while this process stood still");
  await pass(30);
  assert.deepEqual(told, ["job_1"]);
});

test("[TRN-13] a turn that somebody took, and gave back, waits anew", async () => {
  const { parts, asked, pass } = scene();
  await pass(580);
  parts.waiting = [{ ...TURN, runEpoch: 2 }];
  await pass(580);
  assert.deepEqual(asked, []);
  await pass(60);
  assert.deepEqual(asked, ["job_1 2"]);
});

test("[TRN-13] what another process has ended or taken is not told as ended", async () => {
  const { parts, asked, told, unoffered, pass } = scene();
  await pass(600);
  parts.onEnd = () => {
    parts.waiting = [];
  };
  assert.equal(await unoffered.look(), false);
  assert.deepEqual([asked, told], [["job_1 0"], []]);
});

test("[TRN-13] nothing is ended whose agent has come meanwhile, nor by a process that stops", async () => {
  const waiting = ["job_1", "job_2", "job_3"].map((jobId, at) => ({ ...TURN, jobId, agent: `work@${at}` }));
  const offered = scene({ waiting });
  await offered.pass(600);
  offered.parts.onEnd = () => {
    offered.parts.agents = ["work@1"];
  };
  assert.equal(await offered.unoffered.look(), true);
  assert.deepEqual(offered.told, ["job_1", "job_3"]);

  const stopping = scene({ waiting });
  await stopping.pass(600);
  stopping.parts.onEnd = () => {
    stopping.parts.agents = undefined;
  };
  assert.equal(await stopping.unoffered.look(), true);
  assert.deepEqual(stopping.told, ["job_1"]);
  const { reads } = stopping.parts;
  await stopping.pass(60);
  assert.equal(stopping.parts.reads, reads);
});

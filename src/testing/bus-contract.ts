/**
 * What every bus between nodes must do, whatever carries it: the contract suite of src/cluster/bus.ts. Hand it a
 * factory and it registers its cases with node:test. A bus may lose hints, but on a sound line with few of them it does
 * not; that something does not come is shown by what was told after it and has come.
 */
import assert from "node:assert/strict";
import { test as declare, describe } from "node:test";
import { systemClock } from "../clock.ts";
import type { Bus } from "../cluster/bus.ts";
import type { Hint } from "../store/store.ts";

/** A bus of its own for one case. */
export interface BusFixture {
  /** A new end of it, as another node has one. */
  join(): Bus | Promise<Bus>;
  [Symbol.asyncDispose](): Promise<void>;
}

const DEADLINE_MS = 20_000;
const LOOK_EVERY_MS = 5;

/** @param name of the implementation, for the titles */
export function busContract(name: string, make: () => Promise<BusFixture>): void {
  const test = (title: string, body: (fixture: BusFixture) => Promise<void>) =>
    declare(title, { timeout: 3 * DEADLINE_MS }, async () => {
      await using fixture = await make();
      await body(fixture);
    });

  describe(`bus contract: ${name}`, () => {
    test("[CLU-8] what one node tells, each other one hears, and it itself does not", async (fixture) => {
      const [teller, ...others] = await three(fixture);
      const own = new Heard(teller);
      const heard = others.map((bus) => new Heard(bus));
      await all(heard.map((one) => one.whenHears()));
      await own.whenHears();
      teller.tell([{ jobId: "job_1" }, { sessionId: "sess_1" }]);
      for (const one of heard) await one.until(["job job_1", "session sess_1"]);
      // The others' answer comes behind whatever might have come back.
      others[0].tell([{ jobId: "job_2" }]);
      await own.until(["job job_2"]);
      assert.deepEqual(own.all, ["job job_2"]);
    });

    test("[CLU-8] a job and a session of one name are two hints, and odd names come whole", async (fixture) => {
      const [teller, other] = await three(fixture);
      const heard = new Heard(other);
      await heard.whenHears();
      teller.tell([{ jobId: "same" }, { sessionId: "same" }, { jobId: "jö_😀\"'\\" }]);
      await heard.until(["job same", "session same", "job jö_😀\"'\\"]);
    });

    test("[CLU-8] many are told at once, and one that is told again and again comes a few times", async (fixture) => {
      const [teller, other] = await three(fixture);
      const heard = new Heard(other);
      await heard.whenHears();
      const names = Array.from({ length: 2_000 }, (_, i) => `job_${i}_${"x".repeat(20)}`);
      for (const jobId of names) teller.tell([{ jobId }]);
      await heard.until(names.map((jobId) => `job ${jobId}`));
      for (let i = 0; i < 10_000; i += 1) teller.tell([{ sessionId: "sess_again" }]);
      await heard.until(["session sess_again"]);
      teller.tell([{ jobId: "last" }]);
      await heard.until(["job last"]);
      const times = heard.all.filter((hint) => hint === "session sess_again").length;
      assert.ok(times <= 10, `it came ${times} times`);
    });

    test("[CLU-8] telling calls nobody, and never throws", async (fixture) => {
      const [teller, other] = await three(fixture);
      const heard = new Heard(other);
      await heard.whenHears();
      teller.tell([{ jobId: "job_1" }, { jobId: "with a space" }, { jobId: "x".repeat(100_000) }, { jobId: "" }]);
      assert.deepEqual(heard.all, []);
      await heard.until(["job job_1"]);
    });

    test("[CLU-8] a listener that fails harms no other; one that was taken off hears no more", async (fixture) => {
      const [teller, other] = await three(fixture);
      let failed = 0;
      other.on(() => {
        failed += 1;
        throw new Error("a listener's");
      });
      const heard = new Heard(other);
      const leaving = new Heard(other);
      await heard.whenHears();
      teller.tell([{ jobId: "job_1" }]);
      await heard.until(["job job_1"]);
      await leaving.until(["job job_1"]);
      leaving.stop();
      leaving.stop();
      teller.tell([{ jobId: "job_2" }]);
      await heard.until(["job job_2"]);
      assert.deepEqual(leaving.all, ["job job_1"]);
      assert.ok(failed >= 2);
    });

    test("[CLU-8] an end that was stopped tells and hears nothing; the others go on", async (fixture) => {
      const [teller, stopped, other] = await three(fixture);
      const [gone, heard] = [new Heard(stopped), new Heard(other)];
      await all([gone.whenHears(), heard.whenHears()]);
      stopped.stop();
      stopped.stop();
      assert.equal(stopped.hears, false);
      stopped.tell([{ jobId: "unheard" }]);
      stopped.on(() => assert.fail("a stopped bus"))();
      teller.tell([{ jobId: "job_1" }]);
      await heard.until(["job job_1"]);
      assert.deepEqual([gone.all, heard.all], [[], ["job job_1"]]);
    });
  });
}

const three = async (fixture: BusFixture): Promise<[Bus, Bus, Bus]> => [
  await fixture.join(),
  await fixture.join(),
  await fixture.join(),
];

const all = (promises: readonly Promise<void>[]) => Promise.all(promises);

/** What one listener hears. */
class Heard {
  readonly all: string[] = [];
  readonly #bus: Bus;
  readonly stop: () => void;

  constructor(bus: Bus) {
    this.#bus = bus;
    this.stop = bus.on((hint: Hint) => {
      this.all.push("jobId" in hint ? `job ${hint.jobId}` : `session ${hint.sessionId}`);
    });
  }

  whenHears(): Promise<void> {
    return until("the bus hears", () => this.#bus.hears);
  }

  async until(hints: readonly string[]): Promise<void> {
    await until(`${hints.length} hints have come`, () => {
      const have = new Set(this.all);
      return hints.every((hint) => have.has(hint));
    });
  }
}

async function until(what: string, is: () => boolean): Promise<void> {
  const deadline = systemClock.monotonic() + DEADLINE_MS;
  while (!is()) {
    assert.ok(systemClock.monotonic() < deadline, `${what} within ${DEADLINE_MS} ms`);
    const { promise, resolve } = Promise.withResolvers<void>();
    systemClock.after(LOOK_EVERY_MS, resolve, { keepAlive: true });
    await promise;
  }
}

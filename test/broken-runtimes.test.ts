/** The conformance cases notice runtimes that are broken on purpose, by the rules that they break and no others. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import type { RuleResult } from "../src/testing/conformance/index.ts";
import { BROKEN_RUNTIMES } from "./broken-runtimes.ts";

const THREADS = 2;

describe("conformance", { concurrency: THREADS }, () => {
  const idle: Worker[] = [];
  const all: Worker[] = [];
  after(() => Promise.all(all.map((worker) => worker.terminate())));

  const startWorker = (): Worker => {
    const worker = new Worker(new URL("./broken-runtimes-worker.ts", import.meta.url));
    all.push(worker);
    return worker;
  };

  /** At most as many at a time as there are tests. */
  const results = async (name: string): Promise<readonly RuleResult[]> => {
    const worker = idle.pop() ?? startWorker();
    worker.postMessage(name);
    const [rules] = (await once(worker, "message")) as [readonly RuleResult[]];
    idle.push(worker);
    return rules;
  };

  for (const broken of BROKEN_RUNTIMES) {
    test(`[CLI-9] conformance notices a runtime that ${broken.name}`, async () => {
      const rules = await results(broken.name);
      const failed = rules.filter(({ outcome }) => outcome === "fail");
      const why = JSON.stringify(
        failed.map(({ rule, cases }) => [rule, cases.filter(({ outcome }) => outcome === "fail")]),
        null,
        1,
      );
      assert.deepEqual(failed.map(({ rule }) => rule).toSorted(), broken.fails.toSorted(), why);
      for (const { expected, got } of failed.flatMap(({ cases }) => cases)) {
        if (expected !== undefined) assert.ok(expected.length > 5 && (got?.length ?? 0) > 1, `${expected}: ${got}`);
      }
    });
  }
});

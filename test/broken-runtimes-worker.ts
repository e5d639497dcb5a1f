/**
 * A thread that puts one broken runtime after the other to the conformance cases: they are all work and no
 * waiting, and the test runner watches each promise of its own thread.
 */
import { parentPort } from "node:worker_threads";
import { BROKEN_RUNTIMES } from "./broken-runtimes.ts";
import { overMemory, runWith } from "./conformance-run.ts";

parentPort?.on("message", (name: string) => {
  const broken = BROKEN_RUNTIMES.find((one) => one.name === name);
  void runWith(overMemory, broken).then(({ rules }) => parentPort?.postMessage(rules));
});

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;

/** The bytes of the heap that something still refers to. */
export function heapInUse(): number {
  gc();
  return process.memoryUsage().heapUsed;
}

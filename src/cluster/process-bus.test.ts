import { busContract } from "../testing/bus-contract.ts";
import { processBus } from "./process-bus.ts";

busContract("in process", async () => {
  const bus = processBus();
  return { join: () => bus.join(), [Symbol.asyncDispose]: async () => undefined };
});
